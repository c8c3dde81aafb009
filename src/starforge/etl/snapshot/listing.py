"""Snapshots as people look at them: lists, one with all that is known of it, sizes; never their content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.errors import InvalidInputError
from starforge.etl.errors import SnapshotBytesError, UnknownSnapshotError
from starforge.etl.snapshot.snapshot import SNAPSHOT
from starforge.queue.naming import Naming, ended_naming, jobs_naming

LISTED_MAX = 1000
ERRORS_MAX = 20
CAPTURES_MAX = 100
MESSAGE_CHARS_MAX = 300
MB = 1_000_000
BOUNDS = (100_000, MB, 2 * MB, 5 * MB, 64 * MB)
"""Sizes between which snapshots are counted: 2 MB is a usual profile, 5 MB the size guard's default."""
LARGE_BYTES = 2 * MB


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot without its content; times are the database's."""

    id: UUID
    source: str
    subject: str | None
    size_bytes: int
    status: str
    processing: bool
    error_count: int | None
    rows_written: int | None
    captured_at: datetime | None
    created_at: datetime
    processed_at: datetime | None
    reason: str | None
    """Why it failed, or is held, last."""


@dataclass(frozen=True, slots=True)
class Held:
    """A line of quarantine: a snapshot, or bytes that never became one."""

    id: UUID
    snapshot_id: UUID | None
    source: str | None
    owner: str | None
    name: str | None
    cause: str
    reason: str
    size_bytes: int | None
    status: str | None
    released_to: str | None
    created_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Whole:
    """One snapshot with all that is known of it, without its content."""

    snapshot: Snapshot
    sha256: str
    raw_key: str | None
    """The object that holds the content; None where it is in the database."""
    holds: Sequence[dict[str, Any]]
    captures: Sequence[dict[str, Any]]
    entities: Sequence[dict[str, Any]]
    """Up to which capture its subject's tables were written, by this snapshot or others."""
    errors: Sequence[dict[str, Any]]
    jobs: Sequence[Naming]
    """Live ones, and those that ended when it was processed."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Snapshots of at least `from_bytes` and less than `to_bytes`."""

    from_bytes: int
    to_bytes: int | None
    snapshots: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large snapshots are."""

    snapshots: int
    bytes: int
    p50_bytes: int | None
    p95_bytes: int | None
    largest_bytes: int | None
    above_2_mb: float | None
    """Share of the snapshots; None where there is none."""
    buckets: tuple[Bucket, ...]

    def share_from(self, size_bytes: int) -> float | None:
        """Return the share of the bytes that lie in snapshots of a bucket from this size on."""
        if not self.bytes:
            return None
        return sum(one.bytes for one in self.buckets if one.from_bytes >= size_bytes) / self.bytes


async def list_snapshots(
    conn: Connection,
    tenant: str,
    *,
    status: str | None = None,
    source: str | None = None,
    since_s: float | None = None,
    largest: bool = False,
    most: int = 50,
) -> list[Snapshot]:
    """List the newest snapshots that fit, or the largest; raise InvalidInputError for no such status."""
    known = sorted({move.target for move in SNAPSHOT.moves})
    if status is not None and status not in known:
        raise InvalidInputError(f"there is no status {status!r}; a snapshot is {', '.join(known)}")
    _check_most(most, "snapshots")
    statement = sql("etl", "largest" if largest else "newest_snapshots")
    return [Snapshot(**row) for row in await conn.fetch(statement, tenant, status, source, since_s, most)]


async def held(
    conn: Connection, tenant: str, *, source: str | None = None, most: int = LISTED_MAX
) -> list[Held]:
    """List what is in quarantine, the latest first."""
    _check_most(most, "lines of quarantine")
    return [Held(**row) for row in await conn.fetch(sql("etl", "held"), tenant, source, most)]


def _check_most(most: int, what: str) -> None:
    if not 1 <= most <= LISTED_MAX:
        raise InvalidInputError(f"{most} {what} cannot be listed; ask for 1 to {LISTED_MAX}")


async def whole(conn: Connection, snapshot_id: UUID, tenant: str) -> Whole:
    """Return one snapshot with all that is known of it.

    Raises: SnapshotBytesError where the id is that of bytes in quarantine; UnknownSnapshotError.
    """
    row = await conn.fetchrow(sql("etl", "one_snapshot"), snapshot_id, tenant)
    if row is None:
        kept = await conn.fetchrow(sql("etl", "bytes_held"), snapshot_id, tenant)
        if kept is not None:
            raise SnapshotBytesError(snapshot_id, kept["name"], kept["source"], kept["reason"])
        raise UnknownSnapshotError(snapshot_id, tenant)
    told = dict(row)
    sha256, raw_key = told.pop("sha256"), told.pop("raw_key")
    one = Snapshot(**told)

    async def rows(name: str, *args: object) -> list[dict[str, Any]]:
        return [dict(found) for found in await conn.fetch(sql("etl", name), *args)]

    jobs = await jobs_naming(conn, "snapshot_id", [str(snapshot_id)], tenant)
    if one.processed_at is not None:
        jobs += await ended_naming(conn, "snapshot_id", str(snapshot_id), tenant, one.processed_at)
    return Whole(
        snapshot=one,
        sha256=sha256,
        raw_key=raw_key,
        holds=await rows("holds_of", snapshot_id),
        captures=await rows("captures_of", snapshot_id, CAPTURES_MAX),
        entities=await rows("entities_of", tenant, one.source, one.subject) if one.subject else [],
        errors=await rows("errors_of", snapshot_id, MESSAGE_CHARS_MAX, ERRORS_MAX),
        jobs=jobs,
    )


async def sizes(
    conn: Connection, tenant: str, *, since_s: float | None = None, split: int = LARGE_BYTES
) -> Sizes:
    """Return how large a tenant's snapshots are, of the last `since_s` seconds or all; split there too."""
    bounds = sorted({*BOUNDS, split})
    rows = {row["bucket"]: row for row in await conn.fetch(sql("etl", "sizes"), tenant, since_s, bounds)}
    marks = await conn.fetchrow(sql("etl", "size_marks"), tenant, since_s)
    assert marks is not None
    edges = (0, *bounds)
    buckets = tuple(
        Bucket(
            from_bytes=edge,
            to_bytes=edges[place + 1] if place + 1 < len(edges) else None,
            snapshots=rows[place]["snapshots"] if place in rows else 0,
            bytes=rows[place]["bytes"] if place in rows else 0,
        )
        for place, edge in enumerate(edges)
    )
    count = sum(one.snapshots for one in buckets)
    large = sum(one.snapshots for one in buckets if one.from_bytes >= LARGE_BYTES)
    return Sizes(
        snapshots=count,
        bytes=sum(one.bytes for one in buckets),
        p50_bytes=marks["p50"],
        p95_bytes=marks["p95"],
        largest_bytes=max((row["largest"] for row in rows.values()), default=None),
        above_2_mb=large / count if count else None,
        buckets=buckets,
    )
