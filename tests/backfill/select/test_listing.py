"""Listings keep half a million partitions in little memory, in the order of their ordinals."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from starforge.backfill.select.listing import Columns

PAIRS = st.lists(st.integers(0, 30).map(lambda place: (f"k{place}", place)), max_size=40)


@given(PAIRS)
def test_partitions_in_any_order_are_listed_in_theirs_each_once(given: list[tuple[str, int]]) -> None:
    listed = Columns.of(given)
    assert list(listed) == sorted(set(given), key=lambda one: one[1])
    assert len(listed) == len(set(given))


def test_the_last_key_is_that_of_the_highest_ordinal() -> None:
    assert Columns.of([("b", 2), ("c", 3), ("a", 1)]).last_key == "c"
