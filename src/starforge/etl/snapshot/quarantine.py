"""Quarantine: a stored snapshot is held back from ordinary workers, until it is released to one of two lanes.

A job of a held snapshot ends its attempt as quarantined. On release it is pending again, as a job of the lane
that the snapshot was released to, so that there is one job and not two: whoever releases does so here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.errors import IllegalMoveError
from starforge.etl.errors import SnapshotBytesError, UnknownSnapshotError
from starforge.etl.snapshot.snapshot import HIGHMEM_TYPE, JOB_TYPE, SNAPSHOT, held_back
from starforge.queue.cancel import cancel
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob
from starforge.queue.naming import Naming, jobs_naming, quarantined_naming, release_as

Lane = Literal["normal", "highmem"]
"""Any worker, or those that were started with --high-memory."""

TYPES: dict[Lane, str] = {"normal": JOB_TYPE, "highmem": HIGHMEM_TYPE}
PRIORITIES: dict[Lane, int] = {"normal": 0, "highmem": 10}
NAMED = "snapshot_id"
HELD_JOBS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class State:
    """A snapshot as it stands, locked by the caller's transaction."""

    id: UUID
    source: str
    status: str
    processing: bool
    error_count: int | None
    held: str | None
    """Why it is held now."""
    held_by: str | None
    released_to: Lane | None
    """The lane of its last release, where nothing holds it now."""

    def document(self) -> dict[str, Any]:
        """Return it as an operation's before and after show it."""
        return {
            "status": self.status,
            "processing": self.processing,
            "error_count": self.error_count,
            "quarantined": self.held,
            "released_to": self.released_to,
        }


@dataclass(frozen=True, slots=True)
class Queued:
    """The one job of a snapshot that was released, or is tried anew."""

    job_id: UUID
    type: str
    new: bool
    status: str = "pending"
    """What it is now: "running" or "paused" where it was, and was left so."""


async def state(conn: Connection, snapshot_id: UUID, tenant: str) -> State:
    """Return a snapshot as it stands and lock it.

    Raises: SnapshotBytesError where bytes are kept under this id that are no snapshot; UnknownSnapshotError
        where the tenant has neither.
    """
    if await conn.fetchval(sql("etl", "state_lock"), snapshot_id, tenant) is not None:
        row = await conn.fetchrow(sql("etl", "state"), snapshot_id)
        assert row is not None
        return State(**row)
    kept = await conn.fetchrow(sql("etl", "bytes_held"), snapshot_id, tenant)
    if kept is not None:
        raise SnapshotBytesError(snapshot_id, kept["name"], kept["source"], kept["reason"])
    raise UnknownSnapshotError(snapshot_id, tenant)


async def quarantine(
    conn: Connection, snapshot_id: UUID, *, tenant: str, reason: str, who: str
) -> tuple[State, bool]:
    """Hold a snapshot back; return it as it was, and whether it is different now.

    One that is held already stays as it is. Rows that it has written stay.
    """
    before = await state(conn, snapshot_id, tenant)
    if before.held is not None:
        return before, False
    last_error = {"reason": f"quarantined: {reason}", "quarantined_by": who}
    await conn.execute(sql("etl", "contain"), snapshot_id, last_error, reason, tenant, "hand", who)
    return before, True


async def release(
    conn: Connection, snapshot_id: UUID, to: Lane, *, tenant: str, reason: str, who: str
) -> tuple[State, Queued]:
    """Let a snapshot be processed, by any worker or by high-memory ones; return it as it was, and its job.

    Raises: IllegalMoveError where it is not held, or was released to this lane already.
    """
    before = await state(conn, snapshot_id, tenant)
    wider = before.released_to == "highmem" and to == "normal"
    if before.held is None and before.status != "quarantined" and not wider:
        raise IllegalMoveError(SNAPSHOT.noun, "release", before.status, SNAPSHOT.sources("release"))
    await conn.execute(sql("etl", "release"), [snapshot_id], None, to, who, reason or None)
    return before, await _one_job(conn, snapshot_id, to, tenant)


