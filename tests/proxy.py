"""A TCP proxy before the session's server that counts statements and lets things go wrong at a chosen one.

A statement is what is answered by one ReadyForQuery: a login, a simple query, or everything up to a Sync.
`rule` is asked at each statement and says what goes wrong there; `mute`, `latency_s` and `slice_bytes`
hold for whole connections. Nothing here is left to chance: who wants chance has a rule draw from a seeded
source.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import psutil

from tests.wire import (
    CANCEL,
    COMMENT,
    GSSENC,
    SSL,
    WRITES,
    Texts,
    application_of,
    code_of,
    first_message,
    messages,
)

LOGIN = "login"
KEPT_MAX = 20_000
"""The newest statements that a proxy remembers."""

When = Literal["before", "after", "mid_row"]
"""Before the server hears of it; after the server has done it and before the client hears of that; in the
middle of the answer's first row."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a client, as it arrives at the proxy."""

    session: Session
    application: str
    text: str
    """Its SQL; `login` for the start of a connection."""

    previous: str
    """The statement before it on this connection."""

    runs: bool
    """False where it is parsed or described only."""

    commits: bool
    """A COMMIT, or one that writes outside a transaction block."""

    number: int
    """Its place among the statements of its application, from 1."""

    commit_number: int
    """Its place among the application's commits, from 1; 0 where it is none."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at a statement, and when."""

    when: When
    do: Callable[[Session], None]


Rule = Callable[[Statement], Fault | None]


