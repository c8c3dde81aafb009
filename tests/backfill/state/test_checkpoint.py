"""The checkpoint goes on over what is terminal, in declared order, never back and never over a gap."""

from __future__ import annotations

import tracemalloc
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starforge.backfill.state.checkpoint import TERMINAL, Frontier, Seen, Stored, judge
from starforge.errors import InvalidInputError
from tests.covers import covers

SIZES = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=4)


@st.composite
def jobs(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Ranges of ordinals, and batches of them in any order, some told twice."""
    covers_, first = [], draw(st.integers(0, 100))
    for size, apart in draw(SIZES):
        covers_.append((first, first + size))
        first += size + apart
    ordinals = [ordinal for start, end in covers_ for ordinal in range(start, end)]
    return covers_, draw(st.lists(st.lists(st.sampled_from(ordinals), max_size=25), max_size=12))


def ordinals_of(covers_: list[tuple[int, int]]) -> Sequence[int]:
    """As the coordinator has them: a range where there are no gaps, an array where there are."""
    if len(covers_) == 1:
        return range(*covers_[0])
    return array("q", [ordinal for start, end in covers_ for ordinal in range(start, end)])


def plain(covers_: list[tuple[int, int]], ended: set[int]) -> int | None:
    """The rule itself, as slow as it is plain."""
    reached = None
    for start, end in covers_:
        for ordinal in range(start, end):
            if ordinal not in ended:
                return reached
            reached = ordinal
    return reached


@covers("D-14", "B-18")
@given(jobs())
def test_the_checkpoint_is_the_last_one_before_which_all_are_terminal(
    job: tuple[list[tuple[int, int]], list[list[int]]],
) -> None:
    covers_, batches = job
    frontier, ended, before = Frontier(ordinals_of(covers_)), set[int](), -1
    for batch in batches:
        ended.update(batch)
        reached = frontier.fold(batch)
        assert reached == frontier.ordinal == plain(covers_, ended)
        assert frontier.terminal == len(ended)
        assert (reached if reached is not None else -1) >= before, "never back"
        before = reached if reached is not None else -1


@covers("B-24", "B-37")
@given(jobs(), st.integers(0, 12))
def test_it_can_be_built_again_from_a_stored_one_and_what_ended_behind_it(
    job: tuple[list[tuple[int, int]], list[list[int]]], at: int
) -> None:
    covers_, batches = job
    whole = Frontier(ordinals_of(covers_))
    for batch in batches[:at]:
        whole.fold(batch)
    again = Frontier(ordinals_of(covers_), upto=whole.ordinal)
    for batch in batches:
        again.fold(batch)
    for batch in batches[at:]:
        whole.fold(batch)
    assert (again.ordinal, again.terminal, again.reached) == (whole.ordinal, whole.terminal, whole.reached)


@pytest.mark.long
@covers("D-14")
def test_500_000_partitions_in_any_order_take_less_than_a_megabyte() -> None:
    order = [1_000 + at * 7_919 % 500_000 for at in range(500_000)]  # a prime: each once
    tracemalloc.start()
    frontier = Frontier(range(1_000, 501_000))
    for at in range(0, len(order), 1_000):
        frontier.fold(order[at : at + 1_000])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert frontier.ordinal == 500_999
    assert frontier.terminal == frontier.reached == frontier.total == 500_000
    assert most < 1_000_000


def test_an_ordinal_of_another_job_is_refused_and_nothing_is_taken_in() -> None:
    frontier = Frontier(array("q", [0, 1, 2, 10, 11]))
    for foreign in (-1, 3, 9, 12):
        with pytest.raises(InvalidInputError, match=f"ordinal {foreign} is not a partition"):
            frontier.fold([0, foreign])
    assert frontier.ordinal is None
    assert frontier.fold([0, 1, 2]) == 2
    assert frontier.fold([11]) == 2
    assert frontier.fold([10]) == 11


def rows(states: str, again: str = "") -> list[Seen]:
    """Partitions d1, d2, … d10, d11: as text, d10 comes before d2."""
    words = {"c": "completed", "f": "failed", "p": "pending", "r": "running", "x": "cancelled"}
    return [Seen(f"d{at}", words[state], f"d{at}" in again.split()) for at, state in enumerate(states, 1)]


@covers("B-35")
def test_what_fits_is_not_commented_on() -> None:
    verdict = judge(Stored("d3", 11, 4, 1), rows("ccfpcpppppc"))
    assert verdict.fits
    assert not verdict.blocks
    assert (verdict.checkpoint, verdict.completed, verdict.failed, verdict.open) == ("d3", 4, 1, 6)


@covers("B-35", "D-14")
def test_the_order_of_the_partitions_counts_and_not_that_of_their_keys() -> None:
    """max(partition_key) of the completed ones is d9 here, and d10 would sort before d2."""
    verdict = judge(Stored("d10", 11, 10, 0), rows("ccccccccccp"))
    assert verdict.fits
    assert verdict.checkpoint == "d10"


@covers("B-35")
@pytest.mark.parametrize(
    ("stored", "states", "again", "told", "blocks"),
    [
        (Stored("d5", 6, 4, 0), "ccpcpp", "", "'d5' is ahead of 2 partitions that did not end: d3 (p", True),
        (Stored("d5", 6, 4, 0), "ccrccp", "", "skip it, the safe checkpoint is 'd2'", True),
        (Stored("d6", 6, 1, 0), "cppppp", "", "d4 (pending) and 2 more; going on", True),
        (Stored("d3", 4, 3, 0), "cpcc", "d2", "1 partition up to checkpoint 'd3' ended before", False),
        (Stored("x9", 3, 1, 0), "cpp", "", "'x9' is not a partition of this backfill; by its", True),
        (Stored("x9", 3, 0, 0), "ppp", "", "the checkpoint is none", True),
        (Stored(None, 3, 2, 0), "ccp", "", "checkpoint none is 2 partitions behind 'd2'", False),
        (Stored("d1", 3, 2, 0), "ccp", "", "'d1' is 1 partition behind 'd2'", False),
        (Stored("d2", 9, 2, 0), "ccp", "", "says 9 partitions, there are 3", True),
        (Stored("d2", 3, 3, 0), "ccp", "", "says 3 completed, its partitions 2: 1 counted", True),
        (Stored("d2", 3, 1, 0), "ccp", "", "says 1 completed, its partitions 2: 1 ended after", False),
        (Stored("d2", 3, 1, 0), "cfp", "", "says 0 failed, its partitions 1: 1 ended after", False),
        (Stored("d2", 3, 2, 1), "ccp", "", "says 1 failed, its partitions 0", False),
    ],
)
def test_what_does_not_fit_is_named(stored: Stored, states: str, again: str, told: str, blocks: bool) -> None:
    verdict = judge(stored, rows(states, again))
    assert told in "\n".join(finding.text for finding in verdict.findings)
    assert verdict.blocks is blocks


@covers("B-35", "B-24")
@given(st.text("cfprx", max_size=40), st.integers(0, 41))
def test_a_checkpoint_passes_exactly_when_nothing_before_it_is_open(states: str, at: int) -> None:
    seen = rows(states)
    key = seen[at - 1].key if 0 < at <= len(seen) else None
    stored = Stored(key, len(seen), states.count("c"), states.count("f"))
    skipped = key is not None and any(row.state not in TERMINAL for row in seen[:at])
    verdict = judge(stored, seen)
    assert verdict.blocks == skipped
    right = judge(Stored(verdict.checkpoint, len(seen), states.count("c"), states.count("f")), seen)
    assert right.fits
