"""A table of 200 000 rows, walked by real workers that are killed in the middle of it."""

from __future__ import annotations

import json
import os
import signal

import pytest

from starforge.db.pool import Pool
from tests.backfill.run.test_reprocess import hero, ingest, on
from tests.cli.test_main import Starforge, invoke
from tests.covers import covers
from tests.worker.processes import a_worker, until

pytestmark = pytest.mark.once("its statements are prepared on both versions by tests/db/test_statement.py")

__all__ = ["invoke"]

APP = "tests.stories.walking_app:app"
ROWS = 200_000
BAD = (17, 60_000, 199_999)
BRISK = {
    "STARFORGE_LEASE_S": "2",
    "STARFORGE_BACKFILL_SUSPECT_S": "1",
    "STARFORGE_BACKFILL_RECLAIMABLE_S": "2",
    "STARFORGE_BACKFILL_BATCH_ROWS_MAX": "2000",
}
"""Batches small enough, and leases short enough, for a story of seconds."""

CHANGED = "SELECT count(*) FROM t WHERE n > 0"
STATE = "SELECT state FROM backfill_jobs"
CLOSED = "SELECT closed_at IS NOT NULL FROM backfill_jobs"


async def a_table(pool: Pool) -> None:
    """Make the table, with three rows that refuse every change."""
    async with pool.connection() as conn:
        await conn.execute(
            "CREATE TABLE t (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, bad boolean NOT NULL)"
        )
        await conn.execute("INSERT INTO t SELECT g, 0, g = ANY ($2) FROM generate_series(1, $1) g", ROWS, BAD)
        await conn.execute("ALTER TABLE t ADD CONSTRAINT unbroken CHECK (NOT bad OR n = 0)")


async def created(pool: Pool, invoke: Starforge, asset: str, *words: str) -> str:
    """Create a backfill, once a worker has declared the asset; return its id."""
    async with pool.connection() as conn:
        await until(conn, "SELECT count(*) FROM backfill_assets WHERE name = $1", 1, asset)
        made = await invoke("backfill", "create", asset, *words, "--json")
        assert made.code == 0, made.err
        return str(await conn.fetchval("SELECT id FROM backfill_jobs"))


@covers("B-24", "B-37")
async def test_a_walk_over_killed_workers_changes_every_row_once_and_lists_what_it_could_not(
    pool: Pool, database: str, invoke: Starforge
) -> None:
    await a_table(pool)
    async with pool.connection() as conn:
        async with a_worker(database, app=APP, **BRISK) as worker:
            backfill_id = await created(pool, invoke, "rows")
            await until(conn, f"SELECT ({CHANGED}) >= $1", True, 20_000)
            os.killpg(worker.pid, signal.SIGKILL)
        async with a_worker(database, app=APP, **BRISK) as worker:
            await until(conn, f"SELECT ({CHANGED}) >= $1", True, 90_000)
            os.killpg(worker.pid, signal.SIGKILL)
        changed = await conn.fetchval(CHANGED)
        assert changed < ROWS - len(BAD)
        async with a_worker(database, app=APP, **BRISK):
            await until(conn, CLOSED, True)
        assert await conn.fetchval(STATE) == "completed"
        counted = await conn.fetch("SELECT n, count(*)::int FROM t GROUP BY n ORDER BY n")
        assert [tuple(row) for row in counted] == [(0, len(BAD)), (1, ROWS - len(BAD))]
        walked = await conn.fetchval("SELECT sum((cursor ->> 'rows')::int)::int FROM backfill_partitions")
        assert walked == ROWS - len(BAD)

    told = await invoke("backfill", "poison", backfill_id)
    assert (told.code, "unbroken" in told.out) == (0, True)
    assert "backfill create rows --keys 17,60000,199999" in told.out
    listed = json.loads((await invoke("backfill", "poison", backfill_id, "--json")).out)
    assert [one["row_key"] for one in listed] == list(BAD)
    assert {one["error_type"] for one in listed} == {"CheckViolationError (23514)"}
    none = await invoke("backfill", "poison", backfill_id, "--after", "199999")
    assert none.out == "None has a key above 199999.\n"


async def test_poison_rows_that_are_mended_are_made_by_a_backfill_of_their_keys(
    pool: Pool, database: str, invoke: Starforge
) -> None:
    await a_table(pool)
    async with pool.connection() as conn:
        await conn.execute("DELETE FROM t WHERE NOT bad")
        await conn.execute("UPDATE t SET bad = false")
        async with a_worker(database, app=APP, **BRISK):
            await created(pool, invoke, "rows", "--keys", "17,60000,199999")
            await until(conn, CLOSED, True)
        assert await conn.fetchval("SELECT array_agg(n) FROM t") == [1, 1, 1]


async def test_stored_snapshots_become_rows_again_day_by_day(
    pool: Pool, database: str, invoke: Starforge
) -> None:
    """Rows that were lost come back from the snapshots of the days that are asked for."""
    await ingest(pool, hero("A", on(5)), hero("B", on(6)), hero("C", on(7)))
    async with pool.connection() as conn:
        await conn.execute("DELETE FROM user_profile_summary; DELETE FROM user_troops")
        async with a_worker(database, app=APP, **BRISK):
            await created(pool, invoke, "heroes_again", "--from", "2024-03-05", "--to", "2024-03-06")
            await until(conn, CLOSED, True)
        assert await conn.fetchval(STATE) == "completed"
        rows = await conn.fetch(
            "SELECT namecode FROM user_troops t JOIN users u ON u.id = t.user_id ORDER BY namecode"
        )
        assert [row["namecode"] for row in rows] == ["A", "B"]
        done = await conn.fetch("SELECT cursor -> 'done' ->> 'processed' FROM backfill_partitions")
        assert [row[0] for row in done] == ["1", "1"]
