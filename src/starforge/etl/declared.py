"""What a mapping's declaration must keep to, checked where it is made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from starforge.etl.columns import Column, Derived, Each, Keep, One, Own, Ref, Table
from starforge.etl.errors import MappingDeclarationError
from starforge.etl.path import UnfitError

NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?")
TENANT = "tenant_id"


def check(name: str, subject: str, tables: Sequence[Table]) -> None:
    """Raise MappingDeclarationError for the first contradiction in a mapping."""
    for told in _faults(name, subject, tables):
        raise MappingDeclarationError(f"mapping {name!r}: {told}")


def _faults(name: str, subject: str, tables: Sequence[Table]) -> Iterator[str]:
    if not name:
        yield "a mapping is named after its source"
    known: dict[str, Table] = {}
    for table in tables:
        if table.name in known:
            yield f"table {table.name} is declared twice"
        yield from (f"table {table.name}: {told}" for told in _faults_of_table(table, known))
        known[table.name] = table
    if subject not in known:
        yield f"its subject {subject!r} is none of its tables"
    elif not _has_plain_key(known[subject]) or known[subject].shared:
        yield f"its subject {subject!r} must not be shared and must have one key column of its own"


def _faults_of_table(table: Table, known: dict[str, Table]) -> Iterator[str]:
    written = [*(column.name for column in table.columns), TENANT, *table.touched]
    written += [table.extra] if table.extra else []
    written += [table.left.column] if isinstance(table.left, Keep) else []
    names = [table.name, *written, *(column.id for column in table.columns if isinstance(column, Ref))]
    for column in table.columns:
        if isinstance(column, Column) and column.catalogue:
            names += [column.catalogue.table, column.catalogue.key]
    yield from (f"{name!r} is no lower-case name" for name in names if not NAME.fullmatch(name))
    yield from (f"column {name} is written twice" for name in sorted(set(written)) if written.count(name) > 1)
    if not table.own_key and not table.scope:
        yield "its key has no column that a document fills"
    if not table.varying and not table.extra:
        yield "every column is the same for the whole document: nothing tells its rows apart"
    plain = {column.name for column in table.columns if not isinstance(column, Derived)}
    for name in sorted(set(table.key) - plain - {TENANT}):
        yield f"key column {name} is not among its columns, or is derived"
    for column in table.columns:
        if isinstance(column, Ref):
            yield from _faults_of_ref(column, known)
        if isinstance(column.path, Own) and isinstance(table.rows, One):
            yield f"column {column.name} wants an ID or POSITION, which only rows of Each have"
        if isinstance(column, Column):
            yield from _faults_of_default(column)
        if isinstance(column, Derived) and column.over is not None:
            if column.over not in known:
                yield f"column {column.name} looks at {column.over!r}, which is not declared before it"
            if isinstance(table.rows, Each):
                yield f"column {column.name} looks at a table; only one in a table of one row may"
    if table.left is not None and (not table.scope or len(table.own_key) > 1):
        yield "left= needs a key of one or more columns that the whole document shares and at most one more"
    if table.shared and not _has_plain_key(table):
        yield "shared= needs a key of one column beside tenant_id"
    if isinstance(table.rows, Each) and not table.rows.path:
        yield "Each needs the path of its items"


def _faults_of_ref(ref: Ref, known: dict[str, Table]) -> Iterator[str]:
    if ref.to not in known:
        yield f"column {ref.name} refers to {ref.to!r}, which is not declared before it"
    elif not _has_plain_key(known[ref.to]):
        yield f"column {ref.name} refers to {ref.to!r}, whose key is not one column beside tenant_id"


def _faults_of_default(column: Column) -> Iterator[str]:
    try:
        column.type.read_one(column.default)
    except UnfitError as error:
        yield f"column {column.name}: its default {error.reason}"


def _has_plain_key(table: Table) -> bool:
    """Tell whether one column with a value in the document, beside tenant_id, makes the key."""
    own = [name for name in table.key if name != TENANT]
    return len(own) == 1 and own == table.own_key and isinstance(table.column(own[0]), Column)
