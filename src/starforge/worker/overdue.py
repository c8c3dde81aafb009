"""Overdue: a job that could not be stopped at its deadline fails once its process is dead, and not before.

The child that runs it says so to its supervisor, in a piece of memory that outlives it, and writes nothing
to the database: while the handler lives nobody else may run the job. The supervisor writes the failed
attempt after the child's end.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import msgspec
import structlog

from starforge.db.pool import Connection
from starforge.queue.fail import fail
from starforge.queue.job import LeasedJob
from starforge.queue.retry import retry

log = structlog.get_logger("worker")

RECYCLED = 76
"""Exit status of a child that ended so that a new one may take its place."""

BYTES_MAX = 1024 * 1024


class Overdue(msgspec.Struct, frozen=True):
    """A job whose attempt fails with its process."""

    job_id: UUID
    tenant: str
    queue: str
    type: str
    attempts: int
    max_attempts: int
    lease_epoch: int
    error: dict[str, Any]
    delay_s: float
    final: bool

    def job(self) -> LeasedJob:
        """Return the job as the finishing statements take it."""
        return LeasedJob(
            self.job_id,
            self.tenant,
            self.queue,
            self.type,
            {},
            self.attempts,
            self.max_attempts,
            self.lease_epoch,
        )


def book() -> int:
    """Make the memory that a child and its supervisor share; return its file descriptor."""
    return os.memfd_create("starforge-overdue")


def note(fd: int, overdue: Overdue) -> None:
    """Say that a job is overdue, in a line of its own and one write."""
    os.write(fd, msgspec.json.encode(overdue) + b"\n")


def noted(fd: int) -> list[Overdue]:
    """Read what was said; a line that was cut off by the end of its writer says nothing."""
    found = []
    for line in os.pread(fd, BYTES_MAX, 0).splitlines():
        with suppress(msgspec.MsgspecError):
            found.append(msgspec.json.decode(line, type=Overdue))
    return found


async def settle(conn: Connection, overdue: Sequence[Overdue], *, worker_id: UUID) -> int:
    """Write the failed attempts of a dead child's overdue jobs; return how many were still its own."""
    gone, again = [o for o in overdue if o.final], [o for o in overdue if not o.final]
    async with conn.transaction():
        accepted = await fail(conn, [o.job() for o in gone], [o.error for o in gone], worker_id=worker_id)
        accepted |= await retry(
            conn,
            [o.job() for o in again],
            [o.error for o in again],
            [o.delay_s for o in again],
            worker_id=worker_id,
        )
    for each in overdue:
        if each.job_id in accepted:
            event = "job.failed" if each.final else "job.retry"
            log.warning(event, job_id=str(each.job_id), type=each.type, error=each.error["reason"])
    return len(accepted)
