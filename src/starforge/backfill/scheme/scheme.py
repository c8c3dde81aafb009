"""The partition scheme: how an asset is cut into partitions, which keys these have and in which order.

A key is text that people type. Beside it each partition has an ordinal, an int8 that never changes for its
asset; partitions run, and a checkpoint advances, in the order of ordinals and never in that of text (D-14).
The schemes are `Daily` and `Monthly` (window.py), `Hourly` (hourly.py), `SnapshotRange` (snapshot_range.py),
`Static` and `KeyRange` (keyed.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import asyncpg

INT8_MIN, INT8_MAX = -(2**63), 2**63 - 1

Span = tuple[int, int]
"""A half-open range of ordinals, [first, end), as an int8range has it."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, [start, end).

    Both are UTC: times of one local zone subtract as their clocks read, and a day of 23 hours seems to
    have 24.
    """

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class SnapshotWindow(Window):
    """The snapshots of a source whose time of `by` lies in [start, end)."""

    source: str
    by: str


@dataclass(frozen=True, slots=True)
class KeySpan:
    """Rows of a table whose key is at least `first` and below `end`."""

    first: int
    end: int
    table: str
    key: str = "id"

    @property
    def last(self) -> int:
        """The highest key that it may hold."""
        return self.end - 1


@dataclass(frozen=True, slots=True)
class Named:
    """One of the names that were declared."""

    name: str


Bounds = Window | KeySpan | Named


class Scheme(ABC):
    """How an asset is cut into partitions.

    Its places are whole numbers in the order of the partitions. They are the ordinals themselves, except
    where `registers` is true: there a name's ordinal is given to it by the database, once per asset.
    """

    registers: bool = False
    """Its ordinals come from the database: see `Facts.ordinals` in select.py."""

    example: str = ""
    """A key as people write it, for messages."""

    @abstractmethod
    def told(self) -> str:
        """Return what it is in a few words, for people."""

    @abstractmethod
    def bounds(self, key: str) -> Bounds:
        """Return what a partition holds. Raises: PartitionKeyError."""

    @abstractmethod
    def span(self, first: str, last: str) -> Span:
        """Return the places from one key to another, both included.

        Where `last` comes before `first` it is no span: its end is not above its first.
        Raises: PartitionKeyError.
        """

    @abstractmethod
    def listed(self, spans: Iterable[Span]) -> Iterator[tuple[str, int]]:
        """Make the partitions of these places, each as its key and its place, one at a time."""

    @abstractmethod
    def count(self, span: Span) -> int:
        """Return how many partitions `listed` makes of a span, without making them."""

    def head(self, span: Span, partitions: int) -> Span:
        """Return the places of the first so many partitions of a span."""
        return span[0], min(span[1], span[0] + partitions)

    def ordinal(self, key: str) -> int | None:
        """Return a key's ordinal; None where the database gives it. Raises: PartitionKeyError."""
        return None if self.registers else self.span(key, key)[0]

    def covers(self, keys: Iterable[str]) -> list[Span]:
        """Return what these partitions cover, for the database's check against overlaps (`int8multirange`).

        Of a scheme that registers its names this is their places: the database's ordinals count.
        Raises: PartitionKeyError.
        """
        return merged(self.span(key, key) for key in keys)

    def first_key(self, spans: Iterable[Span]) -> str:
        """Return the key of the first partition of these places."""
        return next(self.listed(spans))[0]

    @abstractmethod
    def last_key(self, spans: Iterable[Span]) -> str:
        """Return the key of the last partition of these places."""


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the spans in order, none empty and no two of them touching.

    What comes in order is merged as it comes: memory is what the result needs.
    """
    found: list[Span] = []
    in_order = True
    for first, end in spans:
        if first >= end:
            continue
        if found and found[-1][0] <= first <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
            continue
        in_order = in_order and (not found or found[-1][1] < first)
        found.append((first, end))
    return found if in_order else merged(sorted(found))


def clipped(spans: Iterable[Span], to: Span) -> list[Span]:
    """Return the part of the spans that lies inside another."""
    return merged((max(first, to[0]), min(end, to[1])) for first, end in spans)


def ranges(spans: Iterable[Span]) -> list[asyncpg.Range[int]]:
    """Return spans as an int8multirange."""
    return [asyncpg.Range(first, end) for first, end in spans]
