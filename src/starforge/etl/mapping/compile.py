"""The statements that write one table's rows, made once from its declaration.

No plan of theirs depends on what Postgres knows about a table: rows are found by the unique index that
ON CONFLICT names, and what is unchanged, or has left, by EXCEPT, which hashes or sorts. A join here once
became a nested loop over 12 000 × 12 000 rows, because a young table has no statistics yet.
"""

# ruff: noqa: S608 -- names are checked by declared.py, and values are always parameters

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from starforge.etl.mapping.tables import AnyColumn, Column, Keep, Missing, Ref, Table
from starforge.etl.mapping.types import INTEGERS

PLACEHOLDER = '{"placeholder": true}'
"""The `meta` of an entry that was made because a document refers to it."""


@dataclass(frozen=True, slots=True)
class Statements:
    """A table's statements; `$1` is always the tenant."""

    upsert: str
    """From arrays, one for each column, of one document's rows or of several's: inserts what is new, updates
    what differs, leaves what is equal. The distinct values of each column of the scope come last. Returns
    how many rows it changed by scope, or by own key where there is no scope."""
    stage: str
    """Makes the temporary table for COPY, which cannot go straight into a table under row security."""
    stage_name: str
    staged_upsert: str
    """As `upsert` for one document, from the temporary table: the constants are its parameters."""
    twice: str
    """Finds a key that two rows of the temporary table have."""
    staged: dict[str, str]
    """By column with a catalogue: the values that the temporary table has, in order."""
    staged_leave: str | None
    """As `leave`, with the keys of the temporary table instead of an array of them."""
    unstage: str
    mention: str
    """As `upsert`, without the scope: makes the rows that are missing, in the order of their keys, and
    changes none."""
    leave: str | None
    """Keeps or deletes the rows of one document that left; with an own key its array comes after the scope,
    then for Keep the time of the previous capture."""
    leavers: str | None
    """Of several documents: the scopes of which a row left, from an array for each column of the scope and
    for the own key, then the distinct values of each column of the scope."""
    placeholders: dict[str, str]
    """By column: makes the catalogue's missing rows in the order of their ids and returns these."""
    gaps: dict[str, str]
    """By column whose catalogue holds documents back: the ids that the catalogue lacks, in order."""
    find: dict[str, str]
    """By Ref column: the ids of the rows with these keys, as (key, id)."""


def statements(table: Table, tables: dict[str, Table]) -> Statements:
    """Make the statements of a table; `tables` are those of its mapping, by name."""
    stage_name = f"stage_{table.name.replace('.', '_')}"[:63]
    columns = [*table.constant, *table.varying]
    extra = [(table.extra, "text")] if table.extra else []
    arrays = _arrays([*((column.name, _sent(column)) for column in columns), *extra])
    staged = ", ".join(
        f"{q(name)} {type_}" for name, type_ in [*((c.name, _sent(c)) for c in table.varying), *extra]
    )
    into = _into(table, columns)
    scope = _scope(table, 2 + len(columns) + len(extra))
    constants = {column.name: f"${place}::{_type(column)}" for place, column in enumerate(table.constant, 2)}
    counted = tuple(table.scope or table.own_key)
    return Statements(
        upsert=_counted(_upsert(table, into, arrays, scope), counted),
        stage=f"CREATE TEMPORARY TABLE {q(stage_name)} ({staged}) ON COMMIT DROP",
        stage_name=stage_name,
        staged_upsert=_upsert(
            table,
            _into(table, columns, constants),
            f"pg_temp.{q(stage_name)} AS i",
            [f"t.{q(name)} = {constants[name]}" for name in table.scope],
        ),
        twice=_twice(table, stage_name),
        staged={
            column.name: f"SELECT DISTINCT {q(column.name)} FROM pg_temp.{q(stage_name)} ORDER BY 1"
            for column in table.varying
            if isinstance(column, Column) and column.catalogue
        },
        staged_leave=_leave(table, stage_name),
        unstage=f"DROP TABLE pg_temp.{q(stage_name)}",
        mention=_counted(_mention(table, into, arrays), counted),
        leave=_leave(table),
        leavers=_leavers(table),
        placeholders={column.name: _placeholders(column) for column in _referring(table, "placeholder")},
        gaps={column.name: _gaps(column) for column in _referring(table, "hold")},
        find={
            column.name: _find(column, tables[column.to])
            for column in table.columns
            if isinstance(column, Ref)
        },
    )


