"""Cancelling: asks once a second, and at a hint, which running jobs are to end, and tells them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

import structlog

from starforge.db.pool import MAY_PASS, Pool
from starforge.loop import wait
from starforge.queue.cancel import cancelling

log = structlog.get_logger("worker")

LOOK_S = 1.0
ASK_S_MAX = 10.0


class Cancelling:
    """Tells a worker's jobs that they are to end."""

    def __init__(self, pool: Pool, worker_id: UUID, *, cancel: Callable[[UUID, str], bool]) -> None:
        self._pool, self._worker_id, self._cancel = pool, worker_id, cancel
        self._hurry = asyncio.Event()
        self._told: set[UUID] = set()

    def hint(self) -> None:
        """Look at once."""
        self._hurry.set()

    async def run(self, stop: asyncio.Event, busy: Callable[[], bool]) -> None:
        """Look every second while there is something to cancel, until `stop`."""
        while not stop.is_set():
            if await wait(self._hurry, LOOK_S):
                self._hurry.clear()
            if not busy():
                continue
            try:
                await self._look()
            except MAY_PASS as error:
                log.warning("cancelling.failed", error=str(error) or repr(error))

    async def _look(self) -> None:
        async with asyncio.timeout(ASK_S_MAX), self._pool.connection() as conn:
            asked = await cancelling(conn, self._worker_id)
        self._told &= set(asked)
        for job_id, reason in asked.items():
            if job_id not in self._told and self._cancel(job_id, reason):
                self._told.add(job_id)
                log.info("job.cancelling", job_id=str(job_id), reason=reason)
