"""One measurement of a queue, ours or another: the same stopwatch for all.

The workers are running and warm; they are halted by SIGSTOP while the jobs are enqueued, and go on together.
A drain is timed from the first job's first instruction to the moment when the database holds no job that has
not ended. So neither a process's start nor a polling interval before the first job counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from starforge.clock import monotonic_s
from starforge.db.pool import Connection, connect
from starforge.db.server import Database
from starforge.dev.bench.figures import percentiles
from starforge.dev.bench.load import enqueue_all
from starforge.dev.bench.marks import FOLDER_ENV, Marks
from starforge.dev.bench.peers.peer import Installed
from starforge.dev.bench.pickup import pickups_ms, waits_ms
from starforge.dev.bench.place import empty_database
from starforge.dev.bench.setup import Setup, running
from starforge.dev.errors import BenchNotPossibleError, BenchStalledError

WARM_JOBS = 1000
HALT_S = 0.2
POLL_S = 0.005
STALL_S = 60.0


@dataclass(slots=True)
class Round:
    """What one round of one queue gave."""

    enqueue_per_s: float
    drain_per_s: float
    pickup_ms: dict[str, float]


class Stand(Protocol):
    """A queue that is set up, with its workers running."""

    admin: Connection
    marks: Marks
    live: str

    def workers(self) -> Sequence[int]: ...
    async def enqueue(self, jobs: int) -> float: ...
    async def pickups(self, jobs: int) -> dict[str, float]: ...


async def measure(stand: Stand, jobs: int, pickups: int) -> Round:
    """Warm the workers, then measure enqueue, drain and pick-up once."""
    await stand.enqueue(min(WARM_JOBS, jobs))
    await _drained(stand, min(WARM_JOBS, jobs))
    pids = stand.workers()
    before = stand.marks.counted()
    _signal(pids, signal.SIGSTOP)
    try:
        await asyncio.sleep(HALT_S)
        stand.marks.forget_first()
        enqueue_s = await stand.enqueue(jobs)
        await stand.admin.execute("ANALYZE")
        await stand.admin.execute("CHECKPOINT")
    finally:
        _signal(pids, signal.SIGCONT)
    ended_s = await _drained(stand, before + jobs)
    drain_s = ended_s - stand.marks.first_s()
    return Round(jobs / enqueue_s, jobs / drain_s, await stand.pickups(pickups))


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


async def _drained(stand: Stand, count_to: int) -> float:
    """Wait until the workers have counted so far and no job lives; return when that was, monotonic."""
    seen, since_s = -1, monotonic_s()
    while (count := stand.marks.counted()) < count_to or await stand.admin.fetchval(stand.live):
        if count != seen:
            seen, since_s = count, monotonic_s()
        elif monotonic_s() - since_s > STALL_S:
            raise BenchStalledError(f"{count} of {count_to} jobs after {STALL_S:g} s without progress")
        await asyncio.sleep(POLL_S)
    return monotonic_s()


@asynccontextmanager
async def ours(server: Database, setup: Setup, processes: int) -> AsyncIterator[Stand]:
    """Set StarForge up, with so many workers."""
    setup = replace(setup, processes=processes)

    class Ours:
        live = "SELECT EXISTS (SELECT FROM queue_jobs WHERE type LIKE 'bench.%')"

        def __init__(self) -> None:
            self.admin, self.marks = here.admin, fleet.marks

        def workers(self) -> Sequence[int]:
            return [child.pid for child in fleet.children()]

        async def enqueue(self, jobs: int) -> float:
            return jobs / await enqueue_all(here.conn, jobs, setup.job)

        async def pickups(self, jobs: int) -> dict[str, float]:
            return await pickups_ms(here, fleet, jobs, setup.pickup)

    async with running(server, setup) as (here, fleet):
        yield Ours()


@asynccontextmanager
async def theirs(server: Database, installed: Installed, processes: int) -> AsyncIterator[Stand]:
    """Set a peer up on an empty database, with so many worker processes."""
    async with empty_database(server) as url:
        admin = await connect(url, application="starforge bench")
        try:
            with tempfile.TemporaryDirectory(prefix="starforge-bench-") as folder:
                driver = Driver(installed, url, Path(folder), admin)
                await driver.ask("setup")
                try:
                    for _ in range(processes):
                        await driver.start()
                    yield driver
                finally:
                    await driver.end()
        finally:
            await admin.close()


class Driver:
    """A peer's program, asked for one thing at a time, and its workers."""

    def __init__(self, installed: Installed, url: str, folder: Path, admin: Connection) -> None:
        self.admin, self.marks, self.live = admin, Marks(folder), installed.peer.live
        self._command, self._name = installed.command, installed.peer.name
        self._environment = {
            **os.environ, **installed.environment, "DATABASE_URL": url, FOLDER_ENV: str(folder),
            "PYTHONPATH": "", "NODE_ENV": "production",
        }  # fmt: skip
        self._running: list[asyncio.subprocess.Process] = []

    async def ask(self, *words: str) -> Any:
        """Run the program with these words; return what it answers in JSON, or None."""
        process = await self._start(*words, stdout=asyncio.subprocess.PIPE)
        try:
            printed, said = await process.communicate()
        finally:
            await _kill(process)
        if process.returncode:
            raise BenchNotPossibleError(f"{self._name} {words[0]}: {said.decode()[-800:].strip()}")
        return json.loads(printed) if printed.strip() else None

    async def start(self) -> None:
        """Start a worker process."""
        self._running.append(await self._start("work", stdout=sys.stderr))

    async def end(self) -> None:
        """End every worker process; nothing of theirs is needed any more."""
        for process in self._running:
            await _kill(process)

    def workers(self) -> Sequence[int]:
        """Return the worker processes."""
        return [process.pid for process in self._running]

    async def enqueue(self, jobs: int) -> float:
        """Enqueue so many jobs by the peer's best means for many; return the seconds."""
        return float(await self.ask("enqueue", str(jobs)))

    async def pickups(self, jobs: int) -> dict[str, float]:
        """Enqueue one at a time into the idle queue; return percentiles in ms."""
        sent = dict(enumerate(await self.ask("pickups", str(jobs))))
        return percentiles(await waits_ms(self.marks, sent))

    async def _start(self, *words: str, stdout: Any) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command, *words, env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=stdout,
            stderr=asyncio.subprocess.PIPE if stdout == asyncio.subprocess.PIPE else None,
            start_new_session=True,
        )  # fmt: skip


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
