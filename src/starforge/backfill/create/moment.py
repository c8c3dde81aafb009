"""Moments that people write: so long from now, or a time.

`2h`, `90m`, `1h30m`, `1d` count from the database's now; `2026-01-31` and `2026-01-31T12:00` are UTC where
they name no zone of their own.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from starforge.errors import InvalidInputError

UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
SPAN = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,8})m)?(?:(\d{1,9})s)?")
SPAN_MAX = timedelta(days=3_660)


def moment(text: str, option: str, now: datetime) -> datetime:
    """Return the moment that a text names, after `now`.

    Args:
        text: A span as 1h30m, or a time as ISO 8601 writes it.
        option: What the message calls it: --sla.
        now: The database's now.
    Raises: InvalidInputError when it is neither, not after now, or more than ten years away.
    """
    told = text.strip()
    match = SPAN.fullmatch(told)
    if told and match is not None:
        parts = zip(UNITS.values(), match.groups(), strict=True)
        span = timedelta(seconds=sum(unit * int(part) for unit, part in parts if part))
        if span > SPAN_MAX:
            raise InvalidInputError(f"{option} {told!r} is more than ten years away")
        at = now + span
    else:
        at = _time(told, option)
    if at <= now:
        raise InvalidInputError(f"{option} {told!r} is not after now, {now:%Y-%m-%d %H:%M:%S} UTC")
    if at - now > SPAN_MAX:
        raise InvalidInputError(f"{option} {told!r} is more than ten years away")
    return at


def _time(text: str, option: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidInputError(
            f"{option} {text[:100]!r} is no moment: write 90m, 2h, 1h30m or 1d, or 2026-01-31T12:00 (UTC)"
        ) from None


def shown(at: datetime | None) -> str:
    """Return a time as summaries say it."""
    return "never" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
