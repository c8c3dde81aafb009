"""One document read by a mapping: items found, columns taken, unknown fields kept. No database here.

Everything works on whole columns: a profile of 12 000 troops is a dozen lists, not 12 000 objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starforge.etl.columns import ID, POSITION, AnyColumn, Column, Derived, One, Own, Ref, Rows, Table
from starforge.etl.errors import MappingDeclarationError, MappingError
from starforge.etl.path import (
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
    parse,
    shown,
    taken,
)
from starforge.etl.types import Type, encode

NO_EXTRA = "{}"


@dataclass(frozen=True, slots=True)
class Reader:
    """How one column is read, worked out once."""

    name: str
    path: Path | Own | None
    type: Type
    default: Any
    required: bool
    absolute: bool
    """The path starts at the root."""
    derived: Derived | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How one table's rows are read, worked out once."""

    table: Table
    items: Path
    id: Path | None
    when: Path | None
    where: tuple[tuple[Path, Any], ...]
    readers: tuple[Reader, ...]
    taken: Taken
    """What the columns take from an item; of a table of one row, what all tables take from the root."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the documents of one mapping lie, worked out once."""

    plans: dict[str, Plan]
    roots: tuple[Path, ...]
    ignored: frozenset[Path]
    refuse_unknown: bool


@dataclass(frozen=True, slots=True)
class Items:
    """What rows are made of: the objects, where they lie, and their keys where they lie in an object."""

    values: list[dict[str, Any]]
    at: str
    path: Callable[[int], str]
    positions: Sequence[int]
    ids: list[str] | None = None


def layout(tables: Sequence[Table], roots: Sequence[str], ignored: Sequence[str], *, refuse: bool) -> Layout:
    """Work out how documents are read; raise MappingDeclarationError for a path that is none."""
    types = {table.name: _key_type(table) for table in tables}
    plans = {table.name: _plan(table, types) for table in tables}
    of_root = taken(_root_paths(plans.values()))
    for plan in plans.values():
        if isinstance(plan.table.rows, One):
            plan.taken.update(of_root)
    places = tuple(map(parse, roots))
    if any(isinstance(segment, int) for place in places for segment in place):
        raise MappingDeclarationError(f"root={list(roots)!r}: the root does not lie in an array")
    return Layout(plans, places, frozenset(map(parse, ignored)), refuse)


def _key_type(table: Table) -> Type | None:
    first = table.column(table.own_key[0]) if table.own_key else None
    return first.type if isinstance(first, Column) else None


def _plan(table: Table, types: Mapping[str, Type | None]) -> Plan:
    rows = table.rows
    readers = tuple(_reader(column, table, types) for column in table.columns)
    if isinstance(rows, One):
        return Plan(table, (), None, parse(rows.when) if rows.when else None, (), readers, {})
    own = [reader.path for reader in readers if isinstance(reader.path, tuple) and not reader.absolute]
    id_path = parse(rows.id) if rows.id else None
    where = tuple((parse(path), value) for path, value in rows.where.items())
    known = taken([*own, *([id_path] if id_path else []), *(path for path, _ in where)])
    return Plan(table, parse(rows.path, every=True), id_path, None, where, readers, known)


def _reader(each: AnyColumn, table: Table, types: Mapping[str, Type | None]) -> Reader:
    absolute = isinstance(each.path, str) and each.path.startswith("/")
    path = parse(each.path.removeprefix("/")) if isinstance(each.path, str) else each.path
    in_key = each.name in table.key
    if isinstance(each, Derived):
        return Reader(each.name, path, each.reads, None, False, absolute, each)
    if isinstance(each, Ref):
        key_type = types[each.to]
        assert key_type is not None, "declared.check lets only such tables be referred to"
        return Reader(each.name, path, key_type, None, in_key, absolute)
    default = each.type.read_one(each.default)
    return Reader(each.name, path, each.type, default, each.required or in_key, absolute)


def _root_paths(plans: Iterable[Plan]) -> Iterator[Path]:
    for plan in plans:
        single = isinstance(plan.table.rows, One)
        if not single:
            yield plan.items[: plan.items.index(EVERY)] if EVERY in plan.items else plan.items
        if plan.when:
            yield plan.when
        for reader in plan.readers:
            if isinstance(reader.path, tuple) and (single or reader.absolute):
                yield reader.path


