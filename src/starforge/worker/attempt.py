"""One attempt: run the handler, and say how it ended."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import asyncpg
import structlog

from starforge.clock import monotonic_s
from starforge.db.errors import DatabaseUnreachableError, PoolExhaustedError
from starforge.db.pool import DATABASE_AWAY
from starforge.errors import told
from starforge.queue.context import Context, Host
from starforge.queue.handler import JobType
from starforge.queue.job import LeasedJob
from starforge.queue.outcome import Discard, PermanentError, PutOff, Quarantined
from starforge.queue.results import encode_result
from starforge.telemetry.trace import join, running
from starforge.worker.deadline import Deadline, limit_s_of
from starforge.worker.outcome import Ending, Outcome

log = structlog.get_logger("worker")

CAUSES_MAX = 10
HELD_UP_SHARE = 0.1
"""Of its time, from which on a standstill is worth a word."""


OURS: tuple[type[Exception], ...] = (DatabaseUnreachableError, PoolExhaustedError)
"""What only our own connections raise."""

AWAY: tuple[type[Exception], ...] = (*DATABASE_AWAY, asyncpg.ReadOnlySQLTransactionError)
"""What a handler may meet while the database is away, or is being taken over by its standby."""


async def attempt(
    job: LeasedJob, job_type: JobType, host: Host, task: asyncio.Task[Any] | None = None
) -> Outcome:
    """Run `job` once and return its outcome; `task` is the caller's own, where it has that at hand.

    Whatever the handler raises is an outcome and not an error of the worker: also what would end the
    process, and a cancellation of its own making. A cancellation while `host.cut` is set is the worker's.
    """
    started_s = monotonic_s()
    context = Context(job, host, task or asyncio.current_task(), started_s)
    host.attempts[job.id] = context
    limit_s, deadline = limit_s_of(job, job_type), None
    error: BaseException | None = None
    result: str | None = None
    try:
        if job.fault is not None:
            raise PermanentError(job.fault)
        scope = contextvars.copy_context()
        try:
            waits_for = scope.run(_begin, context, job_type)
        except StopIteration as end:
            value = end.value
        else:
            # Before its first wait nothing could have ended it.
            if limit_s is not None:
                deadline = Deadline(context, limit_s)
            value = await _Rest(context, scope, waits_for)
        if value is not None and context.written:
            log.warning("job.result_dropped", job_id=str(job.id), type=job.type)
        elif value is not None:
            result = encode_result(value)
    except GeneratorExit:
        raise  # the loop itself is being taken down
    except BaseException as raised:
        error = raised
    finally:
        host.attempts.pop(job.id, None)
        if deadline is not None:
            deadline.close()
    ran_ms = (monotonic_s() - started_s) * 1000
    if error is None and not context.expired and not context.written:
        return Outcome(job, "done", ran_ms, None, result)
    return _ended(context, error, ran_ms, limit_s)


def _begin(context: Context, job_type: JobType) -> object:
    """Start the handler in the attempt's own context variables; return what it waits for.

    Raises: StopIteration with its result where it does not wait for anything.
    """
    running.set(context)
    if context.job.trace is not None:
        join(context.job.trace)
    coroutine = job_type.run(context, context.job.payload)
    context.coroutine = coroutine
    return coroutine.send(None)


class _Rest:
    """The rest of a handler that waits for something: each step runs in the attempt's context variables."""

    __slots__ = ("_coroutine", "_scope", "_waits_for")

    def __init__(self, context: Context, scope: contextvars.Context, waits_for: object) -> None:
        assert context.coroutine is not None
        self._coroutine: Coroutine[Any, Any, Any] = context.coroutine
        self._scope, self._waits_for = scope, waits_for

    def __await__(self) -> Generator[object, Any, Any]:
        run, coroutine, waits_for = self._scope.run, self._coroutine, self._waits_for
        send: Callable[[Any], object] = coroutine.send
        throw: Callable[[Any], object] = coroutine.throw
        while True:
            try:
                said = yield waits_for
            except GeneratorExit:
                run(coroutine.close)
                raise
            except BaseException as raised:
                step, given = throw, raised
            else:
                step, given = send, said
            try:
                waits_for = run(step, given)
            except StopIteration as end:
                return end.value


def _ended(context: Context, error: BaseException | None, ran_ms: float, limit_s: float | None) -> Outcome:
    """Say what an attempt's end means that was not just a return."""
    job = context.job
    if context.written:
        if error is not None:
            log.warning("job.failed_after_completion", job_id=str(job.id), type=job.type, error=told(error))
        return Outcome(job, "written", ran_ms)
    if context.expired:
        late = TimeoutError(f"no result within {limit_s:g} s{_held_up(context, limit_s or 0.0)}")
        late.__cause__ = None if isinstance(error, asyncio.CancelledError) else error
        return Outcome(job, "failed", ran_ms, late)
    return Outcome(job, _ending(context, error), ran_ms, error)


def _held_up(context: Context, limit_s: float) -> str:
    """Say that the loop stood still for a good part of an attempt's time: that may be another's doing."""
    seconds, place = context.host.standstill.since(context.started_s)
    if seconds < HELD_UP_SHARE * limit_s:
        return ""
    where = f", in {place}" if place else ""
    told = f"; its process stood still for {seconds:.1f} s meanwhile{where}"
    return f"{told}: a coroutine that does not await holds up all jobs beside it"


def _ending(context: Context, error: BaseException | None) -> Ending:
    match error:
        case Quarantined():
            return "held"
        case PutOff():
            return "putoff"
        case Discard():
            return "cancelled"
        case asyncio.CancelledError() if context.asked is not None:
            return "cancelled"
        case PermanentError():
            return "failed"
        case _ if context.host.cut.is_set():
            # The worker stops and has cancelled it: whatever it made of that, no attempt is burnt.
            return "returned"
    return "spared" if _database_was_away(context, error) else "failed"


def _database_was_away(context: Context, error: BaseException | None) -> bool:
    """Tell whether the handler failed because our own connections did: no fault of the job's.

    A handler may talk to other servers with the same driver: an error of the driver's, or of a socket, counts
    only where the worker's own pool lost a connection, or could not make one, while the handler ran.
    """
    lost = context.host.pool.lost_at_s >= context.started_s
    away = AWAY if lost else OURS
    for _ in range(CAUSES_MAX):
        if error is None:
            return False
        if isinstance(error, away):
            return True
        error = error.__cause__ or error.__context__
    return False
