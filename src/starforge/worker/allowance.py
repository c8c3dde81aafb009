"""The allowance: how much memory a job may take in a process of its own, and what it had when that was all.

The kernel refuses what goes beyond it, the handler meets a MemoryError, and its attempt fails like any other:
no process is killed, and nobody else is hurt.
"""

from __future__ import annotations

import gc
import resource
import sys
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

from starforge.queue.handler import Context, Run
from starforge.worker.errors import JobMemoryError

BALLAST_BYTES = 4 * 1024 * 1024
"""Given up when memory ends, so that there is some to say so with."""

OBJECTS_MAX = 200_000
LOCALS_MAX = 10
SAMPLE = 50


class Allowance:
    """Bounds the memory of this process while a job runs in it."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._ballast: bytearray | None = None

    def guarded(self, run: Run) -> Run:
        """Return the handler with the bound around it.

        It raises JobMemoryError where the handler raised MemoryError.
        """

        async def bounded(context: Context, payload: Mapping[str, Any]) -> Any:
            self._hold()
            try:
                return await run(context, payload)
            except MemoryError as error:
                self._lift()
                raise JobMemoryError(self._bytes_max, _reported(error)) from error
            finally:
                self._lift()

        return bounded

    def _hold(self) -> None:
        """Let the kernel refuse more. What is mapped but was never touched does not count as taken."""
        self._ballast = bytearray(BALLAST_BYTES)
        mapped, resident = _memory_bytes()
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (mapped + max(0, self._bytes_max - resident), most))

    def _lift(self) -> None:
        self._ballast = None
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _memory_bytes() -> tuple[int, int]:
    """Return what this process has mapped as data, and what it has in memory."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    mapped, resident = (int(lines[name].split()[0]) * 1024 for name in ("VmData", "VmRSS"))
    return mapped, resident


def _reported(error: MemoryError) -> dict[str, list[str]]:
    try:
        return _largest(error)
    except Exception as fault:  # the handler's objects may do anything when they are asked for their size
        return {"no report": [type(fault).__name__]}


def _largest(error: MemoryError) -> dict[str, list[str]]:
    """Report the largest things that the handler's frames hold, and the types of which there are most."""
    held: list[tuple[int, str]] = []
    trace = error.__traceback__
    while trace is not None:
        held += _of_frame(trace.tb_frame, trace.tb_lineno)
        trace = trace.tb_next
    held.sort(reverse=True)
    sizes: Counter[str] = Counter()
    for thing in islice(gc.get_objects(), OBJECTS_MAX):
        sizes[type(thing).__qualname__] += sys.getsizeof(thing, 0)
    return {
        "locals": [f"{words}: about {_mb(size)}" for size, words in held[:LOCALS_MAX]],
        "types": [f"{name}: {_mb(size)}" for name, size in sizes.most_common(LOCALS_MAX)],
    }


def _of_frame(frame: FrameType, line: int) -> list[tuple[int, str]]:
    code = frame.f_code
    if code.co_filename == __file__:
        return []
    place = f"{Path(code.co_filename).name}:{line} {code.co_name}"
    return [
        (_size(value), f"{name} ({type(value).__name__}) in {place}")
        for name, value in frame.f_locals.items()
    ]


def _size(value: object) -> int:
    """Return the bytes of a thing, with those in it judged by a sample."""
    size = sys.getsizeof(value, 0)
    if isinstance(value, list | tuple | set | frozenset | dict) and value:
        items = value.values() if isinstance(value, dict) else value
        some = [sys.getsizeof(item, 0) for item in islice(items, SAMPLE)]
        size += sum(some) * len(value) // len(some)
    return size


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
