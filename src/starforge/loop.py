"""Loops that repeat until they are told to stop: named, bounded, and deaf to no error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from starforge.clock import randomness
from starforge.errors import UnreachableError

log = structlog.get_logger("loop")

BACKOFF_S_MAX = 5.0


async def wait(stop: asyncio.Event, seconds: float) -> bool:
    """Wait `seconds` or until `stop` is set; return whether it was set."""
    if seconds <= 0:
        return stop.is_set()
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True


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
        pause = seconds if not failures else min(BACKOFF_S_MAX, 0.1 * 2**failures)
        if await wait(stop, pause * randomness.uniform(0.9, 1.1)):
            return
