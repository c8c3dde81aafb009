"""What the runbook reads of backfills, by hand and in the middle of one that runs, is how it is."""

from __future__ import annotations

from typing import Any

from starforge.db.pool import Pool, connect
from tests.backfill.engine import daily, engine
from tests.backfill.gates import Gates, day
from tests.contracts.contract import filled, statements
from tests.covers import covers

SQL = {entry["id"]: entry["sql"] for entry in statements() if entry["id"].startswith("B-SQL-")}
READS = [name for name, text in SQL.items() if text.lstrip().startswith("SELECT")]


@covers("X-14", "B-26", "B-31", "B-32", "B-33", "B-35", "B-40", "B-46", "B-47", "B-48")
async def test_what_the_runbook_reads_in_the_middle_of_a_backfill_is_how_it_is(
    pool: Pool, database: str
) -> None:
    gates = Gates()
    gates.fails.add(day(2))
    operator = await connect(database.replace("tester@", "starforge_operator@"))
    async with engine(pool, [daily("days", gates, concurrency=2, retries=0)]) as running:
        backfill_id = await running.create("days", 9, failed_max=1)
        gates.let(day(1), day(2), day(3))
        await gates.until(lambda seen: seen.came[day(4)] and seen.came[day(5)])
        row = await running.until(
            backfill_id, lambda row: row["failed_partitions"] == 1 and row["estimated_completion_at"]
        )
        read: dict[str, list[tuple[Any, ...]]] = {}
        for name in READS:
            found = await operator.fetch(filled(SQL[name], {"job_id": str(backfill_id)}))
            read[name.removeprefix("B-SQL-")] = [tuple(each) for each in found]
        gates.let()
        await running.over(backfill_id)
    await operator.close()
    error = f"{day(2)} is bad"
    [(state, checkpoint, completed, total, end)] = read["2"]
    assert (state, checkpoint, completed, total) == ("running", day(3), 2, 9)
    assert end is not None
    assert read["3"] == [], "its heartbeat is young"
    [(listed, asset, *counts, average_ms, _end, left)] = read["4"]
    assert (listed, asset, counts) == (backfill_id, "days", [2, 9])
    assert (average_ms > 0, left.total_seconds() > -2) == (True, True)
    [(key, attempts, told, ended_at)] = read["5"]
    assert (key, attempts, error in told, ended_at is None) == (day(2), 1, True, False)
    assert read["6"] == [(day(3), day(3), 4, 2)], "checkpoint, last completed, pending, completed"
    assert read["8"] == [], "it was claimed"
    assert [(key, attempts, error in told) for key, attempts, told in read["9"]] == [(day(2), 1, True)]
    assert read["10"] == [(backfill_id, "running", None, day(3), None)]
    assert read["11"] == [(row["version"],)]
    assert [(completed, average_ms > 0) for completed, average_ms in read["12"]] == [(2, True)]
    assert len(READS) == 10
