"""Loops: they go on through outages, say so, stop at once, and are deaf to no fault of ours."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from starforge.clock import monotonic_s
from starforge.loop import backoff_s, every, wait


async def test_a_wait_ends_at_once_when_it_is_told_to_stop() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, stop.set)
    started_s = monotonic_s()
    assert await wait(stop, 60) is True
    assert monotonic_s() - started_s < 5


async def test_a_wait_that_nobody_ends_is_over_after_its_time() -> None:
    assert await wait(asyncio.Event(), 0.01) is False


@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_wait_of_no_time_only_looks(seconds: float) -> None:
    stop = asyncio.Event()
    assert await wait(stop, seconds) is False
    stop.set()
    assert await wait(stop, seconds) is True


async def test_a_loop_repeats_until_it_is_told_to_stop_and_not_once_more() -> None:
    stop, times = asyncio.Event(), 0

    async def work() -> None:
        nonlocal times
        times += 1
        if times == 5:
            stop.set()

    await asyncio.wait_for(every(0.001, work, stop, name="five"), 5)
    assert times == 5


async def test_a_loop_that_is_stopped_before_it_starts_does_nothing() -> None:
    stop = asyncio.Event()
    stop.set()

    async def work() -> None:
        raise AssertionError("it ran")

    await every(0.001, work, stop, name="never")


async def test_a_loop_goes_on_after_an_outage_says_so_and_forgets_it_once_it_is_over() -> None:
    stop, times = asyncio.Event(), 0
    outages = {1: ConnectionResetError("gone"), 3: TimeoutError("late")}

    async def work() -> None:
        nonlocal times
        times += 1
        if times in outages:
            raise outages[times]
        if times == 4:
            stop.set()

    with capture_logs() as told:
        await asyncio.wait_for(every(0.001, work, stop, name="beat"), 5)
    assert times == 4
    assert [line["failures"] for line in told] == [1, 1]
    assert {(line["event"], line["loop"], line["log_level"]) for line in told} == {
        ("loop.failed", "beat", "warning")
    }


async def test_a_loop_waits_longer_after_an_outage_but_stops_at_once_all_the_same() -> None:
    stop, times = asyncio.Event(), 0

    async def work() -> None:
        nonlocal times
        times += 1
        asyncio.get_running_loop().call_later(0.03, stop.set)
        raise OSError("away")

    started_s = monotonic_s()
    await asyncio.wait_for(every(0.001, work, stop, name="beat"), 5)
    assert times == 1, "a thousandth of a second was too short a pause for a database that is away"
    assert monotonic_s() - started_s < 2


async def test_a_fault_of_ours_ends_the_loop() -> None:
    async def work() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        await every(0.001, work, asyncio.Event(), name="faulty")


def test_waits_double_up_to_their_bound_however_long_an_outage_lasts() -> None:
    waits = [backoff_s(failures, first_s=0.2, most_s=5.0) for failures in (1, 2, 3, 10, 10**6)]
    assert waits == [0.2, 0.4, 0.8, 5.0, 5.0]
