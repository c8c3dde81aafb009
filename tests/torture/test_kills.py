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
from starforge.worker.duties import RESCUE_S
from tests.covers import covers
from tests.faults.scene import DRAINED, Scene, Worker

WORKERS = 4
LEASE_S = 5.0
SLACK_S = 5.0
"""What a machine with fewer cores than workers adds to the lease and the look for dead workers."""

WATCH_S = 0.1

RUNNING = "SELECT id, lease_epoch FROM queue_jobs WHERE status = 'running'"
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
    freed_s: dict[UUID, float] = field(default_factory=dict)
    """When each of them was seen to be held no longer: it is pending again, or was completed before."""

    def see(self, running: dict[UUID, int], now_s: float) -> None:
        """Note what is running no longer as it was."""
        for job, epoch in self.held.items():
            if running.get(job) != epoch:
                self.freed_s.setdefault(job, now_s - self.at_s)


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

    async def watch(self, stop: asyncio.Event) -> None:
        """See when what dead workers held is free again, until `stop`."""
        conn = await connect(self.scene.database)
        while not stop.is_set():
            now_s = monotonic_s()
            running = {row["id"]: row["lease_epoch"] for row in await conn.fetch(RUNNING)}
            for kill in self.kills:
                if kill.at_s < now_s:
                    kill.see(running, now_s)
            await asyncio.sleep(WATCH_S)
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
    drained = asyncio.Event()
    watching = asyncio.create_task(torture.watch(drained))
    work: list[Awaitable[None]] = [torture.one_worker() for _ in range(WORKERS)]
    await asyncio.gather(*work, torture.one_producer())
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(scene.worker(**ENVIRONMENT))
        async with asyncio.timeout(300):
            while not await scene.conn.fetchval(DRAINED):
                await asyncio.sleep(0.05)
    drained.set()
    await watching
    again_s = _again(scene, torture.kills)
    freed_s = [freed_s for kill in torture.kills for freed_s in kill.freed_s.values()]
    print(
        f"{len(torture.kills)} kills; {len(again_s)} jobs run again, the last {max(again_s):.1f} s after it;"
        f" {len(freed_s)} freed, the slowest after {max(freed_s):.1f} s"
    )
    verdict = await scene.check()
    verdict.assert_sound()
    assert set(verdict.statuses) <= {"completed", "quarantined"}
    assert len(freed_s) == sum(len(kill.held) for kill in torture.kills) > 0
    assert max(freed_s) <= LEASE_S + RESCUE_S + SLACK_S


def _again(scene: Scene, kills: list[Kill]) -> list[float]:
    """Return how long after the kill each job was started again; suspects wait to run alone, one by one."""
    starts = scene.history.starts()
    found = []
    for kill in kills:
        for job, epoch in kill.held.items():
            later = [start.at for start in starts if start.job == job and start.epoch > epoch]
            # One that was completed before its worker died needs no other start.
            if later:
                found.append(min(later) - kill.at_s)
    return found
