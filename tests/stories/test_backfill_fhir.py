"""A real backfill: two years of days over ingested patient records, paused, killed, resumed and verified."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from starforge.db.pool import Connection, Pool, connect
from starforge.ops.perform import perform
from tests.backfill.sound import assert_sound
from tests.covers import covers
from tests.stories.fhir_days import DAY, DAY_S_ENV, TABLE, app
from tests.worker.processes import a_worker, until

pytestmark = [pytest.mark.shared, pytest.mark.once("nothing in it depends on the version of Postgres")]

APP = "tests.stories.fhir_days:app"
TABLES = Path(__file__).parents[2] / "examples" / "fhir" / "tables.sql"
FIRST, DAYS = datetime(2019, 1, 1, tzinfo=UTC), 731
WHO: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}
ROW = "SELECT {} FROM backfill_jobs"


def bundles(shared: Path) -> list[dict[str, Any]]:
    """The twelve records, with their observations spread over the two years by their ids."""
    found = []
    for file in sorted((shared / "data/fhir-r4").glob("*.json.gz")):
        bundle = json.loads(gzip.decompress(file.read_bytes()))
        for entry in bundle["entry"]:
            resource = entry["resource"]
            if resource["resourceType"] == "Observation":
                seconds = zlib.crc32(resource["id"].encode()) % (DAYS * 86_400)
                resource["effectiveDateTime"] = (FIRST + timedelta(seconds=seconds)).isoformat()
        found.append(bundle)
    return found


@covers("B-01", "B-17", "B-22", "B-24", "D-14", "G7")
async def test_two_years_of_days_that_were_paused_killed_and_resumed_are_what_a_direct_query_says(
    database: str, shared: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    async with pool.connection() as conn:
        await conn.execute(TABLES.read_text())
        await conn.execute(TABLE)
        for bundle in bundles(shared):
            async with conn.transaction():
                await app.ingest(bundle, "fhir", captured_at=FIRST, conn=conn)
    conn = await connect(database)
    quick = {"STARFORGE_LEASE_S": "1", "STARFORGE_POLL_S": "0.1", DAY_S_ENV: "0.005"}
    async with a_worker(database, app=APP, **quick) as worker:
        await until(conn, "SELECT count(*) FROM job_history WHERE type = 'process_snapshot'", 12)
        observed = await conn.fetchval("SELECT count(*) FROM observations")
        assert observed > DAYS
        made = await app.backfill("observation_days", first="2019-01-01", last="2020-12-31")
        await ahead(conn, 100)
        await act(pool, "pause", made.id)
        await until(conn, ROW.format("worker_id IS NULL"), True)
        paused = await conn.fetchrow(ROW.format("state, completed_partitions, checkpoint_partition_key"))
        assert paused is not None
        assert (paused["state"], paused["completed_partitions"] < DAYS) == ("paused", True)
        assert await days(conn, "completed") == paused["completed_partitions"]
        assert await days(conn, "running") == 0
        await act(pool, "resume", made.id)
        await ahead(conn, paused["completed_partitions"] + 150)
        os.killpg(worker.pid, SIGKILL)
        await worker.wait()
    left = await days(conn, "pending") + await days(conn, "running")
    assert 0 < left < DAYS
    assert await conn.fetch(STRAYS) == []
    async with a_worker(database, app=APP, **quick):
        await until(conn, ROW.format("closed_at IS NOT NULL"), True)
    row = await conn.fetchrow(ROW.format("*"))
    assert row is not None
    assert (row["state"], row["total_partitions"], row["completed_partitions"]) == ("completed", DAYS, DAYS)
    assert (row["failed_partitions"], row["checkpoint_partition_key"]) == (0, "2020-12-31")
    told = await conn.fetch("SELECT * FROM observation_days ORDER BY tenant_id, day, code")
    direct = await conn.fetch(f"{DAY} ORDER BY 1, 2, 3", FIRST, FIRST + timedelta(days=DAYS))
    assert [tuple(each) for each in told] == [tuple(each) for each in direct]
    assert sum(each["observations"] for each in told) == observed
    await assert_sound(conn)
    await conn.close()


STRAYS = """
SELECT DISTINCT day FROM observation_days WHERE day::text NOT IN (
    SELECT partition_key FROM backfill_partitions WHERE state = 'completed')
"""


async def ahead(conn: Connection, partitions: int) -> None:
    """Wait until so many are completed."""
    await until(conn, f"SELECT completed_partitions >= {partitions} FROM backfill_jobs", True)


async def days(conn: Connection, state: str) -> int:
    """Count the partitions in a state."""
    found: int = await conn.fetchval("SELECT count(*) FROM backfill_partitions WHERE state = $1", state)
    return found


async def act(pool: Pool, name: str, backfill_id: Any) -> None:
    """Perform an operation."""
    await perform(pool, f"backfill {name}", {"job_id": str(backfill_id)}, **WHO)
