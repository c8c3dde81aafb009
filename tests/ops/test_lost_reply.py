"""The answer to a COMMIT is lost: what happened is unknown, and the key settles it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from starforge.db.pool import Pool
from starforge.ops.errors import OutcomeUnknownError
from starforge.ops.perform import perform
from tests.covers import covers

ANN: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}


class Cutter:
    """A proxy that, once armed, cuts the client off around the server's answer to the next COMMIT."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.armed = False
        self.deliver = True
        """False: the COMMIT does not even reach the server."""

    async def serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        server_in, server_out = await asyncio.open_connection(self._host, self._port)

        async def upwards() -> None:
            while data := await client_in.read(65536):
                if self.armed and b"COMMIT" in data:
                    if self.deliver:
                        server_out.write(data)
                        await server_in.readexactly(1)
                    break
                server_out.write(data)

        async def downwards() -> None:
            while not self.armed and (data := await server_in.read(65536)):
                client_out.write(data)
            while self.armed and not up.done():
                # The reply to anything but the COMMIT is passed on.
                try:
                    data = await asyncio.wait_for(server_in.read(65536), 0.05)
                except TimeoutError:
                    continue
                if not data:
                    break
                client_out.write(data)

        up = asyncio.create_task(upwards())
        down = asyncio.create_task(downwards())
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        down.cancel()
        up.cancel()
        client_out.close()
        server_out.close()
