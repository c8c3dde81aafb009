"""The skeleton of a document in pieces: what is in memory of it, and no more than fits there.

Of the fields that no column takes, those that an `extra` keeps are collected; what nothing keeps is passed
over, and only its name and kind are noted, for whoever watches the shape of a source's documents.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from starforge.etl.document.path import Path, Segment, shown
from starforge.etl.errors import MappingError
from starforge.etl.mapping.layout import Layout, root_paths

Event = tuple[str, Any]
STARTS = frozenset(("start_map", "start_array"))
ENDS = frozenset(("end_map", "end_array"))
STEPS = {**dict.fromkeys(STARTS, 1), **dict.fromkeys(ENDS, -1)}

SKELETON_BYTES_MAX = 16_000_000
"""What is no row of any table is kept in memory; a document with more of it is refused with its path."""

VALUE_BYTES = 64
"""What a value takes in memory beside its text, about."""

PASSED_MAX = 1_000
"""Of fields that nothing keeps so many are noted by name."""

PARTS_MAX = 1_000
"""Fields whose sizes are told apart."""


@dataclass(slots=True)
class Container:
    """A container whose items were left out of the skeleton."""

    times: int = 0
    """How often its path came: of equal names in an object the last one counts."""
    live: bool = True
    """Its path did not come again with something else."""


class Keep:
    """What a skeleton keeps; everything where nothing else is said.

    Args:
        taken: Paths from the document's top that columns take, or tables their items.
        ways: Other paths that must be there for anything to be found.
        ignored: Paths that no `extra` keeps.
        keepers: Tables whose `extra` keeps everything else.
    """

    def __init__(
        self,
        taken: Iterable[Path] = ((),),
        ways: Iterable[Path] = (),
        ignored: Iterable[Path] = (),
        keepers: Sequence[str] = (),
    ) -> None:
        self._taken, self._ignored, self.keepers = frozenset(taken), frozenset(ignored), keepers
        self._ways = _beginnings((*self._taken, *ways))
        self._to_ignored = _beginnings(self._ignored)

    @classmethod
    def of(cls, layout: Layout, place: Path | None = None, only: Collection[Path] | None = None) -> Keep:
        """Return what a mapping needs, with its root at a place, or wherever it may lie; or these paths."""
        roots = layout.roots if place is None else (place,)
        paths = set(root_paths(layout.plans.values())) if only is None else only
        taken = {(*root, *path) for root in roots for path in paths} | layout.looked_at
        keepers = layout.keepers if only is None else ()
        return cls(taken, roots, layout.ignored - layout.looked_at, keepers)

    def all_at(self, path: Path) -> bool | None:
        """Tell whether everything at a path is kept or nothing; None: what lies below decides, as above."""
        if path in self._taken:
            return True
        if path in self._ways:
            return None
        if not self.keepers or path in self._ignored:
            return False
        return None if path in self._to_ignored else True

    def is_taken(self, path: Path) -> bool:
        """Tell whether a column, or a table, takes what lies at a path, or something of it."""
        return path in self._ways or any(path[: len(one)] == one for one in self._taken)


def _beginnings(paths: Iterable[Path]) -> frozenset[Path]:
    return frozenset(path[:depth] for path in paths for depth in range(len(path) + 1))


@dataclass(slots=True)
class _Size:
    """How large something is, about."""

    text: int = 0
    values: int = 0

    @property
    def memory(self) -> int:
        return self.text + self.values * VALUE_BYTES

    def __str__(self) -> str:
        return f"{self.text / 1e6:.1f} MB in {self.values} values"


class Skeleton:
    """Builds a document without the items of some containers, and without what nothing keeps."""

    def __init__(self, left_out: frozenset[Path], keep: Keep) -> None:
        self.value: Any = None
        self.containers: dict[Path, Container] = {}
        self._left_out, self._keep = left_out, keep
        self._path: list[Segment] = []
        self._open: list[Any] = []
        self._key = ""
        self._skipped = 0
        """How deep we are in a container that is left out or passed over; 0: in none."""
        self._part: Path | None = None if keep.all_at(()) is None else ()
        """The field that we are in, of which everything is kept."""
        self._passed = 0
        self._measured: Path | None = None
        """The field that we are in, of which nothing is kept any more, and which is measured still."""
        self._size = _Size()
        self._parts: dict[Path, _Size] = {}

    def take(self, events: Iterable[Event]) -> None:
        """Go on building."""
        for event, value in events:
            if self._skipped:
                self._skipped += STEPS.get(event, 0)
                if self._measured is not None:
                    self._weigh(self._measured, event, value)
                if not self._skipped:
                    self._close()
            elif event == "map_key":
                self._key = value
                if self._part is not None:
                    self._weigh(self._part, event, value)
            elif event in ENDS:
                self._close()
            else:
                self._value(event, value)

    def end(self) -> None:
        """Raise MappingError, with the largest field and its size, where it did not fit in memory."""
        if self._size.memory <= SKELETON_BYTES_MAX:
            return
        largest, size = max(self._parts.items(), key=lambda part: part[1].memory, default=((), self._size))
        if self._keep.is_taken(largest):
            advice = "a column takes it: what is a table of its own is read piece by piece"
        else:
            advice = (
                f"no column takes it, and extra of {' and '.join(self._keep.keepers)} would keep it: name it"
                " in ignored= and it stays in the raw document only, or declare a table for its items"
            )
        raise MappingError(
            shown(largest),
            f"holds {size}, of {self._size} that are rows of no table; {SKELETON_BYTES_MAX // 1_000_000} MB"
            f" of such may be in memory, with {VALUE_BYTES} bytes for each value; {advice}",
        )

    def _value(self, event: str, value: Any) -> None:
        """Take a value, or the beginning of one, where it lies."""
        part, whole = self._part, True
        if part is None and self._open:
            if isinstance(self._open[-1], dict):
                path = (*self._path, self._key)
                decided = self._keep.all_at(path)
                whole = decided is not False
                part = path if decided else None
            else:
                part = tuple(self._path)  # what lies in an array is kept as it is
        if not whole:
            self._pass_over(event, value, measured=None)
            return
        self._weigh(part, event, value)
        if part is not None and self._size.memory > SKELETON_BYTES_MAX and part not in self._left_out:
            self._pass_over(event, value, measured=part)
        elif event in STARTS:
            self._start({} if event == "start_map" else [], part)
        else:
            self._add(plain(value))

    def _weigh(self, part: Path | None, event: str, value: Any) -> None:
        size = _text_of(event, value)
        count = event not in ENDS and event != "map_key"
        self._size.text += size
        self._size.values += count
        if part is None or (part not in self._parts and len(self._parts) >= PARTS_MAX):
            return
        told = self._parts.setdefault(part, _Size())
        told.text += size
        told.values += count

    def _pass_over(self, event: str, value: Any, *, measured: Path | None) -> None:
        """Note the name and the kind of what is not kept, while these are few."""
        self._passed += 1
        noted = self._passed <= PASSED_MAX and bool(self._open) and isinstance(self._open[-1], dict)
        if event not in STARTS:
            if noted:
                self._add("" if event == "string" else plain(value))
            return
        empty: Any = {} if event == "start_map" else []
        segment: Segment = self._add(empty) if noted else self._key
        if self._open:
            self._path.append(segment)
        self._open.append(empty)
        self._skipped, self._measured = 1, measured

    def _start(self, value: Any, part: Path | None) -> None:
        segment = self._add(value)
        if self._open:
            self._path.append(segment)
        self._open.append(value)
        path = tuple(self._path)
        self._part = part
        if path in self._left_out:
            container = self.containers.setdefault(path, Container())
            container.times, container.live = container.times + 1, True
            self._skipped = 1

    def _close(self) -> None:
        self._open.pop()
        if self._part is not None and len(self._path) <= len(self._part):
            self._part = None
        if self._open:
            self._path.pop()
        self._measured = None

    def _add(self, value: Any) -> Segment:
        """Put a value into what is open and return its name or place there."""
        if not self._open:
            self.value = value
            return ""
        inner = self._open[-1]
        if isinstance(inner, list):
            inner.append(value)
            return len(inner) - 1
        if self._key in inner:
            self._replaced((*self._path, self._key))
        inner[self._key] = value
        return self._key

    def _replaced(self, path: Path) -> None:
        """Forget what was left out below a name that comes again."""
        for where, container in self.containers.items():
            if where[: len(path)] == path:
                container.live = False


def plain(value: Any) -> Any:
    """Return a scalar as the other gear does: numbers with a fraction or an exponent are floats."""
    return float(value) if isinstance(value, Decimal) else value


def _text_of(event: str, value: Any) -> int:
    """Return how much text an event stands for, about."""
    if event in ("string", "map_key"):
        return len(value) + 3
    return 1 if event in STEPS else len(str(value)) + 1
