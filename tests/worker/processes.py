"""What the tests of workers as processes share."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starforge.db.pool import Connection

APP = "tests.worker.hungry:app"
HISTORY = "SELECT count(*) FROM job_history"
ENDED = "SELECT count(*) FROM job_history WHERE type = $1"
MARKS = "SELECT count(*) FROM marks WHERE what = $1"
LINES = "SELECT count(*) > 0 FROM log_lines WHERE line LIKE $1"


@asynccontextmanager
async def a_worker(
    database: str, *words: str, app: str = APP, level: str = "info", within: str = "", **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `starforge worker` in a process group of its own; kill what is left of it in the end.

    `within` is the folder of a control group that it joins first.
    """
    joined = ("sh", "-c", f'echo $$ > {within}/cgroup.procs && exec "$@"', "sh") if within else ()
    process = await asyncio.create_subprocess_exec(
        *joined, sys.executable, "-m", "starforge", "worker", "--app", app, "--log-level", level, *words,
        env={**os.environ, "DATABASE_URL": database, "STARFORGE_GRACE_S": "10", **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        # What was not read keeps it from being over.
        await process.communicate()


async def until(conn: Connection, query: str, wanted: Any, *args: object, within_s: float = 60) -> None:
    """Wait until a query gives what is wanted."""
    async with asyncio.timeout(within_s):
        while await conn.fetchval(query, *args) != wanted:
            await asyncio.sleep(0.02)


async def ended(process: asyncio.subprocess.Process, within_s: float = 20) -> str:
    """Wait until a process has ended and return what it wrote to standard error."""
    _, text = await asyncio.wait_for(process.communicate(), within_s)
    return text.decode(errors="replace")
