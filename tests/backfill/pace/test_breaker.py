"""A backfill of which too much fails lately is paused; few failures, or old ones, say nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from starforge.backfill.pace.breaker import SLICES, FailureBreaker
from starforge.backfill.pace.pace import PaceSettings

LIMITS = PaceSettings()


def test_half_of_twenty_that_failed_trip_it_with_the_reason() -> None:
    breaker = FailureBreaker(LIMITS)
    breaker.count(0.0, succeeded=10, failed=9)
    assert breaker.tripped(1.0) is None, "19 are too few"
    breaker.count(1.0, failed=1)
    assert breaker.tripped(1.0) == ("10 of 20 attempts failed within 300 s; from 50% on a backfill is paused")


def test_what_is_older_than_the_window_does_not_count() -> None:
    breaker = FailureBreaker(LIMITS)
    breaker.count(0.0, failed=100)
    assert breaker.tripped(289.0)
    assert breaker.tripped(300.0) is None


def test_another_holder_goes_on_from_what_was_counted() -> None:
    breaker, another = FailureBreaker(LIMITS), FailureBreaker(LIMITS)
    breaker.count(100.0, succeeded=300)
    breaker.count(150.0, failed=22)
    another.restore(breaker.state(160.0), 9_000.0)
    another.count(9_000.0, failed=18)
    assert another.tripped(9_000.0) is None, "40 of 340 attempts failed, and not 18 of 18"
    later_s = 9_000.0 + LIMITS.breaker_window_s - 50
    assert another.tripped(later_s), "what succeeded is as old here as it was there"
    for wrong in (None, 7, [[1, 2]], [["a", 1, 2]]):
        FailureBreaker(LIMITS).restore(wrong, 0.0)


def test_after_a_resume_it_begins_anew() -> None:
    breaker = FailureBreaker(LIMITS)
    breaker.count(0.0, failed=100)
    breaker.reset()
    assert breaker.tripped(0.0) is None
    breaker.count(1.0, failed=19)
    assert breaker.tripped(1.0) is None


ENDED = st.lists(st.tuples(st.floats(0, 100), st.integers(0, 9), st.integers(0, 9)), max_size=60)


@given(ENDED)
def test_it_trips_as_a_plain_count_of_the_window_would(ended: list[tuple[float, int, int]]) -> None:
    breaker, now_s, kept = FailureBreaker(LIMITS), 0.0, list[tuple[int, int, int]]()
    slice_s = LIMITS.breaker_window_s / SLICES
    for later_s, succeeded, failed in ended:
        now_s += later_s
        breaker.count(now_s, succeeded=succeeded, failed=failed)
        kept.append((int(now_s // slice_s), succeeded, failed))
        within = [each for each in kept if each[0] > int(now_s // slice_s) - SLICES]
        bad = sum(each[2] for each in within)
        every = bad + sum(each[1] for each in within)
        due = every >= LIMITS.breaker_min and bad >= LIMITS.breaker_ratio * every
        assert bool(breaker.tripped(now_s)) == due
    assert len(breaker._slices) <= SLICES
