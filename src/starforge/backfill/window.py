"""Partitions by time: days, hours and months, in a zone whose clocks may change, and snapshots by them.

Windows touch: each ends where the next one starts, also where clocks change. A day has 23 or 25 hours
then, and an hour that comes twice is two partitions. A day that a zone left out (Samoa, 2011-12-30) is a
window of no length.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from starforge.backfill.errors import AssetDeclarationError, PartitionKeyError
from starforge.backfill.scheme import Scheme, SnapshotWindow, Span, Window

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = EPOCH.toordinal()
HOUR_S = 3600
MOMENT = timedelta(microseconds=1)
YEAR_MIN, YEAR_MAX = 1000, 9998

DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
MONTH = re.compile(r"(\d{4})-(\d\d)", re.ASCII)
TIME = r"(?:[01]\d|2[0-3])(?::[0-5]\d){%s}"
HOUR = re.compile(rf"(\d{{4}}-\d\d-\d\dT{TIME % '0,2'})(Z|[+-]{TIME % '1,2'})?", re.ASCII)

SnapshotTime = Literal["captured_at", "created_at"]


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
class _Calendar(TimeScheme):
    """What days, hours and months have in common: a start, an end that is included, and a zone."""

    start: str | date | datetime
    end: str | date | datetime | None = None
    zone: str = "UTC"
    first: int = field(init=False, compare=False, repr=False)
    last: int | None = field(init=False, compare=False, repr=False)
    clock: tzinfo = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "clock", _zone(self.zone))
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


class Daily(_Calendar):
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
        return _day(_parts(DAY, key, "a day", self.example), key).toordinal() - EPOCH_DAY


class Monthly(_Calendar):
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
        day = _day((*_parts(MONTH, key, "a month", self.example), "01"), key)
        return (day.year - 1970) * 12 + day.month - 1


class Hourly(_Calendar):
    """A partition per hour: `Hourly("2024-01-01T00", zone="Europe/Berlin")`. `end` is the last, included.

    A key is the local time at which the hour starts, with its offset only where that time comes twice:
    2024-10-27T02+02:00 and 2024-10-27T02+01:00. Each has 60 minutes, also where clocks are changed by less
    (Lord Howe Island): hours start with those of the zone as it was at the scheme's start, and carry their
    minute where that is not 0.
    """

    unit = "hourly"
    example = "2024-02-29T13"
    _shift_s: int = 0

    def __post_init__(self) -> None:
        clock = _zone(self.zone)
        object.__setattr__(self, "clock", clock)
        start = self.start if isinstance(self.start, str) else self._text(self.start)
        if (found := HOUR.fullmatch(start.strip())) is not None:
            with suppress(PartitionKeyError):  # which follows, when the start is read
                offset = _wall(found[1], start).replace(tzinfo=clock).utcoffset() or timedelta()
                object.__setattr__(self, "_shift_s", -int(offset.total_seconds()) % HOUR_S)
        super().__post_init__()

    def start_of(self, ordinal: int) -> datetime:
        return EPOCH + timedelta(seconds=ordinal * HOUR_S + self._shift_s)

    def at(self, moment: datetime) -> int:
        since = moment - EPOCH
        return (since.days * 86400 + since.seconds - self._shift_s) // HOUR_S

    def label(self, ordinal: int) -> str:
        start = self.start_of(ordinal)
        if self.clock is UTC:
            return start.isoformat()[:13]
        local = start.astimezone(self.clock)
        naive = local.replace(tzinfo=None).isoformat()
        key = naive[:13] if naive.endswith(":00:00") else naive.removesuffix(":00")
        twice = local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
        return key + _offset(local) if twice else key

    def read(self, key: str) -> int:
        found = HOUR.fullmatch(key.strip())
        if found is None:
            raise PartitionKeyError(key, f"is not written as an hour is: {self.example}")
        wall = _wall(found[1], key)
        starts = self._starts(wall)
        if found[2] is not None:
            meant = datetime.fromisoformat(wall.isoformat() + found[2])
            starts = [start for start in starts if start == meant]
        if not starts:
            raise PartitionKeyError(key, f"is no hour of {self.zone}{self._instead(wall)}")
        if len(starts) > 1:
            both = " or ".join(self.label(self.at(start)) for start in starts)
            raise PartitionKeyError(
                key, f"comes twice in {self.zone}, where clocks are set back: write {both}"
            )
        return self.at(starts[0])

    def _text(self, value: object) -> str:
        if isinstance(value, datetime):
            return super()._text(value)
        return f"{value.isoformat()}T00" if isinstance(value, date) else repr(value)

    def _starts(self, wall: datetime) -> list[datetime]:
        """Return the moments at which the zone's clocks show this and an hour starts: none, one or two."""
        both = {wall.replace(tzinfo=self.clock, fold=fold).astimezone(UTC) for fold in (0, 1)}
        shown = (at for at in both if at.astimezone(self.clock).replace(tzinfo=None) == wall)
        return sorted(at for at in shown if self.start_of(self.at(at)) == at)

    def _instead(self, wall: datetime) -> str:
        near = self.at(wall.replace(tzinfo=self.clock).astimezone(UTC))
        return f"; near it are {', '.join(self.label(near + step) for step in (-1, 0, 1))}"


