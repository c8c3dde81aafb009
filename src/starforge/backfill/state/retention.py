"""Retention: backfills that ended long ago are forgotten, and what they made is not.

Of a partition that a forgotten backfill completed there stays one row: when, and by which version of the
code. So `stale` and the coverage check of a preflight say the same before and after.
"""

from __future__ import annotations

import structlog

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.settings import Settings, setting

log = structlog.get_logger("backfill")

BATCH = 10_000
"""Partitions that one transaction forgets."""

BACKFILLS_AT_ONCE = 100
NEWEST_KEPT = 5
"""Of each asset these stay, however old: what a preflight says of durations and failures rests on them."""


class BackfillRetentionSettings(Settings):
    """How long backfills are kept that have ended."""

    days: int = setting(
        365,
        env="STARFORGE_BACKFILL_DAYS",
        unit="days",
        meaning="Backfills are forgotten so long after they ended, but the 5 newest of an asset; 0: never.",
        ge=0,
        le=36_500,
    )


async def prune_backfills(conn: Connection) -> int:
    """Forget a batch of what ended long ago; fewer than BATCH means that there is no more."""
    days = BackfillRetentionSettings.read().days
    if not days:
        return 0
    gone, forgotten = 0, []
    async with conn.transaction():
        rows = await conn.fetch(sql("backfill", "expired"), days, NEWEST_KEPT, BACKFILLS_AT_ONCE)
        for row in rows:
            gone += await conn.fetchval(sql("backfill", "forget_partitions"), row["id"], BATCH - gone)
            if gone >= BATCH:
                break
            await conn.execute(sql("backfill", "forget"), row["id"])
            forgotten.append(row)
    for row in forgotten:
        log.info(
            "backfill.forgotten",
            job_id=str(row["id"]),
            asset=row["asset_name"],
            closed_at=row["closed_at"].isoformat(),
        )
    return BATCH if len(rows) == BACKFILLS_AT_ONCE else gone
