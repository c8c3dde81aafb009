"""Ingest: the `process_snapshot` job, from stored bytes to rows, and its sibling for large ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any
from uuid import UUID

import asyncpg

from starforge.clock import failpoint, monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.etl.document.guard import GUARD, MB
from starforge.etl.errors import (
    CatalogueGapError,
    EntitiesFailedError,
    MalformedError,
    MappingError,
    UnknownSourceError,
)
from starforge.etl.gears.limits import ProcessSettings, process_settings
from starforge.etl.load.parts import Written
from starforge.etl.load.process import InHand, process
from starforge.etl.mapping import Mappings
from starforge.etl.snapshot.alert import alert
from starforge.etl.snapshot.hold import hold
from starforge.etl.snapshot.rejects import Reject, reject, reject_of, rejects_of
from starforge.etl.snapshot.snapshot import HIGHMEM_TYPE, JOB_TYPE, held_back
from starforge.etl.source.record import note_source
from starforge.etl.source.watch import watch_of
from starforge.queue.handler import Context, JobType, PermanentError, Quarantined
from starforge.queue.job import LeasedJob
from starforge.telemetry.metrics import (
    LABELS,
    PROCESSING_DURATION,
    SNAPSHOTS_FAILED,
    SNAPSHOTS_PROCESSED,
)

LASTING = (MalformedError, MappingError, UnknownSourceError)
"""What no retry can mend."""


def process_snapshot_type(mappings: Mappings) -> JobType:
    """Return the job type that turns stored snapshots into rows by these mappings."""

    async def run(context: Context, payload: Mapping[str, Any]) -> None:
        await process_snapshot(context, payload, mappings)

    return JobType(name=JOB_TYPE, run=run, failed=_failed, lost=_lost)


def process_snapshot_highmem_type(mappings: Mappings) -> JobType:
    """Return the type that does so on workers started for it, also while a snapshot is held (O-45)."""

    async def run(context: Context, payload: Mapping[str, Any]) -> None:
        await process_snapshot(context, payload, mappings, though_held=True)

    return JobType(name=HIGHMEM_TYPE, run=run, failed=_failed, high_memory=True)


async def process_snapshot(
    context: Context, payload: Mapping[str, Any], mappings: Mappings, *, though_held: bool = False
) -> Written:
    """Read one stored snapshot and write its rows; the rows and the snapshot's state commit together.

    With `though_held` a snapshot that is held back is processed all the same; its hold stays until it is
    released.

    Raises: PermanentError from MalformedError or MappingError, which no retry can mend; Quarantined
        where the snapshot is held back.
    """
    started_s = monotonic_s()
    snapshot_id, capture_id = _ids(payload)
    whole_bytes_max = int(process_settings().whole_max_mb * MB)
    async with context.pool.connection(probing=True) as conn:
        row = await conn.fetchrow(
            sql("etl", "begin"), snapshot_id, capture_id, context.tenant, though_held, whole_bytes_max
        )
    if row is None:
        raise PermanentError(f"tenant {context.tenant!r} has no snapshot {snapshot_id}")
    if row["held"] is not None and not though_held:
        raise Quarantined(f"{held_back(snapshot_id)}: {row['held']}")
    failpoint("after_begin")
    snapshot = InHand(
        snapshot_id,
        context.tenant,
        row["size_bytes"],
        row["captured_at"],
        row["raw"],
        _guarded(row),
        though_held,
    )
    try:
        watch = watch_of(context.pool)
        mapping = await watch.fit(context.pool, mappings.get(row["source"]), context.tenant)
        await note_source(context.pool, mapping)
        written = await process(context.pool, mapping, snapshot, _limits(watch.rows(context.job.type)))
    except EntitiesFailedError as error:
        if all(isinstance(one, LASTING) for one in error.failed.values()):
            raise PermanentError(str(error)) from error
        raise
    except LASTING as error:
        raise PermanentError(str(error)) from error
    except CatalogueGapError as gap:
        async with context.pool.transaction(tenant=context.tenant) as conn:
            await hold(conn, snapshot_id, context.job.id, gap)
        raise Quarantined(f"{held_back(snapshot_id)}: {gap}") from None
    SNAPSHOTS_PROCESSED.labels(result="success").inc()
    PROCESSING_DURATION.observe(monotonic_s() - started_s)
    return written


def _guarded(row: asyncpg.Record) -> bool:
    """Tell whether these bytes, not others that somebody put in their place, have passed today's guard."""
    return row["guard"] == GUARD and row["raw"] is not None and sha256(row["raw"]).digest() == row["sha256"]


