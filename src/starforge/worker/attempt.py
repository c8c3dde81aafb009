"""One attempt: run the handler, and say how it ended."""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from starforge.clock import monotonic_s
from starforge.db.pool import Pool
from starforge.errors import storable, told
from starforge.queue.handler import Context, JobType, PermanentError, Quarantined
from starforge.queue.job import LeasedJob

TRACE_CHARS_MAX = 8000
REASON_CHARS_MAX = 1000

Ending = Literal["done", "failed", "held", "returned"]


@dataclass(slots=True)
class Outcome:
    """How an attempt ended."""

    job: LeasedJob
    ending: Ending
    ran_ms: float
    error: BaseException | None = None
    attempts_max: int | None = None
    """Attempts that an operator leaves it, where those are fewer than its own."""

    @property
    def permanent(self) -> bool:
        """True where no further attempt can help or is left."""
        most = self.job.max_attempts
        if self.attempts_max is not None:
            most = min(most, self.attempts_max)
        return isinstance(self.error, PermanentError) or self.job.attempt >= most

    @property
    def reason(self) -> str:
        """What went wrong, in words that Postgres can keep."""
        return told(self.error)[:REASON_CHARS_MAX] if self.error is not None else ""

    def last_error(self) -> dict[str, Any]:
        """Return what goes into `last_error`: at least a reason (D-10)."""
        document: dict[str, Any] = {
            "reason": self.reason,
            "error": type(self.error).__name__,
            "attempt": self.job.attempt,
            "ran_ms": round(self.ran_ms, 1),
        }
        if self.attempts_max is not None:
            document["attempts_lowered_to"] = self.attempts_max
        if self.error is not None and self.ending == "failed":
            trace = "".join(traceback.format_exception(self.error))
            document["trace"] = storable(trace[-TRACE_CHARS_MAX:])
        return document


async def attempt(
    job: LeasedJob, job_type: JobType, pool: Pool, worker_id: UUID, *, cut: asyncio.Event
) -> Outcome:
    """Run `job` once and return its outcome.

    Whatever the handler raises is an outcome and not an error of the worker: also what would end the
    process, and a cancellation of its own making. A cancellation while `cut` is set is the worker's.
    """
    context = Context(job, pool, worker_id)
    started_s = monotonic_s()
    error: BaseException | None = None
    ending: Ending = "done"
    limit = asyncio.timeout(job_type.timeout_s)
    try:
        if job.fault is not None:
            raise PermanentError(job.fault)
        if job_type.timeout_s is None:
            await job_type.run(context, job.payload)
        else:
            async with limit:
                await job_type.run(context, job.payload)
    except Quarantined as held:
        error, ending = held, "held"
    except asyncio.CancelledError as cancelled:
        # The worker stops: what was not finished is given back without an attempt burnt.
        error, ending = cancelled, "returned" if cut.is_set() else "failed"
    except TimeoutError as late:
        error, ending = late, "failed"
        if limit.expired():
            error = TimeoutError(f"no result within {job_type.timeout_s:g} s")
    except GeneratorExit:
        raise  # the loop itself is being taken down
    except BaseException as raised:
        error, ending = raised, "failed"
    return Outcome(job, ending, (monotonic_s() - started_s) * 1000, error)
