"""Rows 3, 5, 33 and 34: backfills whose processes are killed, frozen, robbed and not answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any
from uuid import UUID

import pytest

from starforge.backfill.partition.partition import Partition
from starforge.backfill.run import coordinate
from starforge.backfill.scheme.scheme import Window
from starforge.backfill.scheme.window import TimeScheme
from starforge.db.pool import Connection, Pool, connect
from starforge.ops.perform import perform
from starforge.queue.declare import Retry
from tests.backfill.backfills import ANN
from tests.backfill.engine import daily, engine, planned
from tests.backfill.sound import SKIPPED, assert_sound
from tests.contracts.contract import filled, statements
from tests.covers import covers
from tests.faults.app import MADE, app
from tests.faults.scene import Scene, Worker, a_scene
from tests.faults.test_kills import TORTURED, Killer, Step, texts
from tests.postgres import TestServer
from tests.proxy import Fault, Session, Statement, cut, kill, nothing

pytestmark = [
    pytest.mark.once("its statements are prepared on both versions by tests/db/test_statement.py"),
    pytest.mark.shared,
]

LANES = 2
STEPS_MAX = 100
KILLS_PER_WORKER = 3
OTHERS = ("job_kills", "typeinfo_tree", "'jit'", "SAVEPOINT")
"""Parts of statements by which the ends of processes are told, and of the driver's own."""

SHORT = {"STARFORGE_LEASE_S": "1", "WORKER_CONCURRENCY": "2"}
BY_HAND = {entry["id"]: entry["sql"] for entry in statements() if entry["id"].startswith("B-SQL-")}

CLOSED = "SELECT closed_at IS NOT NULL FROM backfill_jobs WHERE id = $1"
AHEAD = "SELECT completed_partitions >= $2 FROM backfill_jobs WHERE id = $1"
LET_GO = "SELECT worker_id IS NULL FROM backfill_jobs WHERE id = $1"
SUPERVISOR_BUSY = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'starforge supervisor' AND state <> 'idle'"
)


async def a_backfill(scene: Scene, days: int = 5, **columns: Any) -> UUID:
    """Freeze a backfill of so many days."""
    pool = await Pool.open(scene.database, size=1)
    try:
        known = app.assets.get("faults.days")
        scheme = known.partitions
        assert isinstance(scheme, TimeScheme)
        listed = list(scheme.listed([(scheme.first, scheme.first + days)]))
        return await planned(pool, known, listed, **columns)
    finally:
        await pool.close()


async def act(scene: Scene, name: str, backfill_id: UUID) -> None:
    """Perform an operation."""
    pool = await Pool.open(scene.database, size=1)
    await perform(pool, f"backfill {name}", {"job_id": str(backfill_id)}, **ANN)
    await pool.close()


async def check(scene: Scene, backfill_id: UUID, days: int = 5, *, state: str = "completed") -> None:
    """See that each partition was accepted exactly once, and that all of it is counted."""
    await assert_sound(scene.conn)
    row = await scene.conn.fetchrow("SELECT * FROM backfill_jobs WHERE id = $1", backfill_id)
    assert row is not None
    made = await scene.conn.fetch("SELECT day, attempt FROM made WHERE backfill_id = $1", str(backfill_id))
    accepted = await scene.conn.fetch(
        "SELECT partition_key, attempt_count FROM backfill_partitions"
        " WHERE backfill_job_id = $1 AND state = 'completed'",
        backfill_id,
    )
    assert sorted(map(tuple, made)) == sorted(map(tuple, accepted))
    assert (row["state"], row["total_partitions"]) == (state, days)
    assert row["completed_partitions"] == len(made)
    if state == "completed":
        assert len(made) == days


@asynccontextmanager
async def watched(scene: Scene, backfill_id: UUID) -> AsyncIterator[None]:
    """See all the while that the checkpoint never goes back, nor over an open partition."""

    async def watch() -> None:
        last = -1
        conn = await connect(scene.database)
        try:
            while True:
                async with conn.transaction(isolation="repeatable_read"):
                    found = await conn.fetchval(
                        "SELECT checkpoint_ordinal FROM backfill_jobs WHERE id = $1", backfill_id
                    )
                    assert [dict(row) for row in await conn.fetch(SKIPPED)] == []
                assert (found or -1) >= last
                last = found or -1
                await asyncio.sleep(0.03)
        finally:
            await conn.close()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        [ended] = await asyncio.gather(watching, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError), ended


