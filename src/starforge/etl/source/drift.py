"""Drift: a source begins to send something else: written down before it fails, and named when it does."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import structlog

from starforge.clock import monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.etl.document.shape import PATHS_MAX, Shape, fingerprint

log = structlog.get_logger("source")

COUNT_S = 5.0
"""How often a process adds what it has counted; what it had not when it dies is lost."""

LATELY_S = 3600.0
DRIFT_S = 7 * 86400.0
"""A change of shape that is older explains no failures of now."""

SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class ShapeChange:
    """A change of what a source sends."""

    fingerprint: str
    new_paths: list[str]
    snapshot_id: UUID | None
    snapshots: int
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True, slots=True)
class SourceErrors:
    """How a source's snapshots failed lately."""

    source: str | None
    error_type: str
    failures: int
    first_at: datetime
    last_at: datetime
    first_snapshot_id: UUID | None
    path: str | None


@dataclass(frozen=True, slots=True)
class Alike:
    """Failures of snapshots with one fingerprint, and the constraint behind them where there is one."""

    source: str | None
    error_type: str
    fingerprint: str | None
    constraint_name: str | None
    failures: int
    snapshots: int
    last_at: datetime
    message: str


@dataclass(frozen=True, slots=True)
class Drift:
    """What most likely lies behind a source's PARSE_ERROR and MAPPING_ERROR failures."""

    source: str
    failures: int
    first_failed_at: datetime
    field: str | None
    """The first new field, with its kind where the shape knows it; None where only the failures are known."""

    since: datetime | None
    """When it was first seen."""

    snapshot_id: UUID | None
    """The first snapshot that had it, else the first that failed."""


@dataclass(slots=True)
class _Known:
    paths: set[str] = field(default_factory=set)
    counted: int = 0
    counted_s: float = 0.0
    read: bool = False


class Shapes:
    """What this process knows of each source's shape; asks the database only where a document brings news."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Known] = {}

    def is_news(self, tenant: str, source: str, shape: Shape) -> bool:
        """Tell whether `note` has something to write: a path not seen before, or documents to count."""
        known = self._known.setdefault((tenant, source), _Known())
        if known.read and (shape <= known.paths or len(known.paths) >= PATHS_MAX):
            known.counted += 1
            return monotonic_s() - known.counted_s >= COUNT_S
        return True

    async def note(
        self, conn: Connection, tenant: str, source: str, shape: Shape, snapshot_id: UUID | None
    ) -> list[str]:
        """Write down what is new, and how many documents were not; return the new paths, sorted."""
        known = self._known.setdefault((tenant, source), _Known())
        counted, known.counted, known.counted_s = known.counted, 0, monotonic_s()
        if counted:
            await conn.execute(sql("etl", "shape_count"), tenant, source, counted)
        if known.read and (shape <= known.paths or len(known.paths) >= PATHS_MAX):
            return []
        await conn.fetchval(sql("etl", "shape_lock"), tenant, source)
        rows = await conn.fetch(sql("etl", "shapes"), tenant, source, None)
        paths = {path for row in rows for path in row["new_paths"]}
        fresh = sorted(shape - paths)
        if fresh:
            whole = paths | shape
            await conn.fetchrow(
                sql("etl", "shape_add"), tenant, source, fingerprint(whole), fresh, snapshot_id
            )
            paths = whole
            if rows:
                log.warning("source.shape_changed", source=source, tenant=tenant, new=fresh[:SHOWN_MAX])
        known.paths, known.read = paths, True
        return fresh if rows else []


async def shape_changes(
    conn: Connection, tenant: str, source: str, most: int = SHOWN_MAX
) -> list[ShapeChange]:
    """Return how what a source sends has changed, latest first; the oldest is how it was first seen."""
    return [ShapeChange(**row) for row in await conn.fetch(sql("etl", "shapes"), tenant, source, most)]


async def source_errors(
    conn: Connection, source: str | None = None, within_s: float = LATELY_S
) -> list[SourceErrors]:
    """Return how a source's snapshots, or everybody's, failed lately, most failures first."""
    return [SourceErrors(**row) for row in await conn.fetch(sql("etl", "source_errors"), source, within_s)]


async def failures_alike(conn: Connection, within_s: float, most: int) -> list[Alike]:
    """Return what failed alike of `within_s` back, most failures first: what `offenders` takes."""
    return [Alike(**row) for row in await conn.fetch(sql("etl", "alike"), within_s, most)]


async def drift(conn: Connection, tenant: str, *, within_s: float = LATELY_S) -> list[Drift]:
    """Name, for each source with PARSE_ERROR or MAPPING_ERROR failures, the first new field behind them.

    That is the field that the first MAPPING_ERROR names where its kind or itself is new; else the first path
    of the last change of shape; else the field that the error names.
    """
    failed: dict[str, list[SourceErrors]] = {}
    for each in await source_errors(conn, None, within_s):
        if each.error_type in ("PARSE_ERROR", "MAPPING_ERROR") and each.source:
            failed.setdefault(each.source, []).append(each)
    found = []
    for source, errors in failed.items():
        changes = await shape_changes(conn, tenant, source)
        found.append(_drift(source, errors, changes))
    return sorted(found, key=lambda one: -one.failures)


def _drift(source: str, errors: list[SourceErrors], changes: list[ShapeChange]) -> Drift:
    first = min(errors, key=lambda each: each.first_at)
    failures = sum(each.failures for each in errors)
    named = next((each.path for each in sorted(errors, key=lambda each: each.first_at) if each.path), None)
    later = [
        change for change in changes[:-1] if (first.last_at - change.first_seen).total_seconds() < DRIFT_S
    ]
    for change in later:
        for path in change.new_paths:
            if named is not None and _plain(path.rpartition(" ")[0]) == _plain(named):
                return Drift(source, failures, first.first_at, path, change.first_seen, change.snapshot_id)
    if later:
        change = later[0]
        return Drift(
            source, failures, first.first_at, change.new_paths[0], change.first_seen, change.snapshot_id
        )
    return Drift(source, failures, first.first_at, named, None, first.first_snapshot_id)


def _plain(path: str) -> str:
    """Return a path without its ids and places, to compare a failure's with a shape's."""
    parts = [part.partition("[")[0] for part in path.split(".")]
    return ".".join(part for part in parts if part != "*" and not part.lstrip("-").isdigit())
