"""Partitions by time: what all have in common, days and months; hours are in hourly.py.

Windows touch: each ends where the next one starts, also where clocks change. A day has 23 or 25 hours
then. A day that a zone left out (Samoa, 2011-12-30) is a
window of no length.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from starforge.backfill.errors import AssetDeclarationError, PartitionKeyError
from starforge.backfill.scheme.scheme import Scheme, Span, Window

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = EPOCH.toordinal()
MOMENT = timedelta(microseconds=1)
YEAR_MIN, YEAR_MAX = 1000, 9998

DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
MONTH = re.compile(r"(\d{4})-(\d\d)", re.ASCII)


class TimeScheme(Scheme):
    """A scheme whose partitions are windows of time; a place is its ordinal, counted from 1970."""

    unit: str = ""
    first: int
    last: int | None
    """The declared end's ordinal, included."""

    @abstractmethod
    def start_of(self, ordinal: int) -> datetime:
        """Return when a window starts, in UTC; the one before it ends then."""

    @abstractmethod
    def at(self, moment: datetime) -> int:
        """Return the ordinal of the window that a moment lies in."""

    @abstractmethod
    def label(self, ordinal: int) -> str:
        """Return a window's key."""

    @abstractmethod
    def read(self, key: str) -> int:
        """Return the ordinal of the window that a key names; raise PartitionKeyError where it names none."""

    def window(self, ordinal: int) -> Window:
        """Return a window by its ordinal."""
        return Window(self.start_of(ordinal), self.start_of(ordinal + 1))

    def reach(self, now: datetime) -> Span:
        """Return the partitions that there are at a time: from the first to the last that has ended."""
        ended = self.at(now)
        return self.first, max(self.first, ended if self.last is None else min(ended, self.last + 1))

    def during(self, start: datetime, end: datetime) -> Span:
        """Return the windows that share some time with [start, end)."""
        return (self.at(start), self.at(end - MOMENT) + 1) if start < end else (0, 0)

    def bounds(self, key: str) -> Window:
        return self.window(self.read(key))

    def span(self, first: str, last: str) -> Span:
        return self.read(first), self.read(last) + 1

    def listed(self, spans: Iterable[Span]) -> Iterator[tuple[str, int]]:
        label = self.label
        for first, end in spans:
            for ordinal in range(first, end):
                yield label(ordinal), ordinal

    def count(self, span: Span) -> int:
        return max(0, span[1] - span[0])

    def last_key(self, spans: Iterable[Span]) -> str:
        return self.label(list(spans)[-1][1] - 1)


@dataclass(frozen=True)
class Calendar(TimeScheme):
    """What days, hours and months have in common: a start, an end that is included, and a zone."""

    start: str | date | datetime
    end: str | date | datetime | None = None
    zone: str = "UTC"
    first: int = field(init=False, compare=False, repr=False)
    last: int | None = field(init=False, compare=False, repr=False)
    clock: tzinfo = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "clock", zone_of(self.zone))
        # As text, so that what is declared with a date and what is read back of it are the same.
        for what in ("start", "end"):
            if isinstance(value := getattr(self, what), date):
                object.__setattr__(self, what, self._text(value))
        first = self._declared("start", self.start)
        last = None if self.end is None else self._declared("end", self.end)
        if last is not None and last < first:
            raise AssetDeclarationError(
                f"{self.unit} partitions end at {self.end}, before their start {self.start}"
            )
        object.__setattr__(self, "first", first)
        object.__setattr__(self, "last", last)

    def _declared(self, what: str, value: object) -> int:
        try:
            return self.read(value if isinstance(value, str) else self._text(value))
        except PartitionKeyError as error:
            raise AssetDeclarationError(f"{what} of {self.unit} partitions: {error}") from None

    def _text(self, value: object) -> str:
        if isinstance(value, datetime) and value.tzinfo is not None:
            value = value.astimezone(self.clock)
        return value.isoformat()[: len(self.example)] if isinstance(value, date) else repr(value)

    def told(self) -> str:
        end = "" if self.last is None else f" to {self.label(self.last)}"
        zone = "" if self.zone == "UTC" else f" in {self.zone}"
        return f"{self.unit} from {self.label(self.first)}{end}{zone}"

    def _midnight(self, day: date) -> datetime:
        # Where midnight comes twice the first one counts; where it is skipped, what follows the gap at once.
        return datetime(day.year, day.month, day.day, tzinfo=self.clock).astimezone(UTC)

    def _settle(self, near: int, moment: datetime) -> int:
        """Return the ordinal of the moment's window, beginning at one that is near."""
        while self.start_of(near) > moment:
            near -= 1
        while self.start_of(near + 1) <= moment:
            near += 1
        return near


class Daily(Calendar):
    """A partition per day, midnight to midnight in the zone: `Daily("2024-01-01", zone="Europe/Berlin")`.

    `end` is the last day, included; without one there is a partition for each day that is over.
    """

    unit = "daily"
    example = "2024-02-29"

    def start_of(self, ordinal: int) -> datetime:
        return self._midnight(date.fromordinal(ordinal + EPOCH_DAY))

    def at(self, moment: datetime) -> int:
        return self._settle(moment.astimezone(self.clock).toordinal() - EPOCH_DAY, moment)

    def label(self, ordinal: int) -> str:
        return date.fromordinal(ordinal + EPOCH_DAY).isoformat()

    def read(self, key: str) -> int:
        return day_of(parts_of(DAY, key, "a day", self.example), key).toordinal() - EPOCH_DAY


class Monthly(Calendar):
    """A partition per month of the zone: `Monthly("2024-01")`. `end` is the last month, included."""

    unit = "monthly"
    example = "2024-02"

    def start_of(self, ordinal: int) -> datetime:
        return self._midnight(date(1970 + ordinal // 12, ordinal % 12 + 1, 1))

    def at(self, moment: datetime) -> int:
        local = moment.astimezone(self.clock)
        return self._settle((local.year - 1970) * 12 + local.month - 1, moment)

    def label(self, ordinal: int) -> str:
        return f"{1970 + ordinal // 12}-{ordinal % 12 + 1:02}"

    def read(self, key: str) -> int:
        day = day_of((*parts_of(MONTH, key, "a month", self.example), "01"), key)
        return (day.year - 1970) * 12 + day.month - 1


def zone_of(name: str) -> tzinfo:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError, AttributeError):
        raise AssetDeclarationError(
            f"time zone {name!r} is not known to this machine: write one as in Europe/Berlin"
            " (or install the package tzdata)"
        ) from None


def parts_of(form: re.Pattern[str], key: str, what: str, example: str) -> tuple[str, ...]:
    found = form.fullmatch(key.strip())
    if found is None:
        raise PartitionKeyError(key, f"is not written as {what} is: {example}")
    return found.groups()


def day_of(parts: tuple[str, ...], key: str) -> date:
    year, month, day = map(int, parts)
    try:
        found = date(year, month, day)
    except ValueError as error:
        raise PartitionKeyError(key, f"is not in the calendar: {error}") from None
    if not YEAR_MIN <= year <= YEAR_MAX:
        raise PartitionKeyError(key, f"is out of reach: years go from {YEAR_MIN} to {YEAR_MAX}")
    return found
