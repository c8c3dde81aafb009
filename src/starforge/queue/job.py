"""The job: its states, what is enqueued, and what a worker holds while it runs one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from starforge.clock import new_id
from starforge.machine import Machine
from starforge.settings import HomeSettings, Settings, setting

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


@dataclass(slots=True)
class NewJob:
    """A job to be enqueued; what is left out comes from the defaults."""

    type: str
    payload: dict[str, Any] = field(default_factory=dict)
    queue: str = "default"
    priority: int = 0
    max_attempts: int | None = None
    """Failures after which it is given up; None means STARFORGE_MAX_ATTEMPTS."""

    run_after: datetime | None = None
    """Earliest start; None means now on the database's clock."""

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

    id: UUID = field(default_factory=new_id)

    def row(self) -> tuple[Any, ...]:
        """Return the row in the order of COLUMNS, the payload as it is and defaults filled in."""
        tenant = HomeSettings.read().tenant if self.tenant is None else self.tenant
        tries = JobSettings.read().max_attempts if self.max_attempts is None else self.max_attempts
        return (
            self.id,
            tenant,
            self.queue,
            self.type,
            self.payload,
            self.priority,
            tries,
            self.run_after,
            self.limit_key,
            list(self.tags) or None,
            self.timeout_s,
            self.trace,
        )


COLUMNS = (
    "id", "tenant_id", "queue", "type", "payload", "priority", "max_attempts", "run_after", "limit_key",
    "tags", "timeout_s", "trace",
)  # fmt: skip
"""What an enqueue says of a job; the table's defaults say the rest."""


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
