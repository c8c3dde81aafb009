"""Rows of a batch: as many as fit into its time, and a row at fault is found by halving."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from starforge.backfill.pace.pace import PaceSettings
from starforge.backfill.partition.batch import Batch

LIMITS = PaceSettings()


@given(st.floats(0, 0.2), st.floats(1e-7, 0.3), st.floats(0.05, 1.0))
def test_a_batch_comes_to_take_its_time(fixed_s: float, row_s: float, target_s: float) -> None:
    batch = Batch(LIMITS)
    for _ in range(60):
        rows = batch.rows(target_s)
        assert 1 <= rows <= LIMITS.batch_rows_max
        batch.took(rows, fixed_s + row_s * rows)
    rows = batch.rows(target_s)
    took_s = fixed_s + row_s * rows
    assert took_s <= target_s * 1.3 or rows == 1 or fixed_s > target_s / 2
    assert took_s >= target_s / 3 or rows == LIMITS.batch_rows_max


def test_it_grows_to_twice_at_most_and_shrinks_at_once() -> None:
    batch = Batch(LIMITS)
    assert batch.rows() == 100
    batch.took(100, 0.001)
    assert batch.rows() == 200
    batch.took(200, 2.0)
    assert batch.rows() < 100


def test_a_slower_pace_makes_the_next_batch_shorter() -> None:
    batch = Batch(LIMITS)
    for _ in range(20):
        batch.took(batch.rows(), batch.rows() * 0.001)
    assert 450 <= batch.rows() <= 500
    assert 45 <= batch.rows(0.05) <= 50


def test_the_end_of_the_table_is_no_fault() -> None:
    batch = Batch(LIMITS)
    batch.took(0, 0.001)
    assert (batch.rows(), batch.suspect) == (100, 0)


@given(st.integers(1, 3_000), st.sets(st.integers(0, 2_999), max_size=6))
def test_every_poison_row_is_found_and_no_other_is_lost(total: int, poison: set[int]) -> None:
    """The walk over a table as the engine does it: a batch passes, or is halved down to one row."""
    batch, at, passed, skipped, statements = Batch(LIMITS), 0, 0, [], 0
    while at < total:
        rows = batch.rows()
        taken = range(at, min(at + rows, total))
        statements += 1
        if poison.isdisjoint(taken):
            batch.took(len(taken), len(taken) * 0.001)
            passed += len(taken)
            at = taken.stop
        elif batch.broke(len(taken)):
            skipped.append(at)
            at += 1
    assert skipped == sorted(row for row in poison if row < total)
    assert passed == total - len(skipped)
    assert statements <= 2 * 13 * (len(skipped) + 1) + total / 50


def test_a_time_out_that_was_no_rows_fault_passes_off() -> None:
    batch = Batch(LIMITS)
    for _ in range(12):
        batch.took(batch.rows(), batch.rows() * 0.0005)
    size = batch.rows()
    assert not batch.broke(size)
    at = 0
    while at < size:
        rows = batch.rows()
        batch.took(rows, rows * 0.0005)
        at += rows
    assert batch.suspect == 0
    for _ in range(12):
        batch.took(batch.rows(), batch.rows() * 0.0005)
    assert batch.rows() >= size * 0.9
