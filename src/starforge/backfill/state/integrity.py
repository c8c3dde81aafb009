"""Integrity: a stored checkpoint held against the partitions' rows, before a backfill goes on.   (B-35)"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from starforge.backfill.errors import CheckpointMismatchError, UnknownBackfillError
from starforge.backfill.state.checkpoint import Comparison, Seen, Stored, Verdict
from starforge.db.pool import Connection
from starforge.db.statement import sql

AT_ONCE = 5_000
"""Partitions that are read at a time: 500 000 take 0.7 s and no more memory than 5 000 do."""


async def integrity(conn: Connection, backfill_id: UUID, tenant: str) -> Verdict:
    """Compare a backfill's row with its partitions; the caller's transaction holds both reads.

    Raises: UnknownBackfillError.
    """
    stored = await conn.fetchrow(sql("backfill", "integrity_stored"), backfill_id, tenant)
    if stored is None:
        raise UnknownBackfillError(backfill_id)
    comparison = Comparison(Stored(**stored))
    async for key, state, again in conn.cursor(
        sql("backfill", "integrity_seen"), backfill_id, tenant, prefetch=AT_ONCE
    ):
        comparison.take(Seen(key, state, again))
    return comparison.verdict()


async def unfit(conn: Connection, backfill_ids: Sequence[UUID], tenant: str) -> set[UUID]:
    """Return those of these backfills that must not go on; `blocking` says why."""
    return {row["id"] for row in await conn.fetch(sql("backfill", "unfit"), tenant, backfill_ids)}


async def blocking(conn: Connection, backfill_id: UUID, tenant: str) -> list[str]:
    """Return why the backfill must not go on; [] where nothing is in the way."""
    if not await unfit(conn, [backfill_id], tenant):
        return []
    verdict = await integrity(conn, backfill_id, tenant)
    return [finding.text for finding in verdict.findings if finding.blocks]


async def require_integrity(
    conn: Connection, backfill_id: UUID, tenant: str, *, overridden: bool = False
) -> list[str]:
    """Return the mismatches that were overridden; raise CheckpointMismatchError where they are not."""
    found = await blocking(conn, backfill_id, tenant)
    if found and not overridden:
        raise CheckpointMismatchError(f"backfill {backfill_id} cannot be resumed yet: {'; '.join(found)}")
    return found
