"""Collection: what the garbage collector does in one child, and when it is told to (O-40)."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import structlog

from starforge.clock import monotonic_s
from starforge.settings import Settings, setting

log = structlog.get_logger("worker")

LOOK_S = 0.25
TOLD_S = 10.0


class CollectSettings(Settings):
    """When garbage is collected beside the collector's own times."""

    every: int = setting(
        0,
        env="STARFORGE_GC_COLLECT_EVERY",
        unit="jobs",
        meaning="A child collects all garbage after about so many finished jobs; 0: Python decides.",
        ge=0,
    )


class Pauses:
    """Counts the collector's runs and how long they kept the child."""

    def __init__(self) -> None:
        self.runs = [0, 0, 0]
        self.took_s = [0.0, 0.0, 0.0]
        self.freed = 0
        self.longest_s = 0.0
        self._began_s = 0.0

    def note(self, phase: str, info: dict[str, int]) -> None:
        """Be told by the collector that it begins or has ended."""
        if phase == "start":
            self._began_s = monotonic_s()
            return
        took_s = monotonic_s() - self._began_s
        generation = info["generation"]
        self.runs[generation] += 1
        self.took_s[generation] += took_s
        self.longest_s = max(self.longest_s, took_s)
        self.freed += info["collected"]

    def document(self) -> dict[str, Any]:
        """Return the figures as a log line shows them."""
        return {
            "runs": list(self.runs),
            "took_ms": [round(took_s * 1000, 1) for took_s in self.took_s],
            "longest_ms": round(self.longest_s * 1000, 1),
            "freed": self.freed,
            "tracked": gc.get_count(),
        }


async def collect(finished: Callable[[], int], *, debug: bool) -> None:
    """Collect after every so many finished jobs, where that is set; at log level debug tell the figures.

    Args:
        finished: Returns how many jobs the child has finished.
        debug: Count the collector's runs too.
    """
    every = CollectSettings.read().every
    if not every and not debug:
        return
    pauses = Pauses()
    if debug:
        gc.callbacks.append(pauses.note)
    at, told_s = finished(), monotonic_s()
    try:
        while True:
            await asyncio.sleep(LOOK_S)
            if every and finished() - at >= every:
                at = finished()
                log.debug("gc.collected", unreachable=gc.collect(), finished=at)
            if debug and monotonic_s() - told_s >= TOLD_S:
                told_s = monotonic_s()
                log.debug("gc.stats", **pauses.document())
    finally:
        if debug:
            gc.callbacks.remove(pauses.note)
