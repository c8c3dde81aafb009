"""Holds: snapshots that are held back, one because a catalogue lacks an entry, many because they fail alike.

A hold is an open row of snapshot_quarantine, so that everything that looks at quarantine sees it; the job of
a held snapshot is quarantined in the queue's own way and burns no attempt.
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
from starforge.etl.snapshot import JOB_TYPE
from starforge.queue.cancel import release
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob

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


async def release_holds(conn: Connection, holds: Sequence[Hold], *, by: str) -> int:
    """Let held snapshots be processed; return how many. One whose job is still ending waits a little."""
    return await _release(
        conn, [(each.quarantine_id, each.snapshot_id, each.job_id, each.tenant_id) for each in holds], by
    )


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


async def release_batch(conn: Connection, batch: str, *, by: str) -> list[UUID]:
    """Release a batch, and the jobs that ended at its holds; return the snapshots."""
    rows = await conn.fetch(sql("etl", "batch"), batch, HOLDS_MAX)
    released = await conn.fetch(sql("etl", "quarantine_release"), [row["id"] for row in rows], by)
    ids = [row["snapshot_id"] for row in released]
    for job in await conn.fetch(sql("etl", "jobs_of"), [], ids):
        await release(conn, job["id"])
    return ids


async def _release(conn: Connection, held: Sequence[tuple[UUID, UUID, UUID | None, str]], by: str) -> int:
    jobs = await conn.fetch(
        sql("etl", "jobs_of"), [job for _, _, job, _ in held], [snapshot for _, snapshot, _, _ in held]
    )
    by_snapshot: dict[str, dict[UUID, str]] = {}
    for job in jobs:
        by_snapshot.setdefault(job["snapshot_id"], {})[job["id"]] = job["status"]
    ready = [each for each in held if "running" not in by_snapshot.get(str(each[1]), {}).values()]
    rows = await conn.fetch(sql("etl", "quarantine_release"), [each[0] for each in ready], by)
    for row in rows:
        states = by_snapshot.get(str(row["snapshot_id"]), {})
        for job_id, status in states.items():
            if status == "quarantined":
                await release(conn, job_id)
        if not {"quarantined", "pending", "paused"} & set(states.values()):
            payload = {"snapshot_id": str(row["snapshot_id"])}
            await enqueue(conn, NewJob(type=JOB_TYPE, payload=payload, tenant=row["tenant_id"]))
    return len(rows)
