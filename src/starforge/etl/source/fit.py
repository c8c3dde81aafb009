"""Fit: do the tables of this database have what a mapping writes?

A declaration is checked where it is made, which needs no database. What only the database knows is asked
here: by `starforge mapping check` and `doctor`, by the leader once a minute, and by each worker before the
first snapshot of a source. A source whose mapping does not fit fails its own jobs, at once and with the
reason; worker and server start all the same, because other sources and all other jobs have done no wrong,
and because code may be rolled out before its migration: the next attempts fit as soon as that has run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from starforge.clock import monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.etl.errors import MappingUnfitError
from starforge.etl.mapping import Mapping
from starforge.etl.mapping.compile import q
from starforge.etl.mapping.tables import AnyColumn, Catalogue, Column, Delete, Derived, Keep, One, Ref, Table
from starforge.settings import HomeSettings

log = structlog.get_logger("mapping")

AGAIN_S = 10.0
"""A mapping that did not fit is looked at again after this long: somebody may have run the migration."""

FIT_S = 60.0
"""How often the leader says which mappings do not fit."""

TENANT = "tenant_id"


@dataclass(frozen=True, slots=True)
class Misfit:
    """One thing that a mapping asks of a table and the database does not have."""

    level: Literal["fault", "warning"]
    """A fault makes every document of the source fail, or lets tenants see each other's rows."""

    table: str
    told: str
    at: str
    """Where the mapping's source declares it."""

    def __str__(self) -> str:
        return f"table {self.table}: {self.told}" + (f" ({self.at})" if self.at else "")


async def misfits(conn: Connection, mapping: Mapping) -> list[Misfit]:
    """Compare a mapping with the tables of this database; [] where it fits."""
    catalogues = {each.table: (each, at) for each, at in _catalogues(mapping)}
    names = [*mapping.tables, *(name for name in catalogues if name not in mapping.tables)]
    rows = await conn.fetch(sql("etl", "fit"), [q(name) for name in names])
    found = {name: _Found(row) for name, row in zip(names, rows, strict=True)}
    look = _Look(found)
    for table in mapping.tables.values():
        look.at_table(table)
    for catalogue, at in catalogues.values():
        look.at_catalogue(catalogue, at)
    return [*look.misfits, *await _types_that_differ(conn, look.typed)]


