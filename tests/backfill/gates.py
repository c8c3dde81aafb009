"""Handlers that tests hold up and let go: nothing depends on how long anything takes."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.scheme import Window


class Gates:
    """A handler that waits, for each partition, until its gate is open; it counts who came and who passed."""

    def __init__(self, *, open: bool = False) -> None:
        self.came: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()
        self.fails: set[str] = set()
        self._open = open
        self._gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def __call__(self, day: Partition[Window]) -> None:
        self.came[day.key] += 1
        if not self._open:
            await self._gates[day.key].wait()
        if day.key in self.fails:
            raise ValueError(f"{day.key} is bad")
        self.passed[day.key] += 1

    def let(self, *keys: str) -> None:
        """Open the gates of these partitions; of all, where none is named."""
        self._open = self._open or not keys
        for key in keys or list(self._gates):
            self._gates[key].set()

    async def until(self, reached: Callable[[Gates], Any], within_s: float = 20) -> None:
        """Wait until something holds of it."""
        async with asyncio.timeout(within_s):
            while not reached(self):
                await asyncio.sleep(0.01)


def day(number: int) -> str:
    """Return the key of the nth day of January 2024, from 1."""
    return f"2024-01-{number:02}"
