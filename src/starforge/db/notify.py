"""The listener: hints that there is work. Polling is the truth; a lost hint costs one poll interval."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

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
            await wait(stop, RECONNECT_S)


async def _listen_once(url: str, channel: str, heard: Callable[[str], None], stop: asyncio.Event) -> None:
    conn = await connect(url, application="starforge listener")

    def told(_conn: Any, _pid: int, _channel: str, payload: object) -> None:
        heard(str(payload))

    try:
        await conn.add_listener(channel, told)
        heard("")
        while not await wait(stop, PROBE_S):
            await conn.execute("SELECT 1", timeout=PROBE_S)
    finally:
        conn.terminate()
