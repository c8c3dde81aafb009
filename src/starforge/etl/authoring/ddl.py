"""DDL: the tables of a mapping, with grants and row security, for the user's own migration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starforge.etl.mapping import Mapping
from starforge.etl.mapping.compile import q
from starforge.etl.mapping.tables import AnyColumn, Catalogue, Column, Derived, Keep, One, Ref, Table

HEAD = """\
-- The tables of source {source}, as its mapping writes them. Run once, as the owner:
--     starforge db psql --role owner -f FILE
--
-- What StarForge asks of a table: tenant_id, the columns of the mapping, and a unique key over those that its
-- `key` names. created_at and updated_at tell a row's first and last change."""

GUARD = """\
-- Workers and the web see the rows of the tenant they speak for; operators and the owner see all.
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY[{tables}] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant_all ON %s TO starforge_owner, starforge_operator'
            ' USING (true) WITH CHECK (true)', t);
        EXECUTE format('CREATE POLICY tenant_own ON %s TO starforge_engine, starforge_app'
            ' USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant())', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s'
            ' TO starforge_engine, starforge_app, starforge_operator', t);
    END LOOP;
END $$;"""

ROLES = "starforge_engine, starforge_app, starforge_operator"
NOW = "timestamptz NOT NULL DEFAULT sf_now()"
Line = tuple[str, str]


def ddl(mapping: Mapping) -> str:
    """Return the SQL that makes a mapping's tables in a database that has none of them."""
    referred = {column.to: column for table in mapping.tables.values() for column in _refs(table)}
    parts = [HEAD.format(source=mapping.name.replace("\n", " ")), "BEGIN;"]
    schemas = sorted({name.partition(".")[0] for name in mapping.tables if "." in name})
    for schema in schemas:
        parts.append(
            f"CREATE SCHEMA IF NOT EXISTS {q(schema)};\nGRANT USAGE ON SCHEMA {q(schema)} TO {ROLES};"
        )
    parts += [_catalogue(catalogue, sql) for catalogue, sql in _catalogues(mapping)]
    parts += [_table(table, mapping, referred.get(table.name)) for table in mapping.tables.values()]
    parts.append(GUARD.format(tables=", ".join(_text(q(name)) for name in mapping.tables)))
    return "\n\n".join([*parts, "COMMIT;"]) + "\n"


def _refs(table: Table) -> Iterator[Ref]:
    return (column for column in table.columns if isinstance(column, Ref))


def _catalogues(mapping: Mapping) -> Iterator[tuple[Catalogue, str]]:
    seen = set()
    for table in mapping.tables.values():
        for column in table.columns:
            if isinstance(column, Column) and column.catalogue and column.catalogue.table not in seen:
                seen.add(column.catalogue.table)
                yield column.catalogue, column.type.sql


def _catalogue(catalogue: Catalogue, sql: str) -> str:
    lines = [
        (q(catalogue.key), f"{sql} PRIMARY KEY"),
        (q("name"), "text"),
        (q("meta"), "jsonb NOT NULL DEFAULT '{}'"),
        (q("created_at"), NOW),
        (q("updated_at"), NOW),
    ]
    table = q(catalogue.table)
    return (
        f"CREATE TABLE IF NOT EXISTS {table} (\n{_aligned(lines)}\n);\n"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {ROLES};"
    )


def _table(table: Table, mapping: Mapping, referred: Ref | None) -> str:
    lines: list[Line] = []
    own = {column.name for column in table.columns}
    if referred is not None and referred.id not in own:
        kind = "DEFAULT gen_random_uuid()" if referred.sql == "uuid" else "GENERATED ALWAYS AS IDENTITY"
        lines.append((q(referred.id), f"{referred.sql} PRIMARY KEY {kind}"))
    lines.append((q("tenant_id"), "text NOT NULL"))
    lines += [(q(column.name), _column(column, table)) for column in table.columns]
    if isinstance(table.left, Keep):
        lines.append((q(table.left.column), "timestamptz"))
    lines += [(q(table.extra), "jsonb NOT NULL DEFAULT '{}'")] if table.extra else []
    written = {name for name, _ in lines}
    lines += [(q(name), NOW) for name in ("created_at", *table.touched) if q(name) not in written]
    key = ", ".join(q(name) for name in table.key)
    made_id = referred is not None and referred.id not in own
    rules = [f"{'UNIQUE' if made_id else 'PRIMARY KEY'} ({key})", *_references(table, mapping)]
    made = f"CREATE TABLE {q(table.name)} (\n{_aligned(lines)},\n    " + ",\n    ".join(rules) + "\n);"
    return "\n".join([made, *_indexes(table), *_comments(table)])


def _column(column: AnyColumn, table: Table) -> str:
    if isinstance(column, Ref):
        return f"{column.sql} NOT NULL" if column.name in table.key else column.sql
    if isinstance(column, Derived):
        return column.type.sql
    default = column.type.read_one(column.default)
    if default is not None:
        return f"{column.type.sql} NOT NULL DEFAULT {_literal(default)}"
    sure = column.required or column.name in table.key
    sure = sure or (isinstance(table.rows, One) and table.rows.when == column.path)
    return f"{column.type.sql} NOT NULL" if sure else column.type.sql


def _references(table: Table, mapping: Mapping) -> Iterator[str]:
    for column in table.columns:
        if isinstance(column, Ref):
            gone = " ON DELETE CASCADE" if column.name in table.key else ""
            yield f"FOREIGN KEY ({q(column.name)}) REFERENCES {q(column.to)} ({q(column.id)}){gone}"
        elif isinstance(column, Column) and column.catalogue:
            catalogue = column.catalogue
            yield f"FOREIGN KEY ({q(column.name)}) REFERENCES {q(catalogue.table)} ({q(catalogue.key)})"
        elif isinstance(column, Column) and column.refers:
            key = mapping.tables[column.refers].own_key[0]
            to = f"{q(column.refers)} (tenant_id, {q(key)})"
            yield f"FOREIGN KEY (tenant_id, {q(column.name)}) REFERENCES {to}"


def _indexes(table: Table) -> Iterator[str]:
    """Make what finds the rows of whatever is referred to, where the key does not."""
    for column in table.columns:
        if column.name == next(iter(table.key), None):
            continue
        own = q(f"{table.name.rpartition('.')[2]}_{column.name}"[:63])
        if isinstance(column, Ref):
            yield f"CREATE INDEX {own} ON {q(table.name)} ({q(column.name)});"
        elif isinstance(column, Column) and column.refers:
            yield f"CREATE INDEX {own} ON {q(table.name)} (tenant_id, {q(column.name)});"


def _comments(table: Table) -> Iterator[str]:
    for column in table.columns:
        if isinstance(column, Column) and column.unit:
            yield f"COMMENT ON COLUMN {q(table.name)}.{q(column.name)} IS {_text('in ' + column.unit)};"


def _aligned(lines: list[Line]) -> str:
    width = max(len(name) for name, _ in lines)
    return ",\n".join(f"    {name:<{width}} {rest}" for name, rest in lines)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else _text(str(value))


def _text(value: str) -> str:
    escaped = value.replace("'", "''")
    return f"E'{escaped.replace(chr(92), chr(92) * 2)}'" if "\\" in value else f"'{escaped}'"
