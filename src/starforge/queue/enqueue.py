"""Enqueue: accept jobs, alone, in bulk, or inside the caller's own transaction."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

from starforge.clock import failpoint, monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.errors import PayloadError
from starforge.queue.job import JobSettings, NewJob

CHANNEL = "starforge_jobs"
COPY_ROWS_MIN = 1000
"""Below this many rows arrays in one INSERT are quicker than COPY."""

NOTIFY_S = 0.02
"""NOTIFY takes a database-wide lock at commit: at most one per queue, process and this long."""

_notified_s: dict[str, float] = {}

_COLUMNS = ("id", "tenant_id", "queue", "type", "payload", "priority", "max_attempts", "run_after")
_STAGE = """
CREATE TEMPORARY TABLE starforge_enqueue (
    id uuid, tenant_id text, queue text, type text, payload jsonb, priority integer, max_attempts integer,
    run_after timestamptz
) ON COMMIT DROP
"""


async def enqueue(conn: Connection, job: NewJob) -> UUID:
    """Accept one job and return its id.

    The job exists once the connection's transaction commits; outside a transaction that is now.
    Raises: PayloadError when the payload is too large or is not JSON.
    """
    _check(job.payload, JobSettings.read().payload_bytes_max)
    row = await conn.fetchrow(sql("queue", "enqueue"), *job.row(), _due(job.queue))
    failpoint("after_enqueue")
    assert row is not None
    return UUID(str(row["id"]))


async def enqueue_many(conn: Connection, jobs: Sequence[NewJob]) -> list[UUID]:
    """Accept all of these jobs or none, and return their ids in the same order.

    Large batches go by COPY; where row security binds the role, COPY goes through a temporary table.
    """
    limit = JobSettings.read().payload_bytes_max
    for job in jobs:
        _check(job.payload, limit)
    if not jobs:
        return []
    async with conn.transaction():
        if len(jobs) < COPY_ROWS_MIN:
            columns = list(zip(*(job.row() for job in jobs), strict=True))
            await conn.execute(sql("queue", "enqueue_many"), *columns)
        else:
            await _copy(conn, jobs)
        for queue in {job.queue for job in jobs}:
            await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, queue)
    return [job.id for job in jobs]


async def _copy(conn: Connection, jobs: Sequence[NewJob]) -> None:
    bound = await conn.fetchval("SELECT row_security_active('queue_jobs')")
    now = None if bound else await conn.fetchval("SELECT sf_now()")
    if bound:
        await conn.execute(_STAGE)
    # Straight into the table COPY would write null where the default should be.
    records = ((*row[:-1], row[-1] or now) for row in (job.row() for job in jobs))
    table = "starforge_enqueue" if bound else "queue_jobs"
    await conn.copy_records_to_table(table, records=records, columns=list(_COLUMNS))
    if bound:
        await conn.execute(sql("queue", "enqueue_staged"))
        await conn.execute("DROP TABLE pg_temp.starforge_enqueue")


def _check(payload: object, limit_bytes: int) -> None:
    try:
        size = len(msgspec.json.encode(payload))
    except (TypeError, msgspec.MsgspecError, ValueError) as error:
        raise PayloadError(f"the payload is not JSON: {error}") from None
    if size > limit_bytes:
        raise PayloadError(f"the payload has {size} bytes; at most {limit_bytes} are accepted")


def _due(queue: str) -> bool:
    now_s = monotonic_s()
    if now_s - _notified_s.get(queue, -NOTIFY_S) < NOTIFY_S:
        return False
    _notified_s[queue] = now_s
    return True
