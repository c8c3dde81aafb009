"""From the bytes of a document to Python objects: the gear that holds a piece at a time.

The document is read once for its skeleton, which is what columns or an `extra` take but for the items that
tables are made of, and once more for each container of items. ijson tells what comes by, on its C backend;
its basic events alone keep no record of the path, which would cost as much memory as the document is deep.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from decimal import Decimal
from typing import Any

import ijson

from starforge.etl.document.escapes import Escapes
from starforge.etl.document.grammar import Grammar, parser, words
from starforge.etl.document.guard import Guard
from starforge.etl.document.gulps import Gulps
from starforge.etl.document.path import Path, Segment
from starforge.etl.errors import MalformedError
from starforge.etl.gears.skeleton import ENDS, STARTS, STEPS, Container, Event, Keep, Skeleton, plain
from starforge.etl.mapping.layout import Layout
from starforge.etl.mapping.reading import Piece, Reading

Opened = Callable[[], AsyncIterator[bytes]]
"""Opens the document's bytes from their beginning, in chunks of any size."""

PIECE_BYTES_MAX = 4_000_000
PART_BYTES = 1 << 16
"""The events of so many bytes take some megabytes."""


class Streamed:
    """A document of which only the skeleton is in memory."""

    def __init__(self, opened: Opened, root: Any, containers: dict[Path, Container]) -> None:
        self._opened, self.root, self.containers = opened, root, containers

    @classmethod
    async def of(
        cls,
        layout: Layout,
        opened: Opened,
        guard: Guard | None = None,
        *,
        only: Collection[Path] | None = None,
    ) -> Streamed:
        """Read what a mapping needs to have in memory; arguments and errors as for `read`.

        Of what lies below the root it is `only` these paths where they are given.
        """
        first = await cls.read(opened, layout.left_out(), guard, Keep.of(layout, only=only))
        place = Reading(layout, first.root).place
        left_out = layout.left_out(place)
        if first.containers.keys() <= left_out:
            return first
        # It looks like a container, and lies where the fields of this document are not.
        return await cls.read(opened, left_out, keep=Keep.of(layout, place, only))

    @classmethod
    async def read(
        cls,
        opened: Opened,
        left_out: Collection[Path],
        guard: Guard | None = None,
        keep: Keep | None = None,
    ) -> Streamed:
        """Read the skeleton.

        Args:
            opened: Opens the document, each time from its beginning.
            left_out: Where containers lie whose items are rows: paths from the document's top.
            guard: Judges the bytes too.
            keep: What is kept of the rest; everything where not given.
        Raises: MalformedError with the position; DocumentTimeoutError; MappingError where the skeleton does
            not fit in memory.
        """
        builder = Skeleton(frozenset(left_out), keep or Keep())
        async for events, _ in _events(opened, guard):
            builder.take(events)
        if guard is not None:
            guard.end()
        builder.end()
        return cls(opened, builder.value, builder.containers)

    async def pieces(self, container: Path, *, items: int) -> AsyncIterator[Piece | None]:
        """Yield the items of a container; one of another kind, or none, is in the root as it is."""
        found = self.containers.get(container)
        if found is None or not found.live:
            yield None
            return
        reader = _Items(container, found.times, items)
        async for events, size in _events(self._opened):
            reader.weigh(size)
            for piece in reader.take(events):
                yield piece
        yield reader.rest()


async def _events(opened: Opened, guard: Guard | None = None) -> AsyncIterator[tuple[list[Event], int]]:
    """Yield the events of each part, and how many bytes it had."""
    events = ijson.sendable_list()
    reader, escapes, gulps, before = parser().basic_parse_coro(events), Escapes(), Gulps(), 0
    try:
        async for chunk in opened():
            if guard is not None:
                guard.feed(chunk)  # a megabyte or so ahead of the parser
            for first in range(0, len(chunk), PART_BYTES):
                part = chunk[first : first + PART_BYTES]
                for gulp, _ in gulps.feed(escapes.feed(part)):  # no bytes would mean that this is the end
                    reader.send(gulp)
                yield events, len(part)
                before += len(part)
                events.clear()
        # The line's end: yajl forgets a string that is open behind a whole document.
        for gulp, _ in gulps.feed(escapes.end()):
            reader.send(gulp)
        reader.send(gulps.rest() + b"\n")
        reader.close()
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise await _located(opened, before, error) from None
    yield events, 0


