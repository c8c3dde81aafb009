"""From a request to the frozen list of partitions, or to a refusal that says what would work."""

from __future__ import annotations

import re
import sys
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starforge.backfill.asset.asset import Asset, Assets, asset
from starforge.backfill.asset.upstream import Upstream
from starforge.backfill.errors import (
    BackwardRangeError,
    NothingSelectedError,
    OutsidePartitionsError,
    PartitionKeyError,
    SelectionError,
    TooManyPartitionsError,
    UnknownAssetError,
    UpstreamDepthError,
)
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.hourly import Hourly
from starforge.backfill.scheme.keyed import KeyRange, Static
from starforge.backfill.scheme.scheme import Scheme
from starforge.backfill.scheme.window import Daily, Monthly
from starforge.backfill.select.canary import Canary, share_of
from starforge.backfill.select.select import Request, select
from starforge.backfill.select.selection import AnyPart, Selection
from tests.covers import covers

NOW = datetime(2025, 1, 1, 9, 30, tzinfo=UTC)
MB = 1_000_000


class Known:
    """What a database would answer."""

    def __init__(self, held: tuple[int, int] | None = None) -> None:
        self.held = held
        self.given: dict[str, dict[str, int]] = {}

    async def now(self) -> datetime:
        return NOW

    async def keys(self, scheme: KeyRange) -> tuple[int, int] | None:
        return self.held

    async def ordinals(self, asset: str, names: Sequence[str]) -> Mapping[str, int]:
        given = self.given.setdefault(asset, {})
        for name in names:
            given.setdefault(name, len(given) + 1)
        return {name: given[name] for name in names}


async def fill(partition: Partition[Any]) -> None: ...


def made(name: str, partitions: Scheme, upstream: Sequence[str | Upstream] = ()) -> Asset:
    return asset(name, fill, partitions=partitions, upstream=upstream)


DAYS = Assets([made("orders", Daily("2024-01-01"))])
ROWS = Assets([made("rows", KeyRange("t", rows=100))])
NAMES = Assets([made("regions", Static("us", "north america", "asia"))])


def keys(part: AnyPart) -> list[str]:
    return [listed.key for listed in part.partitions()]


async def chosen(assets: Assets, facts: Known | None = None, **request: Any) -> list[str]:
    return keys((await select(assets, Request(**request), facts or Known((1, 950)))).asked)


async def test_a_range_includes_both_of_its_ends() -> None:
    assert await chosen(DAYS, asset="orders", first="2024-02-28", last="2024-03-01") == [
        "2024-02-28",
        "2024-02-29",
        "2024-03-01",
    ]


async def test_without_a_range_it_is_everything_that_has_ended() -> None:
    found = await chosen(DAYS, asset="orders")
    assert (found[0], found[-1], len(found)) == ("2024-01-01", "2024-12-31", 366)
    assert await chosen(ROWS, asset="rows", first="301", last="500") == ["301..400", "401..500"]
    assert await chosen(NAMES, asset="regions", first="north america") == ["north america", "asia"]


@covers("D-14")
async def test_keys_are_taken_once_and_in_the_order_of_partitions() -> None:
    named = ("2024-03-01", "2024-02-29", "2024-03-01", "2024-01-05")
    found = (await select(DAYS, Request(asset="orders", keys=named), Known())).asked
    assert keys(found) == ["2024-01-05", "2024-02-29", "2024-03-01"]
    ordinals = [listed.ordinal for listed in found.partitions()]
    assert ordinals == sorted(ordinals)
    assert found.covers == [(ordinals[0], ordinals[0] + 1), (ordinals[1], ordinals[2] + 1)]


@covers("D-14")
async def test_a_name_that_is_added_later_comes_last_and_takes_nobodys_ordinal() -> None:
    facts = Known()
    request = Request(asset="regions")
    before = (await select(NAMES, request, facts)).asked
    assert [(listed.key, listed.ordinal) for listed in before.partitions()] == [
        ("us", 1),
        ("north america", 2),
        ("asia", 3),
    ]
    later = Assets([made("regions", Static("us", "eu", "asia"))])
    after = (await select(later, request, facts)).asked
    assert [(listed.key, listed.ordinal) for listed in after.partitions()] == [
        ("us", 1),
        ("asia", 3),
        ("eu", 4),
    ]
    assert after.covers == [(1, 2), (3, 5)]
    assert (after.first_key, after.last_key, after.total) == ("us", "eu", 3)


