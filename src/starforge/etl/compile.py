"""The statements that write one table's rows, made once from its declaration.

No plan of theirs depends on what Postgres knows about a table: rows are found by the unique index that
ON CONFLICT names, and what is unchanged, or has left, by EXCEPT, which hashes or sorts. A join here once
became a nested loop over 12 000 × 12 000 rows, because a young table has no statistics yet.
"""

# ruff: noqa: S608 -- names are checked by declared.py, and values are always parameters

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from starforge.etl.columns import AnyColumn, Column, Keep, Missing, Ref, Table
from starforge.etl.types import INTEGERS

PLACEHOLDER = '{"placeholder": true}'
"""The `meta` of an entry that was made because a document refers to it."""


@dataclass(frozen=True, slots=True)
class Statements:
    """A table's statements; `$1` is always the tenant, then come the constants, then an array a column."""

    upsert: str
    """From arrays: inserts what is new, updates what differs, leaves what is equal."""
    stage: str
    """Makes the temporary table for COPY, which cannot go straight into a table under row security."""
    stage_name: str
    staged_upsert: str
    """As `upsert`, from the temporary table."""
    twice: str
    """Finds a key that two rows of the temporary table have."""
    staged: dict[str, str]
    """By column with a catalogue: the values that the temporary table has, in order."""
    staged_leave: str | None
    """As `leave`, with the keys of the temporary table instead of an array of them."""
    unstage: str
    mention: str
    """Makes the rows that are missing, in the order of their keys, and changes none."""
    leave: str | None
    """Keeps or deletes the rows that left; with an own key its array comes after the scope, then for
    Keep the time of the previous capture."""
    placeholders: dict[str, str]
    """By column: makes the catalogue's missing rows in the order of their ids and returns these."""
    gaps: dict[str, str]
    """By column whose catalogue holds documents back: the ids that the catalogue lacks, in order."""
    find: dict[str, str]
    """By Ref column: the ids of the rows with these keys, as (key, id)."""


def statements(table: Table, tables: dict[str, Table]) -> Statements:
    """Make the statements of a table; `tables` are those of its mapping, by name."""
    stage_name = f"stage_{table.name.replace('.', '_')}"[:63]
    sent = [*((column.name, _sent(column)) for column in table.varying)]
    sent += [(table.extra, "text")] if table.extra else []
    first = 2 + len(table.constant)
    arrays = ", ".join(_array(first + place, type_) for place, (_, type_) in enumerate(sent))
    names = ", ".join(q(name) for name, _ in sent)
    staged = ", ".join(f"{q(name)} {type_}" for name, type_ in sent)
    from_arrays = f"unnest({arrays}) AS i ({names})"
    return Statements(
        upsert=_upsert(table, from_arrays),
        stage=f"CREATE TEMPORARY TABLE {q(stage_name)} ({staged}) ON COMMIT DROP",
        stage_name=stage_name,
        staged_upsert=_upsert(table, f"pg_temp.{q(stage_name)} AS i"),
        twice=_twice(table, stage_name),
        staged={
            column.name: f"SELECT DISTINCT {q(column.name)} FROM pg_temp.{q(stage_name)} ORDER BY 1"
            for column in table.varying
            if isinstance(column, Column) and column.catalogue
        },
        staged_leave=_leave(table, stage_name),
        unstage=f"DROP TABLE pg_temp.{q(stage_name)}",
        mention=_mention(table, from_arrays),
        leave=_leave(table),
        placeholders={column.name: _placeholders(column) for column in _referring(table, "placeholder")},
        gaps={column.name: _gaps(column) for column in _referring(table, "hold")},
        find={
            column.name: _find(column, tables[column.to])
            for column in table.columns
            if isinstance(column, Ref)
        },
    )


def _into(table: Table) -> dict[str, str]:
    """Return what is written into which column, in order."""
    into = {"tenant_id": "$1::text"}
    into |= {column.name: f"${place}::{_type(column)}" for place, column in enumerate(table.constant, 2)}
    into |= {column.name: _cast(column) for column in table.varying}
    return into | ({table.extra: f"i.{q(table.extra)}::jsonb"} if table.extra else {})


def _insert(table: Table, source: str) -> str:
    into = _into(table)
    return (
        f"INSERT INTO {q(table.name)} AS t ({_list(into)})\nSELECT {', '.join(into.values())}\nFROM {source}"
    )


def _mention(table: Table, source: str) -> str:
    order = ", ".join(f"i.{q(name)}" for name in table.own_key) or "1"
    return f"{_insert(table, source)}\nORDER BY {order}\nON CONFLICT ({_list(table.key)}) DO NOTHING"


def _upsert(table: Table, source: str) -> str:
    into, lines = _into(table), [_insert(table, source)]
    present = f"t.{q(table.left.column)} IS NULL" if isinstance(table.left, Keep) else ""
    if table.scope:
        equal = [f"t.{q(name)} = {into[name]}" for name in table.scope]
        lines += [
            f"EXCEPT SELECT {', '.join(f't.{q(name)}' for name in into)} FROM {q(table.name)} AS t",
            f"WHERE {' AND '.join([*equal, *([present] if present else [])])}",
        ]
    lines.append(f"ON CONFLICT ({_list(table.key)}) {_update(table, into, present)}")
    return "\n".join(lines)


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
    present = f"SELECT i::{_type(key)} FROM unnest({_array(after, _sent(key))}) AS i"
    if stage_name:
        present = f"SELECT {q(key.name)}::{_type(key)} FROM pg_temp.{q(stage_name)}"
    return (
        f"{change}\nWHERE {where} AND {q(key.name)} = ANY (ARRAY(\n"
        f"    SELECT {q(key.name)} FROM {name} WHERE {where}\n"
        f"    EXCEPT {present}))"
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
