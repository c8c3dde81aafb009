"""The job: its states, what is enqueued, and what a worker holds while it runs one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from starforge.clock import new_id
from starforge.machine import Machine
from starforge.settings import Settings, setting

JOB = Machine.of(
    "job",
    [
        # verb        from                                   to
        ("enqueue", "", "pending"),
        ("claim", "pending", "running"),
        ("complete", "running", "completed"),
        ("retry", "running", "pending"),
        ("fail", "running pending", "failed"),
        ("quarantine", "running pending", "quarantined"),
        ("return", "running", "pending"),  # a stopping worker gives back what it had not finished
        ("reclaim", "running", "pending"),  # its worker's lease ended
        ("pause", "pending", "paused"),
        ("resume", "paused", "pending"),
        ("release", "quarantined", "pending"),
        ("redrive", "failed", "pending"),
        ("cancel", "pending running paused failed quarantined", "cancelled"),
    ],
)

LIVE_STATUSES = ("pending", "running", "paused", "failed", "quarantined")
"""The statuses of rows in queue_jobs."""

HISTORY_STATUSES = ("completed", "cancelled")
"""The statuses of rows in job_history."""


RESULT_BYTES_SMALL = 1024
"""A result of up to so many bytes may always be kept."""


class JobSettings(Settings):
    """What holds for a job where neither its type nor its enqueue says otherwise."""

    max_attempts: int = setting(
        5,
        env="STARFORGE_MAX_ATTEMPTS",
        unit="attempts",
        meaning="Failures after which a job is failed and goes to the dead letters.",
        ge=1,
        le=1000,
    )
    payload_bytes_max: int = setting(
        256 * 1024,
        env="STARFORGE_PAYLOAD_BYTES_MAX",
        unit="bytes",
        meaning="Largest payload that is accepted at enqueue.",
        ge=1024,
    )
    result_bytes_max: int = setting(
        64 * 1024,
        env="STARFORGE_RESULT_BYTES_MAX",
        unit="bytes",
        meaning="Largest result, or checkpoint, that a job may keep.",
        ge=RESULT_BYTES_SMALL,
    )


DUPLICATE_STATES = ("pending", "running", "paused", "quarantined")
"""While the first job of a key is in one of these, the second is the first, if its key says no other."""


@dataclass(frozen=True, slots=True)
class Key:
    """What makes jobs of one tenant and type the same: while the first one's key holds, others are it."""

    text: str
    states: tuple[str, ...] = DUPLICATE_STATES
    """The key holds while its job is in one of these."""

    within_s: float | None = None
    """It also holds for so many seconds from the enqueue, whatever became of the job: what makes a repeated
    request harmless. None: only while the job is in one of the states."""

    on_conflict: Literal["return", "replace", "reschedule"] = "return"
    """What an enqueue does to the existing job while that is pending: nothing; give it the new payload,
    priority, tags and time; or only the new time."""


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The answer to an enqueue."""

    id: UUID
    """The job: the new one, or the one whose key holds."""

    new: bool
    """False: a job of the same key was there."""

    changed: bool = False
    """The existing job was replaced or rescheduled."""


@dataclass(slots=True)
class NewJob:
    """A job to be enqueued; what is left out comes from the defaults."""

    type: str
    payload: dict[str, Any] = field(default_factory=dict)
    queue: str = "default"
    priority: int = 0
    """Higher runs first."""

    max_attempts: int | None = None
    """Failures after which it is given up; None means STARFORGE_MAX_ATTEMPTS."""

    run_after: datetime | None = None
    """Earliest start; None means now on the database's clock."""

    delay_s: float | None = None
    """Earliest start, in seconds from now on the database's clock; instead of run_after."""

    tenant: str | None = None
    """Tenant it belongs to; None means TENANT_ID."""

    limit_key: str = ""
    """Jobs of one type and key share the type's limit per key; empty: no key."""

    tags: Sequence[str] = ()
    """Words to find, pause and cancel it by."""

    timeout_s: float | None = None
    """Longest that an attempt may take; None means the type's."""

    trace: str | None = None
    """W3C traceparent that its attempts belong to."""

    unique: Key | None = None
    """What makes it the same job as another; None: it is always a job of its own."""

    id: UUID = field(default_factory=new_id)


class LeasedJob(msgspec.Struct, frozen=True, gc=False):
    """A job that a worker holds: every write that acknowledges it carries `lease_epoch`."""

    id: UUID
    tenant: str
    queue: str
    type: str
    payload: dict[str, Any]
    attempts: int
    max_attempts: int
    lease_epoch: int
    fault: str | None = None
    """Why no handler can be given the payload, where it is not a JSON object that Python can hold."""

    limit_key: str = ""
    tags: tuple[str, ...] = ()
    timeout_s: float | None = None
    trace: str | None = None
    kills: int = 0
    """Workers that died while this job was running on them."""

    alone: bool = False
    """It killed a worker or is suspected to: it runs in a process of its own, one at a time."""

    @property
    def attempt(self) -> int:
        """The number of this attempt: 1 for the first."""
        return self.attempts + 1
