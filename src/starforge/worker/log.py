"""The worker's log: what its processes write is taken by pipes, passed on, and kept in the database.

A child never waits for anybody who reads: the supervisor always takes what comes, and where standard error
or the database does not keep up, the oldest lines are dropped and it is said how many. The bounds are
settings, the rest of them stands here.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from fcntl import F_SETPIPE_SZ, fcntl
from typing import Any
from uuid import UUID

from starforge.clock import monotonic_s
from starforge.db.pool import MAY_PASS
from starforge.errors import storable, told
from starforge.telemetry.log import redirect
from starforge.worker.lines import Allowance, Line, Reader, Splitter, event
from starforge.worker.passage import Passage, passage_to_stderr

LAST_LINES = 50
"""So many lines of a child are there as evidence when it dies."""

PENDING_MAX = 5000
"""Lines that wait for the database; the oldest go first."""

BATCH_MAX = 500
BATCH_S = 1.0
RETRY_S = 2.0
WRITE_S_MAX = 10.0

PIPE_BYTES = 1024 * 1024
READ_BYTES = 256 * 1024
END_S_MAX = 5.0
"""Longest that an ending worker waits for the database to take its last lines."""

PASSAGE_END_S_MAX = 1.0
"""And for a reader of standard error."""


Write = Callable[[Sequence[Line]], Awaitable[None]]


class Log:
    """The log of one supervisor and its children."""

    def __init__(self, *, passage: Passage) -> None:
        self.worker_id: UUID | None = None
        """Whose lines these are from now on."""

        self._passage = passage
        self._allowance = Allowance()
        self._pending: deque[Line] = deque()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._own_reader = Reader()
        self._dropped = 0
        self._arrived = asyncio.Event()
        self._pipes: set[_Pipe] = set()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def own(self, text: str) -> None:
        """Take a line of this process; from any thread."""
        for line in text.encode(errors="replace").rstrip(b"\n").split(b"\n"):
            self._passage.take(line)
            if threading.get_ident() == self._thread:
                self._keep(line, self._own_reader)
            else:
                self._loop.call_soon_threadsafe(self._keep, line, self._own_reader)

    async def pipe(self) -> int:
        """Make a pipe that is read from now on; return the end for a child to write to, to be closed then."""
        reading, writing = os.pipe()
        with suppress(OSError):  # it stays as large as the system lets it be
            fcntl(writing, F_SETPIPE_SZ, PIPE_BYTES)
        pipe = _Pipe(self)
        await self._loop.connect_read_pipe(lambda: pipe, os.fdopen(reading, "rb", 0))
        self._pipes.add(pipe)
        return writing

    def begin(self, worker_id: UUID) -> None:
        """A new child is to be started: its lines are this worker's; those of the one before go."""
        self.worker_id = worker_id
        self._last.clear()

    def last_lines(self) -> list[str]:
        """Return the last lines of the child that runs or has just ended, oldest first."""
        return list(self._last)

    async def settle(self, within_s: float) -> None:
        """Take what an ended child has left in its pipes; what it started may hold them open."""
        waiting = [asyncio.ensure_future(pipe.over.wait()) for pipe in self._pipes]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=within_s)
            for task in late:
                task.cancel()

    def take(self, line: bytes, reader: Reader) -> None:
        """Take a line of a child."""
        self._passage.take(line)
        self._last.append(storable(line.decode(errors="replace")))
        self._keep(line, reader)

    def _keep(self, line: bytes, reader: Reader) -> None:
        level, job_id = reader.read(line)
        self._arrived.set()
        if not self._allowance.allows(level):
            self._dropped += 1
            return
        text = storable(line.decode(errors="replace"))
        self._pending.append(Line(monotonic_s(), level, job_id, text, self.worker_id))
        self._bound()

    def _bound(self) -> None:
        while len(self._pending) > PENDING_MAX:
            self._pending.popleft()
            self._dropped += 1

    async def run(self, write: Write, stop: asyncio.Event) -> None:
        """Write what was taken in batches until `stop`; what the database does not take is tried again."""
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                arrived = asyncio.ensure_future(self._arrived.wait())
                await asyncio.wait({arrived, stopped}, return_when=asyncio.FIRST_COMPLETED)
                arrived.cancel()
                if len(self._pending) < BATCH_MAX:
                    await asyncio.wait({stopped}, timeout=BATCH_S)
                if not await self._write_some(write):
                    await asyncio.wait({stopped}, timeout=RETRY_S)
        finally:
            stopped.cancel()

    async def end(self, write: Write, within_s: float) -> None:
        """Write what is left, once, and let go of the pipes."""
        for pipe in self._pipes.copy():
            pipe.close()
        if self._pending or self._dropped:
            try:
                async with asyncio.timeout(within_s):
                    while await self._write_some(write) and self._pending:
                        pass
            except TimeoutError:
                return

    async def _write_some(self, write: Write) -> bool:
        """Write one batch; return whether the database took it."""
        self._arrived.clear()
        if self.worker_id is None:
            return True  # nobody's yet: the first worker has them
        batch = [self._pending.popleft() for _ in range(min(len(self._pending), BATCH_MAX))]
        dropped, self._dropped = self._dropped, 0
        lines = [replace(line, worker_id=line.worker_id or self.worker_id) for line in batch]
        if dropped:
            text = event("warning", "log.dropped", lines=dropped, why="they were more than is kept").decode()
            lines.append(Line(monotonic_s(), "warning", None, text, self.worker_id))
        if not lines:
            return True
        try:
            async with asyncio.timeout(WRITE_S_MAX):
                await write(lines)
        except MAY_PASS:
            self._dropped += dropped
            self._pending.extendleft(reversed(batch))
            self._bound()
            self._arrived.set()
            return False
        except Exception as error:
            # They would be refused again; that they are missing is said where their places are.
            self._dropped += dropped + len(batch)
            self._passage.take(event("error", "log.refused", lines=len(batch), error=told(error)))
            return False
        if self._pending:
            self._arrived.set()
        return True

    def over(self, pipe: _Pipe) -> None:
        """A pipe has no writer any more."""
        self._pipes.discard(pipe)


class _Pipe(asyncio.Protocol):
    """The reading end of one stream of one child."""

    def __init__(self, to: Log) -> None:
        self._log, self._splitter, self._reader = to, Splitter(), Reader()
        self._transport: Any = None
        self.over = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if hasattr(transport, "max_size"):
            transport.max_size = READ_BYTES

    def data_received(self, data: bytes) -> None:
        for line in self._splitter.feed(data):
            self._log.take(line, self._reader)

    def connection_lost(self, _error: Exception | None) -> None:
        for line in self._splitter.rest():
            self._log.take(line, self._reader)
        self.over.set()
        self._log.over(self)

    def close(self) -> None:
        """Read no more."""
        if self._transport is not None:
            self._transport.close()


@asynccontextmanager
async def kept(write: Write) -> AsyncIterator[Log]:
    """Take this process's own lines and those of its children for the length of a `with` block."""
    passage = passage_to_stderr()
    taken, stop = Log(passage=passage), asyncio.Event()
    redirect(taken.own)
    writer = asyncio.create_task(taken.run(write, stop))
    try:
        yield taken
    finally:
        stop.set()
        await asyncio.wait({writer})
        redirect(None)
        await taken.end(write, END_S_MAX)
        passage.close(PASSAGE_END_S_MAX)
