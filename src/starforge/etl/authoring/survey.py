"""Survey: what a mapping would make of documents, and what of them it leaves over. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from starforge.etl.document.path import UnfitError, get, join, leftover, named, parse, shown
from starforge.etl.document.shape import EVERY_KEY, is_keyed
from starforge.etl.errors import MappingError
from starforge.etl.mapping import Mapping
from starforge.etl.mapping.tables import Column, Each, One, Rows

FAILURES_MAX = 100
FIELDS_MAX = 1000
"""Fields that are told apart; a document with more has data for names."""

INTEGER_BITS_MAX = 1000
"""Python does not write very long integers."""

LEFT_ITEMS_MAX = 200
"""Of the items of one array or object so many are looked into for what is left over."""


@dataclass(slots=True)
class Left:
    """A field that no column takes, as often as it was seen, with one value of it, unrecognisable."""

    path: str
    count: int = 0
    example: str = ""
    kept: str = ""
    """The table in whose `extra` it is kept; "" where it stays in the raw document only."""


@dataclass(slots=True)
class Written:
    """What a mapping would write to one table."""

    rows: int = 0
    sample: dict[str, str] = field(default_factory=dict)
    """The first row, its values unrecognisable."""

    empty: list[str] = field(default_factory=list)
    """Columns that got no value from any document, their defaults aside."""


@dataclass(slots=True)
class Survey:
    """What a mapping would make of some documents."""

    documents: int = 0
    subjects: int = 0
    tables: dict[str, Written] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    """(document, path, reason), the first hundred."""

    failed: int = 0


def survey(mapping: Mapping, documents: Iterable[tuple[str, Any]]) -> Survey:
    """Read documents, each with its name, as the mapping would, and say what becomes of them."""
    look = _Surveyor(mapping)
    for name, document in documents:
        look.at(name, document)
    return look.told()


def redacted(value: Any) -> str:
    """Say what a value is without giving it away."""
    if isinstance(value, str):
        return f"text of {_many(len(value), 'character')}"
    if isinstance(value, bool) or value is None:
        return named(value)
    if isinstance(value, int) and value.bit_length() < INTEGER_BITS_MAX:
        return f"an integer of {_many(len(str(abs(value))), 'digit')}"
    if isinstance(value, (list, dict)):
        return f"{named(value)} of {len(value)}"
    return named(value) if isinstance(value, float) else type(value).__name__


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


class _Surveyor:
    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping.treating_unknown("extra")
        self._told = Survey(tables={name: Written() for name in mapping.tables})
        self._seen: dict[str, set[str]] = {name: set() for name in mapping.tables}
        self._subjects: set[str] = set()
        self._left: dict[tuple[str, str], Left] = {}

    def at(self, name: str, document: Any) -> None:
        told = self._told
        told.documents += 1
        try:
            mapped = self._mapping.read(document)
        except MappingError as error:
            told.failed += 1
            if len(told.failures) < FAILURES_MAX:
                told.failures.append((name, error.path, error.reason))
            return
        self._subjects.add(mapped.subject)
        for table, rows in mapped.tables.items():
            self._rows(table, rows)
        for path, value in self._unmapped(document):
            self._note("", path, value)

    def told(self) -> Survey:
        """Return what was found, what is left over most often first."""
        told = self._told
        told.subjects = len(self._subjects)
        for name, table in self._mapping.tables.items():
            names = [column.name for column in table.columns]
            told.tables[name].empty = [each for each in names if each not in self._seen[name]]
        told.left = sorted(self._left.values(), key=lambda left: (-left.count, left.path))
        return told

    def _rows(self, name: str, rows: Rows) -> None:
        written, seen = self._told.tables[name], self._seen[name]
        if not rows.count:
            return
        for column in rows.table.columns:
            values = rows[column.name]
            none = None
            if isinstance(column, Column) and column.default is not None:
                none = column.type.read_one(column.default)
            if column.name not in seen and any(value is not None and value != none for value in values):
                seen.add(column.name)
            if written.rows == 0:
                written.sample[column.name] = redacted(values[0])
        written.rows += rows.count
        if rows.table.extra is not None:
            for row, text in enumerate(rows.columns[rows.table.extra]):
                if text != "{}":
                    at = _collapsed(rows, row)
                    for path, value in _fields(msgspec.json.decode(text), at):
                        self._note(name, path, value)

    def _note(self, table: str, path: str, value: Any) -> None:
        left = self._left.get((table, path))
        if left is None:
            if len(self._left) >= FIELDS_MAX:
                return
            left = self._left[table, path] = Left(path, 0, redacted(value), table)
        left.count += 1

    def _unmapped(self, document: Any) -> Iterator[tuple[str, Any]]:
        """Yield what stays in the raw document only: of the root, and items that no table wants."""
        layout, tables = self._mapping.layout, self._mapping.tables.values()
        place, root = next(
            (place, found) for place in layout.roots if isinstance(found := _quietly(document, place), dict)
        )
        at = shown(place)
        if not any(isinstance(table.rows, One) and table.extra for table in tables):
            rest = leftover(root, layout.of_root)
            yield from _fields(leftover(rest, layout.ignored_below(place)), at)
        wheres: dict[str, list[Each]] = {}
        for table in tables:
            if isinstance(table.rows, Each) and table.rows.where:
                wheres.setdefault(table.rows.path, []).append(table.rows)
        for path, wanted in wheres.items():
            yield from _passed_over(root, path, wanted, at)


def _passed_over(root: dict[str, Any], path: str, wanted: list[Each], at: str) -> Iterator[tuple[str, Any]]:
    """Yield the items of an array that are of a kind for which no table is."""
    field_ = next(iter(wanted[0].where))
    for item in _items(root, path.split("[]")):
        if not any(
            all(_quietly(item, parse(name)) == value for name, value in each.where.items()) for each in wanted
        ):
            yield f"{join(at, path)} where {field_} is {_quietly(item, parse(field_))}", item


def _items(value: Any, parts: list[str]) -> Iterator[Any]:
    held = _quietly(value, parse(parts[0].removeprefix(".")))
    if len(parts) == 1:
        held = list(held.values()) if isinstance(held, dict) and parts[0] == "" else held
        yield from held if isinstance(held, list) else [held]
        return
    for item in held if isinstance(held, list) else []:
        yield from _items(item, parts[1:])


def _collapsed(rows: Rows, row: int) -> str:
    """Return where a row's item lies, without its id or place."""
    at = rows.table.rows
    if isinstance(at, One):
        return rows.path(row)
    whole = rows.path(row)
    if whole.endswith("]"):
        return f"{whole[: whole.rindex('[')]}[]"
    parent = whole[: whole.find(at.path) + len(at.path)] if "[]" not in at.path else whole
    return join(parent, EVERY_KEY) if "[]" not in at.path else at.path


def _fields(value: dict[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    """Yield each field that has a value, with its path: down to scalars, through arrays and keyed objects."""
    for name, item in value.items():
        path = join(at, name)
        if isinstance(item, dict) and item:
            if is_keyed(item):
                yield from _of_items(list(item.values()), join(path, EVERY_KEY))
            else:
                yield from _fields(item, path)
        elif isinstance(item, list) and item:
            yield from _of_items(item, f"{path}[]")
        elif item is not None:
            yield path, item


def _of_items(items: list[Any], path: str) -> Iterator[tuple[str, Any]]:
    for item in items[:LEFT_ITEMS_MAX]:
        if isinstance(item, dict):
            yield from _fields(item, path)
        elif item is not None:
            yield path, item


def _quietly(value: Any, path: Any) -> Any:
    try:
        return get(value, path)
    except UnfitError:
        return None