class Fits:
    """Remembers in one process which mappings fit, so that only the first snapshot of a source asks."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, list[Misfit]]] = {}

    def sure(self, mapping: Mapping) -> bool:
        """Tell whether it is known, without asking, that a mapping fits."""
        return self._known.get(mapping.name, (0.0, ["unknown"]))[1] == []

    async def require(self, conn: Connection, mapping: Mapping) -> None:
        """Raise MappingUnfitError where the mapping has faults."""
        looked_s, faults = self._known.get(mapping.name, (-AGAIN_S, None))
        if faults is None or (faults and monotonic_s() - looked_s >= AGAIN_S):
            faults = [each for each in await misfits(conn, mapping) if each.level == "fault"]
            self._known[mapping.name] = (monotonic_s(), faults)
        if faults:
            raise MappingUnfitError(mapping.name, [str(each) for each in faults])


async def report(conn: Connection, mappings: Iterable[Mapping]) -> None:
    """Say in the log which mappings do not fit; for upkeep."""
    for mapping in mappings:
        faults = [str(each) for each in await misfits(conn, mapping) if each.level == "fault"]
        if faults:
            log.error("mapping.unfit", source=mapping.name, faults=faults)


def _catalogues(mapping: Mapping) -> Iterator[tuple[Catalogue, str]]:
    for table in mapping.tables.values():
        for column in table.columns:
            if isinstance(column, Column) and column.catalogue:
                yield column.catalogue, column.at


class _Found:
    """One table as Postgres knows it."""

    def __init__(self, row: Any) -> None:
        self.there: bool = row["found"]
        self.guarded: bool = row["guarded"]
        self.policies: int = row["policies"]
        self.rights: set[str] = set(row["rights"])
        self.columns: dict[str, dict[str, Any]] = {column["name"]: column for column in row["columns"]}
        self.keys: list[set[str]] = [set(key) for key in row["keys"] if key]


@dataclass(frozen=True, slots=True)
class _Typed:
    """A column whose type is to be compared: what is sent, and what the column holds."""

    sent: str
    held: dict[str, Any]
    table: str
    name: str
    at: str


class _Look:
    """Compares table by table and collects what does not fit."""

    def __init__(self, found: dict[str, _Found]) -> None:
        self._found = found
        self.misfits: list[Misfit] = []
        self.typed: list[_Typed] = []

    def at_table(self, table: Table) -> None:
        """Compare one table of the mapping."""
        found = self._found[table.name]
        if not found.there:
            self._fault(table.name, "does not exist; `starforge mapping ddl` prints it", table.at)
            return
        self._typed(table.name, TENANT, "text", table.at)
        for column in table.columns:
            self._typed(table.name, column.name, _sql(column), column.at)
            self._may_be_null(column, table, found)
            if isinstance(column, Ref) and self._found[column.to].there:
                self._typed(column.to, column.id, column.sql, column.at)
        if table.extra:
            self._typed(table.name, table.extra, "jsonb", table.at)
        for name in (*table.touched, *([table.left.column] if isinstance(table.left, Keep) else [])):
            self._typed(table.name, name, "timestamp with time zone", table.at)
        if set(table.key) not in found.keys:
            key = ", ".join(table.key)
            self._fault(table.name, f"has no unique index on exactly ({key}), the mapping's key", table.at)
        self._unwritten(table, found)
        self._guard(table, found)

    def at_catalogue(self, catalogue: Catalogue, at: str) -> None:
        """Compare a catalogue."""
        found = self._found[catalogue.table]
        if not found.there:
            self._fault(catalogue.table, "does not exist, and a column refers to it as a catalogue", at)
            return
        if {catalogue.key} not in found.keys:
            self._fault(catalogue.table, f"has no unique index on ({catalogue.key})", at)
        if catalogue.missing == "placeholder":
            self._typed(catalogue.table, "meta", "jsonb", at)
        needed = {"SELECT", "INSERT"} if catalogue.missing == "placeholder" else {"SELECT"}
        self._rights(catalogue.table, needed, found, at)

    def _typed(self, table: str, name: str, sent: str, at: str) -> None:
        held = self._found[table].columns.get(name)
        if held is None:
            self._fault(table, f"has no column {name}", at)
        else:
            self.typed.append(_Typed(sent, held, table, name, at))

    def _may_be_null(self, column: AnyColumn, table: Table, found: _Found) -> None:
        held = found.columns.get(column.name)
        if held is None or not held["required"] or column.name in table.key or isinstance(column, Derived):
            return
        if isinstance(table.rows, One) and table.rows.when == column.path:
            return  # there is a row only where there is a value
        if isinstance(column, Ref) or (column.default is None and not column.required):
            told = f"column {column.name} takes no null, and the mapping has one where the document has none"
            self.misfits.append(Misfit("warning", table.name, told, column.at))

    def _unwritten(self, table: Table, found: _Found) -> None:
        written = {TENANT, *(column.name for column in table.columns), *table.touched, table.extra}
        for name, held in found.columns.items():
            if held["required"] and not held["filled"] and name not in written:
                told = f"column {name} takes no null, has no default, and the mapping does not write it"
                self._fault(table.name, told, table.at)

    def _guard(self, table: Table, found: _Found) -> None:
        needed = {"SELECT", "INSERT", "UPDATE"} | ({"DELETE"} if isinstance(table.left, Delete) else set())
        self._rights(table.name, needed, found, table.at)
        if not found.guarded:
            level: Literal["fault", "warning"] = (
                "fault" if HomeSettings.read().tenancy == "enforced" else "warning"
            )
            told = "has no row security that binds its owner too, so tenants are kept apart by nothing"
            self.misfits.append(Misfit(level, table.name, told, table.at))
        elif not found.policies:
            self._fault(table.name, "has row security and no policy that lets starforge_engine in", table.at)

    def _rights(self, table: str, needed: set[str], found: _Found, at: str) -> None:
        if lacking := sorted(needed - found.rights):
            self._fault(table, f"starforge_engine may not {', '.join(lacking)} there", at)

    def _fault(self, table: str, told: str, at: str) -> None:
        self.misfits.append(Misfit("fault", table, told, at))


async def _types_that_differ(conn: Connection, typed: list[_Typed]) -> list[Misfit]:
    sent, oids = [each.sent for each in typed], [each.held["oid"] for each in typed]
    found = []
    for each, row in zip(typed, await conn.fetch(sql("etl", "fit_types"), sent, oids), strict=True):
        if not row["known"]:
            told = f"column {each.name}: this database knows no type {each.sent}"
            found.append(Misfit("fault", each.table, told, each.at))
        elif not row["fits"]:
            told = f"column {each.name} is {each.held['type']}, which does not hold every {each.sent}"
            found.append(Misfit("fault", each.table, told, each.at))
    return found


def _sql(column: AnyColumn) -> str:
    return column.sql if isinstance(column, Ref) else column.type.sql
