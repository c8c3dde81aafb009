"""Minutes: what the queue did in the last hours, by minute and type, from the database itself.

The statements that finish jobs count them (`job_minutes`, a row per worker). The leader adds a sample of what
waits, puts a minute's rows together once nobody writes them any more, and forgets them after a week.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from starforge.db.pool import Connection
from starforge.db.statement import sql

MINUTES_MAX = 7 * 24 * 60
"""Minutes are kept for a week."""

KEPT_DAYS = 7
COMPACT_AFTER_S = 3600.0
COMPACT_BATCH = 20_000
MINUTES_BATCH = 20_000
MINUTE = timedelta(minutes=1)
LAG_MINUTES = 5
"""Whole minutes that a trend is taken from."""

OWN = ("minute", "queue", "type")

LAG_SHARE = 0.8
"""Less than this share of what comes is done: the queue falls behind (Q-03)."""


@dataclass(frozen=True, slots=True)
class Minute:
    """What happened to one queue and type in one minute."""

    minute: datetime
    queue: str
    type: str
    seconds: float
    """How much of the minute is over: 60 but for the newest."""

    completed: int = 0
    failed: int = 0
    """Jobs given up."""

    retried: int = 0
    """Failures with another attempt to come."""

    quarantined: int = 0
    cancelled: int = 0
    ran_ms: float = 0.0
    ran_ms_max: float = 0.0
    waited_ms: float = 0.0
    depth: int | None = None
    """Pending jobs that were due at the sample; None where the minute was not sampled."""

    oldest_s: float | None = None
    enqueued_per_s: float | None = None
    """What came, derived: what the depth grew by and what left; None where the next minute has no sample."""

    @property
    def finished(self) -> int:
        """Attempts that ended, success and failure (D-07)."""
        return self.completed + self.failed + self.retried + self.quarantined

    @property
    def left(self) -> int:
        """Jobs that wait no more, now or later."""
        return self.completed + self.failed + self.quarantined + self.cancelled

    @property
    def finished_per_s(self) -> float:
        """Attempts that ended per second."""
        return self.finished / max(self.seconds, 1.0)

    @property
    def failure_share(self) -> float | None:
        """Failed attempts of those that ended, 0 to 1; None where none ended."""
        return (self.failed + self.retried) / self.finished if self.finished else None

    def document(self) -> dict[str, object]:
        """Return the minute as JSON values."""
        return {
            "minute": self.minute,
            "queue": self.queue,
            "type": self.type,
            "seconds": round(self.seconds, 1),
            "finished": self.finished,
            "completed": self.completed,
            "failed": self.failed,
            "retried": self.retried,
            "quarantined": self.quarantined,
            "cancelled": self.cancelled,
            "finished_per_s": round(self.finished_per_s, 3),
            "failure_share": None if self.failure_share is None else round(self.failure_share, 4),
            "ran_ms_mean": round(self.ran_ms / self.finished, 3) if self.finished else None,
            "ran_ms_max": round(self.ran_ms_max, 3),
            "waited_ms_mean": round(self.waited_ms / self.finished, 3) if self.finished else None,
            "depth": self.depth,
            "oldest_s": self.oldest_s,
            "enqueued_per_s": None if self.enqueued_per_s is None else round(self.enqueued_per_s, 3),
        }


@dataclass(frozen=True, slots=True)
class Lag:
    """Whether a queue and type keeps up, by its last whole minutes (Q-03)."""

    queue: str
    type: str
    enqueued_per_s: float
    left_per_s: float
    depth: int

    @property
    def behind(self) -> bool:
        """It does clearly less than comes, and something waits."""
        return self.depth > 0 and self.left_per_s < LAG_SHARE * self.enqueued_per_s

    @property
    def drained_in_s(self) -> float | None:
        """Seconds until nothing waits at these rates; None where that never comes."""
        net = self.left_per_s - self.enqueued_per_s
        if not self.depth:
            return 0.0
        return self.depth / net if net > 0 else None

    def document(self) -> dict[str, object]:
        """Return the lag as JSON values."""
        return {
            "queue": self.queue,
            "type": self.type,
            "behind": self.behind,
            "enqueued_per_s": round(self.enqueued_per_s, 3),
            "left_per_s": round(self.left_per_s, 3),
            "depth": self.depth,
            "drained_in_s": None if self.drained_in_s is None else round(self.drained_in_s),
        }

    def reaches_in_s(self, depth: int) -> float | None:
        """Seconds until so many wait at these rates; None where that never comes."""
        if self.depth >= depth:
            return 0.0
        net = self.enqueued_per_s - self.left_per_s
        return (depth - self.depth) / net if net > 0 else None


async def sample(conn: Connection) -> bool:
    """Take this minute's sample of what waits; return False where it was taken already."""
    if await conn.fetchval(sql("queue", "minutes_sampled")):
        return False
    await conn.execute(sql("queue", "minutes_sample"))
    return True


