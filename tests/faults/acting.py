"""A process that performs operations, each in a fork of its own, which may be killed anywhere.

Python is started and everything imported once; a fork costs milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

APPLICATION = "acting"


class Actor:
    """The process, from the test's side."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def act(self, url: str, name: str, arguments: dict[str, Any], key: str) -> int:
        """Perform an operation in a fork; return its exit code, or less than 0: the signal that killed it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = json.dumps([url, name, arguments, key]) + "\n"
        self._process.stdin.write(order.encode())
        await self._process.stdin.drain()
        return int(await asyncio.wait_for(self._process.stdout.readline(), 30))


@asynccontextmanager
async def acting() -> AsyncIterator[Actor]:
    """Start the process for the length of a `with` block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.faults.acting",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Actor(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def _serve() -> None:
    from starforge.ops import registry

    registry.load()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(_act(*json.loads(line)))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _act(url: str, name: str, arguments: dict[str, Any], key: str) -> int:
    from starforge.db.pool import Pool
    from starforge.ops.perform import perform

    async def once() -> None:
        pool = await Pool.open(url, size=1, application=APPLICATION)
        await perform(
            pool, name, arguments, actor="ann", role="operator", tenant="default", idempotency_key=key
        )
        await pool.close()

    try:
        asyncio.run(once())
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _serve()
