"""Partitions by name and by key: the same rows have the same key each time, and overlaps show."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from starforge.backfill.errors import AssetDeclarationError, PartitionKeyError
from starforge.backfill.scheme.keyed import KEY_MAX, KEY_MIN, KeyRange, Static
from starforge.backfill.scheme.scheme import KeySpan, Named, clipped, merged
from tests.covers import covers

KEYS = st.integers(-10_000, 10_000) | st.integers(KEY_MIN, KEY_MAX)
ROWS = st.integers(1, 5_000)


@settings(max_examples=300, deadline=None)
@given(KEYS, st.integers(0, 20_000), ROWS)
@covers("D-14")
def test_the_partitions_of_a_range_hold_each_value_once_and_are_in_order(
    lowest: int, more: int, rows: int
) -> None:
    highest = min(KEY_MAX, lowest + more)
    assume(more / rows < 2000)
    scheme = KeyRange("t", rows=rows)
    span = scheme.span(str(lowest), str(highest))
    listed = list(scheme.listed([span]))
    assert scheme.count(span) == len(listed)
    bounds = [scheme.bounds(key) for key, _ in listed]
    assert [each.first for each in bounds] == [ordinal for _, ordinal in listed]
    assert [scheme.ordinal(key) for key, _ in listed] == [ordinal for _, ordinal in listed]
    assert (bounds[0].first, bounds[-1].last) == (lowest, highest)
    assert all(before.end == after.first for before, after in pairwise(bounds))
    assert all(0 < each.end - each.first <= rows for each in bounds)
    assert scheme.last_key([span]) == listed[-1][0]
    assert scheme.covers(key for key, _ in listed) == [span]
    assert list(scheme.listed([scheme.head(span, 3)])) == listed[:3]


@settings(max_examples=100, deadline=None)
@given(st.integers(-5_000, 5_000), st.integers(0, 3_000), st.integers(-2_000, 2_000), ROWS)
def test_a_table_that_has_grown_keeps_the_keys_of_its_rows(
    low: int, more: int, grown: int, rows: int
) -> None:
    scheme = KeyRange("t", rows=rows)
    before = {key for key, _ in scheme.listed([scheme.reach(low, low + more)])}
    after = {key for key, _ in scheme.listed([scheme.reach(low - abs(grown), low + more + abs(grown))])}
    assert before <= after


def test_a_key_is_the_first_and_the_last_value() -> None:
    scheme = KeyRange("shop.orders", rows=50_000)
    assert [key for key, _ in scheme.listed([scheme.reach(7, 60_000)])] == ["1..50000", "50001..100000"]
    assert scheme.bounds("1..50000") == KeySpan(1, 50_001, "shop.orders", "id")
    assert scheme.bounds("1..50000").last == 50_000
    assert scheme.bounds("-49999..0") == KeySpan(-49_999, 1, "shop.orders", "id")
    assert scheme.bounds("7") == KeySpan(7, 8, "shop.orders", "id")
    assert scheme.table_parts == ("shop", "orders")


def test_backfills_of_the_same_rows_overlap_whatever_their_width() -> None:
    narrow, wide = KeyRange("t", rows=10), KeyRange("t", rows=1000)
    covered = narrow.covers(["501..510", "521..530"])
    assert covered == [(501, 511), (521, 531)]
    assert clipped(covered, wide.covers(["1..1000"])[0]) == covered
    assert clipped(covered, wide.covers(["1001..2000"])[0]) == []


def test_a_declared_start_and_end_cut_the_first_and_the_last_partition() -> None:
    scheme = KeyRange("t", rows=100, start=50, end=230)
    assert [key for key, _ in scheme.listed([scheme.reach(1, 999)])] == ["50..100", "101..200", "201..230"]
    first, end = scheme.reach(500, 999)
    assert first == end


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("9..1", "ends before it starts: write 1..9"),
        ("1-9", "is not written as a range of keys is: 1..50000"),
        ("", "is not written"),
        ("a..b", "is not written"),
        ("9223372036854775807", "is out of reach"),
        ("1..99999999999999999999", "is not written"),
        ("١..٩", "is not written"),
    ],
)
def test_a_text_that_is_no_range_of_keys_is_refused(key: str, told: str) -> None:
    with pytest.raises(PartitionKeyError, match=told):
        KeyRange("t").bounds(key)


def test_names_keep_the_order_in_which_they_are_declared() -> None:
    scheme = Static("us", "eu", "asia")
    assert [key for key, _ in scheme.listed([scheme.reach()])] == ["us", "eu", "asia"]
    assert scheme.span("us", "eu") == (0, 2)
    assert scheme.bounds(" eu ") == Named("eu")
    assert scheme.ordinal("eu") is None
    assert scheme.last_key([scheme.reach()]) == "asia"
    with pytest.raises(PartitionKeyError, match="'mars' is none of the declared names: us, eu, asia"):
        scheme.bounds("mars")


@pytest.mark.parametrize(
    ("declare", "told"),
    [
        (lambda: Static(), "has no names"),
        (lambda: Static("a", "b", "a"), "names a twice"),
        (lambda: Static(" a"), "without blanks around it"),
        (lambda: Static("a,b"), "no commas"),
        (lambda: Static("a\x00"), "no control characters"),
        (lambda: Static(cast(Any, ["a"])), "a name is text"),
        (lambda: KeyRange("t", rows=0), "rows is 0; it must be a whole number from 1"),
        (lambda: KeyRange("t", rows=True), "rows is True"),
        (lambda: KeyRange("a.b.c"), "must name a table or schema.table"),
        (lambda: KeyRange(""), "must name a table"),
        (lambda: KeyRange("t", key="a.b"), "must name a column"),
        (lambda: KeyRange("t" * 64), "must name a table"),
        (lambda: KeyRange("t", start=9, end=8), "ends at 8, before its start 9"),
        (lambda: KeyRange("t", end=2**63 - 1), "end is 9223372036854775807"),
    ],
)
def test_a_scheme_that_cannot_be_is_refused_where_it_is_declared(
    declare: Callable[[], object], told: str
) -> None:
    with pytest.raises(AssetDeclarationError, match=told):
        declare()


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))))
def test_merged_spans_hold_the_same_places_in_order_and_do_not_touch(spans: list[tuple[int, int]]) -> None:
    found = merged(spans)
    assert {at for first, end in found for at in range(first, end)} == {
        at for first, end in spans for at in range(first, end)
    }
    assert all(before[1] < after[0] for before, after in pairwise(found))
    assert all(first < end for first, end in found)
