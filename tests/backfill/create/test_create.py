"""Create: what a request comes to in the database, or why nothing of it is there."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any
from uuid import UUID

import pytest

from starforge.backfill.asset.asset import Asset, Assets, asset
from starforge.backfill.create.create import Created, create, create_frozen
from starforge.backfill.create.options import Options
from starforge.backfill.errors import (
    BackfillOptionError,
    BackwardRangeError,
    KeyTableError,
    NothingSelectedError,
    OverlapError,
    PartitionKeyError,
    TooManyPartitionsError,
    UnknownAssetError,
)
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.hourly import Hourly
from starforge.backfill.scheme.keyed import KeyRange, Static
from starforge.backfill.scheme.scheme import Scheme
from starforge.backfill.scheme.snapshot_range import SnapshotRange
from starforge.backfill.scheme.window import Daily, Monthly
from starforge.backfill.select.select import Request
from starforge.db.pool import Connection, Pool
from starforge.errors import InvalidInputError
from tests.covers import covers

DAYS = Daily("2024-01-01")


async def fill(partition: Partition[Any]) -> None:
    """Do nothing."""


def made(name: str, partitions: Scheme = DAYS, **options: Any) -> Asset:
    return asset(name, fill, partitions=partitions, **{"version": "1", **options})


SHOP = Assets(
    [
        made("orders", concurrency=3, retries=4),
        made("totals", Monthly("2024-01"), upstream=["orders"]),
        made("regions", Static("eu", "us", "asia")),
    ]
)


async def made_of(conn: Connection, assets: Assets = SHOP, **wanted: Any) -> Created:
    names = ("concurrency", "priority", "sla", "attempts", "failed_max")
    options = Options(**{name: wanted.pop(name) for name in names if name in wanted})
    tenant = wanted.pop("tenant", "default")
    return await create(conn, assets, Request(**wanted), options, tenant=tenant, actor="ann")


async def row_of(conn: Connection, backfill_id: UUID) -> Any:
    return await conn.fetchrow("SELECT * FROM backfill_jobs WHERE id = $1", backfill_id)


async def keys_of(conn: Connection, backfill_id: UUID) -> list[str]:
    rows = await conn.fetch(
        "SELECT partition_key FROM backfill_partitions WHERE backfill_job_id = $1 ORDER BY ordinal",
        backfill_id,
    )
    return [row["partition_key"] for row in rows]


@covers("B-04", "B-05")
async def test_a_backfill_is_a_row_and_its_partitions_which_do_not_change_any_more(conn: Connection) -> None:
    found = await made_of(conn, asset="orders", first="2024-02-27", last="2024-03-01", canary=0.5, sla="6h")
    row = await row_of(conn, found.id)
    assert (row["state"], row["version"], row["total_partitions"], row["canary_partitions"]) == (
        "pending",
        1,
        4,
        2,
    )
    assert (row["job_type"], row["concurrency"], row["attempts_max"], row["failed_max"]) == (
        "asset:orders",
        3,
        5,
        0,
    )
    assert (row["created_by"], row["code_version"], row["tenant_id"]) == ("ann", "1", "default")
    assert row["sla_at"] > row["created_at"]
    assert await keys_of(conn, found.id) == ["2024-02-27", "2024-02-28", "2024-02-29", "2024-03-01"]
    chosen = await conn.fetch(
        "SELECT partition_key FROM backfill_partitions WHERE is_canary ORDER BY ordinal"
    )
    assert [one["partition_key"] for one in chosen] == ["2024-02-27", "2024-03-01"]
    said = {"from": "2024-02-27", "to": "2024-03-01", "canary": 0.5, "sla": "6h"}
    assert row["request"] == {"asset": "orders", **said}


@covers("B-69")
async def test_a_concurrency_that_was_asked_for_holds_over_all_workers(conn: Connection) -> None:
    usual = await made_of(conn, asset="orders", keys=("2024-01-01",), concurrency=3)
    more = await made_of(conn, asset="orders", keys=("2024-01-02",), concurrency=9)
    rows = await conn.fetch("SELECT scope, name, setting, value FROM setting_overrides")
    assert [tuple(row) for row in rows] == [("key", str(more.id), "limit", 9)]
    assert (await row_of(conn, usual.id))["concurrency"] == 3
    assert (await row_of(conn, more.id))["concurrency"] == 9


async def test_assets_that_share_a_job_type_have_their_own_concurrency(conn: Connection) -> None:
    again = Assets([made("again", SnapshotRange("hero", every=DAYS), concurrency=2)])
    found = await made_of(conn, again, asset="again", keys=("2024-01-01",))
    assert (await row_of(conn, found.id))["job_type"] == "backfill_range"
    assert await conn.fetchval("SELECT value FROM setting_overrides WHERE name = $1", str(found.id)) == 2


async def test_upstream_is_created_first_and_waited_for(conn: Connection) -> None:
    found = await made_of(conn, asset="totals", keys=("2024-02",), include_upstream=True)
    above, below = found.backfills
    assert (above.asset, above.partitions, above.waits_for) == ("orders", 29, ())
    assert (below.asset, below.waits_for) == ("totals", (above.id,))
    assert (await row_of(conn, below.id))["waits_for"] == [above.id]
    assert (await row_of(conn, above.id))["request"] == {"asset": "orders", "included_for": "totals"}


@covers("D-14")
async def test_names_keep_their_ordinals_whatever_is_declared_later(conn: Connection) -> None:
    await made_of(conn, asset="regions", keys=("us",))
    later = Assets([made("regions", Static("asia", "africa", "us"))])
    found = await made_of(conn, later, asset="regions", keys=("africa", "asia"))
    assert await keys_of(conn, found.id) == ["asia", "africa"]
    named = await conn.fetch("SELECT partition_key FROM backfill_names ORDER BY ordinal")
    assert [row["partition_key"] for row in named] == ["eu", "us", "asia", "africa"]


async def test_a_key_range_takes_in_what_the_table_holds(conn: Connection) -> None:
    await conn.execute('CREATE SCHEMA "Shop"; CREATE TABLE "Shop"."or""ders" ("Id" bigint PRIMARY KEY)')
    assets = Assets([made("walk", KeyRange('Shop.or"ders', key="Id", rows=100))])
    with pytest.raises(NothingSelectedError, match="there are no rows"):
        await made_of(conn, assets, asset="walk")
    await conn.execute('INSERT INTO "Shop"."or""ders" SELECT generate_series(150, 320)')
    found = await made_of(conn, assets, asset="walk")
    assert await keys_of(conn, found.id) == ["101..200", "201..300", "301..400"]
    assert [(r.lower, r.upper) for r in (await row_of(conn, found.id))["covers"]] == [(101, 401)]


@pytest.mark.parametrize(
    ("low", "high", "ends"),
    [(9223372036854775800, 9223372036854775807, {"end": 9223372036854775806}),
     (-9223372036854775808, -9223372036854775800, {"start": -9223372036854775807})],
)  # fmt: skip
async def test_the_outermost_keys_there_are_are_not_left_out_without_a_word(
    conn: Connection, low: int, high: int, ends: dict[str, Any]
) -> None:
    """No range ends behind the one, and none is found that begins with the other."""
    await conn.execute("CREATE TABLE ends (id bigint PRIMARY KEY)")
    await conn.execute("INSERT INTO ends VALUES ($1), ($2)", low, high)
    with pytest.raises(KeyTableError, match=f"has id {low} to {high}, .* declare start= or end="):
        await made_of(conn, Assets([made("walk", KeyRange("ends", rows=1000))]), asset="walk")
    found = await made_of(conn, Assets([made("walk", KeyRange("ends", rows=1000, **ends))]), asset="walk")
    assert await conn.fetchval("SELECT count(*) FROM backfill_partitions") == found.partitions
    ordinals = [row[0] for row in await conn.fetch("SELECT ordinal FROM backfill_partitions")]
    assert min(ordinals) > -9223372036854775808


@pytest.mark.parametrize(
    ("scheme", "told"),
    [
        (KeyRange("no.such"), "there is no table no.such for .* to walk"),
        (KeyRange("workers", key="nothing"), "table workers has no column nothing"),
        (KeyRange("workers", key="host"), "column host of workers is text"),
    ],
)
async def test_a_table_that_cannot_be_walked_is_named(conn: Connection, scheme: KeyRange, told: str) -> None:
    with pytest.raises(KeyTableError, match=told):
        await made_of(conn, Assets([made("walk", scheme)]), asset="walk")
    assert await conn.fetchval("SELECT 1") == 1


@covers("D-11")
async def test_an_overlap_is_refused_with_the_other_backfill_and_what_would_work(conn: Connection) -> None:
    other = await made_of(conn, asset="orders", first="2024-01-03", last="2024-01-05")
    with pytest.raises(OverlapError) as refused:
        await made_of(conn, asset="orders", first="2024-01-01", last="2024-01-04")
    told = str(refused.value)
    assert f"backfill {other.id} (pending, created by ann at " in told
    assert "has 2 partitions of them: 2024-01-03, 2024-01-04. " in told
    assert f"`starforge backfill status {other.id}`" in told
    assert f"`starforge backfill cancel {other.id} --reason TEXT`" in told
    assert told.endswith("is `starforge backfill create orders --from 2024-01-01 --to 2024-01-02`")
    await made_of(conn, asset="orders", first="2024-01-01", last="2024-01-02")
    await conn.execute("UPDATE backfill_jobs SET state = 'cancelled' WHERE id = $1", other.id)
    await made_of(conn, asset="orders", first="2024-01-03", last="2024-01-04")


async def test_names_and_key_ranges_overlap_by_what_they_hold(conn: Connection) -> None:
    await made_of(conn, asset="regions", keys=("us", "eu"))
    with pytest.raises(OverlapError, match=r"has 1 partition of them: us\. .*can be chosen with --keys"):
        await made_of(conn, asset="regions", keys=("us", "asia"))
    await conn.execute("CREATE TABLE rows (id int PRIMARY KEY); INSERT INTO rows VALUES (1), (1000)")
    await made_of(conn, Assets([made("walk", KeyRange("rows", rows=100))]), asset="walk", keys=("101..200",))
    wider = Assets([made("walk", KeyRange("rows", rows=150))])
    with pytest.raises(OverlapError, match=r"of them: 101\.\.150, 151\.\.200\. "):
        await made_of(conn, wider, asset="walk", first="1..150", last="151..300")


@pytest.mark.parametrize(
    ("wanted", "error", "told"),
    [
        ({"asset": "oders"}, UnknownAssetError, "did you mean orders"),
        (
            {"asset": "orders", "first": "2024-02-01", "last": "2024-01-01"},
            BackwardRangeError,
            "before it starts",
        ),
        ({"asset": "orders", "keys": ("2024-02-30",)}, PartitionKeyError, "not in the calendar"),
        (
            {"asset": "regions", "keys": ("mars",)},
            PartitionKeyError,
            "none of the declared names: eu, us, asia",
        ),
        (
            {"asset": "orders", "concurrency": 0},
            BackfillOptionError,
            "--concurrency 0: it is a whole number from 1",
        ),
        ({"asset": "orders", "sla": "soon"}, InvalidInputError, "write 90m, 2h, 1h30m"),
        ({"asset": "orders", "sla": "2020-01-01T00:00Z"}, InvalidInputError, "is not after now"),
        ({"asset": "orders", "failed_max": -1}, BackfillOptionError, "--failed-max -1"),
    ],
)
async def test_what_cannot_be_created_is_refused_and_nothing_is_there(
    conn: Connection, wanted: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        await made_of(conn, **wanted)
    assert await conn.fetchval("SELECT count(*) FROM backfill_jobs") == 0


async def test_more_partitions_than_allowed_are_refused(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_BACKFILL_PARTITIONS_MAX", "10")
    with pytest.raises(TooManyPartitionsError, match="one backfill may have 10: the first of several may be"):
        await made_of(conn, asset="orders")
    days = [(f"2024-01-{day:02}", day) for day in range(1, 12)]
    with pytest.raises(TooManyPartitionsError, match="11 partitions are asked for"):
        await create_frozen(conn, SHOP, "orders", days, tenant="default", actor="ann", why="failed")


@covers("B-43", "B-44")
async def test_chosen_partitions_are_frozen_as_they_are_and_like_their_parent(conn: Connection) -> None:
    parent = await made_of(conn, asset="regions", priority=7, concurrency=2, attempts=9, failed_max=1)
    await conn.execute("UPDATE backfill_jobs SET state = 'cancelled' WHERE id = $1", parent.id)
    row = await row_of(conn, parent.id)
    found = await create_frozen(
        conn,
        SHOP,
        "regions",
        [("asia", 2), ("eu", 0)],
        like=row,
        options=Options(attempts=4),
        tenant="default",
        actor="bob",
        why="failed",
    )
    again = await row_of(conn, found.id)
    assert (again["parent_id"], again["priority"], again["concurrency"]) == (parent.id, 7, 2)
    assert (again["attempts_max"], again["failed_max"], again["total_partitions"]) == (4, 1, 2)
    assert again["request"]["frozen"] == "failed"
    assert await keys_of(conn, found.id) == ["eu", "asia"]
    with pytest.raises(OverlapError):
        await create_frozen(conn, SHOP, "regions", [("asia", 2)], tenant="default", actor="bob", why="stale")
    with pytest.raises(NothingSelectedError, match="there is no stale partition"):
        await create_frozen(conn, SHOP, "regions", [], tenant="default", actor="bob", why="stale")


@pytest.mark.parametrize("listed", [("2024-01", 648), ("2024-01-01", 648)])
async def test_chosen_partitions_that_are_others_by_now_are_refused(
    conn: Connection, listed: tuple[str, int]
) -> None:
    """An asset by months was one by days when its partitions were chosen, or the other way round."""
    with pytest.raises(PartitionKeyError, match=r"'2024-01.*' is"):
        await create_frozen(conn, SHOP, "orders", [listed], tenant="default", actor="bob", why="failed")


@covers("B-70")
async def test_a_tenant_has_its_own_backfills_and_sees_no_other(conn: Connection) -> None:
    await conn.execute("SET LOCAL ROLE starforge_app; SELECT set_config('starforge.tenant_id', 'a', true)")
    await made_of(conn, asset="orders", keys=("2024-01-01",), tenant="a")
    await conn.execute("SELECT set_config('starforge.tenant_id', 'b', true)")
    found = await made_of(conn, asset="orders", keys=("2024-01-01",), tenant="b")
    assert [row["id"] for row in await conn.fetch("SELECT id FROM backfill_jobs")] == [found.id]
    assert await conn.fetchval("SELECT count(*) FROM backfill_partitions") == 1


async def test_only_what_is_stale_is_made_again_where_that_is_asked_for(conn: Connection) -> None:
    named = Assets([made("regions", Static("eu", "us"))])
    first = await made_of(conn, named, asset="regions", keys=("us",))
    await conn.execute(
        "UPDATE backfill_partitions SET state = 'completed', completed_at = sf_now(), code_version = '1'"
    )
    await conn.execute("UPDATE backfill_jobs SET state = 'running' WHERE id = $1", first.id)
    await conn.execute("UPDATE backfill_jobs SET state = 'completed' WHERE id = $1", first.id)
    more = Assets([made("regions", Static("africa", "us", "asia"))])
    found = await made_of(conn, more, asset="regions", stale=True)
    assert await keys_of(conn, found.id) == ["africa", "asia"]
    assert (await row_of(conn, found.id))["request"] == {"asset": "regions", "stale": True}
    rows = await conn.fetch("SELECT partition_key FROM backfill_names ORDER BY ordinal")
    assert [row["partition_key"] for row in rows] == ["eu", "us", "africa", "asia"]
    with pytest.raises(NothingSelectedError, match="none of 1 partition is stale"):
        await made_of(conn, Assets([made("regions", Static("us"))]), asset="regions", stale=True)


@covers("D-11")
async def test_of_two_that_ask_at_once_one_is_refused_by_the_database(pool: Pool) -> None:
    """The second waits for the first one's transaction and then meets its row."""

    async def ask() -> Created | OverlapError:
        try:
            async with pool.transaction(tenant="default") as conn:
                return await made_of(conn, asset="orders", first="2024-01-01", last="2024-12-31")
        except OverlapError as error:
            return error

    found = await asyncio.gather(*(ask() for _ in range(4)))
    [created] = [one for one in found if isinstance(one, Created)]
    assert all(str(created.id) in str(one) for one in found if one is not created)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM backfill_partitions") == 366


