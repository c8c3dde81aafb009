"""The errors of the queue room."""

from __future__ import annotations

from uuid import UUID

from starforge.errors import MisusedError, NotFoundError, RefusedError


class LeaseLostError(RefusedError):
    """The lease ended before the attempt did. Drop the result and stop; never retry."""

    code = "SF201"
    remedy = "Nothing to do: another worker runs the job; the late result was dropped."

    def __init__(self, job_id: UUID, lease_epoch: int) -> None:
        super().__init__(f"job {job_id}: lease {lease_epoch} is no longer held")
        self.job_id, self.lease_epoch = job_id, lease_epoch


class DuplicateTypeError(MisusedError):
    """Two handlers have one name."""

    code = "SF202"
    remedy = "Give one of the handlers another name."


class PayloadError(MisusedError):
    """A payload is too large or is not JSON."""

    code = "SF203"
    remedy = "Store large content elsewhere and put a reference to it into the payload."


class JobNotFoundError(NotFoundError):
    """No job has this id, in the queue or in its history."""

    code = "SF204"
    remedy = "Check the id; history is kept for a limited time."


class UnknownGateError(NotFoundError):
    """A resume named a queue or type that is not paused."""

    code = "SF205"
    remedy = "See what is paused: `starforge queue ls`."
