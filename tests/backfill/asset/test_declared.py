"""Declared assets: written down by workers, read back by whoever has not their code."""

from __future__ import annotations

from datetime import date
from typing import Any
from zoneinfo import available_timezones

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starforge.backfill.asset.asset import Asset, Assets, asset
from starforge.backfill.asset.declared import declare, declared_assets
from starforge.backfill.asset.upstream import Upstream
from starforge.backfill.asset.written import read, written
from starforge.backfill.create.create import create
from starforge.backfill.create.options import Options
from starforge.backfill.errors import AssetDeclarationError, MapsElsewhereError, StoredAssetError
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.hourly import Hourly
from starforge.backfill.scheme.keyed import KEY_MAX, KEY_MIN, NAME_REFUSED, KeyRange, Static
from starforge.backfill.scheme.scheme import Scheme
from starforge.backfill.scheme.snapshot_range import SnapshotRange
from starforge.backfill.scheme.window import Daily, Monthly
from starforge.backfill.select.select import Request
from starforge.db.pool import Connection
from tests.conftest import Travel
from tests.covers import covers

DAYS = Daily("2024-01-01")
ZONES = st.sampled_from(
    sorted({"UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata"} & available_timezones())
)


@st.composite
def calendars(draw: st.DrawFn) -> Daily | Hourly | Monthly:
    kinds: list[type[Daily] | type[Hourly] | type[Monthly]] = [Daily, Hourly, Monthly]
    kind = draw(st.sampled_from(kinds))
    dates = st.dates(date(1900, 1, 1), date(2100, 1, 1))
    zone = draw(ZONES)
    first, last = sorted([draw(dates), draw(dates)])
    end = draw(st.sampled_from([None, last]))
    try:
        return kind(draw(st.sampled_from([first, kind(first, zone=zone).start])), end, zone)
    except AssetDeclarationError:  # midnight is no hour of every zone on every day
        return Daily(first, end, zone)


def _is_name(text: str) -> bool:
    return text == text.strip() and NAME_REFUSED.search(text) is None


names = st.lists(st.text(min_size=1, max_size=20).filter(_is_name), min_size=1, max_size=5, unique=True)
whole = st.integers(KEY_MIN, KEY_MAX)
key_ranges = st.builds(
    lambda rows, ends: KeyRange('shop."Or ders', key="i d", rows=rows, start=ends[0], end=ends[1]),
    st.integers(1, 10**9),
    st.one_of(st.tuples(whole, whole).map(sorted), st.tuples(st.none(), whole), st.just((None, None))),
)
snapshots = st.builds(
    lambda every, by: SnapshotRange("hero", by, every=every),
    calendars(),
    st.sampled_from(["captured_at", "created_at"]),
)
schemes = st.one_of(calendars(), names.map(lambda given: Static(*given)), key_ranges, snapshots)


@given(schemes)
def test_a_scheme_goes_to_json_and_back_exactly(scheme: Scheme) -> None:
    kept = msgspec.json.decode(msgspec.json.encode(written(scheme)))
    found = read(kept)
    assert found == scheme
    assert type(found) is type(scheme)
    assert found.told() == scheme.told()
    assert written(found) == kept
    for attribute in ("first", "last", "_shift_s"):
        assert getattr(found, attribute, None) == getattr(scheme, attribute, None)


def test_a_scheme_that_this_version_does_not_know_is_refused() -> None:
    with pytest.raises(StoredAssetError, match="'weekly' is no kind of partitions that this version knows"):
        read({"kind": "weekly"})
    with pytest.raises(StoredAssetError, match="cannot be"):
        read({"kind": "daily", "start": "2024-01-01", "step": 2})


async def fill(partition: Partition[Any]) -> None:
    """Do nothing."""


def made(name: str, partitions: Scheme = DAYS, **options: Any) -> Asset:
    return asset(name, fill, partitions=partitions, **{"version": "1", **options})


async def stored(conn: Connection, name: str = "orders") -> tuple[str, int]:
    found = (await declared_assets(conn)).get(name)
    return found.version, found.slots


async def test_assets_are_read_back_as_they_were_declared_but_for_their_code(conn: Connection) -> None:
    regions = Static("eu", "us")
    orders = made("orders", regions, concurrency=7, timeout=60, retries=2, owner="shop", version="9")
    await declare(conn, Assets([orders, made("totals", regions, upstream=["orders"])]))
    found = await declared_assets(conn)
    assert found.names() == ("orders", "totals")
    back = found.get("orders")
    assert (back.partitions, back.slots, back.timeout_s, back.attempts_max) == (regions, 7, 60.0, 3)
    assert (back.owner, back.version, back.handler, back.job_type) == ("shop", "9", None, "asset:orders")
    assert found.get("totals").upstream == (Upstream("orders"),)
    found.bind()
    assert await declare(conn, Assets()) == []


async def test_what_is_mapped_by_a_function_can_only_be_followed_where_that_is(conn: Connection) -> None:
    edge = Upstream("orders", maps=lambda key: ["eu"])
    app = Assets([made("orders", Static("eu")), made("totals", upstream=[edge])])
    await declare(conn, app)
    found = await declared_assets(conn)
    request = Request(asset="totals", keys=("2024-01-01",), include_upstream=True)
    with pytest.raises(MapsElsewhereError, match=r"asset totals: which partitions of orders .* alone knows"):
        await create(conn, found, request, Options(), tenant="default", actor="ann")
    alone = await create(
        conn, found, Request(asset="totals", keys=("2024-01-02",)), Options(), tenant="default", actor="ann"
    )
    both = await create(conn, app, request, Options(), tenant="default", actor="ann")
    assert [len(alone.backfills), len(both.backfills)] == [1, 2]


@covers("B-69")
async def test_an_older_worker_that_starts_again_changes_nothing_while_newer_ones_live(
    conn: Connection, travel: Travel
) -> None:
    old, new = Assets([made("orders", version="1")]), Assets([made("orders", version="2", concurrency=9)])
    assert await declare(conn, old) == ["orders"]
    assert await declare(conn, new) == ["orders"]
    assert await declare(conn, old) == []
    assert await stored(conn) == ("2", 9)
    for _ in range(5):
        await travel(conn, seconds=60)
        assert await declare(conn, new) == ["orders"]
        assert await declare(conn, old) == []
    await travel(conn, seconds=181)
    assert await declare(conn, old) == ["orders"]
    assert await stored(conn) == ("1", 4)


async def test_a_declaration_that_was_just_repeated_writes_nothing(conn: Connection) -> None:
    assets = Assets([made("orders")])
    assert await declare(conn, assets) == ["orders"]
    assert await declare(conn, assets) == []


async def test_a_row_that_cannot_be_read_names_its_asset(conn: Connection) -> None:
    await declare(conn, Assets([made("orders")]))
    await conn.execute("""UPDATE backfill_assets SET scheme = '{"kind": "weekly"}'""")
    with pytest.raises(StoredAssetError, match="asset orders: 'weekly' is no kind"):
        await declared_assets(conn)
