"""Run: the one path of a job through a worker's child: claim → attempt → finish, in batches."""

from __future__ import annotations

import asyncio
from collections import deque
from uuid import UUID

import structlog

from starforge.clock import monotonic_s, randomness
from starforge.db.pool import DATABASE_AWAY, Pool
from starforge.queue.claim import claim
from starforge.queue.handler import JobTypes
from starforge.queue.job import LeasedJob
from starforge.queue.plan import Plan
from starforge.worker.attempt import Outcome, attempt
from starforge.worker.finish import Finisher

log = structlog.get_logger("worker")

CLAIM_MAX = 500
AHEAD_S = 0.1
"""Jobs are claimed ahead for this long at the recent rate: slow jobs are not hoarded."""

FINISH_BACKLOG_MAX = 5000
"""With this many unwritten outcomes nothing more is claimed: the database does not keep up."""

YIELD_EVERY = 64
"""Attempts that never wait let the loop breathe after this many."""

IDLE_S_MIN = 0.002
MEASURE_S = 0.02


class Runner:
    """Claims jobs into a bounded buffer and runs them in `concurrency` slots."""

    def __init__(
        self,
        pool: Pool,
        types: JobTypes,
        worker_id: UUID,
        *,
        queues: tuple[str, ...],
        concurrency: int,
        poll_s: float,
    ) -> None:
        self._pool, self._types, self._worker_id = pool, types, worker_id
        self._concurrency, self._poll_s = concurrency, poll_s
        self._plan = Plan(queues, types.names())
        self._buffer: deque[LeasedJob] = deque()
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._announced = asyncio.Event()
        self._running = 0
        self._taken = 0
        self._taken_at = (0, monotonic_s())
        self._stop = asyncio.Event()
        self._rate = 0.0
        self.finisher = Finisher(pool, types, worker_id, written=self._room.set)
        self.claimed = 0

    def announce(self) -> None:
        """Look for work at once: a hint came that there is some."""
        self._plan.expire()
        self._announced.set()

    def stop(self) -> None:
        """Claim nothing more; `run` returns once the running jobs have ended or were cancelled."""
        self._stop.set()
        self._announced.set()
        self._room.set()
        self._ready.set()

    async def run(self, *, grace_s: float, hurry: asyncio.Event) -> None:
        """Work until `stop`; then let running jobs end for `grace_s` (or until `hurry`), then cancel them."""
        written = asyncio.Event()
        slots = [asyncio.create_task(self._slot()) for _ in range(self._concurrency)]
        finisher = asyncio.create_task(self.finisher.run(written))
        claimer = asyncio.create_task(self._claimer())
        stopping = asyncio.create_task(self._stop.wait())
        # Any of them ending before the stop is a fault of ours: stop at once, and raise it at the end.
        await asyncio.wait({claimer, finisher, stopping, *slots}, return_when=asyncio.FIRST_COMPLETED)
        self.stop()
        await asyncio.wait({claimer, stopping})
        while self._buffer:
            self.finisher.take(Outcome(self._buffer.popleft(), "returned", 0.0))
        hurried = asyncio.create_task(hurry.wait())
        everyone = asyncio.create_task(asyncio.wait(slots))
        await asyncio.wait({everyone, hurried}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        for task in (hurried, *slots):
            task.cancel()
        await everyone
        written.set()
        await asyncio.wait({finisher})
        for task in (claimer, finisher, *slots):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _claimer(self) -> None:
        idle_s = IDLE_S_MIN
        while not self._stop.is_set():
            wanted = self._wanted()
            if wanted <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            self._announced.clear()
            try:
                async with self._pool.connection() as conn:
                    jobs = await claim(
                        conn, await self._plan.lanes(conn), n=wanted, worker_id=self._worker_id
                    )
            except DATABASE_AWAY as error:
                log.warning("claim.failed", error=str(error) or repr(error))
                await self._idle(min(2.0, max(idle_s, 0.1)))
                idle_s = min(2.0, max(idle_s, 0.1) * 2)
                continue
            if jobs:
                idle_s = IDLE_S_MIN
                self.claimed += len(jobs)
                self._buffer.extend(jobs)
                self._ready.set()
                continue
            await self._idle(idle_s)
            idle_s = min(self._poll_s, idle_s * 2)

    async def _idle(self, seconds: float) -> None:
        """Wait for an announcement, at most about `seconds`."""
        try:
            async with asyncio.timeout(seconds * randomness.uniform(0.9, 1.1)):
                await self._announced.wait()
        except TimeoutError:
            return

    def _wanted(self) -> int:
        """How many jobs to claim now: free slots, and as many ahead as the recent rate uses up."""
        if self.finisher.backlog >= FINISH_BACKLOG_MAX:
            return 0
        self._measure()
        ahead = min(CLAIM_MAX * 2, int(self._rate * AHEAD_S))
        want = self._concurrency - self._running + ahead - len(self._buffer)
        # A full batch is worth waiting for: small claims cost as much as large ones.
        if self._buffer and want < min(CLAIM_MAX, ahead) // 2:
            return 0
        return min(CLAIM_MAX, want)

    async def _slot(self) -> None:
        """One slot: take a job from the buffer, run it, hand over its outcome, again and again."""
        since, started_s = 0, monotonic_s()
        while True:
            while not self._buffer:
                if self._stop.is_set():
                    return
                self._room.set()
                self._ready.clear()
                await self._ready.wait()
            if self._stop.is_set():
                return
            job = self._buffer.popleft()
            self._taken += 1
            job_type = self._types.get(job.type)
            assert job_type is not None  # only known types are claimed
            self._running += 1
            try:
                outcome = await attempt(job, job_type, self._pool, self._worker_id)
            finally:
                self._running -= 1
            self.finisher.take(outcome)
            if outcome.ending == "returned":
                return
            since += 1
            if since >= YIELD_EVERY or monotonic_s() - started_s > 0.005:
                since, started_s = 0, monotonic_s()
                self._room.set()
                await asyncio.sleep(0)

    def _measure(self) -> None:
        """Keep a moving average of how many jobs the slots take per second."""
        taken, then_s = self._taken_at
        seconds = monotonic_s() - then_s
        if seconds >= MEASURE_S:
            self._rate += 0.5 * ((self._taken - taken) / seconds - self._rate)
            self._taken_at = (self._taken, monotonic_s())
