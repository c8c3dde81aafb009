"""A scene of a fault test: a database of its own behind a proxy, the history, and workers as processes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any
from uuid import uuid4

import psutil

from starforge.db.pool import Connection, connect
from tests.faults.app import TABLE
from tests.faults.history import FILE_ENV, History, Verdict
from tests.postgres import TestServer
from tests.proxy import Proxy, proxied

APP = "tests.faults.app:app"
WAIT_S_MAX = 60.0
"""Longest that a test waits for anything: a loaded machine is slow, and nothing here depends on speed."""

DRAINED = "SELECT NOT EXISTS (SELECT 1 FROM queue_jobs WHERE status IN ('pending', 'running'))"


class Worker:
    """A `starforge worker` in a process group of its own."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self.log = process, log

    @property
    def pid(self) -> int:
        return self.process.pid

    def children(self) -> list[psutil.Process]:
        """Return its children and theirs."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def signal(self, number: Signals) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    def signal_group(self, number: Signals) -> None:
        """Send a signal to the supervisor and all of its children."""
        os.killpg(self.pid, number)

    async def logged(self, event: str) -> dict[str, Any]:
        """Wait for a line of its log and return it."""
        async with asyncio.timeout(WAIT_S_MAX):
            while True:
                for text in self.log.read_text(errors="replace").splitlines():
                    if f'"{event}"' in text:
                        line: dict[str, Any] = json.loads(text)
                        return line
                await asyncio.sleep(0.01)

    async def ended(self) -> int:
        """Wait for its end and return its exit status."""
        return await asyncio.wait_for(self.process.wait(), WAIT_S_MAX)


class Scene:
    """What a fault test works with. `conn` goes to the server directly; workers go through the proxy."""

    def __init__(self, database: str, proxy: Proxy, conn: Connection, history: History, folder: Path) -> None:
        self.database, self.proxy, self.conn, self.history = database, proxy, conn, history
        self._folder = folder
        self.output: int | None = None
        """The file descriptor that workers print to; None: a file of each one's own."""

        self._workers = 0

    @asynccontextmanager
    async def worker(self, *words: str, **environment: str) -> AsyncIterator[Worker]:
        """Run a worker for the length of a `with` block; what is left of it is killed in the end."""
        self._workers += 1
        log = self._folder / f"worker-{self._workers}.log"
        with log.open("wb") as file:
            stderr = self.output or file.fileno()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "starforge", "worker", "--app", APP, *words,
                env={
                    **os.environ,
                    "DATABASE_URL": self.proxy.url(self.database),
                    "STARFORGE_GRACE_S": "10",
                    "STARFORGE_POLL_S": "0.1",
                    FILE_ENV: str(self.history.path),
                    **environment,
                },
                stdin=asyncio.subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True,
            )  # fmt: skip
        worker = Worker(process, log)
        try:
            yield worker
        except BaseException:
            print(f"the last of {log.name}:\n{log.read_text(errors='replace')[-4000:]}")
            raise
        finally:
            children = worker.children()
            if process.returncode is None:
                worker.signal_group(SIGKILL)
            for child in children:  # an isolated child may have a group of its own
                if child.is_running():
                    child.kill()
            await process.wait()

    async def until(self, query: str, wanted: Any = True, *args: object) -> None:
        """Wait for a query to give a value."""
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                while await self.conn.fetchval(query, *args) != wanted:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            for table in ("workers", "queue_jobs WHERE status IN ('pending', 'running')"):
                for row in await self.conn.fetch(f"SELECT * FROM {table} LIMIT 10"):
                    print(dict(row))
            raise

    async def asked(self, part: str, *, after: int) -> None:
        """Wait for a statement with these words, run later than the proxy's first `after` statements."""
        async with asyncio.timeout(WAIT_S_MAX):
            while not any(s.runs and part in s.text for s in list(self.proxy.statements)[after:]):
                await asyncio.sleep(0.01)

    async def drained(self) -> None:
        """Wait until no job is pending or running."""
        await self.until(DRAINED)

    async def check(self) -> Verdict:
        """Return the checker's verdict; its table is shown where the test fails."""
        verdict = await self.history.check(self.conn)
        print(verdict)
        return verdict


@asynccontextmanager
async def a_database(server: TestServer) -> AsyncIterator[str]:
    """Make a migrated database of the test's own, and give its URL."""
    name = f"f_{uuid4().hex}"
    await _at_once(server, f"CREATE DATABASE {name} TEMPLATE template_starforge")
    try:
        yield server.url(name)
    finally:
        await _at_once(server, f"DROP DATABASE {name} WITH (FORCE)")


async def _at_once(server: TestServer, statement: str) -> None:
    """Run one statement on a connection of its own: the server may have been killed since the last one."""
    admin = await connect(server.url())
    try:
        await admin.execute(statement)
    finally:
        await admin.close()


@asynccontextmanager
async def a_scene(server: TestServer, folder: Path) -> AsyncIterator[Scene]:
    """Make a scene of its own database; everything of it is gone in the end."""
    async with a_database(server) as database, proxied(server.port) as proxy:
        conn = await connect(database)
        await conn.execute(TABLE)
        try:
            yield Scene(database, proxy, conn, History(folder / f"{uuid4().hex}.history"), folder)
        finally:
            await conn.close()