async def release_holds(
    conn: Connection, holds: Sequence[tuple[UUID, UUID]], *, who: str, reason: str | None = None
) -> list[UUID]:
    """End these holds, each given with its snapshot; return the snapshots of which any was open till now.

    Each that nothing else holds has one job of any worker's then. The others wait for whoever ends the rest.
    """
    if not holds:
        return []
    ids = sorted({snapshot_id for _, snapshot_id in holds})
    await conn.execute(sql("etl", "snapshots_lock"), ids)
    rows = await conn.fetch(sql("etl", "release"), ids, [hold for hold, _ in holds], "normal", who, reason)
    free = {row["id"]: row["tenant_id"] for row in rows if not row["held"]}
    live: dict[str, list[Naming]] = {str(id_): [] for id_ in free}
    for job in await jobs_naming(conn, NAMED, list(live), None) if live else []:
        live[job.named].append(job)
    for id_, tenant in free.items():
        await _one_of(conn, id_, "normal", tenant, live[str(id_)])
    return [row["id"] for row in rows]


async def retry(conn: Connection, snapshot_id: UUID, *, tenant: str) -> tuple[State, Queued]:
    """Try a failed snapshot anew, in the lane that it was released to; return it as it was, and its job.

    Raises: IllegalMoveError where it has not failed.
    """
    before = await state(conn, snapshot_id, tenant)
    if before.held is not None or await conn.fetchval(sql("etl", "received_again"), snapshot_id) is None:
        status = "quarantined" if before.held is not None else before.status
        raise IllegalMoveError(SNAPSHOT.noun, "retry", status, SNAPSHOT.sources("retry"))
    return before, await _one_job(conn, snapshot_id, before.released_to or "normal", tenant)


async def resume_released(conn: Connection) -> int:
    """Make pending the jobs whose snapshots are held no longer: released by hand, or just as the job looked.

    A job that is quarantined for reasons of its own stays so, unless a hold of its snapshot ended since.
    """
    waiting = [job for job in await quarantined_naming(conn, NAMED, [JOB_TYPE], HELD_JOBS_MAX) if _id(job)]
    if not waiting:
        return 0
    found = await conn.fetch(
        sql("etl", "released_since"), [_id(job) for job in waiting], [job.updated_at for job in waiting]
    )
    resumed = 0
    for row in found:
        job = waiting[row["place"] - 1]
        if row["after"] or (job.reason or "").startswith(held_back(job.named)):
            resumed += await release_as(conn, job.id, JOB_TYPE, PRIORITIES["normal"])
    return resumed


async def _one_job(conn: Connection, snapshot_id: UUID, lane: Lane, tenant: str) -> Queued:
    """Have one job of the lane wait for this snapshot, whatever waited before."""
    live = await jobs_naming(conn, NAMED, [str(snapshot_id)], tenant)
    return await _one_of(conn, snapshot_id, lane, tenant, live)


async def _one_of(
    conn: Connection, snapshot_id: UUID, lane: Lane, tenant: str, live: Sequence[Naming]
) -> Queued:
    """Make one of a snapshot's live jobs, newest first, the one that waits; or a new one."""
    job_type, priority = TYPES[lane], PRIORITIES[lane]
    waiting = [job for job in live if job.type in TYPES.values() and job.status in ("pending", "quarantined")]
    for place, job in enumerate(waiting):
        if await release_as(conn, job.id, job_type, priority):
            # The newest job is of the latest capture; what older ones would write is superseded by it.
            others = [other.id for other in waiting[place + 1 :]]
            if others:
                await cancel(conn, others, reason=f"job {job.id} processes the snapshot")
            return Queued(job.id, job_type, new=False)
    for job in live:
        # A running one writes, or has just been told that the snapshot is held: `resume_released` sees to it.
        if job.type == job_type and job.status in ("running", "paused"):
            return Queued(job.id, job_type, new=False, status=job.status)
    new = NewJob(job_type, {NAMED: str(snapshot_id)}, priority=priority, tenant=tenant)
    return Queued((await enqueue(conn, new)).id, job_type, new=True)


def _id(job: Naming) -> UUID | None:
    try:
        return UUID(job.named)
    except ValueError:
        return None