def _arrays(sent: Sequence[tuple[str, str]]) -> str:
    """Return the rows that are sent as an array for each of these columns, by name and type."""
    arrays = ", ".join(_array(place, type_) for place, (_, type_) in enumerate(sent, 2))
    return f"unnest({arrays}) AS i ({_list(name for name, _ in sent)})"


def _into(
    table: Table, columns: Iterable[AnyColumn], constants: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Return what is written into which column, in order; what is no constant comes with each row."""
    into = {"tenant_id": "$1::text"}
    into |= {column.name: constants.get(column.name) or _cast(column) for column in columns}
    # Most rows have nothing beside their columns: null is cheaper to send, and nothing is to be parsed.
    return into | ({table.extra: f"coalesce(i.{q(table.extra)}::jsonb, '{{}}')"} if table.extra else {})


def _scope(table: Table, first: int) -> list[str]:
    """Return the conditions for the rows of several documents, whose scopes are arrays from `$first` on."""
    columns = [table.column(name) for name in table.scope]
    return [
        f"t.{q(column.name)} = ANY ({_array(place, _sent(column))}::{_type(column)}[])"
        for place, column in enumerate(columns, first)
    ]


def _insert(table: Table, into: Mapping[str, str], source: str) -> str:
    return (
        f"INSERT INTO {q(table.name)} AS t ({_list(into)})\nSELECT {', '.join(into.values())}\nFROM {source}"
    )


def _mention(table: Table, into: Mapping[str, str], source: str) -> str:
    order = ", ".join(f"i.{q(name)}" for name in table.own_key) or "1"
    return f"{_insert(table, into, source)}\nORDER BY {order}\nON CONFLICT ({_list(table.key)}) DO NOTHING"


def _upsert(table: Table, into: Mapping[str, str], source: str, scope: Sequence[str]) -> str:
    lines = [_insert(table, into, source)]
    present = f"t.{q(table.left.column)} IS NULL" if isinstance(table.left, Keep) else ""
    if scope:
        lines += [
            f"EXCEPT SELECT {', '.join(f't.{q(name)}' for name in into)} FROM {q(table.name)} AS t",
            f"WHERE {' AND '.join([*scope, *([present] if present else [])])}",
        ]
    lines.append(f"ON CONFLICT ({_list(table.key)}) {_update(table, into, present)}")
    return "\n".join(lines)


def _counted(statement: str, by: Sequence[str]) -> str:
    """Return a statement that tells how many rows another changed, by the values of these columns."""
    returned = ", ".join(f"t.{q(name)}" for name in by)
    return (
        f"WITH changed AS (\n{statement}\nRETURNING {returned})\n"
        f"SELECT {_list(by)}, count(*) FROM changed GROUP BY {_list(by)}"
    )


def _update(table: Table, into: Iterable[str], present: str) -> str:
    values = [name for name in into if name not in (*table.key, "tenant_id")]
    changed = f"NOT ({present})" if present else ""
    if values:
        old, new = (", ".join(f"{side}.{q(name)}" for name in values) for side in ("t", "EXCLUDED"))
        differs = f"ROW({old}) IS DISTINCT FROM ROW({new})"
        changed = f"{differs} OR {changed}" if changed else differs
    if not changed:
        return "DO NOTHING"
    sets = [f"{q(name)} = EXCLUDED.{q(name)}" for name in values]
    sets += [f"{q(table.left.column)} = NULL"] if isinstance(table.left, Keep) else []
    sets += [f"{q(name)} = sf_now()" for name in table.touched]
    return f"DO UPDATE SET {', '.join(sets)}\nWHERE {changed}"


def _twice(table: Table, stage_name: str) -> str:
    if not table.own_key:
        return ""
    key = _list(table.own_key)
    return f"SELECT {key} FROM pg_temp.{q(stage_name)} GROUP BY {key} HAVING count(*) > 1 LIMIT 1"


def _leave(table: Table, stage_name: str = "") -> str | None:
    if table.left is None:
        return None
    name = q(table.name)
    own = ["tenant_id = $1", *(f"{q(column)} = ${place}" for place, column in enumerate(table.scope, 2))]
    after = 2 + len(table.scope)
    change = f"DELETE FROM {name}"
    if isinstance(table.left, Keep):
        kept = q(table.left.column)
        own.append(f"{kept} IS NULL")
        time = after + (0 if stage_name else len(table.own_key))
        touched = "".join(f", {q(column)} = sf_now()" for column in table.touched)
        change = f"UPDATE {name} SET {kept} = ${time}::timestamptz{touched}"
    where = " AND ".join(own)
    if not table.own_key:
        return f"{change}\nWHERE {where}"
    key = table.column(table.own_key[0])
    array = _array(after, _sent(key))
    present, count = f"SELECT i::{_type(key)} FROM unnest({array}) AS i", f"cardinality({array})"
    if stage_name:
        present = f"SELECT {q(key.name)}::{_type(key)} FROM pg_temp.{q(stage_name)}"
        count = f"(SELECT count(*) FROM pg_temp.{q(stage_name)})"
    # All that is present has just been written, once: where no more rows are there, none has left.
    return (
        f"{change}\nWHERE {where} AND (SELECT count(*) FROM {name} WHERE {where}) > {count}\n"
        f"AND {q(key.name)} = ANY (ARRAY(\n"
        f"    SELECT {q(key.name)} FROM {name} WHERE {where}\n"
        f"    EXCEPT {present}))"
    )


def _leavers(table: Table) -> str | None:
    if table.left is None or not table.own_key:
        return None
    columns = [table.column(name) for name in (*table.scope, table.own_key[0])]
    own = ["t.tenant_id = $1", *_scope(table, 2 + len(columns))]
    if isinstance(table.left, Keep):
        own.append(f"t.{q(table.left.column)} IS NULL")
    return (
        f"SELECT DISTINCT {_list(table.scope)} FROM (\n"
        f"    SELECT {', '.join(f't.{q(column.name)}' for column in columns)} FROM {q(table.name)} AS t\n"
        f"    WHERE {' AND '.join(own)}\n"
        f"    EXCEPT SELECT {', '.join(map(_cast, columns))}\n"
        f"    FROM {_arrays([(column.name, _sent(column)) for column in columns])}) AS gone"
    )


def _referring(table: Table, missing: Missing) -> Iterator[Column]:
    for column in table.columns:
        if isinstance(column, Column) and column.catalogue and column.catalogue.missing == missing:
            yield column


def _gaps(column: Column) -> str:
    catalogue = column.catalogue
    assert catalogue is not None
    table, key, type_ = q(catalogue.table), q(catalogue.key), column.type
    return (
        f"SELECT i::{type_.sql} FROM unnest($1::{type_.sent}[]) AS i\n"
        f"EXCEPT SELECT {key} FROM {table} WHERE {key} = ANY ($1::{type_.sent}[]::{type_.sql}[])\n"
        "ORDER BY 1"
    )


def _placeholders(column: Column) -> str:
    catalogue = column.catalogue
    assert catalogue is not None
    table, key, type_ = q(catalogue.table), q(catalogue.key), column.type
    return (
        f"INSERT INTO {table} ({key}, meta)\n"
        f"SELECT i::{type_.sql}, '{PLACEHOLDER}' FROM unnest($1::{type_.sent}[]) AS i ORDER BY i\n"
        f"ON CONFLICT ({key}) DO NOTHING RETURNING {key}"
    )


def _find(ref: Ref, to: Table) -> str:
    key = to.column(to.own_key[0])
    return (
        f"SELECT {q(key.name)}, {q(ref.id)} FROM {q(to.name)}\n"
        f"WHERE tenant_id = $1 AND {q(key.name)} = ANY ($2::{_type(key)}[])"
    )


def _type(column: AnyColumn) -> str:
    return column.sql if isinstance(column, Ref) else column.type.sql


def _array(place: int, type_: str) -> str:
    """Return a parameter that is an array; one of integers comes as its text."""
    return f"${place}::text::{type_}[]" if type_ in INTEGERS else f"${place}::{type_}[]"


def _sent(column: AnyColumn) -> str:
    return column.sql if isinstance(column, Ref) else column.type.sent


def _cast(column: AnyColumn) -> str:
    value, type_ = f"i.{q(column.name)}", _type(column)
    return value if type_ == _sent(column) else f"{value}::{type_}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(q, names))


def q(name: str) -> str:
    """Quote a name, with or without its schema."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))
