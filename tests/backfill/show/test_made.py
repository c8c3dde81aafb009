"""What was made when: the newest completion of each partition, without reading what it was followed by."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
from hypothesis import given
from hypothesis import strategies as st

from starforge.backfill.asset.asset import asset
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.keyed import KeyRange
from starforge.backfill.scheme.scheme import ranges
from starforge.backfill.scheme.window import Daily
from starforge.backfill.show import made as room
from starforge.backfill.show.made import made
from starforge.db.pool import Connection
from starforge.db.statement import sql
from tests.backfill.rows import a_backfill, now


async def fill(partition: Partition[Any]) -> None:
    """Make nothing."""


DAYS = asset("days", fill, partitions=Daily("1970-01-01"))
ROWS = asset("rows", fill, partitions=KeyRange("t", rows=50))

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=12)


async def ended(
    conn: Connection, first: int, *states: str, minutes: float, code: str, tenant: str = "default"
) -> UUID:
    """Insert an ended backfill of these partitions, created and completed so many minutes from now."""
    at = await now(conn, minutes * 60)
    backfill_id = await a_backfill(
        conn,
        "days",
        tenant_id=tenant,
        state="completed",
        created_at=at,
        closed_at=at,
        covers=[asyncpg.Range(first, first + len(states))],
        total_partitions=len(states),
        completed_partitions=states.count("completed"),
        failed_partitions=states.count("failed"),
        failed_max=len(states),
    )
    await conn.executemany(
        "INSERT INTO backfill_partitions (backfill_job_id, partition_key, tenant_id, ordinal, state,"
        " completed_at, code_version) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        [
            (backfill_id, f"d{first + place}", tenant, first + place, state, at, code)
            for place, state in enumerate(states)
        ],
    )
    return backfill_id


async def found(
    conn: Connection, first: int = 0, end: int = 100, tenant: str = "default"
) -> list[tuple[Any, ...]]:
    return [(key, code) async for _, key, _, code in made(conn, tenant, DAYS, [(first, end)])]


async def test_the_newest_completion_of_each_partition_counts(conn: Connection) -> None:
    await ended(conn, 0, "completed", "completed", "completed", minutes=-30, code="v1")
    await ended(conn, 1, "completed", "failed", "completed", minutes=-20, code="v2")
    await ended(conn, 0, "completed", minutes=-40, code="v0")
    assert await found(conn) == [("d0", "v1"), ("d1", "v2"), ("d2", "v1"), ("d3", "v2")]
    assert await found(conn, 1, 3) == [("d1", "v2"), ("d2", "v1")]
    assert await found(conn, tenant="theirs") == []


async def test_what_a_newer_backfill_completed_as_a_whole_is_not_read_of_older_ones(conn: Connection) -> None:
    """However often half a million partitions were made, half a million rows are read."""
    oldest = await ended(conn, 0, *["completed"] * 9, minutes=-30, code="v1")
    await ended(conn, 2, *["completed"] * 4, minutes=-20, code="v2")
    partly = await ended(conn, 4, "completed", "failed", "completed", minutes=-10, code="v3")
    newest = await ended(conn, 5, "completed", minutes=-5, code="v4")
    rows = await conn.fetch(sql("backfill", "makers"), "default", "days", ranges([(0, 20)]))
    read = list(zip(*room._stretches(rows), strict=True))
    [whole] = {row["id"] for row in rows} - {oldest, partly, newest}
    assert read == [
        (newest, 5, 6), (partly, 4, 5), (partly, 6, 7), (whole, 2, 5), (oldest, 0, 2), (oldest, 6, 9),
    ]  # fmt: skip
    assert [code for _, code in await found(conn)] == ["v1", "v1", "v2", "v2", "v3", "v4", "v3", "v1", "v1"]


async def test_many_stretches_of_one_backfill_are_read_as_one(conn: Connection) -> None:
    count = 4 * room.STRETCHES_MAX
    oldest = await ended(conn, 0, *["completed"] * count, minutes=-30, code="v1")
    for place in range(0, count, 2):
        await ended(conn, place, "completed", minutes=-20, code="v2")
    rows = await conn.fetch(sql("backfill", "makers"), "default", "days", ranges([(0, count)]))
    assert [one for one in zip(*room._stretches(rows), strict=True) if one[0] == oldest] == [
        (oldest, 1, count)
    ]
    assert [code for _, code in await found(conn)] == ["v2", "v1"] * (count // 2)


async def test_a_part_of_a_range_that_was_made_again_hides_nothing_of_that_range(conn: Connection) -> None:
    """As the poison rows of a partition are: the first of its keys begins where the partition does."""
    for minutes, keys in ((-30, ("1..50", "51..100")), (-20, ("1..1",)), (-10, ("51..60",))):
        backfill_id = await a_backfill(
            conn,
            "rows",
            state="completed",
            created_at=await now(conn, minutes * 60),
            covers=ranges(ROWS.partitions.covers(keys)),
            total_partitions=len(keys),
            completed_partitions=len(keys),
        )
        for key in keys:
            await conn.execute(
                "INSERT INTO backfill_partitions (backfill_job_id, partition_key, tenant_id, ordinal, state)"
                " VALUES ($1, $2, 'default', $3, 'completed')",
                backfill_id,
                key,
                ROWS.partitions.ordinal(key),
            )
    known = [(ordinal, key) async for ordinal, key, _, _ in made(conn, "default", ROWS, [(1, 101)])]
    assert known == [(1, "1..1"), (1, "1..50"), (51, "51..100"), (51, "51..60")]


@given(SPANS, st.tuples(st.integers(0, 40), st.integers(1, 20)))
def test_what_is_not_known_of_a_span_is_what_no_span_before_it_had(
    before: list[tuple[int, int]], asked: tuple[int, int]
) -> None:
    known, places = room._Known(), set[int]()
    for first, size in before:
        if size:
            known.add((first, first + size))
        places |= set(range(first, first + size))
    left = known.without((asked[0], sum(asked)))
    assert [place for span in left for place in range(*span)] == [
        place for place in range(asked[0], sum(asked)) if place not in places
    ]
