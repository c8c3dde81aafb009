"""The verdict on an attempt that did not succeed: is the job given up, or when does it run again?"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from starforge.clock import monotonic_s
from starforge.queue.context import Context
from starforge.queue.declare import Retry
from starforge.queue.outcome import PermanentError, PutOff, RetryLater
from starforge.queue.retry import BURNT, SPARED, UNBURNT
from starforge.worker.outcome import Outcome
from starforge.worker.overdue import Overdue


class Again(NamedTuple):
    """How a job is run again."""

    error: dict[str, Any] | None
    delay_s: float | None
    at: datetime | None
    burns: int


def final(outcome: Outcome, retry: Retry) -> bool:
    """Tell whether no further attempt can help or is left.

    What burns no attempt is never the last one, but for a job whose attempts are used up all the same.
    """
    job, error = outcome.job, outcome.error
    if outcome.ending == "putoff":
        return isinstance(error, RetryLater) and error.counts and outcome.last
    if outcome.ending == "spared":
        return job.attempts >= job.max_attempts
    if isinstance(error, PermanentError) or outcome.last:
        return True
    return error is not None and retry.permanent(error)


def failure(outcome: Outcome) -> bool:
    """Tell whether the attempt failed, as its type is told: one that is put off did where that burns it."""
    if outcome.ending == "putoff":
        return isinstance(outcome.error, RetryLater) and outcome.error.counts
    return outcome.ending in ("failed", "spared")


def again_of(outcome: Outcome, retry: Retry) -> Again:
    """Say when the job runs again and what it is told of this attempt."""
    error = outcome.error
    delay_s = retry.delay_s(outcome.job.attempt)
    if outcome.ending == "spared":
        return Again(outcome.last_error(), delay_s, None, SPARED)
    if not isinstance(error, PutOff):
        return Again(outcome.last_error(), delay_s, None, BURNT)
    if error.delay_s is not None:
        delay_s = error.delay_s
    if isinstance(error, RetryLater):
        return Again(outcome.last_error(), delay_s, error.at, BURNT if error.counts else UNBURNT)
    # A snooze is no trouble: what was written of an earlier one stays.
    return Again(None, delay_s, error.at, UNBURNT)


def overdue_of(context: Context, retry: Retry) -> Overdue:
    """Say what becomes of a job whose handler goes on past its deadline, once its process is dead."""
    job = context.job
    ran_ms = (monotonic_s() - context.started_s) * 1000
    late = TimeoutError(f"it went on past its timeout and could not be stopped: {ran_ms / 1000:.1f} s")
    outcome = Outcome(job, "failed", ran_ms, late)
    return Overdue(
        job.id, job.tenant, job.queue, job.type, job.attempts, job.max_attempts, job.lease_epoch,
        error=outcome.last_error(), delay_s=retry.delay_s(job.attempt), final=final(outcome, retry),
    )  # fmt: skip
