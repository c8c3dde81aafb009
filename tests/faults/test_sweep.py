"""Every job that may start is claimed within one sweep, whatever hid it from the watermarks.

Late commits, a clock that steps, jobs that come back, gates that open, lanes that appear: first the plan
and the claim alone, on clocks that the test moves; then a worker's whole runner in real time.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from starforge.clock import monotonic_s
from starforge.db.pool import Connection, Pool, connect
from starforge.queue import plan as plans
from starforge.queue.claim import claim
from starforge.queue.complete import complete
from starforge.queue.enqueue import enqueue_many
from starforge.queue.handler import Context, JobType
from starforge.queue.hint import Hint
from starforge.queue.job import LeasedJob, NewJob
from starforge.queue.plan import Plan
from starforge.queue.reclaim import reclaim
from starforge.queue.retry import give_back, retry
from starforge.queue.sweep import SWEEP_S
from starforge.worker.registry import Registration, bury, register
from tests.conftest import Travel
from tests.covers import covers
from tests.worker.test_run import until, working

QUEUES, TYPES, TENANTS = ("default", "mail"), ("t", "u"), ("default", "acme", "zoo")
START = "2030-01-01 00:00:00+00"
LONG_S = 1e6
"""No lease ends here by itself."""

ROUNDS, STEPS = 25, 25


@dataclass
class World:
    """A database whose clock and a plan whose stopwatch the test moves."""

    conn: Connection
    late: Sequence[Connection]
    draw: random.Random
    worker: UUID
    plan: Plan
    watch_s: float = 1000.0
    now_s: float = 0.0
    held: list[LeasedJob] = field(default_factory=list)
    open: list[Any] = field(default_factory=list)
    """Transactions that have inserted and not committed yet."""

    told: list[str] = field(default_factory=list)

    async def set_clock(self) -> None:
        await self.conn.execute(
            "CREATE OR REPLACE FUNCTION sf_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE"
            f" AS $$ SELECT timestamptz '{START}' + interval '{self.now_s} seconds' $$"
        )

    def some_jobs(self) -> list[NewJob]:
        draw = self.draw
        now = datetime.fromisoformat(START) + timedelta(seconds=self.now_s)
        return [
            NewJob(
                draw.choice(TYPES),
                queue=draw.choice(QUEUES),
                tenant=draw.choice(TENANTS),
                priority=draw.choice([-1, 0, 0, 7]),
                limit_key=draw.choice(["", "", "k"]),
                tags=draw.choice([(), (), ("slow",)]),
                run_after=now + timedelta(seconds=draw.choice([-3600, -1, -0.01, 0, 0, 0, 0.5, 30])),
            )
            for _ in range(draw.randint(1, 8))
        ]

    async def enqueue(self) -> None:
        await enqueue_many(self.conn, self.some_jobs())

    async def enqueue_announced(self) -> None:
        jobs = self.some_jobs()
        await enqueue_many(self.conn, jobs)
        for job in jobs:
            self.plan.announce(
                Hint(job.queue, job.type, job.priority, job.tenant or "default", job.limit_key)
            )

    async def insert_and_commit_later(self) -> None:
        if len(self.open) < len(self.late):
            conn = next(conn for conn in self.late if not conn.is_in_transaction())
            transaction = conn.transaction()
            await transaction.start()
            await enqueue_many(conn, self.some_jobs())
            self.open.append(transaction)

    async def commit_late(self) -> None:
        if self.open:
            await self.open.pop(self.draw.randrange(len(self.open))).commit()

    async def claim(self) -> None:
        self.held += await claim(self.conn, self.plan, n=self.draw.choice([1, 3, 100]), worker_id=self.worker)

    async def complete(self) -> None:
        jobs, self.held = self.held[:5], self.held[5:]
        await complete(self.conn, jobs, [1.0] * len(jobs), worker_id=self.worker)

    async def give_back(self) -> None:
        jobs, self.held = self.held[:3], self.held[3:]
        await give_back(self.conn, jobs, worker_id=self.worker)

    async def retry(self) -> None:
        jobs, self.held = self.held[:3], self.held[3:]
        delays = [self.draw.choice([0.0, 0.3, 40.0]) for _ in jobs]
        await retry(self.conn, jobs, [{"reason": "no"}] * len(jobs), delays, worker_id=self.worker)

    async def another_worker_dies(self) -> None:
        other = await register(self.conn, Registration(QUEUES, TYPES, 1), lease_s=LONG_S)
        await claim(self.conn, Plan(QUEUES, TYPES), n=4, worker_id=other)
        await bury(self.conn, other, "killed")
        await reclaim(self.conn)

    async def set_by_hand(self) -> None:
        back = self.draw.choice(["pending", "paused", "pending"])
        await self.conn.execute(
            "UPDATE queue_jobs SET status = $1"
            " WHERE status IN ('failed', 'paused', 'pending') AND id::text < $2",
            back,
            str(self.draw.choice([job.id for job in self.held] or [self.worker])),
        )

    async def gate(self) -> None:
        scope = self.draw.choice(["queue", "type", "tenant", "tag"])
        name = {"queue": "mail", "type": "u", "tenant": "acme", "tag": "slow"}[scope]
        await self.conn.execute(
            "INSERT INTO gates (scope, name, cause, owner, reason, expires_at)"
            " VALUES ($1, $2, 'pause', 'ann', 'r', 'infinity') ON CONFLICT DO NOTHING",
            scope,
            name,
        )

    async def open_gates(self) -> None:
        await self.conn.execute("DELETE FROM gates")

    async def time_passes(self) -> None:
        by_s = self.draw.choice([0.001, 0.02, 0.3, 1.0, 3.0, 40.0])
        self.watch_s += by_s
        self.now_s += by_s
        await self.set_clock()

    async def clock_steps(self) -> None:
        self.now_s += self.draw.choice([-3600.0, -5.0, -0.1, 0.1, 5.0, 3600.0])
        await self.set_clock()

    async def overdue(self) -> list[Any]:
        """Return the committed jobs that may start now."""
        return await self.conn.fetch(
            "SELECT id, queue, type, tenant_id, priority, limit_key, tags, run_after FROM queue_jobs j"
            " WHERE status = 'pending' AND run_after <= sf_now() AND NOT EXISTS (SELECT 1 FROM gates g WHERE"
            " (g.scope, g.name) IN (('queue', j.queue), ('type', j.type), ('tenant', j.tenant_id))"
            " OR g.scope = 'tag' AND g.name = ANY (j.tags))"
        )


STEP_WEIGHTS = {
    "enqueue": 4, "enqueue_announced": 3, "insert_and_commit_later": 3, "commit_late": 3,
    "claim": 8, "complete": 2, "give_back": 2, "retry": 2, "another_worker_dies": 1,
    "set_by_hand": 1, "gate": 1, "open_gates": 1, "time_passes": 6, "clock_steps": 1,
}  # fmt: skip


@covers("G2")
async def test_every_job_that_may_start_is_claimed_within_one_sweep_on_any_history(
    database: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stopwatch goes on by one sweep, nothing else changes, and the next claims take all there is."""
    conns = [await connect(database) for _ in range(3)]
    worker = await register(conns[0], Registration(QUEUES, TYPES, 1), lease_s=LONG_S)
    await conns[0].execute("UPDATE workers SET lease_expires_at = 'infinity'")
    hidden = 0
    for number in range(ROUNDS):
        draw = random.Random(seed + number)
        await conns[0].execute("TRUNCATE queue_jobs, gates, job_minutes")
        world = World(conns[0], conns[1:], draw, worker, Plan(QUEUES, TYPES))
        for module in [m for name, m in sys.modules.items() if name.startswith("starforge.queue.")]:
            if hasattr(module, "monotonic_s"):
                monkeypatch.setattr(module, "monotonic_s", lambda world=world: world.watch_s)
        await world.set_clock()
        for _ in range(STEPS):
            [step] = draw.choices(list(STEP_WEIGHTS), list(STEP_WEIGHTS.values()))
            world.told.append(step)
            await getattr(world, step)()
            if draw.random() < 0.15:
                hidden += await _nothing_is_hidden(world)
        while world.open:
            await world.commit_late()
        hidden += await _nothing_is_hidden(world)
    assert hidden > ROUNDS, "the histories hide too little"
    for conn in conns:
        await conn.close()