async def _located(opened: Opened, before: int, error: Exception) -> MalformedError:
    """Find the byte at fault; where the grammar cannot, say that it lies at byte `before` or behind."""
    grammar, passed, line, newline = Grammar(), 0, 1, -1
    try:
        async for chunk in opened():
            grammar.feed(chunk)
            known = chunk[: max(0, before - passed)]
            line += known.count(b"\n")
            newline = passed + known.rfind(b"\n") if b"\n" in known else newline
            passed += len(chunk)
        grammar.end()
    except MalformedError as found:
        return found
    return MalformedError(before, line, before - newline, f"here or behind: {words(error)}")


class _Items:
    """Builds the items of one container, a piece at a time."""

    def __init__(self, container: Path, times: int, items_max: int) -> None:
        self._container, self._left, self._items_max = container, times, items_max
        self._places: list[int] = []
        """Of each array on the way to the container: how many items it has had; −1 for an object."""
        self._key = ""
        self._skipped = 0
        """How deep we are in what is not on the way; 0: we are on it."""
        self._inside = False
        self._open: list[Any] = []
        """What is being built of an item, innermost last."""
        self._names: list[str] = []
        """The names under which those of them that are objects get their next values."""
        self._values: list[Any] = []
        self._ids: list[str] = []
        self._keyed = False
        self._first = 0
        self._bytes = 0

    def weigh(self, size: int) -> None:
        """Count the bytes of the document that go by."""
        self._bytes += size

    def rest(self) -> Piece:
        """Return the last piece; it may hold nothing."""
        return self._piece()

    def take(self, events: Iterable[Event]) -> Iterator[Piece]:
        """Go on building; yield a piece whenever one is full."""
        opened, names = self._open, self._names
        for event, value in events:
            if self._skipped:
                self._skipped += STEPS.get(event, 0)
            elif opened:
                # Inside an item: nearly all events come here.
                inner = opened[-1]
                if event == "map_key":
                    names.append(value)
                elif event in STARTS:
                    opened.append({} if event == "start_map" else [])
                else:
                    if event in ENDS:
                        value = opened.pop()
                        if not opened:
                            self._values.append(value)
                            if self._full():
                                yield self._piece()
                            continue
                        inner = opened[-1]
                    elif type(value) is Decimal:
                        value = float(value)
                    if type(inner) is dict:
                        inner[names.pop()] = value
                    else:
                        inner.append(value)
            elif self._inside:
                self._between(event, value)
                if self._full():
                    yield self._piece()
            else:
                self._approach(event, value)

    def _full(self) -> bool:
        if self._open or not self._values:
            return False
        return len(self._values) >= self._items_max or self._bytes > PIECE_BYTES_MAX

    def _approach(self, event: str, value: Any) -> None:
        """Go down where the path leads, and past everything else."""
        if event == "map_key":
            self._key = value
        elif event in ENDS:
            self._places.pop()
        else:
            here = self._segment()
            if event not in STARTS:
                return
            depth = len(self._places)
            if depth and here != self._container[depth - 1]:
                self._skipped = 1
            elif depth < len(self._container):
                self._places.append(-1 if event == "start_map" else 0)
            else:
                self._enter(event)

    def _segment(self) -> Segment:
        """Return the name or place of the value that comes now."""
        if not self._places or self._places[-1] < 0:
            return self._key
        self._places[-1] += 1
        return self._places[-1] - 1

    def _enter(self, event: str) -> None:
        self._left -= 1
        if self._left:
            self._skipped = 1  # the same path comes again, and the last one counts
        else:
            self._inside, self._keyed = True, event == "start_map"

    def _between(self, event: str, value: Any) -> None:
        if event == "map_key":
            self._ids.append(value)
        elif event in ENDS:
            self._inside = False
        elif event in STARTS:
            self._open.append({} if event == "start_map" else [])
        else:
            self._values.append(plain(value))

    def _piece(self) -> Piece:
        piece = Piece(self._values, self._ids if self._keyed else None, self._first)
        self._first += len(self._values)
        self._values, self._ids, self._bytes = [], [], 0
        return piece
