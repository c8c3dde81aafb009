"""What processes use of memory, read from /proc by whoever is their parent: it costs them nothing.

`rss` is what the kernel counts against a limit. `heap` is the part of it that is anonymous memory: Python's
objects, what its libraries allocated, and stacks; not program text, not files, not shared memory. Pages
that a forked process still shares with its parent are counted in both.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from starforge.clock import monotonic_s

KB = 1024
SCAN_S_MIN = 1.0
SCAN_COST_MAX = 0.01
"""Share of the time that may go into looking for new processes where the kernel has no list of children."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What one process, or several together, use."""

    rss_bytes: int = 0
    heap_bytes: int = 0
    peak_bytes: int = 0
    """Most that `rss_bytes` was since the process started, or since `forget_peak`."""

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.rss_bytes + other.rss_bytes,
            self.heap_bytes + other.heap_bytes,
            self.peak_bytes + other.peak_bytes,
        )


def memory_of(pid: int) -> Memory | None:
    """Return what a process uses; None where it is gone or nothing tells."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    told = {line[:6]: line for line in lines if line[:5] in (b"VmRSS", b"VmHWM", b"RssAn")}
    rss = _bytes(told.get(b"VmRSS:"))
    return (
        None
        if rss is None
        else Memory(rss, _bytes(told.get(b"RssAno")) or 0, _bytes(told.get(b"VmHWM:")) or rss)
    )


def _bytes(line: bytes | None) -> int | None:
    return None if line is None else int(line.split()[1]) * KB


def forget_peak(pid: int | None = None) -> bool:
    """Let a process's `peak_bytes` begin anew, this one's by default; return whether that is allowed."""
    try:
        with open(f"/proc/{pid or 'self'}/clear_refs", "wb") as file:
            file.write(b"5")
    except OSError:
        return False
    return True


class Tree:
    """A process and all that it and its children started."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._listed = Path(f"/proc/{root}/task/{root}/children").exists()
        self._known: set[int] = set()
        self._scan_at_s = 0.0

    def memory(self, *more: int) -> Memory:
        """Add up what the tree uses now; `more` are processes that are known to have just joined it."""
        total = Memory()
        self._known.update(more)
        for pid in self.pids():
            found = memory_of(pid)
            if found is None:
                self._known.discard(pid)
            else:
                total += found
        return total

    def pids(self) -> list[int]:
        """Return the tree's processes, the root first."""
        if self._listed:
            return _listed(self._root)
        if monotonic_s() >= self._scan_at_s:
            started_s = monotonic_s()
            self._known = _scanned(self._root)
            cost_s = monotonic_s() - started_s
            self._scan_at_s = started_s + max(SCAN_S_MIN, cost_s / SCAN_COST_MAX)
        return [self._root, *self._known]


def _listed(root: int) -> list[int]:
    found, at = [root], 0
    while at < len(found):
        try:
            threads = os.listdir(f"/proc/{found[at]}/task")
        except OSError:
            threads = []
        for thread in threads:
            try:
                with open(f"/proc/{found[at]}/task/{thread}/children", "rb") as file:
                    found += map(int, file.read().split())
            except OSError:
                continue  # the thread has just ended
        at += 1
    return found


def _scanned(root: int) -> set[int]:
    children: dict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue  # it has just ended
        children[parent].append(int(name))
    found, todo = set[int](), [root]
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found