REFUSED = [
    (DAYS, {"asset": "order"}, UnknownAssetError, "did you mean orders"),
    (
        DAYS,
        {"asset": "orders", "first": "2024-03-01", "last": "2024-02-01"},
        BackwardRangeError,
        "ends at 2024-02-01, before it starts at 2024-03-01: `starforge backfill create orders"
        " --from 2024-02-01 --to 2024-03-01`",
    ),
    (
        DAYS,
        {"asset": "orders", "first": "2023-12-31"},
        OutsidePartitionsError,
        "2023-12-31 is before the first partition of asset orders, 2024-01-01: `starforge backfill create"
        " orders --from 2024-01-01 --to 2024-12-31`",
    ),
    (
        DAYS,
        {"asset": "orders", "last": "2025-01-01"},
        OutsidePartitionsError,
        "2025-01-01 of asset orders has not ended: it ends at 2025-01-02 00:00 UTC, it is 2025-01-01 09:30",
    ),
    (DAYS, {"asset": "orders", "first": "2031-01-01"}, OutsidePartitionsError, "has not ended"),
    (
        DAYS,
        {"asset": "orders", "keys": ("2024-05-01", "2031-01-01")},
        OutsidePartitionsError,
        "has not ended",
    ),
    (
        Assets([made("old", Daily("2020-01-01", end="2020-12-31"))]),
        {"asset": "old", "last": "2021-01-01"},
        OutsidePartitionsError,
        "2021-01-01 is beyond the last partition of asset old, 2020-12-31: `starforge backfill create old",
    ),
    (
        DAYS,
        {"asset": "orders", "keys": ("2024-02-30",)},
        PartitionKeyError,
        "'2024-02-30' is not in the calendar: day is out of range for month (asset orders; such as `starforge"
        " backfill create orders --from 2024-01-01 --to 2024-12-31`)",
    ),
    (
        NAMES,
        {"asset": "regions", "first": "mars"},
        PartitionKeyError,
        "'mars' is none of the declared names: us, north america, asia",
    ),
    (
        NAMES,
        {"asset": "regions", "first": "asia", "last": "north america"},
        BackwardRangeError,
        "--from 'north america' --to asia`",
    ),
    (
        ROWS,
        {"asset": "rows", "last": "5000"},
        OutsidePartitionsError,
        "beyond the last partition of asset rows",
    ),
    (
        Assets([made("soon", Daily("2025-01-01"))]),
        {"asset": "soon"},
        NothingSelectedError,
        "asset soon has no partition yet: its first one, 2025-01-01, ends at 2025-01-02 00:00 UTC",
    ),
]


@pytest.mark.parametrize(("assets", "request_", "error", "told"), REFUSED)
async def test_a_request_is_refused_with_what_is_wrong_and_what_would_work(
    assets: Assets, request_: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=re.escape(told)):
        await chosen(assets, **request_)


async def test_the_command_that_a_refusal_names_works() -> None:
    with pytest.raises(OutsidePartitionsError) as refused:
        await chosen(DAYS, asset="orders", last="2031-01-01")
    command = re.search(r"create orders --from (\S+) --to (\S+)`", str(refused.value))
    assert command is not None
    assert len(await chosen(DAYS, asset="orders", first=command[1], last=command[2])) == 366


async def test_an_empty_table_is_no_backfill() -> None:
    with pytest.raises(
        NothingSelectedError, match="asset rows has no partitions: there are no rows in t by id"
    ):
        await select(ROWS, Request(asset="rows"), Known(None))


async def test_a_negative_key_stands_in_the_command_as_a_shell_takes_it() -> None:
    with pytest.raises(OutsidePartitionsError, match=r"--from=-199\.\.-100 --to 1\.\.100`"):
        await chosen(ROWS, Known((-150, 5)), asset="rows", first="-5000")


async def test_more_than_the_allowed_partitions_are_refused_with_a_part_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STARFORGE_BACKFILL_PARTITIONS_MAX", "100")
    told = "366 partitions are asked for and one backfill may have 100: the first of several may be"
    with pytest.raises(TooManyPartitionsError, match=told) as refused:
        await chosen(DAYS, asset="orders")
    assert "--from 2024-01-01 --to 2024-04-09`" in str(refused.value)
    assert len(await chosen(DAYS, asset="orders", first="2024-01-01", last="2024-04-09")) == 100