def _limits(rows: int | None) -> ProcessSettings:
    """Return this process's limits, with the operator's word for the rows that are sent together."""
    limits = process_settings()
    return limits if rows is None else limits.model_copy(update={"batch_rows": rows})


def _ids(payload: Mapping[str, Any]) -> tuple[UUID, UUID | None]:
    try:
        capture = payload.get("capture_id")
        return UUID(str(payload["snapshot_id"])), UUID(str(capture)) if capture else None
    except (KeyError, ValueError, AttributeError):
        raise PermanentError(f"the payload names no snapshot: {payload!r:.200}") from None


async def note_failure(
    conn: Connection,
    error: BaseException,
    *,
    snapshot_id: UUID | None,
    tenant: str,
    job_id: UUID,
    final: bool,
) -> None:
    """Record what a snapshot failed with, in the caller's transaction; `final` ends it as failed."""
    found, *others = rejects_of(error)
    row = None
    if snapshot_id is not None:
        last_error = _last_error(found, job_id)
        row = await conn.fetchrow(sql("etl", "failed"), snapshot_id, last_error, final, tenant)
    source = row["source"] if row else ""
    for one in (*others, found):
        await reject(conn, one, tenant=tenant, source=source, snapshot_id=snapshot_id, job_id=job_id)
    _count(found)


async def _failed(conn: Connection, job: LeasedJob, error: BaseException, final: bool) -> None:
    """Record a failed attempt beside the job's own retry or end, in the same transaction."""
    snapshot_id = _snapshot_of(job)
    await note_failure(conn, error, snapshot_id=snapshot_id, tenant=job.tenant, job_id=job.id, final=final)


async def _lost(conn: Connection, job: LeasedJob, evidence: Mapping[str, Any]) -> None:
    """Record an attempt that ended with its process.

    Each such attempt failed, whoever was to blame for it; only the guilty one's snapshot is marked, and is
    held back together with its job.
    """
    words = f"its process {evidence.get('exit', 'died')}"
    out_of_memory = evidence.get("cause") == "oom"
    found = reject_of(MemoryError(words) if out_of_memory else RuntimeError(words))
    said = {
        name: evidence.get(name) for name in ("cause", "verdict", "kills", "ran_s", "ran_beside", "worker_id")
    }
    found = replace(found, details=said)
    snapshot_id, row = _snapshot_of(job), None
    if snapshot_id is not None and evidence.get("verdict") == "guilty":
        last_error = _last_error(found, job.id)
        if evidence.get("quarantined"):
            reason = f"its job has killed {evidence.get('kills')} worker processes; the last one: {words}"
            row = await conn.fetchrow(
                sql("etl", "contain"), snapshot_id, last_error, reason, job.tenant, "poison", None
            )
            if row is not None and row["held"]:
                alert("poison", row["source"], reason, owner=row["owner"], snapshot_id=snapshot_id)
        else:
            row = await conn.fetchrow(sql("etl", "failed"), snapshot_id, last_error, False, job.tenant)
    source = row["source"] if row else ""
    await reject(conn, found, tenant=job.tenant, source=source, snapshot_id=snapshot_id, job_id=job.id)
    _count(found)


def _snapshot_of(job: LeasedJob) -> UUID | None:
    try:
        return _ids(job.payload)[0]
    except PermanentError:
        return None


def _last_error(found: Reject, job_id: UUID) -> dict[str, Any]:
    return {"reason": found.message, "error_type": found.error_type, "job_id": str(job_id)}


def _count(found: Reject) -> None:
    SNAPSHOTS_PROCESSED.labels(result="failure").inc()
    SNAPSHOTS_FAILED.labels(error_type=found.error_type, env=LABELS.env, service=LABELS.service).inc()
