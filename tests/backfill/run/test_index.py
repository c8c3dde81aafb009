"""The coordinator's statements reach what they want by its place, whatever the statistics say."""

from __future__ import annotations

from starforge.db.pool import Pool
from starforge.db.statement import sql
from tests.backfill.engine import daily, engine
from tests.backfill.gates import Gates
from tests.covers import covers

DAYS = 30_000
PAGES_MAX = 40
"""Enough for the index and the few rows that are fed; all of the partitions fill ten times as many."""

FEEDS = """
SELECT sum(calls)::int AS calls, (sum(shared_blks_hit + shared_blks_read) / sum(calls))::float8 AS pages
FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query LIKE '%' || $1 || '%'
"""


@covers("B-17")
async def test_what_is_fed_is_read_by_its_place_however_many_partitions_lie_behind(pool: Pool) -> None:
    """Statistics of an empty table have the server read and sort all that is left, tick by tick."""
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=2)]) as running:
        async with pool.connection() as conn:
            await conn.execute("ALTER TABLE backfill_partitions SET (autovacuum_enabled = false)")
            await conn.execute("ANALYZE backfill_partitions")
        backfill_id = await running.create("days", DAYS)
        await gates.until(lambda seen: len(seen.came) == 2)
        gates.let()
        await running.until(backfill_id, lambda row: row["completed_partitions"] > 100)
    async with pool.connection() as conn:
        text = "\n".join(line for line in sql("backfill", "feed").splitlines() if not line.startswith("--"))
        row = await conn.fetchrow(FEEDS, text.split("\n")[0].replace("$1", "_"))
    assert row is not None
    assert row["calls"] > 2
    assert row["pages"] < PAGES_MAX