class Session:
    """One connection of a client and the server's end of it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy, self._reader, self._writer = proxy, reader, writer
        self.application = ""
        self.port = int(writer.get_extra_info("peername")[1])
        self._talks = asyncio.Event()
        self._talks.set()
        self._texts = Texts()
        self._asked: deque[tuple[Statement, Fault | None]] = deque()
        self._idle = True  # outside a transaction block
        self._previous = ""

    def owner(self) -> psutil.Process | None:
        """Return the process that holds the client's end; None where it has hung up."""
        for held in psutil.net_connections("tcp"):
            ends = held.laddr and held.raddr and (held.laddr.port, held.raddr.port)
            if ends == (self.port, self.proxy.port) and held.pid:
                return psutil.Process(held.pid)
        return None

    def mute(self) -> None:
        """Let the connection be half-open from now on: nothing passes, and nobody is told."""
        self._talks.clear()

    def cut(self) -> None:
        """End the connection on both sides."""
        self._writer.transport.abort()
        self._server.transport.abort()

    def reset(self) -> None:
        """End it as a crashed peer does: RST, and what was on its way is gone."""
        for end in (self._writer, self._server):
            with suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.cut()

    async def run(self) -> None:
        """Forward until one end hangs up."""
        first = await first_message(self._reader)
        while first and code_of(first) in (SSL, GSSENC):
            self._writer.write(b"N")
            first = await first_message(self._reader)
        if not first:
            return
        server_reader, self._server = await asyncio.open_connection("127.0.0.1", self.proxy.target_port)
        try:
            if code_of(first) == CANCEL:
                self._server.write(first)
                await self._server.drain()
                await server_reader.read()
                return
            self.application = application_of(first)
            self.proxy.sessions.append(self)
            ways = [
                asyncio.create_task(self._upwards(first)),
                asyncio.create_task(self._downwards(server_reader)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                done = await asyncio.gather(*ways, return_exceptions=True)
                self.proxy.sessions.remove(self)
            for error in done:
                if isinstance(error, Exception) and not isinstance(error, OSError):
                    self.proxy.broken.append(error)
        finally:
            self.cut()

    async def _upwards(self, first: bytes) -> None:
        """Client to server: a statement is counted, and may go wrong, before its last message passes."""
        if not await self._ask(first, LOGIN, runs=False):
            return
        held, text, runs = b"", "", False
        async for whole in messages(self._reader):
            for message in whole:
                held += message
                if (said := self._texts.read(message)) is not None:
                    text, runs = said[0] or text, runs or said[1]
                if message[:1] in (b"Q", b"S"):
                    if not await self._ask(held, text, runs=runs):
                        return
                    held, text, runs = b"", "", False
            if held and (held[:1] in b"dcfpX" or held.endswith(b"H\0\0\0\4")):
                await self._pass(self._server, held)
                held = b""

    async def _ask(self, data: bytes, text: str, *, runs: bool) -> bool:
        """Let one statement pass to the server; False where that was its connection's end."""
        await self._talks.wait()
        statement = self.proxy.count(self, text, self._previous, runs=runs, idle=self._idle)
        self._previous = text
        fault = self.proxy.rule(statement)
        if fault is not None and fault.when == "before":
            fault.do(self)
            if self._talks.is_set():
                return False
            fault = None
        self._asked.append((statement, fault))
        await self._pass(self._server, data)
        return True

    async def _downwards(self, reader: asyncio.StreamReader) -> None:
        """Server to client: an answer passes, or is lost, as its statement's fault wants it."""
        async for whole in messages(reader):
            passing = b""
            for message in whole:
                fault = self._asked[0][1] if self._asked else None
                ready = message[:1] == b"Z"
                if self.proxy.lose and self.proxy.lose in message:
                    self.proxy.lose = b""
                    return
                if fault is not None and fault.when == "mid_row" and message[:1] == b"D":
                    await self._pass(self._writer, passing + message[: len(message) // 2])
                    fault.do(self)
                    return
                if fault is None or fault.when != "after":
                    passing += message
                if ready:
                    self._idle = message[5:6] == b"I"
                    if self._asked:
                        self._asked.popleft()
                    if fault is not None and fault.when == "after":
                        fault.do(self)
                        if self._talks.is_set():
                            return
            if passing:
                await self._pass(self._writer, passing)

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        await self._talks.wait()
        if self.proxy.latency_s:
            await asyncio.sleep(self.proxy.latency_s)
        size = self.proxy.slice_bytes or len(data)
        for at in range(0, len(data), size):
            writer.write(data[at : at + size])
            await writer.drain()
            if size < len(data):
                await asyncio.sleep(0)


def nothing(_statement: Statement) -> None:
    """Let nothing go wrong."""


class Proxy:
    """Forwards statements and remembers them; what goes wrong is the rule's to say."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.rule: Rule = nothing
        self.latency_s = 0.0
        """Every message waits so long, each way."""

        self.slice_bytes = 0
        """Everything is written in pieces of this size; 0: as it comes."""

        self.lose = b""
        """The first answer with these bytes in it is lost, and its connection is cut."""

        self.sessions: list[Session] = []
        self.statements: deque[Statement] = deque(maxlen=KEPT_MAX)
        self.broken: list[Exception] = []
        """What the proxy itself could not do: a test's fault."""

        self._counted: Counter[str] = Counter()
        self._open: set[asyncio.Task[None]] = set()

    def url(self, url: str) -> str:
        """Return a database's URL with the proxy's port."""
        head, _, rest = url.rpartition(":")
        return f"{head}:{self.port}/{rest.partition('/')[2]}"

    def of(self, application: str) -> Iterator[Session]:
        """Give the open connections of an application, named by how its name begins."""
        return (session for session in self.sessions.copy() if session.application.startswith(application))

    def mute(self, application: str = "") -> int:
        """Let the connections of now be half-open; new ones are well. Return how many there were."""
        return self.each(application, mute)

    def cut(self, application: str = "") -> int:
        """End the connections of now; return how many there were."""
        return self.each(application, cut)

    def each(self, application: str, do: Callable[[Session], None]) -> int:
        """Do something to the connections of now; return how many there were."""
        found = list(self.of(application))
        for session in found:
            do(session)
        return len(found)

    def count(self, session: Session, text: str, previous: str, *, runs: bool, idle: bool) -> Statement:
        """Note a statement and its place among those of its application."""
        role = session.application
        end = text.strip().rstrip(";").upper() == "COMMIT"
        commits = runs and (end or (idle and WRITES.search(COMMENT.sub("", text)) is not None))
        self._counted[role] += 1
        self._counted[f"{role} commits"] += commits
        statement = Statement(
            session=session,
            application=role,
            text=text,
            previous=previous,
            runs=runs,
            commits=commits,
            number=self._counted[role],
            commit_number=self._counted[f"{role} commits"] if commits else 0,
        )
        self.statements.append(statement)
        return statement

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client; for asyncio.start_server."""
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        with suppress(OSError, asyncio.CancelledError):
            await Session(self, reader, writer).run()
        writer.transport.abort()
        self._open.discard(task)

    async def close(self) -> None:
        """End every connection."""
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
    assert proxy.broken == []


def once(which: Callable[[Statement], bool], when: When, do: Callable[[Session], None]) -> Rule:
    """Return a rule: at the first statement for which `which` holds, and never again."""
    done = False

    def rule(statement: Statement) -> Fault | None:
        nonlocal done
        if done or not which(statement):
            return None
        done = True
        return Fault(when, do)

    return rule


def cut(session: Session) -> None:
    """End the connection."""
    session.cut()


def reset(session: Session) -> None:
    """End the connection by RST."""
    session.reset()


def mute(session: Session) -> None:
    """Let the connection be half-open."""
    session.mute()


def kill(session: Session) -> None:
    """Kill the process that holds the client's end."""
    if (owner := session.owner()) is not None:
        owner.kill()


def kill_group(session: Session) -> None:
    """Kill that process with its whole group: a worker's supervisor and all of its children."""
    if (owner := session.owner()) is not None:
        os.killpg(os.getpgid(owner.pid), signal.SIGKILL)
