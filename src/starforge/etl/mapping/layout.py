"""How the documents of a mapping are read, worked out once from its declaration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starforge.etl.document.path import EVERY, Path, Taken, parse, taken
from starforge.etl.errors import MappingDeclarationError
from starforge.etl.mapping.tables import AnyColumn, Column, Derived, One, Own, Ref, Table
from starforge.etl.mapping.types import Type


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

    @property
    def container(self) -> Path | None:
        """Where the array or object with the items lies below the root; None for a table of one row."""
        if isinstance(self.table.rows, One):
            return None
        return self.items[: self.items.index(EVERY)] if EVERY in self.items else self.items

    @property
    def derived(self) -> list[tuple[Reader, Derived]]:
        """The columns that are worked out."""
        return [(reader, reader.derived) for reader in self.readers if reader.derived is not None]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the documents of one mapping lie, worked out once."""

    plans: dict[str, Plan]
    roots: tuple[Path, ...]
    ignored: frozenset[Path]
    """Paths in the whole document that go nowhere."""
    known: frozenset[str]
    """Names at the root that go to `extra` and are not unknown."""
    refuse_unknown: bool
    of_root: Taken
    """What all tables take from the root."""
    looked_at: frozenset[Path]
    """Paths in the whole document that are looked at beside the columns: when it was taken."""

    def ignored_below(self, place: Path) -> Taken:
        """Return what is ignored below a place, as paths from there."""
        depth = len(place)
        return taken(path[depth:] for path in self.ignored if path[:depth] == place and len(path) > depth)

    @property
    def keepers(self) -> list[str]:
        """The tables whose `extra` keeps what nothing takes from the root and around it."""
        plans = self.plans.values()
        return [
            plan.table.name
            for plan in plans
            if isinstance(plan.table.rows, One) and plan.table.extra is not None
        ]

    def left_out(self, place: Path | None = None) -> frozenset[Path]:
        """Return where, from the document's top, containers lie whose items need not be in memory together.

        Args:
            place: Where the root lies; every place where it may lie where not given.
        Not those of which a row of its own takes something, nor one that another lies in.
        """
        containers = {plan.container for plan in self.plans.values() if plan.container}
        taken = set(root_paths(self.plans.values(), containers=False))
        free = {
            one
            for one in containers
            if not any(_related(one, path) for path in taken)
            and not any(one != other and other[: len(one)] == one for other in containers)
        }
        return frozenset(
            (*root, *one) for root in (self.roots if place is None else (place,)) for one in free
        )


def _related(one: Path, other: Path) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def layout(
    tables: Sequence[Table],
    roots: Sequence[str],
    ignored: Sequence[str],
    known: Sequence[str] = (),
    looked_at: Sequence[str] = (),
    *,
    refuse: bool,
) -> Layout:
    """Work out how documents are read; raise MappingDeclarationError for a path that is none."""
    types = {table.name: _key_type(table) for table in tables}
    plans = {table.name: _plan(table, types) for table in tables}
    of_root = taken(root_paths(plans.values()))
    for plan in plans.values():
        if isinstance(plan.table.rows, One):
            plan.taken.update(of_root)
    places = tuple(map(parse, roots))
    if any(isinstance(segment, int) for place in places for segment in place):
        raise MappingDeclarationError(f"root={list(roots)!r}: the root does not lie in an array")
    looked = frozenset(map(parse, looked_at))
    ignores = frozenset(map(parse, ignored)) | looked
    return Layout(plans, places, ignores, frozenset(known), refuse, of_root, looked)


def _key_type(table: Table) -> Type | None:
    first = table.column(table.own_key[0]) if table.own_key else None
    return first.type if isinstance(first, Column) else None


def _plan(table: Table, types: Mapping[str, Type | None]) -> Plan:
    readers = tuple(_reader(column, table, types) for column in table.columns)
    with _told_at(table.at):
        return _plan_rows(table, readers)


def _plan_rows(table: Table, readers: tuple[Reader, ...]) -> Plan:
    rows = table.rows
    if isinstance(rows, One):
        return Plan(table, (), None, parse(rows.when) if rows.when else None, (), readers, {})
    own = [reader.path for reader in readers if isinstance(reader.path, tuple) and not reader.absolute]
    id_path = parse(rows.id) if rows.id else None
    where = tuple((parse(path), value) for path, value in rows.where.items())
    known = taken([*own, *([id_path] if id_path else []), *(path for path, _ in where)])
    return Plan(table, parse(rows.path, every=True), id_path, None, where, readers, known)


def _reader(each: AnyColumn, table: Table, types: Mapping[str, Type | None]) -> Reader:
    with _told_at(each.at):
        return _read(each, table, types)


def _read(each: AnyColumn, table: Table, types: Mapping[str, Type | None]) -> Reader:
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


@contextmanager
def _told_at(at: str) -> Iterator[None]:
    """Tell what is wrong with a path where it was declared."""
    try:
        yield
    except MappingDeclarationError as error:
        raise MappingDeclarationError(error.reason, error.at or at) from None


def root_paths(plans: Iterable[Plan], *, containers: bool = True) -> Iterator[Path]:
    """Yield what tables take from the root: their containers, too, unless told otherwise."""
    for plan in plans:
        single = isinstance(plan.table.rows, One)
        if plan.container is not None and containers:
            yield plan.container
        if plan.when:
            yield plan.when
        for reader in plan.readers:
            if isinstance(reader.path, tuple) and (single or reader.absolute):
                yield reader.path
