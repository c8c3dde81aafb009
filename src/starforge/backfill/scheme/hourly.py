"""Partitions by the hour, in a zone whose clocks may change: no hour comes twice and none is left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

from starforge.backfill.errors import PartitionKeyError
from starforge.backfill.scheme.scheme import Span
from starforge.backfill.scheme.window import DAY, EPOCH, Calendar, Daily, day_of, parts_of, zone_of

HOUR_S = 3600
HOUR_LONG = timedelta(hours=1)
BLOCK_HOURS = 48
CHANGE_MAX = timedelta(hours=25)
"""No change of clocks is larger (Samoa skipped a day), so what is further away from one is not near it."""

TIME = r"(?:[01]\d|2[0-3])(?::[0-5]\d){%s}"
HOUR = re.compile(rf"(\d{{4}}-\d\d-\d\dT{TIME % '0,2'})(Z|[+-]{TIME % '1,2'})?", re.ASCII)


class Hourly(Calendar):
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
        clock = zone_of(self.zone)
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

    def listed(self, spans: Iterable[Span]) -> Iterator[tuple[str, int]]:
        for first, end in spans:
            for block in range(first, end, BLOCK_HOURS):
                yield from self._block(block, min(block + BLOCK_HOURS, end))

    def _block(self, first: int, end: int) -> Iterator[tuple[str, int]]:
        """Make the keys of a few hours; far from a change of clocks without asking the zone for each."""
        near, far = self.start_of(first) - CHANGE_MAX, self.start_of(end) + CHANGE_MAX
        offset = near.astimezone(self.clock).utcoffset() or timedelta()
        wall = self.start_of(first).replace(tzinfo=None) + offset
        if far.astimezone(self.clock).utcoffset() != offset or wall.second:
            yield from ((self.label(ordinal), ordinal) for ordinal in range(first, end))
            return
        chars = len(self.example) + (3 if wall.minute else 0)
        for ordinal in range(first, end):
            yield wall.isoformat()[:chars], ordinal
            wall += HOUR_LONG

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


def _wall(text: str, key: str) -> datetime:
    day_of(parts_of(DAY, text[:10], "a day", Daily.example), key)
    return datetime.fromisoformat(f"{text}:00" if len(text) == len(Hourly.example) else text)


def _offset(local: datetime) -> str:
    return local.isoformat()[19:]