async def _nothing_is_hidden(world: World) -> int:
    """Let one sweep pass and claim until nothing comes; return how many jobs only that found."""
    n = world.draw.choice([2, 1000])
    await _claim_all(world, n)
    before = len(await world.overdue())
    world.watch_s += SWEEP_S
    await _claim_all(world, n)
    left = await world.overdue()
    assert left == [], f"{len(left)} hidden from claims of {n} after {world.told}: {left[0]}"
    return before


async def _claim_all(world: World, n: int) -> None:
    while jobs := await claim(world.conn, world.plan, n=n, worker_id=world.worker):
        world.held += jobs


SLACK_S = 4.0
"""What a loaded machine may add to two polls."""


@covers("G2")
async def test_a_worker_starts_every_job_within_a_sweep_of_its_commit(
    pool: Pool, database: str, travel: Travel, seed: int
) -> None:
    """Many transactions commit late, the database's clock steps back and forth, and nothing is announced."""
    draw = random.Random(seed)
    started_s: dict[UUID, float] = {}
    committed_s: dict[UUID, float] = {}

    async def note(ctx: Context, _payload: Mapping[str, Any]) -> None:
        started_s.setdefault(ctx.job.id, monotonic_s())

    async def produce(producer: Connection) -> None:
        for _ in range(8):
            jobs = [NewJob("note", priority=draw.choice([0, 1])) for _ in range(draw.randint(1, 5))]
            async with producer.transaction():
                await enqueue_many(producer, jobs)
                for _ in range(draw.randint(0, 10)):
                    await asyncio.sleep(0.05)
            committed_s.update((job.id, monotonic_s()) for job in jobs)

    async with working(pool, JobType("note", note), poll_s=0.1):
        producers = [await connect(database) for _ in range(4)]
        producing = [asyncio.create_task(produce(producer)) for producer in producers]
        clock = await connect(database)
        for step_s in (-20, 20, -5, 5):
            await travel(clock, seconds=step_s)
            for _ in range(12):
                await asyncio.sleep(0.05)
        await asyncio.gather(*producing)
        await until(pool, "SELECT count(*) FROM queue_jobs WHERE run_after <= sf_now()", 0)
    assert started_s.keys() == committed_s.keys()
    waits_s = [started_s[job] - committed_s[job] for job in committed_s]
    assert max(waits_s) <= SWEEP_S + plans.REFRESH_S + SLACK_S
    for conn in (clock, *producers):
        await conn.close()
