"""Listings: partitions that were chosen one by one, half a million of them in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress

from starforge.backfill.select.selection import Part


@dataclass(frozen=True, slots=True)
class Columns:
    """Partitions as their rows have them."""

    keys: list[str]
    ordinals: array[int]

    @classmethod
    def of(cls, partitions: Iterable[tuple[str, int]]) -> Columns:
        """Take partitions in any order; what comes twice is taken once."""
        new = cls([], array("q"))
        ordered = True
        for key, ordinal in partitions:
            if new.keys and (key, ordinal) == (new.keys[-1], new.ordinals[-1]):
                continue
            ordered = ordered and (not new.keys or new.ordinals[-1] <= ordinal)
            new.add(key, ordinal)
        return new if ordered else cls.of(sorted(set(new), key=_place))

    def add(self, key: str, ordinal: int) -> None:
        """Add one; the caller keeps the order."""
        self.keys.append(key)
        self.ordinals.append(ordinal)

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return zip(self.keys, self.ordinals, strict=True)

    @property
    def last_key(self) -> str:
        return self.keys[-1]


@dataclass(frozen=True, slots=True)
class Marked:
    """Some of the partitions of a range: nothing is kept of them but a mark for each of the range."""

    part: Part
    marks: bytearray
    last_key: str

    def __len__(self) -> int:
        return self.marks.count(1)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return compress(self.part.in_order(), self.marks)


def _place(listed: tuple[str, int]) -> int:
    return listed[1]
