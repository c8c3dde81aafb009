"""Loops that repeat until they are told to stop: named, bounded, and deaf to no error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import structlog

from starforge.clock import randomness
from starforge.errors import UnreachableError

log = structlog.get_logger("loop")

BACKOFF_S_MAX = 5.0


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop where it is installed (extra `fast`), else None: asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def wait(stop: asyncio.Event, seconds: float) -> bool:
    """Wait `seconds` or until `stop` is set; return whether it was set."""
    if seconds <= 0:
        return stop.is_set()
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True


async def set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, at most `seconds`; half the price of asyncio.wait_for."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def backoff_s(failures: int, *, first_s: float, most_s: float) -> float:
    """Return the wait after this many failures in a row: `first_s`, doubled by each further one.

    Args:
        failures: 1 or more; any number, an outage may last for days.
        first_s: Seconds after the first.
        most_s: Longest wait in seconds.
    """
    # No first wait above 0 is doubled 60 times within anybody's bound, and the power stays finite.
    return min(most_s, first_s * 2.0 ** min(failures - 1, 60))


async def forget_cancellation(me: asyncio.Task[Any]) -> None:
    """Let a cancellation that a handler left behind pass here: it was not meant for the next job.

    Where it was the worker's own the slot ends all the same, because that comes after a stop.
    """
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    while me.uncancel():
        pass


async def every(
    seconds: float, work: Callable[[], Awaitable[object]], stop: asyncio.Event, *, name: str
) -> None:
    """Run `work` every `seconds` until `stop`; after an error wait longer, say so, and go on."""
    failures = 0
    while not stop.is_set():
        try:
            await work()
            failures = 0
        except (OSError, TimeoutError, UnreachableError) as error:
            failures += 1
            log.warning("loop.failed", loop=name, failures=failures, error=repr(error))
        pause = backoff_s(failures, first_s=0.2, most_s=BACKOFF_S_MAX) if failures else seconds
        if await wait(stop, pause * randomness.uniform(0.9, 1.1)):
            return