@dataclass(frozen=True)
class SnapshotRange(TimeScheme):
    """Stored snapshots of a source, processed again by the code that processes new ones.

    SnapshotRange("orders", by="captured_at", every=Daily("2024-01-01"))

    Its partitions are the windows of `every`, with their keys; each holds the snapshots that were captured
    (or, by="created_at", stored) in it.
    """

    source: str
    by: SnapshotTime = "captured_at"
    every: Daily | Hourly | Monthly = field(kw_only=True)

    def __post_init__(self) -> None:
        if not self.source or not isinstance(self.source, str):
            raise AssetDeclarationError(
                f"a SnapshotRange names the source of its snapshots, not {self.source!r}"
            )
        if self.by not in get_args(SnapshotTime):
            raise AssetDeclarationError(
                f"snapshots are chosen by {' or '.join(get_args(SnapshotTime))}, not by {self.by!r}"
            )
        if not isinstance(self.every, _Calendar):
            raise AssetDeclarationError(f"every={self.every!r}: give it a Daily(…), Hourly(…) or Monthly(…)")

    @property
    def first(self) -> int:  # type: ignore[override]
        return self.every.first

    @property
    def last(self) -> int | None:  # type: ignore[override]
        return self.every.last

    @property
    def example(self) -> str:  # type: ignore[override]
        return self.every.example

    def told(self) -> str:
        return f"snapshots of {self.source} by {self.by}, {self.every.told()}"

    def start_of(self, ordinal: int) -> datetime:
        return self.every.start_of(ordinal)

    def at(self, moment: datetime) -> int:
        return self.every.at(moment)

    def label(self, ordinal: int) -> str:
        return self.every.label(ordinal)

    def read(self, key: str) -> int:
        return self.every.read(key)

    def window(self, ordinal: int) -> SnapshotWindow:
        return SnapshotWindow(self.start_of(ordinal), self.start_of(ordinal + 1), self.source, self.by)


def _zone(name: str) -> tzinfo:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError, AttributeError):
        raise AssetDeclarationError(
            f"time zone {name!r} is not known to this machine: write one as in Europe/Berlin"
            " (or install the package tzdata)"
        ) from None


def _parts(form: re.Pattern[str], key: str, what: str, example: str) -> tuple[str, ...]:
    found = form.fullmatch(key.strip())
    if found is None:
        raise PartitionKeyError(key, f"is not written as {what} is: {example}")
    return found.groups()


def _day(parts: tuple[str, ...], key: str) -> date:
    year, month, day = map(int, parts)
    try:
        found = date(year, month, day)
    except ValueError as error:
        raise PartitionKeyError(key, f"is not in the calendar: {error}") from None
    if not YEAR_MIN <= year <= YEAR_MAX:
        raise PartitionKeyError(key, f"is out of reach: years go from {YEAR_MIN} to {YEAR_MAX}")
    return found


def _wall(text: str, key: str) -> datetime:
    _day(_parts(DAY, text[:10], "a day", Daily.example), key)
    return datetime.fromisoformat(f"{text}:00" if len(text) == len(Hourly.example) else text)


def _offset(local: datetime) -> str:
    return local.isoformat()[19:]
