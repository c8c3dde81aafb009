"""What ingestion looks like now: the reads behind the first page. Nothing here locks or reads content."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from starforge.db.pool import Connection
from starforge.db.statement import sql

SHOWN_MAX = 20
MESSAGE_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class LastSnapshot:
    """A snapshot and what became of it."""

    id: UUID
    source: str
    subject: str | None
    size_bytes: int
    status: str
    processing: bool
    error_count: int | None
    rows_written: int | None
    reason: str | None
    age_s: float
    took_s: float | None
    """Seconds from its arrival to its end, or None while it is not processed."""


@dataclass(frozen=True, slots=True)
class LastError:
    """A row of etl_errors; the message is cut to MESSAGE_CHARS_MAX."""

    id: UUID
    snapshot_id: UUID | None
    job_id: UUID | None
    source: str | None
    error_type: str
    message: str
    age_s: float


async def last_snapshots(conn: Connection, limit: int = SHOWN_MAX) -> list[LastSnapshot]:
    """Return the newest snapshots, newest first."""
    return [LastSnapshot(**row) for row in await conn.fetch(sql("etl", "last_snapshots"), limit)]


async def last_errors(conn: Connection, limit: int = SHOWN_MAX) -> list[LastError]:
    """Return the newest errors, newest first."""
    return [LastError(**row) for row in await conn.fetch(sql("etl", "last_errors"), limit, MESSAGE_CHARS_MAX)]


async def snapshots_of_the_hour(conn: Connection) -> dict[str, int]:
    """Count the snapshots of the last hour by status."""
    return {row["status"]: row["snapshots"] for row in await conn.fetch(sql("etl", "snapshot_counts"))}
