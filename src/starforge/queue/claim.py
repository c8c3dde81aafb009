"""Claim: ready jobs become a worker's, in batches, under its lease and a new epoch each."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec

from starforge.clock import failpoint, monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.job import LeasedJob
from starforge.queue.plan import Plan, Scan


async def claim(conn: Connection, plan: Plan, *, n: int, worker_id: UUID) -> list[LeasedJob]:
    """Lease up to `n` ready jobs of the plan's lanes to a worker; [] where none is ready.

    A worker whose own lease has ended gets nothing, so that a zombie cannot claim.
    """
    await plan.refresh(conn)
    await plan.flow.tidy(conn)
    plan.flow.begin()
    jobs: list[LeasedJob] = []
    if wanted := plan.sweep(n):
        started_s = monotonic_s()
        # A lane for which something would have to be asked first is swept by its next look and scan.
        scans = plan.flow.allot_held(wanted)
        if len(scans) < len(wanted):
            swept = {id(scan) for scan in scans}
            plan.unswept(scan for scan in wanted if id(scan) not in swept)
        try:
            jobs = await _run(conn, plan, scans, n, worker_id)
        except BaseException:
            plan.sweep_failed()
            raise
        plan.settle_sweep(scans, n, monotonic_s() - started_s)
    left = n - len(jobs)
    while left and (wanted := plan.scans(left)):
        scans = await plan.flow.allot(conn, wanted, left)
        jobs += await _run(conn, plan, scans, left, worker_id)
        plan.settle(scans)
        # Lanes of which enough was hoped, in vain, may have kept others out.
        if jobs or len(scans) == len(wanted) or not any(scan.dry for scan in scans):
            break
    return jobs


async def _run(
    conn: Connection, plan: Plan, scans: Sequence[Scan], n: int, worker_id: UUID
) -> list[LeasedJob]:
    """Run the one statement and tell each scan what it took."""
    if not scans:
        return []
    rows = await conn.fetch(
        sql("queue", "claim"),
        *zip(*(scan.lane.key for scan in scans), strict=True),
        [scan.since_s for scan in scans],
        [scan.until_s for scan in scans],
        [scan.most for scan in scans],
        n,
        worker_id,
        plan.flow.closed_tags,
        [scan.first_only for scan in scans],
    )
    failpoint("after_claim")
    if len(rows) > 1:
        rows.sort(key=_urgency)
    jobs = [leased(row) for row in rows]
    _tell(scans, rows, jobs, full=len(jobs) >= n)
    await plan.flow.settle(conn, scans, jobs)
    return jobs


def _tell(
    scans: Sequence[Scan], rows: Sequence[asyncpg.Record], jobs: Sequence[LeasedJob], *, full: bool
) -> None:
    """Tell each scan what it took, and whether there was no more."""
    if len(scans) == 1:
        scan = scans[0]
        for row in rows:
            scan.took(row["due_s"])
        scan.dry = not full and scan.taken < scan.most
        return
    # A lane's key is found by a plain tuple, too, which is made faster.
    by_lane: dict[tuple[object, ...], Scan] = {scan.lane.key: scan for scan in scans}
    for row, job in zip(rows, jobs, strict=True):
        by_lane[job.queue, job.type, row["priority"], job.tenant, job.limit_key].took(row["due_s"])
    # They are run in their order: a full claim says nothing of those behind the last that took something.
    behind = not full
    for scan in reversed(scans):
        scan.dry = behind and scan.taken < scan.most
        behind = behind or scan.taken > 0


def _urgency(row: asyncpg.Record) -> tuple[int, float]:
    return -row["priority"], row["due_s"]


def leased(row: asyncpg.Record) -> LeasedJob:
    """Read one row: what cannot be read of it is this job's fault and not the whole claim's."""
    fault = None
    try:
        payload = msgspec.json.decode(row["payload"])
        if type(payload) is not dict:
            payload, fault = {}, "the payload is not a JSON object"
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        payload, fault = {}, f"the payload cannot be read: {error}"
    tags, deaths = row["tags"], row["deaths"]
    return LeasedJob(
        row[0], row[1], row[2], row[3], payload, row[5], row[6], row[7], fault, row[10],
        () if tags is None else tuple(tags), row[12], row[13], deaths or 0, deaths is not None,
    )  # fmt: skip
