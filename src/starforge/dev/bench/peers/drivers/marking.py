"""What a Python peer's jobs note down, in the files that the benchmark reads."""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

FOLDER = Path(os.environ["STARFORGE_BENCH_FOLDER"])


def _view(name: str) -> memoryview:
    file = FOLDER / f"{name}-{os.getpid()}"
    file.write_bytes(bytes(8))
    with file.open("r+b") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 8))


_count, _first = _view("count").cast("Q"), _view("first").cast("d")


def counted() -> None:
    """Count a job; the first since the benchmark set it to 0 says when."""
    _count[0] += 1
    if not _first[0]:
        _first[0] = time.monotonic()


def mark_pickup(number: int) -> None:
    """Write down that a job is at its first instruction."""
    now = time.time()
    with (FOLDER / "pickups").open("ab", buffering=0) as stream:
        stream.write(struct.pack("<Id", number, now))
