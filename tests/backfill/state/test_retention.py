"""Backfills that ended long ago are forgotten, and what they made is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from starforge.backfill.asset.asset import Assets, asset
from starforge.backfill.asset.upstream import Upstream
from starforge.backfill.create.facts import DatabaseFacts
from starforge.backfill.create.options import Options
from starforge.backfill.create.preflight import preflight
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.keyed import KeyRange
from starforge.backfill.scheme.window import Daily
from starforge.backfill.select.select import Request, select
from starforge.backfill.show.stale import stale_partitions
from starforge.backfill.show.verify import accounts
from starforge.backfill.state import retention
from starforge.backfill.state.retention import NEWEST_KEPT, prune_backfills
from starforge.db.pool import Connection
from tests.backfill.rows import now
from tests.backfill.show.test_made import ended
from tests.backfill.sound import UNSOUND
from tests.covers import covers

OLD = -400 * 1440.0
"""Minutes: longer ago than backfills are kept."""

START = Daily("2026-01-01").first


async def make(partition: Partition[Any]) -> None:
    """Make nothing."""


ASSETS = Assets([asset("days", make, partitions=Daily("2026-01-01", "2026-01-06"), version="v2")])


async def several(conn: Connection, *, newest: int = NEWEST_KEPT) -> list[UUID]:
    """Insert as many newer ones of the asset as stay whatever their age."""
    return [await ended(conn, 9000, "cancelled", minutes=-n - 1, code="v2") for n in range(newest)]


async def kept(conn: Connection) -> set[UUID]:
    return {row["id"] for row in await conn.fetch("SELECT id FROM backfill_jobs")}


async def stale(conn: Connection) -> list[tuple[str, str]]:
    facts = DatabaseFacts(conn, registering=False)
    found = await stale_partitions(conn, ASSETS, facts, "days", tenant="default")
    return [(one.key, one.kind) for one in found.partitions]


async def rename(conn: Connection) -> None:
    """Give partitions the keys that the asset's days have."""
    await conn.execute(
        "UPDATE backfill_partitions SET partition_key = (date '1970-01-01' + ordinal::int)::text"
    )


@covers("D-20")
async def test_what_ended_long_ago_is_forgotten_and_what_it_made_is_known_on(conn: Connection) -> None:
    old = await ended(conn, START, "completed", "completed", "failed", "completed", minutes=OLD, code="v1")
    older = await ended(conn, START, "completed", "completed", "completed", minutes=OLD - 5, code="v2")
    newer = await several(conn)
    await rename(conn)
    before = await stale(conn)
    assert before == [("2026-01-01", "code"), ("2026-01-02", "code"), ("2026-01-04", "code"),
                      ("2026-01-05", "missing"), ("2026-01-06", "missing")]  # fmt: skip
    assert await prune_backfills(conn) == 7
    assert await kept(conn) == set(newer), (old, older)
    assert await stale(conn) == before
    assert await conn.fetchval("SELECT count(*) FROM backfill_made") == 4
    assert await prune_backfills(conn) == 0