async def closed(scene: Scene, worker: Worker, backfill_id: UUID) -> None:
    """Wait until all of the backfill is over, or the worker's process is."""
    ended = asyncio.create_task(worker.process.wait())
    over = asyncio.create_task(scene.until(CLOSED, True, backfill_id))
    await asyncio.wait({ended, over}, return_when=asyncio.FIRST_COMPLETED)
    for task in (ended, over):
        task.cancel()
    await asyncio.gather(ended, over, return_exceptions=True)


# ---- row 3: killed at every statement


@dataclass
class BackfillKiller(Killer):
    """Kills at statements of backfills, and in transactions that have one: other tests kill at the others."""

    times: int = 1
    inside: set[Session] = field(default_factory=set)

    def __call__(self, statement: Statement) -> Fault | None:
        if not statement.application.startswith(self.role):
            return None
        if "backfill" in statement.text:
            self.inside.add(statement.session)
        if any(part in statement.text for part in OTHERS):
            self.inside.discard(statement.session)
        ours = statement.session in self.inside
        if statement.commits:
            self.inside.discard(statement.session)
        fault = super().__call__(statement) if ours else None
        if fault is not None:
            self.times -= 1
            self.fired = self.times <= 0
        return fault


@covers("D-12", "D-14", "B-24", "G3", "G7")
async def test_a_child_killed_at_any_statement_of_a_partitions_path_makes_each_partition_once(
    server: TestServer, tmp_path: Path, seed: int
) -> None:
    met: set[Step] = set()

    async def life(scene: Scene) -> bool:
        backfill_id = await a_backfill(scene)
        scene.proxy.rule = killer = BackfillKiller("starforge worker", kill, met, times=KILLS_PER_WORKER)
        async with watched(scene, backfill_id), scene.worker(WORKER_CONCURRENCY="2"):
            await scene.until(CLOSED, True, backfill_id)
        await check(scene, backfill_id)
        return killer.times < KILLS_PER_WORKER

    steps = texts(await lived(server, tmp_path, life, met))
    for part in (
        MADE,
        "COMMIT",
        "SET state = 'running', attempt_count",
        "INSERT INTO job_history",
        "ended AS (",
    ):
        assert part in steps


async def lived(server: TestServer, folder: Path, life: Callable[[Scene], Any], met: set[Step]) -> set[Step]:
    """Live one life after the other, in scenes side by side, until one ends with nobody killed."""

    async def lane(number: int) -> None:
        (folder / str(number)).mkdir()
        async with a_scene(server, folder / str(number)) as scene:
            while await life(scene):
                assert len(met) < STEPS_MAX

    async with asyncio.TaskGroup() as lanes:
        for number in range(LANES):
            lanes.create_task(lane(number))
    print(f"{len(met)} steps")
    return met


# ---- a lost reply


