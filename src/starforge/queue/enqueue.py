"""Enqueue: accept jobs, alone, in bulk, or inside the caller's own transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.errors import PayloadError
from starforge.queue.hint import CHANNEL, Debounce, Hint, hints_for
from starforge.queue.job import COLUMNS, JobSettings, NewJob

COPY_ROWS_MIN = 1000
"""Below this many rows arrays in one INSERT are quicker than COPY."""

TENANT, QUEUE, TYPE, PRIORITY, LIMIT_KEY, TAGS = map(
    COLUMNS.index, ("tenant_id", "queue", "type", "priority", "limit_key", "tags")
)

NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""An escaped NUL, and not an escaped backslash before the letters u0000."""

_debounce = Debounce()

STAGE = """
CREATE TEMPORARY TABLE starforge_enqueue (
    id uuid, tenant_id text, queue text, type text, payload text, priority integer, max_attempts integer,
    run_after timestamptz, limit_key text, tags text[], timeout_s real, trace text, place integer
) ON COMMIT DROP
"""


async def enqueue(conn: Connection, job: NewJob) -> UUID:
    """Accept one job and return its id.

    The job exists once the connection's transaction commits; outside a transaction that is now. Any
    asyncpg connection will do, with whatever codecs its owner has set.
    Raises: PayloadError when the payload is too large or is not JSON.
    """
    row = _encoded(job)
    lane = _lane(row)
    # When the caller's own transaction ends, and how, is not known: its hint may not stand for others.
    alone = not conn.is_in_transaction()
    hint = lane.text() if not alone or _debounce.due(lane) else None
    try:
        found = await conn.fetchrow(sql("queue", "enqueue"), *row, hint)
    except BaseException:
        if alone and hint is not None:
            _debounce.unsent(lane)
        raise
    failpoint("after_enqueue")
    assert found is not None
    return UUID(str(found["id"]))


async def enqueue_many(conn: Connection, jobs: Sequence[NewJob]) -> list[UUID]:
    """Accept all of these jobs or none, and return their ids in the same order.

    Large batches go by COPY into a temporary table and from there in one statement: COPY cannot go
    straight into a table under row security, and measured no quicker where it could.
    Raises: PayloadError; then none is accepted.
    """
    rows = [_encoded(job) for job in jobs]
    if not rows:
        return []
    async with conn.transaction():
        if len(rows) < COPY_ROWS_MIN:
            columns = list(zip(*rows, strict=True))
            columns[TAGS] = tuple(_listed(tags) for tags in columns[TAGS])
            await conn.execute(sql("queue", "enqueue_many"), *columns)
        else:
            await conn.execute(STAGE)
            numbered = [(*row, place) for place, row in enumerate(rows)]
            await conn.copy_records_to_table(
                "starforge_enqueue", records=numbered, columns=[*COLUMNS, "place"]
            )
            await conn.execute(sql("queue", "enqueue_staged"), len(rows))
            await conn.execute("DROP TABLE pg_temp.starforge_enqueue")
        for hint in hints_for({_lane(row) for row in rows}):
            await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, hint)
    return [job.id for job in jobs]


def _encoded(job: NewJob) -> tuple[Any, ...]:
    """Return the job's row with its payload as JSON text; raise PayloadError."""
    limit_bytes = JobSettings.read().payload_bytes_max
    try:
        payload = msgspec.json.encode(job.payload)
    except (TypeError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PayloadError(f"the payload of a {job.type} job is not JSON: {error}") from None
    if not payload.startswith(b"{"):
        raise PayloadError(f"the payload of a {job.type} job is not a JSON object")
    if len(payload) > limit_bytes:
        raise PayloadError(
            f"the payload of a {job.type} job has {len(payload)} bytes; at most {limit_bytes} are accepted"
        )
    text = payload.decode()
    if "\\u0000" in text and NUL.search(text):
        raise PayloadError(
            f"the payload of a {job.type} job holds a NUL character, which Postgres cannot keep"
        )
    row = job.row()
    return (*row[:4], text, *row[5:])


def _listed(tags: list[str] | None) -> str | None:
    """Return one job's tags as JSON: an array of arrays would have to have equal lengths."""
    return None if tags is None else msgspec.json.encode(tags).decode()


def _lane(row: tuple[Any, ...]) -> Hint:
    return Hint(row[QUEUE], row[TYPE], row[PRIORITY], row[TENANT], row[LIMIT_KEY])
