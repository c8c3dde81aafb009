"""One document read by a mapping: items found, columns taken, unknown fields kept. No database here.

Everything works on whole columns: a profile of 12 000 troops is a dozen lists, not 12 000 objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starforge.etl.document.path import (
    EVERY,
    IndexedError,
    Path,
    Taken,
    UnfitError,
    column,
    get,
    join,
    leftover,
    named,
    shown,
)
from starforge.etl.errors import MappingError
from starforge.etl.mapping.layout import Layout, Plan, Reader
from starforge.etl.mapping.tables import ID, POSITION, Derived, One, Own, Rows
from starforge.etl.mapping.types import encode

NO_EXTRA = "{}"
TWICE = "comes twice in a document that is too large to be read as a whole"


@dataclass(frozen=True, slots=True)
class Items:
    """What rows are made of: the objects, where they lie, and their keys where they lie in an object."""

    values: list[dict[str, Any]]
    at: str
    path: Callable[[int], str]
    positions: Sequence[int]
    ids: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of the items of a container, where a document does not lie in memory as a whole."""

    values: list[Any]
    ids: list[str] | None
    """Their keys where the container is an object."""
    first: int
    """The place of the first one in the container."""
    rows_before: int = 0
    """Rows of the table that the pieces before held: paths may lead through several arrays."""


