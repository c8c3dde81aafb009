"""Jobs one by one: where each is now, what it has said, and lists of them. Nothing here locks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from starforge.db.pool import Connection, Pool
from starforge.db.statement import sql
from starforge.errors import InvalidInputError
from starforge.queue.errors import UnknownJobError

LIVE_STATES = ("pending", "scheduled", "retry", "running", "paused", "failed", "quarantined")
ENDED_STATES = ("completed", "cancelled")
STATES = (*LIVE_STATES, *ENDED_STATES, "archived")
"""The states that people see: `scheduled` and `retry` are pending ones, `archived` ones are dead letters."""

FINAL_STATES = ("completed", "cancelled", "failed", "quarantined", "archived")
"""In these a job stays until somebody moves it."""

LISTED_MAX = 1000
LINES_MAX = 500
"""Lines that are read at once."""

POLL_S = 0.25

LAST_LINES_S = 1.0
"""A job that ended may have lines that its worker has still to write down."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a running job says of itself."""

    done: float | None
    total: float | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Job:
    """One job, wherever it is; times are the database's, None where they do not apply."""

    id: UUID
    tenant: str
    queue: str | None
    type: str
    state: str
    priority: int | None
    attempts: int | None
    """Attempts that failed."""

    max_attempts: int | None
    kills: int | None
    run_after: datetime | None
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    ran_ms: float | None
    limit_key: str | None
    tags: list[str] | None
    timeout_s: float | None
    trace: str | None
    worker_id: UUID | None
    reason: str | None
    """Why it was cancelled, discarded or archived."""

    last_error: Any
    result: Any
    payload_bytes: int
    payload: Any
    """None where it was not asked for."""

    progress: Progress | None

    @property
    def final(self) -> bool:
        """Tell whether it stays as it is until somebody moves it."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a list of jobs."""

    id: UUID
    tenant: str
    queue: str | None
    type: str
    state: str
    priority: int | None
    attempts: int | None
    max_attempts: int | None
    run_after: datetime | None
    created_at: datetime | None
    ended_at: datetime | None
    tags: list[str] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Line:
    """One line that a job wrote while it ran."""

    id: int
    at: datetime
    level: str
    line: str


@dataclass(frozen=True, slots=True)
class News:
    """What is new of a job that is followed: the job where it is not as before, and its next lines."""

    job: Job | None
    lines: list[Line]


async def job_by_id(conn: Connection, job_id: UUID, *, with_payload: bool = False) -> Job:
    """Return one job; raise UnknownJobError where the caller's tenant has none of this id."""
    row = await conn.fetchrow(sql("queue", "job"), job_id, with_payload)
    if row is None:
        raise UnknownJobError(job_id)
    return _job(row)


async def list_jobs(
    conn: Connection,
    *,
    queue: str | None = None,
    job_type: str | None = None,
    state: str | None = None,
    tag: str | None = None,
    most: int = 50,
) -> list[Listed]:
    """List the newest jobs that fit, at most `most`; without a state those that have not left the queue.

    Raises: InvalidInputError for a state that does not exist, or too many.
    """
    if state is not None and state not in STATES:
        raise InvalidInputError(f"there is no state {state!r}; a job is {', '.join(STATES)}")
    if not 1 <= most <= LISTED_MAX:
        raise InvalidInputError(f"{most} jobs cannot be listed; ask for 1 to {LISTED_MAX}")
    name = "jobs_live"
    if state in ENDED_STATES:
        name = "jobs_ended"
    elif state == "archived":
        name = "jobs_archived"
    rows = await conn.fetch(sql("queue", name), queue, job_type, state, tag, most)
    return [Listed(**row) for row in rows]


async def follow(pool: Pool, job_id: UUID, tenant: str, *, every_s: float = POLL_S) -> AsyncIterator[News]:
    """Yield what is new of a job until it is in a final state and has nothing more to say.

    The caller bounds it. Raises: UnknownJobError, also where the job is forgotten meanwhile.
    """
    seen: Job | None = None
    last = 0
    ends = False
    while True:
        async with pool.transaction(tenant=tenant) as conn:
            job = await job_by_id(conn, job_id)
            rows = await conn.fetch(sql("queue", "job_lines"), job_id, last, LINES_MAX)
        lines = [Line(**row) for row in rows]
        if lines:
            last = lines[-1].id
        if job != seen or lines:
            yield News(job if job != seen else None, lines)
        seen = job
        if len(lines) == LINES_MAX:
            continue
        if ends and job.final:
            return
        ends = job.final
        await asyncio.sleep(LAST_LINES_S if ends else every_s)


def _job(row: asyncpg.Record) -> Job:
    told = dict(row)
    done, total, message = (told.pop(name) for name in ("done", "total", "message"))
    quiet = done is None and total is None and message is None
    for name in ("last_error", "result", "payload"):
        told[name] = _document(told[name])
    return Job(**told, progress=None if quiet else Progress(done, total, message))


def _document(text: str | None) -> Any:
    """Read JSON; what Postgres holds and Python cannot is shown as its text."""
    try:
        return None if text is None else msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return text
