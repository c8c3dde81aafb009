"""Partitions by name, and by ranges of a table's integer key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from starforge.backfill.errors import AssetDeclarationError, PartitionKeyError
from starforge.backfill.scheme.scheme import INT8_MAX, INT8_MIN, KeySpan, Named, Scheme, Span

NAME_CHARS_MAX = 200
NAME_REFUSED = re.compile(r"[\x00-\x1f\x7f,\ud800-\udfff]")
KEYS = re.compile(r"(-?\d{1,19})(?:\.\.(-?\d{1,19}))?", re.ASCII)
IDENTIFIER_BYTES_MAX = 63
ROWS_MAX = 1_000_000_000
KEY_MIN, KEY_MAX = INT8_MIN + 1, INT8_MAX - 1
"""Partitions are read from behind an ordinal on, and end before the next one: the two outermost have none."""


class Static(Scheme):
    """A partition per name: `Static("eu", "us", "asia")`.

    The database gives a name its ordinal when the name is first seen and never gives it to another, so an
    order that was declared once stays, and a name that is added later comes last, wherever it is written.
    """

    registers = True

    def __init__(self, *names: str) -> None:
        if not names:
            raise AssetDeclarationError("Static() has no names: each name is a partition")
        for name in names:
            _check_name(name)
        self.names = names
        self._places = {name: place for place, name in enumerate(names)}
        if len(self._places) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise AssetDeclarationError(f"Static names {', '.join(twice)} twice")
        self.example = names[0]

    def __repr__(self) -> str:
        return f"Static({', '.join(map(repr, self.names))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and other.names == self.names

    def __hash__(self) -> int:
        return hash(self.names)

    def told(self) -> str:
        return f"{len(self.names)} names from {self.names[0]} to {self.names[-1]}"

    def bounds(self, key: str) -> Named:
        return Named(self.names[self._place(key)])

    def span(self, first: str, last: str) -> Span:
        return self._place(first), self._place(last) + 1

    def listed(self, spans: Iterable[Span]) -> Iterator[tuple[str, int]]:
        for first, end in spans:
            for place in range(first, end):
                yield self.names[place], place

    def count(self, span: Span) -> int:
        return max(0, span[1] - span[0])

    def last_key(self, spans: Iterable[Span]) -> str:
        return self.names[list(spans)[-1][1] - 1]

    def reach(self) -> Span:
        """Return all places."""
        return 0, len(self.names)

    def _place(self, key: str) -> int:
        place = self._places.get(key.strip())
        if place is None:
            shown = ", ".join(self.names[:20]) + (" …" if len(self.names) > 20 else "")
            raise PartitionKeyError(key, f"is none of the declared names: {shown}")
        return place


@dataclass(frozen=True)
class KeyRange(Scheme):
    """Ranges of a table's primary key: `KeyRange("shop.orders", rows=50_000)`.

    A key is `1..50000`: the first and the last value, both included. The lines between partitions lie at
    multiples of `rows`, whatever the table holds, so the same rows have the same key in each backfill. A
    partition's ordinal is its first value, and what it covers are the values themselves: two backfills of
    the same rows overlap also where `rows` was changed between them.

    Args:
        table: Table, with its schema where that is not on the search path.
        key: Its key, a whole number.
        rows: Values of the key per partition, 1 to 1 000 000 000.
        start: Lowest value; without one the table's own when a backfill is created.
        end: Highest value, included. The lowest and the highest int8 belong to no range.
    """

    table: str
    key: str = "id"
    rows: int = 50_000
    start: int | None = None
    end: int | None = None
    example: str = field(default="1..50000", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_identifiers("table", self.table, 2)
        _check_identifiers("key", self.key, 1)
        _check_whole("rows", self.rows, 1, ROWS_MAX)
        for what, value in (("start", self.start), ("end", self.end)):
            if value is not None:
                _check_whole(what, value, KEY_MIN, KEY_MAX)
        if self.start is not None and self.end is not None and self.end < self.start:
            raise AssetDeclarationError(
                f"KeyRange({self.table!r}) ends at {self.end}, before its start {self.start}"
            )
        object.__setattr__(self, "example", f"1..{self.rows}")

    @property
    def table_parts(self) -> tuple[str, ...]:
        """The parts of the table's name, (schema, table) or (table,); whoever writes SQL quotes each."""
        return tuple(self.table.split("."))

    def told(self) -> str:
        return f"{self.table} by {self.key}, {self.rows} values each"

    def reach(self, lowest: int, highest: int) -> Span:
        """Return the key values to walk where the table holds keys from `lowest` to `highest`.

        They begin and end at a line between partitions, except where a declared start or end says otherwise.
        """
        first = self._line(lowest) if self.start is None else max(self.start, self._line(lowest))
        end = self._next_line(highest) if self.end is None else min(self.end + 1, self._next_line(highest))
        return first, max(first, end)

    def bounds(self, key: str) -> KeySpan:
        return KeySpan(*self.span(key, key), self.table, self.key)

    def span(self, first: str, last: str) -> Span:
        return self._read(first)[0], self._read(last)[1]

    def listed(self, spans: Iterable[Span]) -> Iterator[tuple[str, int]]:
        for first, end in spans:
            at, after = first, self._next_line(first)
            while at < end:
                yield f"{at}..{min(after, end) - 1}", at
                at, after = after, after + self.rows

    def count(self, span: Span) -> int:
        first, end = span
        return (end - 2) // self.rows - (first - 1) // self.rows + 1 if first < end else 0

    def head(self, span: Span, partitions: int) -> Span:
        return span[0], min(span[1], self._next_line(span[0]) + (partitions - 1) * self.rows)

    def last_key(self, spans: Iterable[Span]) -> str:
        first, end = list(spans)[-1]
        return f"{max(first, self._line(end - 1))}..{end - 1}"

    def _line(self, value: int) -> int:
        return max(KEY_MIN, (value - 1) // self.rows * self.rows + 1)

    def _next_line(self, value: int) -> int:
        return min(INT8_MAX, (value - 1) // self.rows * self.rows + 1 + self.rows)

    def _read(self, key: str) -> Span:
        found = KEYS.fullmatch(key.strip())
        if found is None:
            raise PartitionKeyError(key, f"is not written as a range of keys is: {self.example}")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise PartitionKeyError(key, f"ends before it starts: write {last}..{first}")
        if not KEY_MIN <= first <= last <= KEY_MAX:
            raise PartitionKeyError(key, f"is out of reach: keys go from {KEY_MIN} to {KEY_MAX}")
        return first, last + 1


def _check_name(name: object) -> None:
    if not isinstance(name, str) or name != name.strip() or not 0 < len(name) <= NAME_CHARS_MAX:
        raise AssetDeclarationError(
            f"Static({name!r}): a name is text of 1 to {NAME_CHARS_MAX} characters, without blanks around it"
        )
    if NAME_REFUSED.search(name):
        raise AssetDeclarationError(f"Static({name!r}): a name has no commas and no control characters")


def _check_identifiers(what: str, value: object, parts_max: int) -> None:
    parts = value.split(".") if isinstance(value, str) else []
    sizes = [len(part.encode(errors="replace")) for part in parts]
    fit = all(0 < size <= IDENTIFIER_BYTES_MAX for size in sizes) and "\0" not in "".join(parts)
    if not (0 < len(parts) <= parts_max and fit):
        form = "a table or schema.table" if parts_max == 2 else "a column"
        raise AssetDeclarationError(f"KeyRange {what} is {value!r}; it must name {form}")


def _check_whole(what: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise AssetDeclarationError(
            f"KeyRange {what} is {value!r}; it must be a whole number from {least} to {most}"
        )