@covers("D-12", "D-14", "B-24", "B-18", "G3", "G7")
async def test_the_answer_to_any_commit_of_an_engine_is_lost_and_each_partition_is_made_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of claim, feed, start, completion, fold and end: what was done is done, and nobody was told."""
    monkeypatch.setattr(coordinate, "CLAIM_S", 0.1)
    lost: set[Step] = set()
    quick: dict[str, Any] = {"retries": Retry(attempts=5, base_s=0.01, max_s=0.02)}

    async def made(part: Partition[Window], conn: Connection) -> None:
        await conn.execute(MADE, current, part.key, part.attempt)

    async def apart(part: Partition[Window]) -> None:
        """Complete together with others."""

    known = {"own": daily("own", made, **quick), "apart": daily("apart", apart, **quick)}
    through = await Pool.open(scene.proxy.url(scene.database), size=8, application="engine")
    async with engine(through, known.values()) as running:
        for name in known:
            while True:
                backfill_id = await running.create(name, 5)
                current = str(backfill_id)
                scene.proxy.rule = rule = BackfillKiller("engine", cut, lost, commits_only=True)
                await scene.until(CLOSED, True, backfill_id)
                scene.proxy.rule = nothing
                if name == "own":
                    await check(scene, backfill_id)
                await assert_sound(scene.conn)
                assert len(lost) < STEPS_MAX
                if not rule.fired:
                    break
    await through.close()
    said = texts(lost)
    for part in ("FROM next WHERE b.id = next.id", "SET state = 'running', attempt_count"):
        assert part in said
    behind = "\n".join(step[0] for step in lost)
    for part in ("checkpoint_ordinal = $5", "INSERT INTO job_history"):
        assert part in behind


# ---- row 3 again, and row 5: the coordinator is killed, workers are frozen


@covers("D-12", "D-14", "B-37", "G3", "G5", "G7")
async def test_a_supervisor_killed_at_any_commit_of_its_coordinating_is_followed_by_another(
    server: TestServer, tmp_path: Path, seed: int
) -> None:
    """Before it and after it; with STARFORGE_TORTURE=1 at every statement, in a transaction or not."""
    met: set[Step] = set()

    async def life(scene: Scene) -> bool:
        backfill_id, fired = await a_backfill(scene), False
        async with watched(scene, backfill_id):
            while not await scene.conn.fetchval(CLOSED, backfill_id):
                killer = BackfillKiller("starforge supervisor", kill, met, commits_only=not TORTURED)
                scene.proxy.rule = killer
                async with scene.worker(**SHORT) as worker:
                    await closed(scene, worker, backfill_id)
                fired = fired or killer.fired
        await check(scene, backfill_id)
        return fired

    steps = texts(await lived(server, tmp_path, life, met))
    assert "FROM next WHERE b.id = next.id" in steps
    behind = "\n".join(step[0] for step in met)
    assert "checkpoint_ordinal = $5" in behind
    assert len({step[0] for step in met if step[1].startswith("COMMIT")}) >= 3, "feed, fold, end"


async def frozen(scene: Scene, stop: Callable[[], None], go_on: Callable[[], None]) -> None:
    """Freeze a worker, not in the middle of its supervisor's transaction: the server would wait for that."""
    while True:
        stop()
        await asyncio.sleep(0.02)
        if not await scene.conn.fetchval(SUPERVISOR_BUSY):
            return
        go_on()
        await asyncio.sleep(0.01)


@covers("D-12", "G3", "G7")
async def test_a_worker_frozen_in_a_partition_beyond_its_lease_adds_nothing_when_it_wakes(
    scene: Scene,
) -> None:
    backfill_id = await a_backfill(scene, 3)
    async with watched(scene, backfill_id), scene.worker(FAULTS_EFFECT_S="0.7", **SHORT) as zombie:
        await scene.until("SELECT count(*) FROM backfill_partitions WHERE state = 'running'", 2)
        await frozen(scene, lambda: zombie.signal_group(SIGSTOP), lambda: zombie.signal_group(SIGCONT))
        assert await scene.conn.fetchval("SELECT count(*) FROM made") == 0
        async with scene.worker(**SHORT):
            await scene.until(CLOSED, True, backfill_id)
            before = await scene.conn.fetchrow("SELECT * FROM backfill_jobs WHERE id = $1", backfill_id)
            said = len(scene.proxy.statements)
            for child in zombie.children():
                child.send_signal(SIGCONT)
            await scene.asked("SELECT queue_job_id FROM done", after=said)
            zombie.signal_group(SIGCONT)
            await zombie.logged("backfill.lost")
            await scene.until(
                "SELECT count(*) FROM workers WHERE state = 'running' AND pid = $1", 1, zombie.pid
            )
        assert before == await scene.conn.fetchrow("SELECT * FROM backfill_jobs WHERE id = $1", backfill_id)
    await check(scene, backfill_id, 3)
    assert await scene.conn.fetchval("SELECT count(*) FROM backfill_partitions WHERE attempt_count > 1") == 2


@covers("D-12", "D-05", "G5", "G7")
async def test_a_supervisor_frozen_while_it_coordinates_writes_nothing_under_its_old_epoch(
    scene: Scene,
) -> None:
    backfill_id = await a_backfill(scene, 40)
    async with watched(scene, backfill_id), scene.worker(FAULTS_EFFECT_S="0.03", **SHORT) as zombie:
        await scene.until(AHEAD, True, backfill_id, 3)
        await frozen(scene, lambda: zombie.signal(SIGSTOP), lambda: zombie.signal(SIGCONT))
        async with scene.worker(FAULTS_EFFECT_S="0.03", **SHORT):
            await scene.until("SELECT lease_epoch > 1 FROM backfill_jobs WHERE id = $1", True, backfill_id)
            zombie.signal(SIGCONT)
            assert (await zombie.logged("backfill.lost"))["epoch"] == 1
            await scene.until(CLOSED, True, backfill_id)
    await check(scene, backfill_id, 40)


