"""Finish: outcomes are written in batches, fenced by the epoch, and kept until the database took them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from uuid import UUID

import asyncpg
import structlog
from prometheus_client import Histogram

from starforge.clock import monotonic_s
from starforge.db.pool import MAY_PASS, Connection, Pool
from starforge.db.statement import sql
from starforge.errors import told
from starforge.loop import backoff_s, wait
from starforge.queue.cancel import cancel_running
from starforge.queue.complete import complete
from starforge.queue.fail import fail, quarantine
from starforge.queue.flow import Flow
from starforge.queue.handler import RETRY, JobTypes, Retry
from starforge.queue.job import LeasedJob
from starforge.queue.kill import kill
from starforge.queue.override import enqueued_since
from starforge.queue.progress import Progress, forget
from starforge.queue.retry import give_back, retry
from starforge.telemetry.metrics import JOB_DURATION, JOBS_PROCESSED
from starforge.worker.errors import ProcessKilledError
from starforge.worker.outcome import Outcome
from starforge.worker.verdict import Again, again_of, failure, final

log = structlog.get_logger("worker")

BATCH_MAX = 1000
FLUSH_S = 0.002
RETRY_S = 0.1
RETRY_S_MAX = 2.0
LOCK_S = 2.0
"""A batch that takes longer may wait for a row that somebody has locked: from then on the others go first."""

LOCKED_S = 1.0
"""What was found locked is tried again this much later."""

WRITE_S_MAX = 60.0
"""A batch that takes longer is tried again on another connection: this one may have died without a word."""

AGAIN = ("failed", "spared", "putoff")
"""Endings after which the job is run again, unless it is given up."""

STATUSES = {
    "done": "completed",
    "written": "completed",
    "failed": "failed",
    "killed": "failed",
    "held": "quarantined",
    "cancelled": "cancelled",
}
"""What finished attempts count as; after the other endings the job was put back, and nothing is counted."""

HOOK_S_MAX = 10.0
"""Longest that a type's own record of a failure may take."""


