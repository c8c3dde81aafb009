"""What a mapping's declaration must keep to, checked where it is made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from starforge.etl.document.path import UnfitError
from starforge.etl.errors import MappingDeclarationError
from starforge.etl.mapping.tables import AnyColumn, Column, Derived, Each, Keep, One, Own, Ref, Table

NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?")
TENANT = "tenant_id"


def check(name: str, subject: str, tables: Sequence[Table], at: str = "") -> None:
    """Raise MappingDeclarationError, with its place, for the first contradiction in a mapping."""
    for told, place in _faults(name, subject, tables):
        raise MappingDeclarationError(f"mapping {name!r}: {told}", place or at)


Faults = Iterator[tuple[str, str]]
"""What is wrong, and where that was declared; "" is the mapping itself."""


def _faults(name: str, subject: str, tables: Sequence[Table]) -> Faults:
    if not name:
        yield "a mapping is named after its source", ""
    known: dict[str, Table] = {}
    for table in tables:
        if table.name in known:
            yield f"table {table.name} is declared twice", table.at
        for told, place in _faults_of_table(table, known):
            yield f"table {table.name}: {told}", place or table.at
        known[table.name] = table
    if subject not in known:
        yield f"its subject {subject!r} is none of its tables", ""
    elif not _has_plain_key(known[subject]) or known[subject].shared:
        yield (
            f"its subject {subject!r} must not be shared and must have one key column of its own",
            known[subject].at,
        )


def _faults_of_table(table: Table, known: dict[str, Table]) -> Faults:
    columns = [(column.name, column.at) for column in table.columns]
    own = [TENANT, *table.touched, *([table.extra] if table.extra else [])]
    own += [table.left.column] if isinstance(table.left, Keep) else []
    written = [*columns, *((name, "") for name in own)]
    yield from (
        (f"{name!r} is no lower-case name", place)
        for name, place in [(table.name, ""), *written, *_names_referred_to(table)]
        if not NAME.fullmatch(name)
    )
    names = [name for name, _ in written]
    yield from (
        (f"column {name} is written twice", place)
        for row, (name, place) in enumerate(written)
        if name in names[:row]
    )
    if not table.key:
        yield "it has no key by which its rows are found again", ""
    if not table.own_key and not table.scope:
        yield "its key has no column that a document fills", ""
    if not table.varying and not table.extra:
        yield "every column is the same for the whole document: nothing tells its rows apart", ""
    plain = {column.name for column in table.columns if not isinstance(column, Derived)}
    for name in sorted(set(table.key) - plain - {TENANT}):
        yield f"key column {name} is not among its columns, or is derived", ""
    for column in table.columns:
        for told in _faults_of_column(column, table, known):
            yield f"column {column.name} {told}", column.at
    if table.left is not None and (not table.scope or len(table.own_key) > 1):
        yield (
            "left= needs a key of one or more columns that the whole document shares and at most one more",
            "",
        )
    if table.shared and not _has_plain_key(table):
        yield "shared= needs a key of one column beside tenant_id", ""
    if isinstance(table.rows, Each) and not table.rows.path:
        yield "Each needs the path of its items", ""


def _names_referred_to(table: Table) -> Iterator[tuple[str, str]]:
    for column in table.columns:
        if isinstance(column, Ref):
            yield column.id, column.at
        elif isinstance(column, Column) and column.catalogue:
            yield column.catalogue.table, column.at
            yield column.catalogue.key, column.at


def _faults_of_column(column: AnyColumn, table: Table, known: dict[str, Table]) -> Iterator[str]:
    if isinstance(column.path, Own) and isinstance(table.rows, One):
        yield "wants an ID or POSITION, which only rows of Each have"
    if isinstance(column, Ref):
        if column.to not in known:
            yield f"refers to {column.to!r}, which is not declared before it"
        elif not _has_plain_key(known[column.to]):
            yield f"refers to {column.to!r}, whose key is not one column beside tenant_id"
    if isinstance(column, Derived) and column.over is not None:
        if column.over not in known:
            yield f"looks at {column.over!r}, which is not declared before it"
        if isinstance(table.rows, Each):
            yield "looks at a table; only one in a table of one row may"
    if isinstance(column, Column):
        yield from _faults_of_default(column)
        if column.refers is not None:
            yield from _faults_of_reference(column, column.refers, table, known)


def _faults_of_reference(column: Column, to: str, table: Table, known: dict[str, Table]) -> Iterator[str]:
    found = table if to == table.name else known.get(to)
    if found is None:
        yield f"refers to {to!r}, which is not declared before it"
    elif not _has_plain_key(found) or TENANT not in found.key:
        yield f"refers to {to!r}, whose key is not tenant_id and one column"
    else:
        key = found.column(found.own_key[0])
        assert isinstance(key, Column)
        if key.type.sql != column.type.sql:
            yield f"is {column.type.sql} and refers to {to}.{key.name}, which is {key.type.sql}"


def _faults_of_default(column: Column) -> Iterator[str]:
    try:
        column.type.read_one(column.default)
    except UnfitError as error:
        yield f"has a default that does not fit: {error.reason}"


def _has_plain_key(table: Table) -> bool:
    """Tell whether one column with a value in the document, beside tenant_id, makes the key."""
    own = [name for name in table.key if name != TENANT]
    return len(own) == 1 and own == table.own_key and isinstance(table.column(own[0]), Column)
