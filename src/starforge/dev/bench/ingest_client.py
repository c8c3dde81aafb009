"""Run as a program: a client of ingestion on keep-alive connections; prints what it measured.

It reads its orders from standard input. Each connection sends a snapshot, waits for the answer and sends the
next; no two snapshots are the same, and each is another hero's.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from typing import cast

import msgspec

from starforge.clock import monotonic_s
from starforge.dev.bench.documents import small_documents
from starforge.loop import loop_factory

DOCUMENTS = 50
NAME = re.compile(rb'"NameCode":"[^"]*"')
STALL_S = 30.0


class Orders(msgspec.Struct):
    """What to send, where to, and for how long."""

    host: str
    port: int
    token: str
    connections: int
    seconds: float
    run: str
    """Part of every hero's name: two runs offer different ones."""


class Told(msgspec.Struct):
    """What was measured."""

    ms: list[float]
    seconds: float
    statuses: dict[int, int]


class _Connection(asyncio.Protocol):
    """One keep-alive connection, with at most one request under way."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._answer: asyncio.Future[int] | None = None
        self._status = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's derives from nothing

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._status = int(head.split(b" ", 2)[1])
            found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            self._left, self._head, data = int(found[1]) if found else 0, b"", rest
        self._left -= len(data)
        if self._left <= 0 and self._answer is not None:
            self._left, answer, self._answer = 0, self._answer, None
            answer.set_result(self._status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server hung up"))

    async def ask(self, *parts: bytes) -> int:
        """Send a request and return the answer's status."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines(parts)
        return await self._answer


def requests(orders: Orders) -> Iterator[tuple[bytes, ...]]:
    """Make requests without end: generated heroes, each under a name of its own."""
    ready = []
    for document in small_documents(DOCUMENTS):
        before, after = NAME.split(document, maxsplit=1)
        size = len(before) + len(after) + len(_named(orders.run, 0))
        head = (
            f"POST /api/v1/snapshots HTTP/1.1\r\nHost: {orders.host}:{orders.port}\r\n"
            f"Authorization: Bearer {orders.token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {size}\r\n\r\n"
        )
        ready.append((head.encode() + before, after))
    for number, (first, last) in enumerate(cycle(ready)):
        yield first, _named(orders.run, number), last


def _named(run: str, number: int) -> bytes:
    return b'"NameCode":"%s_%09d"' % (run.encode(), number)


async def measure(orders: Orders) -> Told:
    """Send for so long and return what every request took."""
    source = requests(orders)
    loop = asyncio.get_running_loop()
    ms: list[float] = []
    statuses: Counter[int] = Counter()
    opened = [
        (await loop.create_connection(_Connection, orders.host, orders.port))[1]
        for _ in range(orders.connections)
    ]
    began_s = monotonic_s()
    until_s = began_s + orders.seconds

    async def send(connection: _Connection) -> None:
        while (sent_s := monotonic_s()) < until_s:
            statuses[await connection.ask(*next(source))] += 1
            ms.append((monotonic_s() - sent_s) * 1000)

    async with asyncio.timeout(orders.seconds + STALL_S):
        await asyncio.gather(*map(send, opened))
    return Told(ms, monotonic_s() - began_s, dict(statuses))


def main() -> None:
    """Measure once."""
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Orders)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        told = runner.run(measure(orders))
    sys.stdout.buffer.write(msgspec.json.encode(told))


if __name__ == "__main__":
    main()
