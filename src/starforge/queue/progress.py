"""What running jobs say of themselves: how far they are, and where the next attempt may go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import structlog

from starforge.db.pool import MAY_PASS, Connection, Pool
from starforge.db.statement import sql
from starforge.errors import storable
from starforge.loop import backoff_s, wait
from starforge.queue.job import LeasedJob

log = structlog.get_logger("queue")

WRITE_S = 0.1
"""What a job says within this time is written once, as it said it last."""

RETRY_S_MAX = 5.0
MESSAGE_CHARS_MAX = 500

Said = tuple[LeasedJob, float, float | None, str | None]


class Progress:
    """Collects what the jobs of a process say, and writes the newest of each in one statement."""

    def __init__(self, pool: Pool, worker_id: UUID) -> None:
        self._pool, self._worker_id = pool, worker_id
        self._loop = asyncio.get_running_loop()
        self._said: dict[UUID, Said] = {}
        self._lock = threading.Lock()
        self._wake = asyncio.Event()
        self.used: set[UUID] = set()
        """The jobs that have a row, or may have: it goes when they are through."""

    def note(self, job: LeasedJob, done: float, total: float | None, message: str | None) -> None:
        """Take what a job says, from any thread; the newest word counts."""
        text = None if message is None else storable(message[:MESSAGE_CHARS_MAX])
        said = (job, float(done), None if total is None else float(total), text)
        with self._lock:
            idle = not self._said
            self._said[job.id] = said
            self.used.add(job.id)
        if idle:
            self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self, stop: asyncio.Event) -> None:
        """Write what was said until `stop`; while the database is away, keep the newest."""
        failures = 0
        while not stop.is_set():
            await self._wake.wait()
            self._wake.clear()
            with self._lock:
                said, self._said = self._said, {}
            try:
                await self._write(list(said.values()))
                failures = 0
            except MAY_PASS as error:
                failures += 1
                with self._lock:
                    self._said = {**said, **self._said}
                self._wake.set()
                log.warning("progress.failed", jobs=len(said), error=str(error) or repr(error))
            pause_s = backoff_s(failures, first_s=WRITE_S, most_s=RETRY_S_MAX) if failures else WRITE_S
            await wait(stop, pause_s)

    async def _write(self, said: Sequence[Said]) -> None:
        if not said:
            return
        async with self._pool.connection() as conn:
            await conn.execute(
                sql("queue", "progress"),
                [job.id for job, *_ in said],
                [job.lease_epoch for job, *_ in said],
                [done for _, done, _, _ in said],
                [total for _, _, total, _ in said],
                [message for *_, message in said],
                self._worker_id,
            )


async def save_checkpoint(conn: Connection, job: LeasedJob, value: str, *, worker_id: UUID) -> bool:
    """Keep a checkpoint, JSON text, beside the job; return False when the lease was lost."""
    row = await conn.fetchrow(sql("queue", "checkpoint"), job.id, job.lease_epoch, value, worker_id)
    return row is not None


async def last_checkpoint(conn: Connection, job_id: UUID) -> Any:
    """Return the newest checkpoint of a job; None where it has none."""
    text = await conn.fetchval(sql("queue", "last_checkpoint"), job_id)
    return None if text is None else msgspec.json.decode(text)


async def forget(conn: Connection, job_ids: Sequence[UUID]) -> None:
    """Remove what these jobs said: they are through."""
    await conn.execute(sql("queue", "forget_progress"), job_ids)