class Reading:
    """Reads one document; every error is a MappingError with its path in the document."""

    def __init__(self, layout: Layout, document: Any) -> None:
        self._layout, self._document = layout, document
        self.place, self._root = self._find_root()
        self._at = shown(self.place)
        self._of_root = Items([self._root], self._at, lambda _: self._at, (0,))
        self._found: dict[Path, Items] = {}

    def rows(self) -> dict[str, Rows]:
        """Read every table of a document that lies in memory as a whole."""
        plans = self._layout.plans.values()
        tables = {plan.table.name: self.table(plan) for plan in plans}
        for plan in plans:
            for reader, made in plan.derived:
                rows = tables[plan.table.name]
                over = tables[made.over] if made.over else None
                found = [made.by(over, value, None) for value in rows.columns[reader.name]]
                self.fill(rows, made, found)
        return tables

    def table(self, plan: Plan, piece: Piece | None = None) -> Rows:
        """Read one table, of all of the document or a piece; derived columns hold what they want to know."""
        items = self._items(plan) if piece is None else self._chosen(plan, self._of_piece(plan.items, piece))
        columns: dict[str, list[Any]] = {}
        constants: dict[str, Any] = {}
        for reader in plan.readers:
            if not reader.absolute:
                columns[reader.name] = self._column(plan, reader, items)
            elif reader.derived is not None:
                columns[reader.name] = self._column(plan, reader, self._of_root) * len(items.values)
            else:
                constants[reader.name] = self._column(plan, reader, self._of_root)[0]
        if plan.table.extra is not None:
            columns[plan.table.extra] = self._extra(plan, items)
        rows = Rows(plan.table, columns, constants, len(items.values), items.path)
        return _last_of_each(rows) if piece is None else _each_once(rows)

    def fill(self, rows: Rows, made: Derived, found: list[Any]) -> None:
        """Put what was worked out for each row into its column."""
        try:
            values = [made.then(one) for one in found] if made.then else found
            rows.columns[made.name] = made.type.read(values)
        except IndexedError as error:
            raise MappingError(self._at, f"what {made.name} was worked out to be: {error.reason}") from None

    def only(self, table: str, name: str) -> Any:
        """Return one column's value in a table's only row; raise MappingError unless there is one row."""
        plan = self._layout.plans[table]
        items = self._items(plan)
        self.the_one(plan, items.values)
        reader = next(reader for reader in plan.readers if reader.name == name)
        return self._column(plan, reader, items)[0]

    def the_one(self, plan: Plan, found: Sequence[Any]) -> Any:
        """Return the only item; raise MappingError unless there is one."""
        if len(found) != 1:
            at = join(self._at, shown(plan.items).replace(f"[{EVERY}]", "[]"))
            raise MappingError(at, f"holds {len(found)} rows for {plan.table.name}; it must hold one")
        return found[0]

    def _find_root(self) -> tuple[Path, dict[str, Any]]:
        for path in self._layout.roots:
            found = _quietly(self._document, path)
            if isinstance(found, dict):
                return path, found
        raise MappingError("", f"expected an object, found {named(self._document)}")

    def _items(self, plan: Plan) -> Items:
        if isinstance(plan.table.rows, One):
            there = plan.when is None or _told(self._root, plan.when, self._at) is not None
            return self._of_root if there else replace(self._of_root, values=[])
        found = self._found.get(plan.items)
        if found is None:
            found = self._found[plan.items] = self._find(plan.items)
        return self._chosen(plan, found)

    def _chosen(self, plan: Plan, found: Items) -> Items:
        return _chosen(found, plan.where) if plan.where else _all_objects(found)

    def _find(self, path: Path) -> Items:
        at = join(self._at, shown(path).replace(f"[{EVERY}]", "[]"))
        if EVERY in path:
            return _reached(_every(self._root, path, self._at), at)
        held = _told(self._root, path, self._at)
        if isinstance(held, dict):
            keys = list(held)
            return Items(list(held.values()), at, lambda row: join(at, keys[row]), (), keys)
        if held is None or isinstance(held, list):
            values = held or []
            return Items(values, at, lambda row: f"{at}[{row}]", range(len(values)))
        raise MappingError(at, f"expected an object or an array, found {named(held)}")

    def _of_piece(self, path: Path, piece: Piece) -> Items:
        """Return the items of a piece of what `path` leads to, with their places in the whole."""
        first = piece.first
        if EVERY in path:
            turn = path.index(EVERY)
            at = join(self._at, shown(path[:turn]))
            reached = (
                found
                for place, item in enumerate(piece.values, first)
                for found in _every(item, path[turn + 1 :], f"{at}[{place}]")
            )
            return _reached(reached, join(at, "[]"), piece.rows_before)
        at, keys = join(self._at, shown(path)), piece.ids
        if keys is not None:
            return Items(piece.values, at, lambda row: join(at, keys[row]), (), keys)
        places = range(first, first + len(piece.values))
        return Items(piece.values, at, lambda row: f"{at}[{first + row}]", places)

    def _column(self, plan: Plan, reader: Reader, items: Items) -> list[Any]:
        path: Path = () if isinstance(reader.path, Own) else reader.path or ()
        if reader.path is ID and items.ids is None:
            path = plan.id or ()
        found = _values(plan, reader, items, path)
        try:
            values = reader.type.read(found)
        except IndexedError as error:
            place = join(items.path(error.index), shown(path), error.where)
            raise MappingError(place, error.reason, value=found[error.index]) from None
        if reader.default is not None:
            return [reader.default if value is None else value for value in values]
        if reader.required and None in values:
            raise MappingError(join(items.path(values.index(None)), shown(path)), "is required")
        return values

    def _extra(self, plan: Plan, items: Items) -> list[str]:
        if isinstance(plan.table.rows, One):
            return [encode(self._unknown_of_root(plan.taken)) for _ in items.values]
        tree = plan.taken
        refuse = self._layout.refuse_unknown
        if not refuse and all(below is None for below in tree.values()):
            known = tree.keys()
            return [
                NO_EXTRA
                if item.keys() <= known
                else encode({name: value for name, value in item.items() if name not in known})
                for item in items.values
            ]
        found = [leftover(item, tree) for item in items.values]
        for row, rest in enumerate(found):
            if rest and refuse:
                raise _unknown(rest, tree, items.path(row))
        return [encode(rest) if rest else NO_EXTRA for rest in found]

    def _unknown_of_root(self, tree: Taken) -> dict[str, Any]:
        """Return what nothing takes from the root and from the objects around it; the root's names win."""
        rest: dict[str, Any] = {}
        level = self._document
        for depth, segment in enumerate(self.place):
            around = {name: value for name, value in level.items() if name != segment}
            rest |= self._kept(around, {}, self.place[:depth])
            level = level[segment]
        return rest | self._kept(leftover(self._root, tree), tree, self.place)

    def _kept(self, unknown: dict[str, Any], tree: Taken, place: Path) -> dict[str, Any]:
        ignored = self._layout.ignored_below(place)
        kept = leftover(unknown, ignored) if ignored else unknown
        known = self._layout.known if place == self.place else frozenset()
        if self._layout.refuse_unknown and kept.keys() - known:
            refused = {name: value for name, value in kept.items() if name not in known}
            raise _unknown(refused, tree, shown(place))
        return kept