class Finisher:
    """Takes outcomes one by one and writes them in batches, as soon as the last batch is through."""

    def __init__(
        self,
        pool: Pool,
        types: JobTypes,
        worker_id: UUID,
        *,
        flow: Flow,
        progress: Progress,
        written: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self._pool, self._types, self._worker_id = pool, types, worker_id
        self._flow = flow
        self._progress = progress
        self._written = written  # called after each batch: there is room for more
        self._failed = failed  # called when the database failed to take one
        self._waiting: list[Outcome] = []
        self._writing: list[Outcome] = []
        self._locked: list[Outcome] = []  # somebody else has locked their rows
        self._locked_until_s = 0.0
        self._careful = False  # the last batch met a locked row: do not wait for it again
        self._unanswered: set[UUID] = set()  # jobs whose writing was not answered: it may have been done
        self._wake = asyncio.Event()
        self.finished = 0
        self.lost = 0

    def take(self, outcome: Outcome) -> None:
        """Accept an outcome; it is written within milliseconds, where its attempt has not done so itself."""
        if outcome.ending == "written":
            self._count([outcome], {outcome.job.id})
            return
        self._waiting.append(outcome)
        self._wake.set()

    @property
    def backlog(self) -> int:
        """Outcomes that the database has not taken yet."""
        return len(self._waiting)

    def held(self) -> list[UUID]:
        """Return the jobs whose outcome the database may not have taken yet."""
        return [outcome.job.id for outcome in (*self._writing, *self._waiting, *self._locked)]

    async def run(self, stop: asyncio.Event) -> None:
        """Write batches until `stop` is set and nothing waits.

        After a failure they are smaller, down to one, and grow again with each that is through: what is too
        slow as a whole gets through in parts.
        """
        failures = 0
        while not (stop.is_set() and not self._waiting and not self._locked):
            await self._some(stop)
            if self._locked and monotonic_s() >= self._locked_until_s:
                self._waiting, self._locked = self._locked + self._waiting, []
            size = max(1, BATCH_MAX >> failures)
            self._writing, self._waiting = self._waiting[:size], self._waiting[size:]
            if not self._writing:
                continue
            try:
                await self._write_all()
                failures = max(0, failures - 1)
                self._written()
            except MAY_PASS as error:
                # Fencing makes writing again safe: what was taken already is not taken twice.
                self._unanswered.update(outcome.job.id for outcome in self._writing)
                self._waiting, self._writing = self._writing + self._waiting, []
                failures += 1
                self._failed()
                log.warning("finish.failed", outcomes=len(self._waiting), error=str(error) or repr(error))
                await asyncio.sleep(backoff_s(failures, first_s=RETRY_S, most_s=RETRY_S_MAX))

    async def _some(self, stop: asyncio.Event) -> None:
        if not self._waiting:
            self._wake.clear()
            if not stop.is_set():
                await wait(self._wake, 0.2)
            elif self._locked:
                await asyncio.sleep(FLUSH_S)
            return
        if len(self._waiting) < BATCH_MAX and not stop.is_set():
            await asyncio.sleep(FLUSH_S)

    async def _write_all(self) -> None:
        """Write what is in hand: the results, then the rest; what the database refuses is parted in halves.

        So one outcome that can never be written keeps none of the others.
        """
        done = [outcome for outcome in self._writing if outcome.ending == "done"]
        rest = [outcome for outcome in self._writing if outcome.ending != "done"]
        groups = [group for group in (rest, done) if group]
        careful, self._careful = self._careful, False
        while groups:
            group = groups[-1]
            try:
                if not careful:
                    try:
                        async with asyncio.timeout(LOCK_S):
                            accepted = await self._write(group)
                    except TimeoutError:
                        self._unanswered.update(outcome.job.id for outcome in group)
                        careful = True
                if careful:
                    accepted = await self._write_unlocked(group)
            except MAY_PASS:
                raise
            except Exception as error:
                if len(group) > 1:
                    half = len(group) // 2
                    groups[-1:] = [group[half:], group[:half]]
                    continue
                accepted = await self._hold(group[0], error)
            groups.pop()
            self._count(group, accepted)
            self._writing = [outcome for group in groups for outcome in group]
        self._careful = bool(self._locked)

    async def _write_unlocked(self, group: list[Outcome]) -> set[UUID]:
        """Write what nobody has locked; what a hand holds that has not committed, say, is kept for later."""
        async with asyncio.timeout(WRITE_S_MAX), self._pool.transaction(probing=True) as conn:
            free = {row[0] for row in await conn.fetch(sql("queue", "free"), [o.job.id for o in group])}
            passed = [outcome for outcome in group if outcome.job.id in free]
            accepted = await self._write_on(conn, passed) if passed else set()
        if locked := [outcome for outcome in group if outcome.job.id not in free]:
            group[:] = passed
            self._locked += locked
            self._locked_until_s = monotonic_s() + LOCKED_S
            first = locked[0].job
            log.warning("finish.locked", outcomes=len(locked), job_id=str(first.id), type=first.type)
        return accepted

    async def _write(self, group: list[Outcome]) -> set[UUID]:
        if group[0].ending == "done":
            async with self._pool.connection(probing=True) as conn:
                return await self._write_on(conn, group)
        async with self._pool.transaction(probing=True) as conn:
            return await self._write_on(conn, group)

    async def _write_on(self, conn: Connection, group: list[Outcome]) -> set[UUID]:
        """Write a group that is all completions, or has none; the latter in the caller's transaction."""
        if group[0].ending != "done":
            return await self._write_rest(conn, group)
        accepted = await complete(
            conn,
            [o.job for o in group],
            [o.ran_ms for o in group],
            worker_id=self._worker_id,
            results=[o.result for o in group],
        )
        if self._unanswered:
            accepted |= await self._taken_before(conn, [o.job for o in group if o.job.id not in accepted])
        if self._progress.used:
            await self._forget(conn, accepted)
        return accepted

    async def _taken_before(self, conn: Connection, jobs: Sequence[LeasedJob]) -> set[UUID]:
        """Return those of these jobs that an earlier writing completed, of which no answer came."""
        asked = [job for job in jobs if job.id in self._unanswered]
        if not asked:
            return set()
        ids, epochs = [job.id for job in asked], [job.lease_epoch for job in asked]
        return {row[0] for row in await conn.fetch(sql("queue", "written"), ids, epochs, self._worker_id)}

    async def _write_rest(self, conn: Connection, rest: list[Outcome]) -> set[UUID]:
        """Write retries, dead letters, quarantines and returns, with their types' own records beside them."""
        await self._lower(conn, rest)
        back = [o.job for o in rest if o.ending == "returned"]
        held = [o for o in rest if o.ending == "held"]
        over = [o for o in rest if o.ending == "cancelled"]
        gone = [o for o in rest if self._final(o)]
        again = [o for o in rest if o.ending in AGAIN and not self._final(o)]
        accepted: set[UUID] = set()
        me = self._worker_id
        if back:
            accepted |= await give_back(conn, back, worker_id=me)
        if held:
            accepted |= await quarantine(
                conn, [o.job for o in held], [o.last_error() for o in held], worker_id=me
            )
        if over:
            accepted |= await cancel_running(
                conn, [o.job for o in over], [o.reason for o in over], [o.ran_ms for o in over], worker_id=me
            )
        if gone:
            accepted |= await fail(conn, [o.job for o in gone], [o.last_error() for o in gone], worker_id=me)
        if again:
            plans = [self._again(o) for o in again]
            accepted |= await retry(
                conn,
                [o.job for o in again],
                [plan.error for plan in plans],
                [plan.delay_s for plan in plans],
                worker_id=me,
                at=[plan.at for plan in plans],
                burns=[plan.burns for plan in plans],
            )
        for outcome in (o for o in rest if o.ending == "killed"):
            assert isinstance(outcome.error, ProcessKilledError)
            if await kill(conn, outcome.job, outcome.error.death, worker_id=me):
                accepted.add(outcome.job.id)
        for outcome in (*gone, *again):
            if outcome.job.id in accepted and failure(outcome):
                await self._record(conn, outcome)
        return accepted

    async def _lower(self, conn: Connection, rest: list[Outcome]) -> None:
        """Give up what an operator leaves fewer attempts to, of the jobs that were enqueued since (F-32)."""
        for name, low in self._flow.overrides.attempts.items():
            spent = [
                o for o in rest if o.job.type == name and o.ending in AGAIN and o.job.attempt >= low.attempts
            ]
            if spent:
                newer = await enqueued_since(conn, [o.job.id for o in spent], low.since)
                for outcome in spent:
                    outcome.attempts_max = low.attempts if outcome.job.id in newer else None

    def _retry_of(self, job: LeasedJob) -> Retry:
        job_type = self._types.get(job.type)
        return job_type.retry if job_type is not None else RETRY

    def _final(self, outcome: Outcome) -> bool:
        """Tell whether the job goes to the dead letters: no further attempt can help, or none is left."""
        return outcome.ending in AGAIN and final(outcome, self._retry_of(outcome.job))

    def _again(self, outcome: Outcome) -> Again:
        return again_of(outcome, self._retry_of(outcome.job))

    async def _forget(self, conn: Connection, accepted: set[UUID]) -> None:
        """Remove what completed jobs said of themselves; what is missed here is pruned with the rest."""
        if through := list(accepted & self._progress.used):
            await forget(conn, through)

    async def _record(self, conn: Connection, outcome: Outcome) -> None:
        """Let the type keep its own record of the failure; the job ends also where it cannot."""
        job_type = self._types.get(outcome.job.type)
        if job_type is None or job_type.failed is None or outcome.error is None:
            return
        try:
            async with asyncio.timeout(HOOK_S_MAX), conn.transaction():
                await job_type.failed(conn, outcome.job, outcome.error, self._final(outcome))
        except Exception as error:
            if conn.is_closed() or isinstance(error, asyncpg.TransactionRollbackError):
                raise
            job_id, job_name = str(outcome.job.id), outcome.job.type
            log.error("job.unrecorded", job_id=job_id, type=job_name, error=told(error))

    async def _hold(self, outcome: Outcome, error: Exception) -> set[UUID]:
        """Hold a job back whose outcome the database refuses: it is seen there and not run for ever."""
        job, reason = outcome.job, f"its outcome could not be written: {told(error)}"
        log.error("job.unwritable", job_id=str(job.id), type=job.type, ending=outcome.ending, error=reason)
        try:
            async with self._pool.connection(probing=True) as conn:
                document = {**outcome.last_error(), "reason": reason}
                return await quarantine(conn, [job], [document], worker_id=self._worker_id)
        except MAY_PASS:
            raise
        except Exception as refused:
            # It stays leased to this worker, and is run again after it.
            log.error("job.unwritable", job_id=str(job.id), type=job.type, error=told(refused))
            return set()

    def _count(self, batch: list[Outcome], accepted: set[UUID]) -> None:
        ended: Counter[tuple[str, str]] = Counter()
        for outcome in batch:
            job = outcome.job
            if job.id not in accepted:
                unsure = job.id in self._unanswered and outcome.ending != "done"
                self.lost += not unsure
                event = "finish.unanswered" if unsure else "job.lease_lost"
                log.warning(event, job_id=str(job.id), type=job.type, lease_epoch=job.lease_epoch)
                continue
            self.finished += 1
            if self._progress.used:
                self._progress.used.discard(job.id)
            status = STATUSES.get(outcome.ending) or ("failed" if self._final(outcome) else None)
            if status is None:
                if outcome.ending == "spared":
                    self._tell(outcome)
                continue
            ended[status, job.type] += 1
            _durations(job.type).observe(outcome.ran_ms / 1000)
            if status != "completed":
                self._tell(outcome)
        if self._unanswered:
            self._unanswered.difference_update(outcome.job.id for outcome in batch)
        for (status, job_type), count in ended.items():
            JOBS_PROCESSED.labels(status=status, type=job_type).inc(count)

    def _tell(self, outcome: Outcome) -> None:
        """Log an end that is none of the good ones."""
        job, level = outcome.job, log.warning
        if outcome.ending == "held":
            event = "job.quarantined"
        elif outcome.ending == "cancelled":
            event, level = "job.cancelled", log.info
        elif outcome.ending == "killed":
            event = "job.killed"
        elif self._final(outcome):
            event = "job.failed"
        else:
            event = "job.spared" if outcome.ending == "spared" else "job.retry"
        error = f"{type(outcome.error).__name__}: {outcome.reason}"[:500]
        level(event, job_id=str(job.id), type=job.type, attempt=job.attempt, error=error)


@cache
def _durations(job_type: str) -> Histogram:
    """The histogram of one type: looking a label up costs more than counting with it."""
    return JOB_DURATION.labels(type=job_type)
