"""A TCP proxy before the session's server, to lose what it says and to let connections die without a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Forwards bytes; `lose` and `mute` say what goes wrong from now on."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._open: set[asyncio.Task[None]] = set()
        self.port = 0
        self.lose = b""
        """The first answer with these bytes in it is lost, and its connection is cut."""

        self._talks = asyncio.Event()
        self._talks.set()

    def url(self, url: str) -> str:
        """Return a database's URL with the proxy's port."""
        head, _, rest = url.rpartition(":")
        return f"{head}:{self.port}/{rest.partition('/')[2]}"

    def mute(self) -> None:
        """Let the connections of now be half-open: nothing passes, and nobody is told. New ones are well."""
        self._talks.clear()
        self._talks = asyncio.Event()
        self._talks.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task, talks = asyncio.current_task(), self._talks
        assert task is not None
        self._open.add(task)
        with suppress(OSError, asyncio.CancelledError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            ways = [
                asyncio.create_task(self._forward(reader, server_writer, talks, answers=False)),
                asyncio.create_task(self._forward(server_reader, writer, talks, answers=True)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                server_writer.transport.abort()
        writer.transport.abort()
        self._open.discard(task)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        talks: asyncio.Event,
        *,
        answers: bool,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await talks.wait()
                if answers and self.lose and self.lose in data:
                    self.lose = b""
                    return
                writer.write(data)
                await writer.drain()

    async def close(self) -> None:
        for task in self._open.copy():
            task.cancel()
        if self._open:
            await asyncio.wait(self._open.copy())


@asynccontextmanager
async def proxied(target_port: int) -> AsyncIterator[Proxy]:
    """Run a proxy on a free port for the length of a `with` block."""
    proxy = Proxy(target_port)
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.close()
