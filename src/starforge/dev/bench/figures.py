"""What is said of measurements: medians with their spread, percentiles, ratios within one round."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from starforge.db.pool import Connection

Report = Callable[[str], None]
"""Called with a line about each phase."""

SHOWN_DIGITS = 3


def shown(value: float) -> float:
    """Round for people: whole numbers from 100 on, else three digits that say something."""
    if abs(value) >= 100:
        return float(round(value))
    return float(f"{value:.{SHOWN_DIGITS}g}")


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return median, least and most of these rounds, and every one of them."""
    return {
        "median": shown(statistics.median(values)),
        "least": shown(min(values)),
        "most": shown(max(values)),
        "rounds": [shown(value) for value in values],
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95, p99 and the greatest of the values, and how many there are."""
    if not values:
        return {"n": 0}
    ordered = sorted(values)
    cuts = {f"p{at}": ordered[min(len(ordered) - 1, len(ordered) * at // 100)] for at in (50, 95, 99)}
    return {
        "n": len(ordered),
        **{name: shown(value) for name, value in cuts.items()},
        "max": shown(ordered[-1]),
    }


def ratios(these: Sequence[float], those: Sequence[float]) -> dict[str, Any]:
    """Return the spread of these ÷ those, round by round: rounds differ more than what is compared."""
    return spread([this / that for this, that in zip(these, those, strict=True)])


async def conditions(conn: Connection) -> dict[str, Any]:
    """Return what a figure of this server depends on; a figure without it means little."""
    names = (
        "server_version",
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "shared_buffers",
        "max_wal_size",
    )
    found: dict[str, Any] = {name: await conn.fetchval(f"SHOW {name}") for name in names}
    return {
        "postgres": found.pop("server_version"),
        **found,
        "cores": os.cpu_count(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }
