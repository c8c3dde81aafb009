"""A loop that stood still is known by how long and where; one that goes round is not."""

from __future__ import annotations

import threading

import pytest

from starforge.queue import standstill
from starforge.queue.standstill import LEAST_S, TURN_S, Standstill


class Stopwatch:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    made = Stopwatch()
    monkeypatch.setattr(standstill, "monotonic_s", made)
    return made


def test_a_loop_that_goes_round_stands_still_at_no_time(stopwatch: Stopwatch) -> None:
    still = Standstill()
    assert still.since(0.0) == (0.0, ""), "nobody has looked yet"
    for _ in range(100):
        still.look()
        stopwatch.now_s += TURN_S + LEAST_S
    assert still.since(1000.0) == (0.0, "")


def test_what_stood_still_counts_for_whom_it_held_up_and_for_no_longer_than_that(
    stopwatch: Stopwatch,
) -> None:
    still = Standstill()
    still.look()
    stopwatch.now_s += TURN_S + 10
    still.look()
    assert still.since(1000.0) == (10.0, "")
    assert still.since(stopwatch.now_s - 4) == (4.0, ""), "it began in the middle"
    assert still.since(stopwatch.now_s) == (0.0, ""), "it began after it"
    stopwatch.now_s += TURN_S + 3
    assert still.since(1000.0)[0] == 13.0, "also what no look has ended yet"


def test_another_thread_sees_where_it_stands(stopwatch: Stopwatch) -> None:
    still = Standstill()
    still.look()

    def look_on() -> None:
        still.catch()
        stopwatch.now_s += TURN_S + 2
        still.catch()

    def blocks() -> None:
        other = threading.Thread(target=look_on)
        other.start()
        other.join()  # deep in the library: the place that is told is this function

    blocks()
    still.look()
    seconds, place = still.since(1000.0)
    assert seconds == 2.0
    assert place.startswith("blocks (test_standstill.py:")
