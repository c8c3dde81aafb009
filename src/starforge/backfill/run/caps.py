"""Caps: how much all backfills of a tenant, and all there are, may run at once.                       (B-69)

A backfill has its own concurrency, and an asset's type and the queue have limits as other jobs have them
(`type limit asset:NAME`, `queue limit backfill`). Where running backfills together ask for more than a cap,
each gets its share of it.
"""

from __future__ import annotations

from starforge.backfill.pace.pace import Pace
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.settings import Settings, setting


class CapSettings(Settings):
    """Bounds over several backfills; 0: none."""

    tenant: int = setting(
        0,
        env="STARFORGE_BACKFILL_TENANT_CONCURRENCY",
        unit="partitions",
        meaning="Partitions that all backfills of one tenant run at once; 0: no such bound.",
        ge=0,
        le=1_000_000,
    )
    everyone: int = setting(
        0,
        env="STARFORGE_BACKFILL_TOTAL_CONCURRENCY",
        unit="partitions",
        meaning="Partitions that all backfills of all tenants run at once; 0: no such bound.",
        ge=0,
        le=1_000_000,
    )


async def capped(conn: Connection, pace: Pace, *, tenant: str, concurrency: int) -> tuple[int, str, str]:
    """Return how many partitions a backfill may run now, why not more, and that in a word.

    At least one, unless the pace is 0: many backfills under a small cap exceed it by that.
    """
    slots, reason, cause = pace.slots(concurrency), pace.reason, pace.cause
    caps = CapSettings.read()
    if not (caps.tenant or caps.everyone):
        return slots, reason, cause
    asked = await conn.fetchrow(sql("backfill", "shares"), tenant)
    assert asked is not None
    for cap, wanted, whose in (
        (caps.tenant, asked["tenant"], f"of tenant {tenant}"),
        (caps.everyone, asked["everyone"], "of all tenants"),
    ):
        if not cap or wanted <= cap:
            continue
        share = max(1, concurrency * cap // wanted)
        if share < slots:
            slots, cause = share, "cap"
            reason = (
                f"{share} of {concurrency} at once: backfills {whose} ask for {wanted}, {cap} are allowed"
            )
    return slots, reason, cause
