"""Finish: outcomes are written in batches, fenced by the epoch, and kept until the database took them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import cache
from uuid import UUID

import structlog
from prometheus_client import Histogram

from starforge.db.pool import DATABASE_AWAY, Pool
from starforge.loop import wait
from starforge.queue.backoff import delay_s
from starforge.queue.complete import complete
from starforge.queue.fail import fail, quarantine
from starforge.queue.handler import JobTypes
from starforge.queue.retry import give_back, retry
from starforge.telemetry.metrics import JOB_DURATION, JOBS_PROCESSED
from starforge.worker.attempt import Outcome

log = structlog.get_logger("worker")

BATCH_MAX = 1000
FLUSH_S = 0.002
RETRY_S_MAX = 2.0


class Finisher:
    """Takes outcomes one by one and writes them in batches, as soon as the last batch is through."""

    def __init__(self, pool: Pool, types: JobTypes, worker_id: UUID, *, written: Callable[[], None]) -> None:
        self._pool, self._types, self._worker_id = pool, types, worker_id
        self._written = written  # called after each batch: there is room for more
        self._waiting: list[Outcome] = []
        self._wake = asyncio.Event()
        self.finished = 0
        self.lost = 0

    def take(self, outcome: Outcome) -> None:
        """Accept an outcome; it is written within milliseconds."""
        self._waiting.append(outcome)
        self._wake.set()

    @property
    def backlog(self) -> int:
        """Outcomes that the database has not taken yet."""
        return len(self._waiting)

    async def run(self, stop: asyncio.Event) -> None:
        """Write batches until `stop` is set and nothing waits."""
        failures = 0
        while not (stop.is_set() and not self._waiting):
            await self._some(stop)
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            if not batch:
                continue
            try:
                await self._write(batch)
                failures = 0
                self._written()
            except DATABASE_AWAY as error:
                # Fencing makes writing again safe: what was taken already is not taken twice.
                self._waiting = batch + self._waiting
                failures += 1
                log.warning("finish.failed", outcomes=len(self._waiting), error=str(error) or repr(error))
                await asyncio.sleep(min(RETRY_S_MAX, 0.05 * 2**failures))

    async def _some(self, stop: asyncio.Event) -> None:
        if not self._waiting:
            self._wake.clear()
            if not stop.is_set():
                await wait(self._wake, 0.2)
            return
        if len(self._waiting) < BATCH_MAX and not stop.is_set():
            await asyncio.sleep(FLUSH_S)

    async def _write(self, batch: list[Outcome]) -> None:
        done = [outcome for outcome in batch if outcome.ending == "done"]
        rest = [outcome for outcome in batch if outcome.ending != "done"]
        accepted: set[UUID] = set()
        async with self._pool.connection() as conn:
            if done:
                accepted = await complete(
                    conn, [o.job for o in done], [o.ran_ms for o in done], worker_id=self._worker_id
                )
        if rest:
            accepted |= await self._write_rest(rest)
        self._count(batch, accepted)

    async def _write_rest(self, rest: list[Outcome]) -> set[UUID]:
        """Write retries, dead letters, quarantines and returns, with their types' own records beside them."""
        back = [o.job for o in rest if o.ending == "returned"]
        held = [o for o in rest if o.ending == "held"]
        gone = [o for o in rest if o.ending == "failed" and o.permanent]
        again = [o for o in rest if o.ending == "failed" and not o.permanent]
        accepted: set[UUID] = set()
        me = self._worker_id
        async with self._pool.transaction() as conn:
            if back:
                accepted |= await give_back(conn, back, worker_id=me)
            if held:
                accepted |= await quarantine(
                    conn, [o.job for o in held], [o.last_error() for o in held], worker_id=me
                )
            if gone:
                accepted |= await fail(
                    conn, [o.job for o in gone], [o.last_error() for o in gone], worker_id=me
                )
            if again:
                accepted |= await retry(
                    conn,
                    [o.job for o in again],
                    [o.last_error() for o in again],
                    [delay_s(o.job.attempt) for o in again],
                    worker_id=me,
                )
            for outcome in (*gone, *again):
                job_type = self._types.get(outcome.job.type)
                if outcome.job.id in accepted and job_type and job_type.failed and outcome.error:
                    await job_type.failed(conn, outcome.job, outcome.error, outcome.permanent)
        return accepted

    def _count(self, batch: list[Outcome], accepted: set[UUID]) -> None:
        ended: Counter[tuple[str, str]] = Counter()
        for outcome in batch:
            job = outcome.job
            if job.id not in accepted:
                self.lost += 1
                log.warning("job.lease_lost", job_id=str(job.id), type=job.type, lease_epoch=job.lease_epoch)
                continue
            self.finished += 1
            if outcome.ending == "returned":
                continue
            status = {"done": "completed", "held": "quarantined"}.get(outcome.ending, "failed")
            ended[status, job.type] += 1
            _durations(job.type).observe(outcome.ran_ms / 1000)
            if outcome.ending == "failed":
                log.warning(
                    "job.failed" if outcome.permanent else "job.retry",
                    job_id=str(job.id),
                    type=job.type,
                    attempt=job.attempt,
                    error=repr(outcome.error)[:500],
                )
        for (status, job_type), count in ended.items():
            JOBS_PROCESSED.labels(status=status, type=job_type).inc(count)


@cache
def _durations(job_type: str) -> Histogram:
    """The histogram of one type: looking a label up costs more than counting with it."""
    return JOB_DURATION.labels(type=job_type)