@covers("D-14")
async def test_names_that_are_seen_first_at_once_get_one_ordinal_each(pool: Pool) -> None:
    assets = [Assets([made("regions", Static(*names))]) for names in (("a", "b"), ("b", "c"), ("c", "a"))]

    async def ask(declared: Assets, key: str) -> None:
        async with pool.transaction(tenant="default") as conn:
            await made_of(conn, declared, asset="regions", keys=(key,))

    await asyncio.gather(*map(ask, assets, "abc"))
    async with pool.connection() as conn:
        rows = await conn.fetch("SELECT partition_key, ordinal FROM backfill_names ORDER BY ordinal")
        assert [row["ordinal"] for row in rows] == [0, 1, 2]
        kept = await conn.fetch("SELECT partition_key, ordinal FROM backfill_partitions ORDER BY ordinal")
    assert [tuple(row) for row in kept] == [tuple(row) for row in rows]


async def test_a_table_that_the_role_may_not_read_is_named_with_the_role(conn: Connection) -> None:
    await conn.execute("CREATE TABLE secret (id int PRIMARY KEY); SET LOCAL ROLE starforge_operator")
    with pytest.raises(KeyTableError, match="cannot be read as starforge_operator: permission denied"):
        await made_of(conn, Assets([made("walk", KeyRange("secret"))]), asset="walk")


@pytest.mark.once("it is about this process's memory")
async def test_four_times_the_partitions_take_no_more_memory(conn: Connection) -> None:
    """They are made and written so many at a time: half a million take as little as 20 000."""
    peaks = []
    for name, last in (("a", "1962-04-13T07"), ("b", "1969-02-15T07")):
        hours = Assets([made(name, Hourly("1960-01-01T00"))])
        tracemalloc.start()
        try:
            found = await made_of(conn, hours, asset=name, last=last)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert found.partitions == (20_000 if name == "a" else 80_000)
    assert peaks[1] < 1.2 * peaks[0]
