"""One attempt: run the handler, and say how it ended."""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from starforge.clock import monotonic_s
from starforge.db.pool import Pool
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

    @property
    def permanent(self) -> bool:
        """True where no further attempt can help or is left."""
        return isinstance(self.error, PermanentError) or self.job.attempt >= self.job.max_attempts

    def last_error(self) -> dict[str, Any]:
        """Return what goes into `last_error`: at least a reason (D-10)."""
        error = self.error
        reason = str(error) or type(error).__name__
        document: dict[str, Any] = {
            "reason": reason[:REASON_CHARS_MAX],
            "error": type(error).__name__,
            "attempt": self.job.attempt,
            "ran_ms": round(self.ran_ms, 1),
        }
        if error is not None and self.ending == "failed":
            told = "".join(traceback.format_exception(error))
            document["trace"] = told[-TRACE_CHARS_MAX:]
        return document


async def attempt(job: LeasedJob, job_type: JobType, pool: Pool, worker_id: UUID) -> Outcome:
    """Run `job` once and return its outcome; only the cancellation of the worker itself passes through.

    A handler's exception is an outcome, not an error of the worker.
    """
    context = Context(job, pool, worker_id)
    started_s = monotonic_s()
    error: BaseException | None = None
    ending: Ending = "done"
    limit = asyncio.timeout(job_type.timeout_s)
    try:
        if job_type.timeout_s is None:
            await job_type.run(context, job.payload)
        else:
            async with limit:
                await job_type.run(context, job.payload)
    except Quarantined as held:
        error, ending = held, "held"
    except asyncio.CancelledError as cancelled:
        # The worker stops: what was not finished is given back without an attempt burnt.
        error, ending = cancelled, "returned"
    except TimeoutError as late:
        error, ending = late, "failed"
        if limit.expired():
            error = TimeoutError(f"no result within {job_type.timeout_s:g} s")
    except Exception as raised:
        error, ending = raised, "failed"
    return Outcome(job, ending, (monotonic_s() - started_s) * 1000, error)
