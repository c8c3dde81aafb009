"""Cron: when a schedule ticks, in any time zone, across every change of its clocks.

cronsim reads the expression and walks the calendar; the step from local time to the moment is made here,
because its own misses and adds ticks where clocks change by half an hour or at midnight
(docs/decisions/0016). The rules are those of Debian's cron. An expression whose minute and hour both name
times ("30 2 * * *") ticks once for each of them: where clocks skip it, at the first moment after the gap;
where it comes twice, the first time. One whose minute or hour starts with * ticks at every moment whose
local time matches.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from starforge.queue.errors import ScheduleError

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

FIELDS = "minute, hour, day of month, month, day of week"
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
FIRST_SPAN = timedelta(hours=1)

CENTURY = timedelta(days=36525)
"""An expression without a tick for this long has none."""


class Cron:
    """An expression in a time zone; every moment is in UTC.

    Raises: ScheduleError with what is wrong with the expression or the zone.
    """

    def __init__(self, text: str, zone: str = "UTC") -> None:
        self.text, self.zone = text, zone
        self._expression = ALIASES.get(text.strip().lower(), text)
        self._zone = _zone(zone)
        fields = self._expression.split()
        if len(fields) != 5:
            names = ", ".join(ALIASES)
            raise ScheduleError(
                f"cron {text!r} has {len(fields)} of the five fields ({FIELDS}); or write one of {names}"
            )
        try:
            CronSim(self._expression, datetime(2000, 1, 1))
        except CronSimError as error:
            wrong = str(error)[:1].lower() + str(error)[1:]
            raise ScheduleError(f"cron {text!r} cannot be read: {wrong}") from None
        self._names_times = not fields[0].startswith("*") and not fields[1].startswith("*")

    def next(self, after: datetime) -> datetime:
        """Return the first tick later than `after`; raise ScheduleError where there is none."""
        after = after.astimezone(UTC).replace(microsecond=0)
        tick = self._named(after) if self._names_times else self._matching(after)
        if tick is None:
            raise ScheduleError(f"cron {self.text!r} has no tick after {after:%Y-%m-%d}")
        return tick

    def newest(self, after: datetime, until: datetime, *, most: int) -> list[datetime]:
        """Return the last `most` ticks later than `after` and not later than `until`, oldest first.

        It looks back in growing spans, so that a long time costs no more than the ticks that are wanted.
        """
        span = FIRST_SPAN
        while True:
            start = max(after, until - span)
            ticks = self._between(start, until)
            if len(ticks) >= most or start == after:
                return ticks[-most:]
            span *= 8

    def _between(self, after: datetime, until: datetime) -> list[datetime]:
        ticks = []
        tick = self.next(after)
        while tick <= until:
            ticks.append(tick)
            tick = self.next(tick)
        return ticks

    def _calendar(self, local: datetime) -> CronSim:
        """Walk local times later than `local`, whatever clocks do."""
        return CronSim(self._expression, local)

    def _named(self, after: datetime) -> datetime | None:
        """Each local time once: at its first moment, or right after the gap that it falls into."""
        for local in self._calendar(_local(after, self._zone)):
            moment = _first_moment(local, self._zone)
            # Where `after` lies in an hour's second run, the first of these were already.
            if moment > after:
                return moment
        return None

    def _matching(self, after: datetime) -> datetime | None:
        """Every moment whose local time matches: one stretch of equal offset after the other."""
        start, behind = after, _local(after, self._zone)
        while start - after < CENTURY:
            local = next(self._calendar(behind), None)
            if local is None:
                return None
            tick = local.replace(tzinfo=UTC) - _offset(start, self._zone)
            change = _change(start, tick, self._zone)
            if change is None:
                return tick
            start, behind = change, _local(change, self._zone) - SECOND
        return None


@lru_cache(maxsize=1024)
def cron(text: str, zone: str) -> Cron:
    """Return the expression, read once."""
    return Cron(text, zone)


def _zone(name: str) -> tzinfo:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ScheduleError(
            f"time zone {name!r} is not known to this machine: write one as in Europe/Berlin"
            " (or install the package tzdata)"
        ) from None


def _offset(moment: datetime, zone: tzinfo) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _local(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def _first_moment(local: datetime, zone: tzinfo) -> datetime:
    """Return the first moment at which clocks show `local`, or at which they have skipped it."""
    moment = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _local(moment, zone) == local:
        return moment
    # In a gap, fold=0 counts with the offset before it and lands behind it; fold=1 the other way round.
    change = _change(local.replace(tzinfo=zone, fold=1).astimezone(UTC), moment, zone)
    return moment if change is None else change


def _change(start: datetime, end: datetime, zone: tzinfo) -> datetime | None:
    """Return the first moment in (start, end] with another offset than `start`, to the second; None: none.

    Days are looked at one by one: no zone changes its clocks twice in a day.
    """
    if zone is UTC:
        return None
    offset = _offset(start, zone)
    while start < end:
        later = min(end, start + DAY)
        if _offset(later, zone) != offset:
            return _bisected(start, later, zone)
        start = later
    return None


def _bisected(before: datetime, behind: datetime, zone: tzinfo) -> datetime:
    offset = _offset(before, zone)
    while behind - before > SECOND:
        middle = before + (behind - before) / 2
        if _offset(middle, zone) == offset:
            before = middle
        else:
            behind = middle
    return behind.replace(microsecond=0)
