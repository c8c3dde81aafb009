"""Isolation: jobs that run in processes of their own, started, watched and killed by the child.

What a job does there hurts that job alone. A death says exactly who is guilty; time that is over ends in
SIGKILL; memory that is over ends in an ordinary failure (`worker/allowance.py`).
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from uuid import UUID

from starforge.clock import monotonic_s
from starforge.db.pool import Pool
from starforge.queue.context import Context
from starforge.queue.handler import JobType
from starforge.worker.cell import Cell, cut_short
from starforge.worker.errand import IsolatedOrders
from starforge.worker.errors import ProcessNotStartedError
from starforge.worker.outcome import Outcome

STARTS_MAX = 3
START_AGAIN_S = 0.5
IDLE_S_MAX = 60.0


class Isolation:
    """The isolated processes of one child."""

    def __init__(
        self, pool: Pool, *, worker_id: UUID, app: str, log_level: str, most: int, progress_s: float
    ) -> None:
        self._pool, self._progress_s = pool, progress_s
        self._orders = IsolatedOrders(
            worker_id, pool.url, app, os.getpid(), pool.size, pool.pooled, "", log_level
        )
        self._room = asyncio.Semaphore(most)
        self._idle: list[Cell] = []
        self._busy: set[Cell] = set()
        # Processes count under a number that is free again when they end.
        self._numbers = list(range(most + 1, 0, -1))
        self._tidying: set[asyncio.Task[None]] = set()

    async def attempt(self, context: Context, job_type: JobType) -> Outcome:
        """Run the context's job once in a process of its own and return its outcome.

        A job that is to be alone gets a fresh process, and ends it; there is one such job at a time.
        """
        try:
            if context.job.alone:
                return await self._in_process(context, job_type)
            async with self._room:
                return await self._in_process(context, job_type)
        except asyncio.CancelledError as cancelled:
            return cut_short(context, cancelled)

    async def _in_process(self, context: Context, job_type: JobType) -> Outcome:
        job = context.job
        try:
            process = await self._taken(fresh=job.alone)
        except ProcessNotStartedError as error:
            return Outcome(job, "failed", 0.0, error)
        self._busy.add(process)
        try:
            return await process.run(context, job_type, self._progress_s)
        finally:
            self._busy.discard(process)
            if process.fit and not job.alone:
                process.idle_since_s = monotonic_s()
                self._idle.append(process)
                asyncio.get_running_loop().call_later(IDLE_S_MAX + 1, self._tidy)
            else:
                await self._ended(process)

    async def _taken(self, *, fresh: bool) -> Cell:
        while self._idle and not fresh:
            process = self._idle.pop()
            if process.lives:
                return process
            await self._ended(process)
        number = self._numbers.pop()
        try:
            return await self._started(number)
        except BaseException:
            self._numbers.append(number)
            raise

    async def _started(self, number: int) -> Cell:
        for _ in range(STARTS_MAX - 1):
            with suppress(ProcessNotStartedError):
                return await Cell.start(self._orders, number, self._pool)
            await asyncio.sleep(START_AGAIN_S)
        return await Cell.start(self._orders, number, self._pool)

    async def _ended(self, process: Cell) -> None:
        await process.end()
        self._numbers.append(process.number)

    def _tidy(self) -> None:
        """End the processes that had nothing to do for long."""
        now_s = monotonic_s()
        for process in [one for one in self._idle if now_s - one.idle_since_s >= IDLE_S_MAX]:
            self._idle.remove(process)
            task = asyncio.create_task(self._ended(process))
            self._tidying.add(task)
            task.add_done_callback(self._tidying.discard)

    async def close(self) -> None:
        """End every process."""
        for process in (*self._idle, *self._busy):
            await process.end()
