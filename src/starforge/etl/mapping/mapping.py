"""Mappings: which tables a source's documents become, as declarations.

    SHOP = Mapping(
        "shop",
        subject="customers",
        tables=[
            Table("customers", key=("tenant_id", "code"), columns=[
                Column("code", "Code", text(1, 64)),
                Column("name", "Name", TEXT),
            ]),
            Table("orders", rows=Each("Orders", id="OrderId"), key=("customer_id", "order_id"), columns=[
                Ref("customer_id", "customers", "/Code"),
                Column("order_id", ID, BIGINT),
                Column("placed_at", "At", EPOCH_S),
            ], left=Delete()),
        ],
    )

A declaration is checked and compiled where it is made; a contradiction in it raises there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from starforge.etl.document.parse import uncollected
from starforge.etl.document.path import Path, UnfitError, get, join, parse, shown
from starforge.etl.errors import DuplicateMappingError, MappingError, UnknownSourceError
from starforge.etl.mapping.check import check
from starforge.etl.mapping.compile import statements
from starforge.etl.mapping.layout import layout
from starforge.etl.mapping.place import here
from starforge.etl.mapping.reading import Reading
from starforge.etl.mapping.tables import (
    Rows,
    Table,
)
from starforge.etl.mapping.taken import ahead
from starforge.etl.mapping.types import (
    TIMESTAMP,
    Type,
)


@dataclass(frozen=True, slots=True)
class Mapped:
    """One document as rows: whose state it is, and the rows of each table."""

    subject: str
    tables: dict[str, Rows]


Unknown = Literal["extra", "refuse"]


class Mapping:
    """How the documents of one source become rows.

    Args:
        name: The source.
        subject: The table with one row per document whose key says whose state the document is.
        tables: Written in this order, so a table stands after those that it refers to. Tables that
            several subjects share stand late: what they lock stays locked until the end.
        root: Paths at which the fields may lie; the first that holds an object is taken.
        captured_at: Paths in the whole document to the time it was taken; the first with a value counts.
        captured_as: The type of that value.
        ignored: Paths in the whole document of fields that stay in the raw document only.
        known: Names at the root that go to `extra` as a matter of course: never an unknown field.
        unknown: Fields that nothing takes go to `extra`, or ("refuse") are an error.
        owner: Who answers for the source: named where its snapshots are held back.
    Raises: MappingDeclarationError where the declaration contradicts itself.
    """

    def __init__(
        self,
        name: str,
        *,
        subject: str,
        tables: Sequence[Table],
        root: Sequence[str] = ("",),
        captured_at: Sequence[str] = (),
        captured_as: Type = TIMESTAMP,
        ignored: Sequence[str] = (),
        known: Sequence[str] = (),
        unknown: Unknown = "extra",
        owner: str | None = None,
    ) -> None:
        self.at = here()
        check(name, subject, tables, self.at)
        self.name, self.unknown, self.subject_table = name, unknown, subject
        self.owner = owner
        self.tables = {table.name: table for table in tables}
        self.subject_key = (subject, self.tables[subject].own_key[0])
        self._captured_at, self._captured_as = tuple(map(parse, captured_at)), captured_as
        self.layout = layout(tables, root, ignored, known, captured_at, refuse=unknown == "refuse")
        self.statements = {table.name: statements(table, self.tables) for table in tables}

    def subject(self, document: Any) -> str:
        """Return whose state a document is; raise MappingError where it does not say."""
        return str(Reading(self.layout, document).only(*self.subject_key))

    def subject_paths(self) -> frozenset[Path]:
        """Return where, below the root, lies what says whose state a document is."""
        table, key = self.subject_key
        plan = self.layout.plans[table]
        if plan.container is None:
            readers = [reader for reader in plan.readers if reader.name == key]
        else:
            readers = [reader for reader in plan.readers if reader.absolute]
        own = {reader.path for reader in readers if isinstance(reader.path, tuple)}
        return frozenset(path for path in (*own, plan.when, plan.container) if path is not None)

    def captured_at(self, document: Any) -> datetime | None:
        """Return when a document was taken, None where it does not say; raise MappingError."""
        for path in self._captured_at:
            try:
                found: datetime | None = self._captured_as.read_one(get(document, path))
            except UnfitError as error:
                raise MappingError(join(shown(path), error.where), error.reason) from None
            if found is not None:
                if (reason := ahead(found)) is not None:
                    raise MappingError(shown(path), reason, value=get(document, path))
                return found
        return None

    def treating_unknown(self, unknown: Unknown) -> Mapping:
        """Return this mapping with unknown fields kept ("extra") or refused ("refuse")."""
        changed = copy(self)
        changed.unknown = unknown
        changed.layout = replace(self.layout, refuse_unknown=unknown == "refuse")
        return changed

    def read(self, document: Any) -> Mapped:
        """Return a document's rows; raise MappingError at the first value that does not fit."""
        reading = Reading(self.layout, document)
        subject = str(reading.only(*self.subject_key))
        self.captured_at(document)  # a wrong time is an error also where the caller knows better
        with uncollected():
            return Mapped(subject, reading.rows())


class Mappings:
    """The mappings that a process knows, by source."""

    def __init__(self, mappings: Iterable[Mapping] = ()) -> None:
        self._known: dict[str, Mapping] = {}
        for mapping in mappings:
            self.add(mapping)

    def add(self, mapping: Mapping) -> None:
        """Take a mapping in; raise DuplicateMappingError where its source has one."""
        if mapping.name in self._known:
            raise DuplicateMappingError(mapping.name)
        self._known[mapping.name] = mapping

    def get(self, source: str) -> Mapping:
        """Return the mapping of a source; raise UnknownSourceError with the sources that are known."""
        try:
            return self._known[source]
        except KeyError:
            raise UnknownSourceError(source, self.sources) from None

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that have a mapping, sorted."""
        return tuple(sorted(self._known))

    def __iter__(self) -> Iterator[Mapping]:
        return iter(self._known.values())