# ---- rows 33 and 34: the operator's hand


@covers("X-14", "B-71", "B-17", "D-11", "D-13", "G7")
async def test_the_statements_of_the_runbook_are_honoured_in_the_middle_of_a_live_backfill(
    scene: Scene,
) -> None:
    """B-SQL-7, -13, -1 and -14, one after the other, by the operator, while a worker is at it."""
    backfill_id = await a_backfill(scene, 200)
    operator = await connect(scene.database.replace("tester@", "starforge_operator@"))
    values = {"job_id": str(backfill_id), "tenant_id": "default"}
    row = "SELECT {} FROM backfill_jobs WHERE id = $1"

    async def ahead() -> None:
        done = await scene.conn.fetchval(row.format("completed_partitions"), backfill_id)
        await scene.until(AHEAD, True, backfill_id, done + 6)

    async def run(name: str) -> str:
        return await operator.execute(filled(BY_HAND[name], values))

    async with watched(scene, backfill_id), scene.worker(FAULTS_EFFECT_S="0.02", WORKER_CONCURRENCY="2"):
        await ahead()
        for name in ("B-SQL-7", "B-SQL-13"):
            epoch = await scene.conn.fetchval(row.format("lease_epoch"), backfill_id)
            async with operator.transaction():
                if name == "B-SQL-13":  # as if nobody had looked after it for long
                    await operator.execute(
                        "UPDATE backfill_jobs SET heartbeat_at = now() - interval '11 min'"
                    )
                assert await run(name) == "UPDATE 1"
            await scene.until(row.format("lease_epoch"), epoch + 1, backfill_id)
            await ahead()
        assert await run("B-SQL-1") == "UPDATE 1"
        await scene.until(LET_GO, True, backfill_id)
        await scene.until("SELECT NOT EXISTS (SELECT FROM queue_jobs WHERE status IN ('pending', 'running'))")
        paused = await scene.conn.fetchrow(row.format("*"), backfill_id)
        assert paused is not None
        assert (paused["state"], await run("B-SQL-1")) == ("paused", "UPDATE 0")
        states = "SELECT count(*) FROM backfill_partitions WHERE state = 'completed'"
        assert paused["completed_partitions"] == await scene.conn.fetchval(states)
        assert paused["checkpoint_partition_key"] is not None
        await act(scene, "resume", backfill_id)
        await ahead()
        assert await run("B-SQL-1") == "UPDATE 1"
        async with operator.transaction():
            await operator.execute(
                "UPDATE backfill_jobs SET state = 'resuming', heartbeat_at = now() - interval '11 min'"
            )
            assert await run("B-SQL-14") == "UPDATE 1"
        await scene.until(CLOSED, True, backfill_id)
    await operator.close()
    await check(scene, backfill_id, 200, state="cancelled")
    ended = await scene.conn.fetchrow(row.format("*"), backfill_id)
    assert ended is not None
    assert ended["error_message"] == "Bulk cancelled: stuck in resuming state"
    assert ended["cancelled_partitions"] == 200 - ended["completed_partitions"]


@covers("D-12", "B-38", "B-51", "G7")
async def test_a_live_coordinator_that_is_reclaimed_by_force_is_refused_and_another_goes_on(
    scene: Scene,
) -> None:
    backfill_id = await a_backfill(scene, 40)
    slow = {"FAULTS_EFFECT_S": "0.03", "WORKER_CONCURRENCY": "2"}
    async with watched(scene, backfill_id), scene.worker(**slow) as first, scene.worker(**slow) as second:
        await scene.until(AHEAD, True, backfill_id, 3)
        await act(scene, "reclaim", backfill_id)
        await scene.until("SELECT lease_epoch FROM backfill_jobs WHERE id = $1", 3, backfill_id)
        logs = [asyncio.create_task(one.logged("backfill.lost")) for one in (first, second)]
        done, waiting = await asyncio.wait(logs, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        assert {one.result()["epoch"] for one in done} == {1}
        await scene.until(CLOSED, True, backfill_id)
    await check(scene, backfill_id, 40)
