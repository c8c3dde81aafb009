"""Made: when each of an asset's partitions was completed last, and by which version of the code.

Two live backfills of an asset never share a partition, so of those that completed one the newest made it
last: what a newer backfill completed as a whole is not read of the older ones. However often an asset was
backfilled, about as many rows are read as there are partitions.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Iterable, Sequence
from sys import intern
from typing import Any

from asyncpg import Record

from starforge.backfill.asset.asset import Asset
from starforge.backfill.scheme.keyed import KeyRange
from starforge.backfill.scheme.scheme import INT8_MAX, INT8_MIN, Span, ranges
from starforge.db.pool import Connection
from starforge.db.statement import sql

AT_ONCE = 5_000
STRETCHES_MAX = 16
"""Of one backfill so many stretches are read by themselves; where there are more, all between their ends."""

EVERYWHERE: tuple[Span, ...] = ((INT8_MIN, INT8_MAX),)


async def made(conn: Connection, tenant: str, asset: Asset, wanted: Sequence[Span]) -> AsyncIterator[Record]:
    """Yield (ordinal, key, completed_s, code_version) of what was completed, in the order of ordinals.

    Args:
        conn: In a transaction that sees one moment.
        tenant: Whose backfills count.
        asset: Of which asset.
        wanted: The ordinals that are asked for, in order; others may come too.
    """
    if not wanted:
        return
    backfills = await conn.fetch(sql("backfill", "makers"), tenant, asset.name, ranges(wanted))
    # A range of keys may be followed by a part of it: that one begins there too, and is another partition.
    ids, firsts, ends = _stretches(backfills, each_alone=isinstance(asset.partitions, KeyRange))
    reach = wanted[0][0], wanted[-1][1]
    async for row in conn.cursor(
        sql("backfill", "made"), tenant, asset.name, ids, firsts, ends, *reach, prefetch=AT_ONCE
    ):
        yield row


class ByPlace:
    """When partitions were completed, by their ordinals: 16 bytes for each."""

    def __init__(self) -> None:
        self._ordinals, self._at_s = array("q"), array("d")

    async def read(self, rows: AsyncIterator[Record]) -> ByPlace:
        """Take in what `made` yields."""
        async for ordinal, _, at_s, _ in rows:
            self._ordinals.append(ordinal)
            self._at_s.append(at_s)
        return self

    def at_s(self, _key: str, place: int) -> float | None:
        """Return when a partition was completed, in seconds since 1970."""
        first = bisect_left(self._ordinals, place)
        end = bisect_right(self._ordinals, place, lo=first)
        return max(self._at_s[first:end], default=None)


class ByName:
    """When partitions were completed, by their keys, where places are no ordinals: names are few."""

    def __init__(self) -> None:
        self._at_s: dict[str, float] = {}

    async def read(self, rows: AsyncIterator[Record]) -> ByName:
        """Take in what `made` yields."""
        self._at_s = {key: at_s async for _, key, at_s, _ in rows}
        return self

    def at_s(self, key: str, _place: int) -> float | None:
        """Return when a partition was completed, in seconds since 1970."""
        return self._at_s.get(key)


class Beside:
    """What was completed, read beside a listing that goes through the same ordinals in the same order."""

    def __init__(self, rows: AsyncIterator[Record]) -> None:
        self._rows = rows
        self._next: Any = None
        self._began = False

    async def of(self, key: str, ordinal: int) -> tuple[float, str | None] | None:
        """Return when a partition was completed and by which code; each call goes on behind the last one."""
        if not self._began:
            self._began, self._next = True, await anext(self._rows, None)
        found = None
        while (row := self._next) is not None and row[0] <= ordinal:
            if row[0] == ordinal and row[1] == key:
                found = row[2], None if row[3] is None else intern(row[3])
            self._next = await anext(self._rows, None)
        return found


def _stretches(
    backfills: Iterable[Record], *, each_alone: bool = False
) -> tuple[list[Any], list[int], list[int]]:
    """Return what is to be read of which backfill, the newest first: nothing that a newer one completed.

    With `each_alone` all of each: places that a newer one covers say nothing of an older one's partitions.
    """
    known = _Known()
    ids: list[Any] = []
    firsts: list[int] = []
    ends: list[int] = []
    for row in backfills:
        places = [(each.lower, each.upper) for each in row["places"]]
        open_ = [part for span in places for part in known.without(span)]
        if len(open_) > STRETCHES_MAX:
            open_ = [(open_[0][0], open_[-1][1])]
        for first, end in open_:
            ids.append(row["id"])
            firsts.append(first)
            ends.append(end)
        if row["whole"] and not each_alone:
            for span in places:
                known.add(span)
    return ids, firsts, ends


class _Known:
    """Spans that are known, in order, none of them touching."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []

    def without(self, span: Span) -> list[Span]:
        """Return the parts of a span that are not known yet."""
        at, end = span
        left: list[Span] = []
        for n in range(bisect_right(self._ends, at), bisect_left(self._firsts, end)):
            if at < self._firsts[n]:
                left.append((at, self._firsts[n]))
            at = max(at, self._ends[n])
        return [*left, (at, end)] if at < end else left

    def add(self, span: Span) -> None:
        """Take in a span."""
        first, end = span
        begin, behind = bisect_left(self._ends, first), bisect_right(self._firsts, end)
        if begin < behind:
            first, end = min(first, self._firsts[begin]), max(end, self._ends[behind - 1])
        self._firsts[begin:behind] = [first]
        self._ends[begin:behind] = [end]
