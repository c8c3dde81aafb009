"""Row 4: workers under load are killed at random, for minutes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from signal import SIGKILL
from uuid import UUID

from starforge.clock import monotonic_s
from starforge.db.pool import connect
from starforge.queue.job import NewJob
from starforge.queue.sweep import SWEEP_S
from tests.covers import covers
from tests.faults.scene import DRAINED, Scene, Worker

WORKERS = 4
LEASE_S = 5.0
SLACK_S = 10.0
"""What a machine with fewer cores than workers adds: the start of Python, and a turn in the queue."""

HELD = "SELECT id, lease_epoch FROM queue_jobs WHERE status = 'running' AND worker_id = ANY ($1::uuid[])"
ENVIRONMENT = {
    "STARFORGE_LEASE_S": str(LEASE_S),
    "WORKER_CONCURRENCY": "8",
    "FAULTS_EFFECT_S": "0.2",
    "PG_POOL_MAX": "6",
    # Each `faults.fail` fails once: a breaker would hold what is to be watched.
    "STARFORGE_BREAKER_MIN": "1000000",
}


@dataclass
class Kill:
    """One kill, and what its worker held then."""

    how: str
    at_s: float
    held: dict[UUID, int]


@dataclass
class Torture:
    """Who is killed when."""

    scene: Scene
    draw: random.Random
    until_s: float
    kills: list[Kill] = field(default_factory=list)

    async def one_worker(self) -> None:
        """Start a worker, kill it or its child after a while, and start another."""
        while monotonic_s() < self.until_s:
            async with self.scene.worker(**ENVIRONMENT) as worker:
                ends_s = min(self.until_s, monotonic_s() + self.draw.uniform(3, 20))
                while monotonic_s() < ends_s:
                    await asyncio.sleep(self.draw.uniform(0.5, 5))
                    if self.draw.random() < 0.3:
                        await self._kill("child", worker)
                await self._kill(self.draw.choice(["supervisor", "group"]), worker)
                await worker.ended()

    async def _kill(self, how: str, worker: Worker) -> None:
        conn = await connect(self.scene.database)
        mine = [row["id"] for row in await conn.fetch("SELECT id FROM workers WHERE pid = $1", worker.pid)]
        children = worker.children()
        if how == "child":
            for child in children[:1]:
                child.kill()
        elif how == "supervisor":
            worker.process.kill()
        else:
            worker.signal_group(SIGKILL)
        held = {row["id"]: row["lease_epoch"] for row in await conn.fetch(HELD, mine)}
        self.kills.append(Kill(how, monotonic_s(), held))
        await conn.close()

    async def one_producer(self) -> None:
        """Enqueue all the time, more than the workers get done when many wait, less when few do."""
        conn = await connect(self.scene.database)
        while monotonic_s() < self.until_s:
            kinds = self.draw.choices(["faults.effect", "faults.once", "faults.fail"], [5, 5, 1], k=10)
            jobs = [NewJob(kind, {"times": 1} if kind == "faults.fail" else {}) for kind in kinds]
            await self.scene.history.enqueue(conn, *jobs)
            waiting = await conn.fetchval("SELECT count(*) FROM queue_jobs WHERE status = 'pending'")
            await asyncio.sleep(0.05 if waiting < 200 else 1.0)
        await conn.close()


@covers("G2", "G3", "G4", "G5")
async def test_random_kills_under_load_lose_nothing_and_jobs_run_again_in_time(
    scene: Scene, seed: int, minutes: float
) -> None:
    torture = Torture(scene, random.Random(seed), monotonic_s() + minutes * 60)
    work: list[Awaitable[None]] = [torture.one_worker() for _ in range(WORKERS)]
    await asyncio.gather(*work, torture.one_producer())
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(scene.worker(**ENVIRONMENT))
        async with asyncio.timeout(300):
            while not await scene.conn.fetchval(DRAINED):
                await asyncio.sleep(0.05)
    recovered_s = _recovery(scene, torture.kills)
    print(f"{len(torture.kills)} kills; {len(recovered_s)} jobs recovered, slowest {max(recovered_s):.1f} s")
    verdict = await scene.check()
    verdict.assert_sound()
    assert set(verdict.statuses) <= {"completed", "quarantined"}
    assert max(recovered_s) <= LEASE_S + SWEEP_S + SLACK_S


def _recovery(scene: Scene, kills: list[Kill]) -> list[float]:
    """Return how long each job that a killed worker held had to wait for its next start."""
    starts = scene.history.starts()
    found = []
    for kill in kills:
        for job, epoch in kill.held.items():
            later = [start.at for start in starts if start.job == job and start.epoch > epoch]
            # One that was completed before its worker died needs no other start.
            if later:
                found.append(min(later) - kill.at_s)
    return found
