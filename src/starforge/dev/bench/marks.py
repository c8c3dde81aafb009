"""What the benchmark's workers note down in a folder, and how the benchmark reads it.

Counts lie in memory-mapped files, one per process, so that the benchmark knows how far the workers are
without asking the server that it measures.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER_ENV = "STARFORGE_BENCH_FOLDER"
FEATURES_ENV = "STARFORGE_BENCH_FEATURES"
PICKUP = struct.Struct("<Id")
CLAIM = struct.Struct("<ddI")
COUNT = struct.Struct("<Q")
FIRST = struct.Struct("<d")


def _folder() -> Path | None:
    folder = os.environ.get(FOLDER_ENV)
    return Path(folder) if folder else None


def counter() -> memoryview[int]:
    """Return this process's count of jobs, as a view of one number."""
    return _view("count").cast("Q")


def first_start() -> memoryview[float]:
    """Return when this process started its first job since the benchmark last set that to 0, as a view."""
    return _view("first").cast("d")


def _view(name: str) -> memoryview[int]:
    """Return eight bytes that the benchmark can read; without a folder nobody does."""
    folder = _folder()
    if folder is None:
        return memoryview(bytearray(COUNT.size))
    file = folder / f"{name}-{os.getpid()}"
    file.write_bytes(bytes(COUNT.size))
    with file.open("r+b") as stream:
        return memoryview(mmap.mmap(stream.fileno(), COUNT.size))


def note(name: str, record: bytes) -> None:
    """Append a record to the file of that name; short appends of several processes do not mix."""
    folder = _folder()
    if folder is None:
        return
    file = os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, record)
    finally:
        os.close(file)


@dataclass(frozen=True, slots=True)
class Marks:
    """The folder, read."""

    folder: Path

    def counted(self) -> int:
        """Return how many jobs the workers have started so far."""
        return sum(COUNT.unpack(file.read_bytes())[0] for file in self.folder.glob("count-*"))

    def forget_first(self) -> None:
        """Set every process's first start to 0; they are halted meanwhile."""
        for file in self.folder.glob("first-*"):
            with file.open("r+b") as stream:
                stream.write(bytes(FIRST.size))

    def first_s(self) -> float:
        """Return when the first job of all was started since `forget_first`, monotonic."""
        firsts: list[float] = [FIRST.unpack(file.read_bytes())[0] for file in self.folder.glob("first-*")]
        return min(first_s for first_s in firsts if first_s)

    def pickups(self) -> list[tuple[int, float]]:
        """Return (number of the job, wall-clock seconds at its handler's first instruction)."""
        file = self.folder / "pickups"
        return list(PICKUP.iter_unpack(file.read_bytes())) if file.exists() else []

    def claims(self, since_s: float) -> list[tuple[float, int]]:
        """Return (ms that it took, jobs) of each claim that got some and ended after `since_s`, monotonic."""
        file = self.folder / "claims"
        records = CLAIM.iter_unpack(file.read_bytes()) if file.exists() else iter(())
        return [(took_ms, jobs) for ended_s, took_ms, jobs in records if jobs and ended_s >= since_s]


def now_s() -> float:
    """Seconds on the monotonic clock, which all processes of a machine share."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)
