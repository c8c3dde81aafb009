"""An independent reckoning of cron: minute by minute through a zone's time, with nothing but zoneinfo."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
HIGHEST = (59, 23, 31, 12, 7)

ZONES = (
    "Europe/Berlin", "America/New_York", "America/Santiago", "Australia/Lord_Howe", "Africa/Cairo",
    "America/Havana", "Asia/Beirut", "Africa/Casablanca", "Asia/Kathmandu", "America/St_Johns", "UTC",
)  # fmt: skip
"""Clocks that change by an hour and by half of one, at night, at midnight, and around Ramadan."""


def field(text: str, place: int) -> set[int]:
    """Return what one field names, of the forms that the tests use."""
    low, high = (1, HIGHEST[place]) if place in (2, 3) else (0, HIGHEST[place])
    named: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        start, end = (low, high) if span == "*" else (int(first), int(last or first))
        named |= set(range(start, end + 1, int(step or 1)))
    return {0 if place == 4 and number == 7 else number for number in named}


class Reckoning:
    """The ticks of an expression by Debian's rules."""

    def __init__(self, text: str, zone: str) -> None:
        fields = text.split()
        self._zone = ZoneInfo(zone)
        self._named = [field(part, place) for place, part in enumerate(fields)]
        self._names_times = not fields[0].startswith("*") and not fields[1].startswith("*")
        self._both_days = fields[2].startswith("*") or fields[4].startswith("*")

    def _matches(self, local: datetime) -> bool:
        minute, hour, day, month, weekday = self._named
        of_month, of_week = local.day in day, local.isoweekday() % 7 in weekday
        right_day = of_month and of_week if self._both_days else of_month or of_week
        return local.minute in minute and local.hour in hour and local.month in month and right_day

    def ticks(self, after: datetime, until: datetime) -> list[datetime]:
        """Return the ticks later than `after`, not later than `until`."""
        found = set()
        moment = after.replace(second=0, microsecond=0) - timedelta(days=2)
        before: datetime | None = None
        while moment <= until:
            local = moment.astimezone(self._zone)
            shown = local.replace(tzinfo=None)
            if not self._names_times:
                if self._matches(shown):
                    found.add(moment)
            else:
                # The minutes that the clock has skipped come due together, at the moment after them.
                skipped = before + MINUTE if before is not None else shown
                while skipped < shown:
                    if self._matches(skipped):
                        found.add(moment)
                    skipped += MINUTE
                if self._matches(shown) and local.fold == 0:
                    found.add(moment)
            before = shown
            moment += MINUTE
        return sorted(tick for tick in found if after < tick <= until)


@cache
def changes(zone: str) -> tuple[datetime, ...]:
    """Return the days of 2023 to 2028 on which a zone's clocks change, and the leap day."""
    where, found = ZoneInfo(zone), [datetime(2024, 2, 29, tzinfo=UTC), datetime(2024, 12, 31, tzinfo=UTC)]
    day = datetime(2023, 1, 1, tzinfo=UTC)
    while day.year < 2029:
        after = day + timedelta(days=1)
        if day.astimezone(where).utcoffset() != after.astimezone(where).utcoffset():
            found.append(day)
        day = after
    return tuple(found)