def _values(plan: Plan, reader: Reader, items: Items, path: Path) -> list[Any]:
    """Fetch a column's values as they are in the document."""
    if reader.path is POSITION:
        if items.ids:
            raise MappingError(items.at, "expected an array, found an object")
        return list(items.positions)
    if reader.path is ID and items.ids is not None:
        return reader.type.read_keys(items.ids)
    if reader.path is ID and plan.id is None and items.values:
        raise MappingError(items.at, "expected an object, found an array")
    if reader.path is None:
        return [None] * len(items.values)
    try:
        return column(items.values, path)
    except IndexedError as error:
        raise MappingError(join(items.path(error.index), error.where), error.reason) from None


def _every(value: Any, path: Path, at: str) -> Iterator[tuple[Any, str]]:
    """Follow a path through all the arrays on its way; yield each value reached and its path."""
    if EVERY not in path:
        yield _told(value, path, at), join(at, shown(path))
        return
    place = path.index(EVERY)
    held = _told(value, path[:place], at)
    at = join(at, shown(path[:place]))
    if held is not None and not isinstance(held, list):
        raise MappingError(at, f"expected an array, found {named(held)}")
    for index, item in enumerate(held or []):
        yield from _every(item, path[place + 1 :], f"{at}[{index}]")


def _reached(found: Iterable[tuple[Any, str]], at: str, before: int = 0) -> Items:
    reached = list(found)
    places = [place for _, place in reached]
    return Items(
        [value for value, _ in reached], at, places.__getitem__, range(before, before + len(reached))
    )


def _chosen(items: Items, where: tuple[tuple[Path, Any], ...]) -> Items:
    """Return the items that are objects with these values."""
    rows = [
        row
        for row, value in enumerate(items.values)
        if type(value) is dict and all(_quietly(value, path) == wanted for path, wanted in where)
    ]
    return Items(
        [items.values[row] for row in rows],
        items.at,
        lambda row: items.path(rows[row]),
        [items.positions[row] for row in rows] if items.positions else (),
        [items.ids[row] for row in rows] if items.ids is not None else None,
    )


def _all_objects(items: Items) -> Items:
    if not set(map(type, items.values)) <= {dict}:
        row = next(row for row, value in enumerate(items.values) if type(value) is not dict)
        raise MappingError(items.path(row), f"expected an object, found {named(items.values[row])}")
    return items


def _told(value: Any, path: Path, at: str) -> Any:
    try:
        return get(value, path)
    except UnfitError as error:
        raise MappingError(join(at, error.where), error.reason) from None


def _quietly(value: Any, path: Path) -> Any:
    try:
        return get(value, path)
    except UnfitError:
        return None


def _unknown(rest: dict[str, Any], tree: Taken, at: str) -> MappingError:
    """Make the error for the first field that nothing takes, however deep it lies."""
    name, value = next(iter(rest.items()))
    below = tree.get(name)
    if below and isinstance(value, dict):
        return _unknown(value, below, join(at, name))
    return MappingError(join(at, name), "is not a known field")


def _keys(rows: Rows) -> list[Any]:
    """Return what tells the rows apart; nothing where there can be one only."""
    keys = [rows.columns[name] for name in rows.table.own_key]
    return keys[0] if len(keys) == 1 else list(zip(*keys, strict=True))


def _last_of_each(rows: Rows) -> Rows:
    """Of rows with equal keys keep the last, as of equal names in one object."""
    keys = _keys(rows)
    if not keys or len(set(keys)) == rows.count:
        return rows
    return rows.take(sorted({key: place for place, key in enumerate(keys)}.values()))


def _each_once(rows: Rows) -> Rows:
    """Refuse rows with equal keys: of a document in pieces nobody can say which is the last."""
    keys = _keys(rows)
    if keys and len(set(keys)) < rows.count:
        last = {key: place for place, key in enumerate(keys)}
        raise MappingError(rows.path(next(at for at, key in enumerate(keys) if last[key] != at)), TWICE)
    return rows