@covers("D-20")
async def test_it_goes_in_batches_and_adds_up_after_each_of_them(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule that no completed backfill has fewer ended partitions than it says holds at every moment."""
    monkeypatch.setattr(retention, "BATCH", 3)
    old = await ended(
        conn, START, "completed", "failed", "completed", "cancelled", "completed", minutes=OLD, code="v1"
    )
    await conn.execute("UPDATE backfill_jobs SET cancelled_partitions = 1, failed_max = 1 WHERE id = $1", old)
    await several(conn)
    await conn.execute("UPDATE backfill_jobs SET cancelled_partitions = 1 WHERE id <> $1", old)
    await rename(conn)
    before, left = await stale(conn), []
    while await prune_backfills(conn) >= 3:
        left.append(await conn.fetchval("SELECT total_partitions FROM backfill_jobs WHERE id = $1", old))
        assert await accounts(conn) == []
        assert await conn.fetch(UNSOUND) == []
        assert await stale(conn) == before
    assert left == [2]
    assert old not in await kept(conn)
    assert await stale(conn) == before


Spare = Callable[[Connection, UUID], Any]


async def _parent(conn: Connection, one: UUID) -> None:
    child = await ended(conn, 8000, "completed", minutes=-2, code="v1")
    await conn.execute("UPDATE backfill_jobs SET parent_id = $2 WHERE id = $1", child, one)


async def _awaited(conn: Connection, one: UUID) -> None:
    await conn.execute(
        "INSERT INTO backfill_jobs (asset_name, waits_for) VALUES ('below', ARRAY[$1::uuid])", one
    )


async def _open(conn: Connection, one: UUID) -> None:
    await conn.execute("UPDATE backfill_jobs SET closed_at = NULL WHERE id = $1", one)


async def _uncounted(conn: Connection, one: UUID) -> None:
    await conn.execute(
        "INSERT INTO backfill_ended (backfill_job_id, ordinal, tenant_id, outcome, attempt_count)"
        " VALUES ($1, 0, 'default', 'completed', 1)", one,
    )  # fmt: skip


async def _younger(conn: Connection, one: UUID) -> None:
    await conn.execute(
        "UPDATE backfill_jobs SET closed_at = $2 WHERE id = $1", one, await now(conn, -364 * 86_400)
    )


@pytest.mark.parametrize("spare", [_parent, _awaited, _open, _uncounted, _younger])
async def test_what_others_refer_to_or_is_not_over_for_long_stays(conn: Connection, spare: Spare) -> None:
    one = await ended(conn, START, "completed", minutes=OLD, code="v1")
    await several(conn)
    await spare(conn, one)
    await prune_backfills(conn)
    assert one in await kept(conn)


async def test_the_newest_of_each_asset_stay_for_the_next_preflight(conn: Connection) -> None:
    ids = [await ended(conn, START, "completed", minutes=OLD - n, code="v1") for n in range(NEWEST_KEPT + 2)]
    theirs = await ended(conn, START, "completed", minutes=OLD - 60, code="v1", tenant="theirs")
    await prune_backfills(conn)
    assert await kept(conn) == {*ids[:NEWEST_KEPT], theirs}


async def test_without_a_number_of_days_nothing_is_forgotten(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_BACKFILL_DAYS", "0")
    one = await ended(conn, START, "completed", minutes=OLD, code="v1")
    await several(conn)
    assert await prune_backfills(conn) == 0
    assert one in await kept(conn)


@covers("B-67")
async def test_an_upstream_whose_backfills_are_forgotten_is_still_complete(conn: Connection) -> None:
    """Of ranges of keys too: a partition covers its range, not its first key alone."""
    await conn.execute("CREATE TABLE things AS SELECT n::bigint AS id FROM generate_series(1, 300) AS n")
    rows = KeyRange("things", rows=100)
    known = Assets(
        [
            asset("days", make, partitions=rows, version="v1"),
            asset("below", make, partitions=rows, upstream=[Upstream("days")], version="v1"),
        ]
    )
    known.bind()
    old = await ended(conn, 1, "completed", "completed", "completed", minutes=OLD, code="v1")
    for n, (ordinal, key) in enumerate([(1, "1..100"), (101, "101..200"), (201, "201..300")], 1):
        await conn.execute(
            "UPDATE backfill_partitions SET ordinal = $3, partition_key = $4"
            " WHERE backfill_job_id = $1 AND ordinal = $2", old, 4 - n, -ordinal, key,
        )  # fmt: skip
    await conn.execute("UPDATE backfill_partitions SET ordinal = -ordinal WHERE ordinal < 0")
    await conn.execute("UPDATE backfill_jobs SET covers = '{[1,301)}'")
    await several(conn)

    async def upstream() -> list[str]:
        selection = await select(known, Request(asset="below"), DatabaseFacts(conn, registering=False))
        looked = await preflight(conn, known, selection, Options(), tenant="default")
        return [found.text for found in looked.findings if found.check == "upstream"]

    assert await upstream() == []
    await conn.execute("UPDATE backfill_jobs SET failed_partitions = 1 WHERE id = $1", old)
    assert await upstream() == [], "not wholly completed: its partitions are looked at"
    await conn.execute("UPDATE backfill_jobs SET failed_partitions = 0 WHERE id = $1", old)
    assert await prune_backfills(conn) == 3
    assert await upstream() == []
