"""A spooled document can be read again, and lets others have their turn while it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starforge.etl.gears.spool import CHUNK_BYTES, spooled

CHUNKS = 5


async def chunks() -> AsyncIterator[bytes]:
    for number in range(CHUNKS):
        yield bytes([number]) * CHUNK_BYTES


async def test_it_is_read_from_the_beginning_each_time() -> None:
    whole = b"".join([chunk async for chunk in chunks()])
    async with spooled(chunks()) as opened:
        for _ in range(2):
            assert b"".join([chunk async for chunk in opened()]) == whole


async def test_the_loop_goes_round_between_two_pieces_of_it() -> None:
    """What reads it computes, and the file itself never waits."""
    turns = 0

    async def beside() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with spooled(chunks()) as opened:
        task = asyncio.create_task(beside())
        seen = [turns async for _ in opened()]
        task.cancel()
    assert seen == sorted(set(seen))