async def compact(conn: Connection) -> int:
    """Put a batch of rows older than an hour together; return how many rows there were."""
    return int(await conn.fetchval(sql("queue", "minutes_compact"), COMPACT_AFTER_S, COMPACT_BATCH))


async def prune_minutes(conn: Connection) -> int:
    """Forget a batch of minutes older than a week; return how many rows."""
    tag = await conn.execute(sql("queue", "minutes_prune"), KEPT_DAYS, MINUTES_BATCH)
    return int(tag.rpartition(" ")[2])


async def last_minutes(conn: Connection, minutes: int = 60) -> list[Minute]:
    """Return the last minutes by queue and type, oldest first; the newest one is not over.

    A queue and type that did anything in them, or held anything, has a row for every minute.

    Args:
        conn: Any role's connection.
        minutes: How many, 1 to MINUTES_MAX.
    """
    now = await conn.fetchval("SELECT sf_now()")
    rows = await conn.fetch(sql("queue", "minutes"), minutes)
    return filled([dict(row) for row in rows], now, minutes)


def filled(rows: Iterable[Mapping[str, Any]], now: datetime, minutes: int) -> list[Minute]:
    """Give every queue and type every minute, and each minute what came in it."""
    lanes: dict[tuple[str, str], dict[datetime, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        lanes[row["queue"], row["type"]][row["minute"]] = row
    sampled = set(lanes.pop(("", ""), ()))
    newest = now.replace(second=0, microsecond=0)
    lines = []
    for (queue, job_type), of in lanes.items():
        after: Minute | None = None
        for back in range(minutes):
            at = newest - MINUTE * back
            line = Minute(at, queue, job_type, min(60.0, (now - at).total_seconds()), **_counts(of.get(at)))
            if line.depth is None and at in sampled:
                line = replace(line, depth=0)
            line = replace(line, enqueued_per_s=_enqueued_per_s(line, after))
            lines.append(line)
            after = line
    return sorted(lines, key=lambda line: (line.minute, line.queue, line.type))


def _counts(row: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if row is None else {name: value for name, value in row.items() if name not in OWN}


def _enqueued_per_s(line: Minute, after: Minute | None) -> float | None:
    """What came in a minute: samples are taken early in each, so the next one tells what is left of it."""
    if after is None or after.depth is None or line.depth is None:
        return None
    return max(0.0, (after.depth - line.depth + line.left) / 60)


def lags(lines: Iterable[Minute]) -> list[Lag]:
    """Tell of each queue and type whether it kept up in the last whole minutes that were sampled."""
    lanes: dict[tuple[str, str], list[Minute]] = defaultdict(list)
    for line in lines:
        lanes[line.queue, line.type].append(line)
    found = []
    for (queue, job_type), of in lanes.items():
        whole = [line for line in of if line.enqueued_per_s is not None][-LAG_MINUTES:]
        depths = [line.depth for line in of if line.depth is not None]
        if not whole:
            continue
        came = sum(line.enqueued_per_s or 0.0 for line in whole) / len(whole)
        left = sum(line.left for line in whole) / (60 * len(whole))
        found.append(Lag(queue, job_type, came, left, depths[-1]))
    return found