class Reading:
    """Reads one document; every error is a MappingError with its path in the document."""

    def __init__(self, layout: Layout, document: Any) -> None:
        self._layout, self._document = layout, document
        self._place, self._root = self._find_root()
        self._at = shown(self._place)
        self._of_root = Items([self._root], self._at, lambda _: self._at, (0,))
        self._found: dict[Path, Items] = {}

    def rows(self) -> dict[str, Rows]:
        """Read every table; derived columns come last, for they may look at all the others."""
        plans = self._layout.plans.values()
        tables = {plan.table.name: self._table(plan) for plan in plans}
        for plan in plans:
            columns = tables[plan.table.name].columns
            for reader in plan.readers:
                if reader.derived is not None:
                    found = [reader.derived.by(tables, value) for value in columns[reader.name]]
                    columns[reader.name] = reader.derived.type.read(found)
        return tables

    def only(self, table: str, name: str) -> Any:
        """Return one column's value in a table's only row; raise MappingError unless there is one row."""
        plan = self._layout.plans[table]
        items = self._items(plan)
        if len(items.values) != 1:
            raise MappingError(items.at, f"holds {len(items.values)} rows for {table}; it must hold one")
        reader = next(reader for reader in plan.readers if reader.name == name)
        return self._column(plan, reader, items)[0]

    def _find_root(self) -> tuple[Path, dict[str, Any]]:
        for path in self._layout.roots:
            found = _quietly(self._document, path)
            if isinstance(found, dict):
                return path, found
        raise MappingError("", f"expected an object, found {named(self._document)}")

    def _table(self, plan: Plan) -> Rows:
        items = self._items(plan)
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
        return _last_of_each(Rows(plan.table, columns, constants, len(items.values), items.path))

    def _items(self, plan: Plan) -> Items:
        if isinstance(plan.table.rows, One):
            there = plan.when is None or _told(self._root, plan.when, self._at) is not None
            return self._of_root if there else replace(self._of_root, values=[])
        found = self._found.get(plan.items)
        if found is None:
            found = self._found[plan.items] = self._find(plan.items)
        return _chosen(found, plan.where) if plan.where else _all_objects(found)

    def _find(self, path: Path) -> Items:
        at = join(self._at, shown(path).replace(f"[{EVERY}]", "[]"))
        if EVERY in path:
            reached = list(_every(self._root, path, self._at))
            places = [place for _, place in reached]
            return Items([value for value, _ in reached], at, places.__getitem__, range(len(reached)))
        held = _told(self._root, path, self._at)
        if isinstance(held, dict):
            keys = list(held)
            return Items(list(held.values()), at, lambda row: join(at, keys[row]), (), keys)
        if held is None or isinstance(held, list):
            values = held or []
            return Items(values, at, lambda row: f"{at}[{row}]", range(len(values)))
        raise MappingError(at, f"expected an object or an array, found {named(held)}")

    def _column(self, plan: Plan, reader: Reader, items: Items) -> list[Any]:
        path = (plan.id or ()) if isinstance(reader.path, Own) else (reader.path or ())
        try:
            values = reader.type.read(_values(plan, reader, items, path))
        except IndexedError as error:
            place = join(items.path(error.index), shown(path), error.where)
            raise MappingError(place, error.reason) from None
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
        if refuse:
            _refuse_first(found, items.path)
        return [encode(rest) if rest else NO_EXTRA for rest in found]

    def _unknown_of_root(self, tree: Taken) -> dict[str, Any]:
        """Return what nothing takes from the root and from the objects around it; the root's names win."""
        rest: dict[str, Any] = {}
        level = self._document
        for depth, segment in enumerate(self._place):
            around = {name: value for name, value in level.items() if name != segment}
            rest |= self._kept(around, self._place[:depth])
            level = level[segment]
        return rest | self._kept(leftover(self._root, tree), self._place)

    def _kept(self, unknown: dict[str, Any], place: Path) -> dict[str, Any]:
        ignored = self._layout.ignored
        kept = {name: value for name, value in unknown.items() if (*place, name) not in ignored}
        if self._layout.refuse_unknown:
            _refuse_first([kept], lambda _: shown(place))
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
    return column(items.values, path)


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


def _refuse_first(found: list[dict[str, Any]], path: Callable[[int], str]) -> None:
    for row, rest in enumerate(found):
        for name in rest:
            raise MappingError(join(path(row), name), "is not a known field")


def _last_of_each(rows: Rows) -> Rows:
    """Of rows with equal keys keep the last, as of equal names in one object."""
    keys = [rows.columns[name] for name in rows.table.own_key]
    if not keys:
        return rows
    told = keys[0] if len(keys) == 1 else list(zip(*keys, strict=True))
    if len(set(told)) == rows.count:
        return rows
    return rows.take(sorted({key: place for place, key in enumerate(told)}.values()))
