"""Claim: ready jobs become a worker's, in batches, under its lease and a new epoch each."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.job import LeasedJob
from starforge.queue.plan import Lane


class Rare(msgspec.Struct):
    """What few jobs carry: it comes as one column, null for the rest."""

    limit_key: str
    tags: tuple[str, ...]
    timeout_s: float | None
    trace: str | None
    kills: int
    alone: bool


async def claim(conn: Connection, lanes: Sequence[Lane], *, n: int, worker_id: UUID) -> list[LeasedJob]:
    """Lease up to `n` ready jobs of these lanes to a worker; [] where none is ready.

    A worker whose own lease has ended gets nothing, so that a zombie cannot claim.
    """
    if not lanes:
        return []
    rows = await conn.fetch(
        sql("queue", "claim"),
        [lane.queue for lane in lanes],
        [lane.type for lane in lanes],
        [lane.priority for lane in lanes],
        n,
        worker_id,
    )
    failpoint("after_claim")
    if len(rows) > 1:
        rows.sort(key=_urgency)
    return [_leased(row) for row in rows]


def _urgency(row: asyncpg.Record) -> tuple[int, float]:
    return -row["priority"], row["due_s"]


def _leased(row: asyncpg.Record) -> LeasedJob:
    """Read one row: what cannot be read of it is this job's fault and not the whole claim's."""
    fault = None
    try:
        payload = msgspec.json.decode(row["payload"])
        if type(payload) is not dict:
            payload, fault = {}, "the payload is not a JSON object"
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        payload, fault = {}, f"the payload cannot be read: {error}"
    rare = row["rare"]
    if rare is None:
        return LeasedJob(row[0], row[1], row[2], row[3], payload, row[5], row[6], row[7], fault)
    said = msgspec.json.decode(rare, type=Rare)
    return LeasedJob(
        row[0], row[1], row[2], row[3], payload, row[5], row[6], row[7], fault,
        said.limit_key, said.tags, said.timeout_s, said.trace, said.kills, said.alone,
    )  # fmt: skip
