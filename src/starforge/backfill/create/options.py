"""How a backfill is to run, beside what it takes in: as it is asked for, kept, and asked for again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from starforge.backfill.asset.asset import CONCURRENCY_MAX
from starforge.backfill.create.moment import moment
from starforge.backfill.errors import BackfillOptionError
from starforge.backfill.select.select import Request
from starforge.queue.entry import ATTEMPTS_MAX, PRIORITY_MAX

FAILED_MAX = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a backfill is to run; None where nothing was said. Raises: BackfillOptionError."""

    concurrency: int | None = None
    """Partitions at once; else as the asset declares."""

    priority: int | None = None
    """Higher goes first, with the priorities of jobs; else 0."""

    sla: str | timedelta | datetime | None = None
    """When it has to be complete: after so long, as in 90m, 6h or 1d12h, or at a time."""

    attempts: int | None = None
    """Failures after which a partition is given up; else as the asset declares."""

    failed_max: int | None = None
    """So many failed partitions a completed backfill may have; else 0."""

    def __post_init__(self) -> None:
        _whole("--concurrency", self.concurrency, 1, CONCURRENCY_MAX)
        _whole("--priority", self.priority, -PRIORITY_MAX, PRIORITY_MAX)
        _whole("--attempts", self.attempts, 1, ATTEMPTS_MAX)
        _whole("--failed-max", self.failed_max, 0, FAILED_MAX)

    def sla_at(self, now: datetime) -> datetime | None:
        """Return when the backfill has to be complete. Raises: InvalidInputError where that cannot be."""
        return None if self.sla is None else moment(self.sla_text, "--sla", now)

    @property
    def sla_text(self) -> str:
        """The SLA as people write it."""
        if isinstance(self.sla, timedelta):
            return f"{math.ceil(self.sla.total_seconds())}s"
        return self.sla.isoformat() if isinstance(self.sla, datetime) else self.sla or ""


def document(request: Request, options: Options) -> dict[str, Any]:
    """Return what was asked for, as JSON values; what was not said is left out."""
    said = {
        "asset": request.asset,
        "from": request.first,
        "to": request.last,
        "keys": list(request.keys) or None,
        "stale": request.stale or None,
        "include_upstream": request.include_upstream or None,
        "max_depth": request.max_depth,
        "canary": request.canary,
        "concurrency": options.concurrency,
        "priority": options.priority,
        "sla": options.sla_text or None,
        "attempts": options.attempts,
        "failed_max": options.failed_max,
    }
    return {name: value for name, value in said.items() if value is not None}


def _whole(option: str, value: object, least: int, most: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BackfillOptionError(f"{option} {value}: it is a whole number from {least} to {most}")
