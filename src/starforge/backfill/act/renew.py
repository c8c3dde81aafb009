"""Renew: a new backfill of partitions of one that is over, or is given up for it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from starforge.backfill.act.locked import Locked
from starforge.backfill.asset.declared import declared_assets
from starforge.backfill.create.create import CreatedBackfill, create_frozen
from starforge.backfill.create.options import Options
from starforge.backfill.select.listing import Columns
from starforge.db.statement import sql
from starforge.operation import Caller

AT_ONCE = 5_000


async def chosen(
    caller: Caller, row: Locked, states: Sequence[str], fingerprint: str | None = None
) -> Columns:
    """Return key and ordinal of the backfill's partitions in these states, in their order."""
    found = Columns([], array("q"))
    rows = caller.conn.cursor(
        sql("backfill", "chosen"), row.id, caller.tenant, states, fingerprint, prefetch=AT_ONCE
    )
    async for key, ordinal in rows:
        found.add(key, ordinal)
    return found


async def renew(
    caller: Caller, row: Locked, partitions: Columns, options: Options, why: str
) -> CreatedBackfill:
    """Create a backfill of these partitions, whose parent `row` is.

    Raises: what `create_frozen` raises: UnknownAssetError where no worker declares the asset any more,
        OverlapError where another live backfill has some of the partitions.
    """
    parent: dict[str, Any] = {
        "id": row.id,
        "priority": row.priority,
        "concurrency": row.concurrency,
        "attempts_max": row.attempts_max,
        "failed_max": row.failed_max,
    }
    made = await create_frozen(
        caller.conn,
        await declared_assets(caller.conn),
        row.asset,
        partitions,
        like=parent,
        options=options,
        tenant=caller.tenant,
        actor=caller.actor,
        why=why,
    )
    return made.backfills[-1]
