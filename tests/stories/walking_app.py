"""The app of the story of a walk: rows of `t` that are changed slowly, and snapshots once more."""

from __future__ import annotations

from starforge.app import StarForge
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.keyed import KeyRange
from starforge.backfill.scheme.scheme import KeySpan
from starforge.backfill.scheme.snapshot_range import SnapshotRange
from starforge.backfill.scheme.window import Daily
from starforge.db.pool import Connection
from starforge.queue.context import Context

app = StarForge("walking")

SLEEP_S = 0.02

app.asset("heroes_again", partitions=SnapshotRange("hero", every=Daily("2024-03-01")))


@app.asset("rows", partitions=KeyRange("t", rows=50_000), concurrency=2)
async def rows(partition: Partition[KeySpan], ctx: Context) -> None:
    """Add 1 to `n` of each row of `t`."""

    async def change(conn: Connection, keys: KeySpan) -> None:
        await conn.execute("UPDATE t SET n = n + 1 WHERE id >= $1 AND id < $2", keys.first, keys.end)
        await conn.execute("SELECT pg_sleep($1)", SLEEP_S)

    await partition.walk(ctx, change)
