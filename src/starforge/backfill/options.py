"""How a backfill is to run, beside what it takes in: as it is asked for, kept, and asked for again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from starforge.backfill.asset import CONCURRENCY_MAX
from starforge.backfill.errors import BackfillOptionError
from starforge.backfill.select import Request
from starforge.queue.entry import ATTEMPTS_MAX, PRIORITY_MAX

FAILED_MAX = 10_000_000
SLA_S_MAX = 10 * 366 * 86_400

DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?", re.ASCII)


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
        if self.sla is not None:
            _sla(self.sla)

    def sla_at(self, now: datetime) -> datetime | None:
        """Return when the backfill has to be complete. Raises: BackfillOptionError where that is over."""
        if self.sla is None:
            return None
        meant = _sla(self.sla)
        at = now + meant if isinstance(meant, timedelta) else meant
        if at <= now:
            raise BackfillOptionError(f"--sla {self.sla}: that is over; it is {now:%Y-%m-%dT%H:%M:%SZ} now")
        return at


def document(request: Request, options: Options) -> dict[str, Any]:
    """Return what was asked for, as JSON values; what was not said is left out."""
    sla = options.sla
    if isinstance(sla, timedelta):
        sla = f"{int(sla.total_seconds())}s"
    elif isinstance(sla, datetime):
        sla = sla.isoformat()
    said = {
        "asset": request.asset,
        "from": request.first,
        "to": request.last,
        "keys": list(request.keys) or None,
        "include_upstream": request.include_upstream or None,
        "max_depth": request.max_depth,
        "canary": request.canary,
        "concurrency": options.concurrency,
        "priority": options.priority,
        "sla": sla,
        "attempts": options.attempts,
        "failed_max": options.failed_max,
    }
    return {name: value for name, value in said.items() if value is not None}


def asked(kept: Mapping[str, Any]) -> tuple[Request, Options]:
    """Return what a `document` says. Raises: SelectionError, BackfillOptionError."""
    request = Request(
        asset=kept["asset"],
        first=kept.get("from"),
        last=kept.get("to"),
        keys=tuple(kept.get("keys") or ()),
        include_upstream=kept.get("include_upstream", False),
        max_depth=kept.get("max_depth"),
        canary=kept.get("canary"),
    )
    names = ("concurrency", "priority", "sla", "attempts", "failed_max")
    return request, Options(**{name: kept.get(name) for name in names})


def _sla(given: str | timedelta | datetime) -> timedelta | datetime:
    if isinstance(given, datetime):
        return given if given.tzinfo is not None else given.replace(tzinfo=UTC)
    if isinstance(given, timedelta):
        return _bounded(given, given)
    text = given.strip()
    found = DURATION.fullmatch(text)
    if found is not None and text:
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return _bounded(timedelta(seconds=((days * 24 + hours) * 60 + minutes) * 60 + seconds), given)
    try:
        return _sla(datetime.fromisoformat(text))
    except ValueError:
        raise BackfillOptionError(
            f"--sla {given!r:.60}: write how long, as in 90m, 6h or 1d12h, or"
            " until when, as in 2024-02-29T18:00Z"
        ) from None


def _bounded(given: timedelta, shown: object) -> timedelta:
    if not 0 < given.total_seconds() <= SLA_S_MAX:
        raise BackfillOptionError(f"--sla {shown}: it is above 0 and at most ten years")
    return given


def _whole(option: str, value: object, least: int, most: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BackfillOptionError(f"{option} {value}: it is a whole number from {least} to {most}")
