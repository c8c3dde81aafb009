"""Need: what a job of each type uses of memory, learned while jobs run; kept in `job_types.peak_bytes`."""

from __future__ import annotations

from collections.abc import Mapping

from starforge.clock import monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.worker.limit import MemorySettings

NOISE_BYTES = 8 * 1024**2
"""Growth below this is nobody's."""

NEWS = 1.1
"""A need is worth writing down again when it is this much above what was written."""

WRITTEN_AGAIN_S = 6 * 3600
"""Or after this time: a need that holds does not fade."""


class Needs:
    """What one child has seen of its types' needs: a need only rises here, and fades in the database.

    What a child grows above its idle size is the running jobs'. Where they are of one type it is shared
    among them. Of several types those with a known need have that, and the rest is the unknown ones'; where
    all are known, each had its part in being more than was known.
    """

    def __init__(self, idle_bytes: int) -> None:
        self._idle_bytes = idle_bytes
        self.seen: dict[str, int] = {}

    def idle(self, rss_bytes: int) -> None:
        """Take down what the child uses while no job runs: what is kept for the next one is no growth."""
        self._idle_bytes = rss_bytes

    def observe(self, jobs: Mapping[str, int], peak_bytes: int) -> None:
        """Learn from a moment: so many jobs of each type at once, and the most that the child used in it."""
        if not jobs:
            return
        growth = peak_bytes - self._idle_bytes
        rest = growth - sum(self.seen.get(of, 0) * count for of, count in jobs.items())
        unknown = {of: count for of, count in jobs.items() if of not in self.seen}
        if rest <= NOISE_BYTES:
            self.seen.update(dict.fromkeys(unknown, 0))
            return
        if unknown:
            share = rest // sum(unknown.values())
            self.seen.update(dict.fromkeys(unknown, share))
            return
        weights = {of: max(self.seen[of], 1) * count for of, count in jobs.items()}
        for of, count in jobs.items():
            self.seen[of] += rest * weights[of] // sum(weights.values()) // count


class Ledger:
    """Writes needs down, seldom: a new one, one that has risen, and those of a child that died."""

    def __init__(self) -> None:
        self._written: dict[str, tuple[int, float]] = {}

    def news(self, seen: Mapping[str, int]) -> dict[str, int]:
        """Return the needs that are worth a write."""
        return {of: need for of, need in seen.items() if need >= NOISE_BYTES and self._is_news(of, need)}

    def _is_news(self, of: str, need: int) -> bool:
        written, at_s = self._written.get(of, (0, 0.0))
        return need > written * NEWS or monotonic_s() - at_s > WRITTEN_AGAIN_S

    async def write(self, conn: Connection, needs: Mapping[str, int]) -> None:
        """Write needs down; one that is already known to be greater stays."""
        await conn.execute(
            sql("worker", "need"), list(needs), list(needs.values()), MemorySettings.read().peak_half_life_h
        )
        self._written.update((of, (need, monotonic_s())) for of, need in needs.items())


async def needs(conn: Connection) -> dict[str, int]:
    """Return what a job of each type needs, by what all workers have seen; the older, the less."""
    rows = await conn.fetch(sql("worker", "needs"), MemorySettings.read().peak_half_life_h, NOISE_BYTES)
    return {row["name"]: row["need_bytes"] for row in rows}
