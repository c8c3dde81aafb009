"""The listener: hints that there is work. Polling is the truth; a lost hint costs one poll interval."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from starforge.clock import randomness
from starforge.db.errors import DatabaseUnreachableError
from starforge.db.pool import MAY_PASS, connect
from starforge.loop import wait

log = structlog.get_logger("db")

PROBE_S = 5.0
"""A listener asks its connection this often whether it still lives: a dead peer sends nothing."""

RECONNECT_S = 1.0


async def listen(url: str, channel: str, heard: Callable[[str], None], stop: asyncio.Event) -> None:
    """Call `heard(payload)` for every notification on `channel` until `stop`; reconnect when cut.

    After each (re)connect `heard("")` is called once, for what may have been missed.
    """
    while not stop.is_set():
        try:
            await _listen_once(url, channel, heard, stop)
        except MAY_PASS as error:
            log.warning("listener.lost", channel=channel, error=str(error) or repr(error))
            # All listeners of a server lose it at once, and need not all come back at once.
            await wait(stop, RECONNECT_S * randomness.uniform(0.5, 1.0))


async def _listen_once(url: str, channel: str, heard: Callable[[str], None], stop: asyncio.Event) -> None:
    conn = await connect(url, application="starforge listener")
    ended = asyncio.Event()
    conn.add_termination_listener(lambda _conn: ended.set())

    def told(_conn: Any, _pid: int, _channel: str, payload: object) -> None:
        heard(str(payload))

    try:
        await conn.add_listener(channel, told)
        heard("")
        while not await _either(stop, ended, PROBE_S):
            await conn.execute("SELECT 1", timeout=PROBE_S)
        if not stop.is_set():
            raise DatabaseUnreachableError("the server ended the listener's connection")
    finally:
        conn.terminate()


async def _either(one: asyncio.Event, other: asyncio.Event, seconds: float) -> bool:
    """Wait until one of the events is set, at most `seconds`; return whether one was."""
    waiting = [asyncio.create_task(event.wait()) for event in (one, other)]
    try:
        done, _ = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for task in waiting:
            task.cancel()
