"""The workers of a benchmark: real ones, as processes, with what they note down."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from starforge.clock import monotonic_s
from starforge.db.pool import Connection
from starforge.dev.bench.marks import FOLDER_ENV, Marks
from starforge.dev.errors import BenchStalledError

APP = "starforge.dev.bench.noop:app"
STALL_S = 60.0
STOP_S_MAX = 40.0
POLL_S = 0.02
STILL_S = 0.5
"""A count that stands still for this long is checked against the database."""

STARTED = "SELECT count(*) FROM workers WHERE state = 'running'"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Workers that run, and their marks."""

    pids: tuple[int, ...]
    marks: Marks

    def children(self) -> list[psutil.Process]:
        """Return the processes that run jobs."""
        return [child for pid in self.pids for child in psutil.Process(pid).children()]

    def rss_mb(self) -> list[float]:
        """Return the memory of each child in MB."""
        return [round(child.memory_info().rss / 1e6, 1) for child in self.children()]


@asynccontextmanager
async def fleet(
    url: str,
    *,
    processes: int,
    concurrency: int,
    environment: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
) -> AsyncIterator[Fleet]:
    """Run so many workers on a database for the length of a `with` block; they end with it, or with us."""
    with tempfile.TemporaryDirectory(prefix="starforge-bench-") as folder:
        variables = {
            **os.environ,
            "DATABASE_URL": url,
            "WORKER_CONCURRENCY": str(concurrency),
            "METRICS_PORT": "",
            "STARFORGE_PARENT_PIPE": "1",
            FOLDER_ENV: folder,
            **(environment or {}),
        }
        command = [
            sys.executable,
            "-m",
            "starforge",
            "worker",
            "--app",
            APP,
            "--log-level",
            "warning",
            *flags,
        ]
        workers: list[asyncio.subprocess.Process] = []
        try:
            for _ in range(processes):
                workers.append(
                    await asyncio.create_subprocess_exec(
                        *command, env=variables, stdin=asyncio.subprocess.PIPE, stdout=sys.stderr,
                        start_new_session=True,
                    )
                )  # fmt: skip
            yield Fleet(tuple(worker.pid for worker in workers), Marks(Path(folder)))
        finally:
            await _end(workers)


async def _end(workers: list[asyncio.subprocess.Process]) -> None:
    """Tell the workers to stop; those that do not are killed with all they started."""
    for worker in workers:
        if worker.returncode is None:
            worker.send_signal(signal.SIGTERM)
    if workers:
        await asyncio.wait([asyncio.create_task(worker.wait()) for worker in workers], timeout=STOP_S_MAX)
    for worker in workers:
        if worker.returncode is None:
            os.killpg(worker.pid, signal.SIGKILL)
            await worker.wait()


async def started(admin: Connection, workers: int) -> None:
    """Wait until so many workers are registered."""
    await until(admin, STARTED, workers)


async def until(admin: Connection, query: str, wanted: int, *args: object) -> None:
    """Wait until the count is reached; a count that stands still is an error, not a hang."""
    seen, since_s = -1, monotonic_s()
    while (count := await admin.fetchval(query, *args)) < wanted:
        if count != seen:
            seen, since_s = count, monotonic_s()
        elif monotonic_s() - since_s > STALL_S:
            raise BenchStalledError(f"{count} of {wanted} after {STALL_S:g} s without progress: {query}")
        await asyncio.sleep(0.05)


async def until_counted(
    marks: Marks, admin: Connection, count_to: int, query: str, *args: object, wanted: int
) -> None:
    """Wait until the workers have counted to `count_to`, then until the database's count is `wanted`.

    The server is asked only when the workers say that they are through, or when they stand still.
    """
    seen, since_s = -1, monotonic_s()
    while (count := marks.counted()) < count_to and monotonic_s() - since_s < STILL_S:
        if count != seen:
            seen, since_s = count, monotonic_s()
        await asyncio.sleep(POLL_S)
    await until(admin, query, wanted, *args)
