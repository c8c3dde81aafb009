"""Holds: snapshots that are held back, one because a catalogue lacks an entry, many because they fail alike.

A hold is an open row of snapshot_quarantine, so that everything that looks at quarantine sees it; the job of
a held snapshot is quarantined in the queue's own way and burns no attempt. `quarantine.py` releases it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.etl.errors import CatalogueGapError
from starforge.etl.snapshot.quarantine import release_holds

log = structlog.get_logger("snapshot")

HOLDS_MAX = 1000
"""Holds that are looked at, and released, at once."""

MISSING_MAX = 1000
"""Missing ids that a hold names; the rest is found once these are there."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A snapshot that waits for entries of a catalogue."""

    quarantine_id: UUID
    snapshot_id: UUID
    job_id: UUID | None
    tenant_id: str
    source: str
    catalogue: str
    key_column: str
    missing: list[str]
    owner: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Offender:
    """A snapshot behind a failure."""

    snapshot_id: UUID
    source: str
    failures: int
    last_at: datetime
    message: str
    status: str
    held: bool


async def hold(conn: Connection, snapshot_id: UUID, job_id: UUID | None, gap: CatalogueGapError) -> None:
    """Hold a snapshot until the entries that it refers to are there."""
    ids = [str(id_) for id_ in gap.missing]
    details = {"catalogue": gap.catalogue, "missing": ids[:MISSING_MAX], "owner": gap.owner}
    await conn.execute(
        sql("etl", "hold"),
        snapshot_id,
        job_id,
        gap.catalogue,
        gap.key,
        ids[:MISSING_MAX],
        gap.owner,
        str(gap),
        details,
    )
    log.warning(
        "snapshot.held",
        snapshot_id=str(snapshot_id),
        catalogue=gap.catalogue,
        missing=ids[:20],
        owner=gap.owner or None,
    )


async def held_for(
    conn: Connection, catalogue: str | None = None, source: str | None = None, *, most: int = HOLDS_MAX
) -> list[Hold]:
    """Return the snapshots that wait for a catalogue, or for any, oldest first."""
    return [Hold(**row) for row in await conn.fetch(sql("etl", "holds"), catalogue, source, most)]


async def offenders(
    conn: Connection, *, constraint: str | None, fingerprint: str | None, within_s: float, most: int
) -> tuple[list[Offender], int]:
    """Return the snapshots behind a constraint's or fingerprint's failures, and how many more there are."""
    rows = await conn.fetch(sql("etl", "offenders"), constraint, fingerprint, within_s, most)
    found = [Offender(**{name: row[name] for name in set(row.keys()) - {"more"}}) for row in rows]
    return found, rows[0]["more"] if rows else 0


async def hold_batch(
    conn: Connection, ids: Sequence[UUID], *, batch: str, by: str, reason: str
) -> list[UUID]:
    """Hold snapshots as one batch; return those that were not held already."""
    rows = await conn.fetch(sql("etl", "hold_batch"), list(ids), batch, by, reason)
    return [row["snapshot_id"] for row in rows]


async def release_batch(conn: Connection, batch: str, *, by: str, reason: str | None = None) -> list[UUID]:
    """Release a batch, and the jobs that ended at its holds; return the snapshots."""
    rows = await conn.fetch(sql("etl", "batch"), batch, HOLDS_MAX)
    held = [(row["id"], row["snapshot_id"]) for row in rows]
    return await release_holds(conn, held, who=by, reason=reason)