async def test_keys_that_lie_far_apart_are_refused_without_being_listed() -> None:
    with pytest.raises(TooManyPartitionsError, match=r"or declare wider ones \(rows=100\)"):
        await chosen(ROWS, Known((1, 2**62)), asset="rows")


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"keys": ("a",), "first": "b"}, "leave --from and --to out, or --keys"),
        ({"max_depth": 2}, "give both or neither"),
        ({"max_depth": 0, "include_upstream": True}, "it is 1 or more"),
        ({"canary": 0.0}, "--canary 0.0: write a share above 0 and below 100 %"),
        ({"canary": 1.0}, "--canary 1.0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(request_: dict[str, Any], told: str) -> None:
    with pytest.raises(SelectionError, match=re.escape(told)):
        Request(asset="orders", **request_)


CHAIN = Assets(
    [
        made("monthly", Monthly("2024-01"), ["daily", "visits"]),
        made("daily", Daily("2024-01-01"), ["raw"]),
        made("visits", Daily("2024-02-15"), ["raw"]),
        made("raw", Hourly("2024-01-01T00")),
    ]
)


def summary(selection: Selection) -> list[tuple[str, int, str, str]]:
    return [(part.asset.name, part.total, part.first_key, part.last_key) for part in selection.parts]


async def test_upstream_comes_first_with_the_partitions_that_the_chosen_ones_are_made_from() -> None:
    request = Request(asset="monthly", first="2024-02", last="2024-02", include_upstream=True)
    found = await select(CHAIN, request, Known())
    assert summary(found)[0] == ("raw", 29 * 24, "2024-02-01T00", "2024-02-29T23")
    assert sorted(summary(found)[1:3]) == [
        ("daily", 29, "2024-02-01", "2024-02-29"),
        ("visits", 15, "2024-02-15", "2024-02-29"),
    ]
    assert summary(found)[3] == ("monthly", 1, "2024-02", "2024-02")
    assert found.total == 29 * 24 + 29 + 15 + 1
    assert {part.asset.name: part.level for part in found.parts} == {
        "raw": 2,
        "daily": 1,
        "visits": 1,
        "monthly": 0,
    }
    assert found.notes == (
        "14 partitions of upstream visits that monthly is made from do not exist or have not ended",
    )


async def test_without_being_told_no_upstream_is_included() -> None:
    found = await select(CHAIN, Request(asset="monthly", first="2024-02"), Known())
    assert [part.asset.name for part in found.parts] == ["monthly"]


async def test_a_depth_leaves_what_is_above_as_it_is_and_says_so() -> None:
    request = Request(asset="monthly", first="2024-03", last="2024-03", include_upstream=True, max_depth=1)
    found = await select(CHAIN, request, Known())
    assert sorted(part.asset.name for part in found.parts) == ["daily", "monthly", "visits"]
    assert found.notes == ("left as it is, above level 1: raw",)


async def test_an_upstream_deeper_than_allowed_is_refused_unless_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STARFORGE_BACKFILL_UPSTREAM_DEPTH_MAX", "1")
    request: dict[str, Any] = {"asset": "monthly", "first": "2024-03", "include_upstream": True}
    told = "2 levels deep, and 1 are followed without being told: .* --max-depth 2`"
    with pytest.raises(UpstreamDepthError, match=told):
        await chosen(CHAIN, **request)
    assert (await chosen(CHAIN, **request, max_depth=2))[0] == "2024-03"


async def test_the_upstream_counts_towards_the_allowed_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFORGE_BACKFILL_PARTITIONS_MAX", "500")
    told = r"\(744 of raw, 31 of \w+, 31 of \w+, 1 of monthly\) and one backfill may have 500: "
    with pytest.raises(TooManyPartitionsError, match=told):
        await chosen(CHAIN, asset="monthly", first="2024-03", last="2024-03", include_upstream=True)


async def test_an_asset_comes_after_all_of_its_upstream_however_it_is_reached() -> None:
    """`raw` is one level up and, through `clean`, two."""
    days = Daily("2024-01-01")
    assets = Assets([made("top", days, ["raw", "clean"]), made("clean", days, ["raw"]), made("raw", days)])
    request = Request(asset="top", keys=("2024-05-01",), include_upstream=True)
    found = await select(assets, request, Known())
    assert [part.asset.name for part in found.parts] == ["raw", "clean", "top"]


async def test_what_does_not_exist_upstream_asks_for_nothing_further_up() -> None:
    """Days before the visits' start are no reason to make their raw hours."""
    days = Daily("2024-01-01")
    late = made("late", Daily("2024-03-01"), ["raw"])
    assets = Assets([made("top", days, ["late"]), late, made("raw", Hourly("2024-01-01T00"))])
    request = Request(asset="top", first="2024-02-28", last="2024-03-01", include_upstream=True)
    assert summary(await select(assets, request, Known())) == [
        ("raw", 24, "2024-03-01T00", "2024-03-01T23"),
        ("late", 1, "2024-03-01", "2024-03-01"),
        ("top", 3, "2024-02-28", "2024-03-01"),
    ]


async def test_a_key_that_is_made_from_nothing_ends_the_way_up() -> None:
    days = Daily("2024-01-01")
    assets = Assets(
        [
            made("top", days, [Upstream("middle", maps=lambda _key: [])]),
            made("middle", days, ["clean"]),
            made("clean", days, ["raw"]),
            made("raw", days),
        ]
    )
    request = Request(asset="top", keys=("2024-05-01",), include_upstream=True)
    assert [part.asset.name for part in (await select(assets, request, Known())).parts] == ["top"]


@settings(max_examples=300)
@given(st.integers(1, 5_000), st.floats(0.0001, 0.99))
def test_a_canary_is_a_share_spread_from_end_to_end(total: int, share: float) -> None:
    canary = Canary(share, total)
    positions = list(canary.positions())
    assert len(positions) == len(set(positions)) == canary.count
    assert positions == sorted(positions)
    assert share * total - 0.01 <= canary.count < share * total + 1.01
    if canary.count > 1:
        assert (positions[0], positions[-1]) == (0, total - 1)
        steps = {after - before for before, after in pairwise(positions)}
        assert max(steps) - min(steps) <= 1
    else:
        assert positions == [total // 2]


async def test_the_canary_is_marked_in_the_list_and_told() -> None:
    found = (await select(DAYS, Request(asset="orders", canary=0.01), Known())).asked
    marked = [listed.key for listed in found.partitions() if listed.canary]
    assert marked == ["2024-01-01", "2024-05-01", "2024-08-31", "2024-12-31"]
    assert found.told() == (
        "orders: 366 partitions, 2024-01-01 to 2024-12-31; first 4 of them, evenly spread: "
        + ", ".join(marked)
    )
    assert found.document()["canary"] == {"share": 0.01, "partitions": 4}
    whole = (await select(DAYS, Request(asset="orders", canary=0.05), Known())).asked
    assert whole.told().endswith("first 19 of them, evenly spread: its ends included")


def test_a_share_is_written_in_percent_or_as_a_fraction() -> None:
    assert (share_of("5%"), share_of(" 0.05 "), share_of("12.5 %")) == (0.05, 0.05, 0.125)
    for text in ("", "0%", "100%", "1", "five", "-1%", "5%%", "٥%"):
        with pytest.raises(SelectionError, match="above 0 and below 100 %"):
            share_of(text)


HALF_A_MILLION = 500_000


@pytest.mark.long
@pytest.mark.parametrize(
    "scheme",
    [
        KeyRange("t", rows=100),
        Hourly(NOW - timedelta(hours=HALF_A_MILLION), zone="Europe/Berlin"),
        Hourly(NOW - timedelta(hours=HALF_A_MILLION)),
    ],
)
async def test_half_a_million_partitions_are_listed_one_at_a_time(scheme: Scheme) -> None:
    """Seconds of processor time, since the machine may be busy."""
    assets = Assets([made("many", scheme)])
    part = (await select(assets, Request(asset="many", canary=0.05), Known((1, 100 * HALF_A_MILLION)))).asked
    assert part.total == HALF_A_MILLION
    began = time.process_time()
    assert sum(1 for _ in part.partitions()) == HALF_A_MILLION
    assert time.process_time() - began < 2.0
    kept = [listed.key for listed in part.partitions()]
    assert len(set(kept)) == HALF_A_MILLION
    assert sum(map(sys.getsizeof, kept)) + sys.getsizeof(kept) < 50 * MB


@pytest.mark.long
async def test_listing_partitions_takes_no_memory() -> None:
    assets = Assets([made("many", KeyRange("t", rows=100))])
    request = Request(asset="many", canary=0.05)
    part = (await select(assets, request, Known((1, 100 * HALF_A_MILLION)))).asked
    tracemalloc.start()
    try:
        assert sum(1 for _ in part.partitions()) == HALF_A_MILLION
        assert tracemalloc.get_traced_memory()[1] < 1 * MB
    finally:
        tracemalloc.stop()
