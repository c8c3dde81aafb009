"""A document on this machine's disk, for as long as it is read: a stream that can begin again."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starforge.etl.gears.stream import Opened

CHUNK_BYTES = 1 << 20


@asynccontextmanager
async def spooled(chunks: AsyncIterator[bytes]) -> AsyncIterator[Opened]:
    """Write what comes to a file without a name and give what reads it from the beginning; once at a time."""
    with tempfile.TemporaryFile(prefix="starforge-") as file:
        async for chunk in chunks:
            file.write(chunk)

        async def opened() -> AsyncIterator[bytes]:
            file.seek(0)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
                await asyncio.sleep(
                    0
                )  # who reads it may compute for seconds: the jobs beside it go on between

        yield opened
