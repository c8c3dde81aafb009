"""Erase: everything that is kept of one subject of a source goes, in one transaction.

His snapshots with their captures, holds and errors, what the queue keeps of their jobs, and his rows in
every table that the mapping fills. Rows that several subjects share, and catalogues, stay. A snapshot whose
subject is not known goes where its text names the subject, so do bytes and errors.
"""

# ruff: noqa: S608 -- names come from Postgres' catalogue or are quoted, and values are always parameters

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.etl.errors import StillReferredError, SubjectBusyError, UntraceableError
from starforge.etl.retention.retention import drop_raw
from starforge.queue.naming import forget_naming, jobs_naming

NAMED = "snapshot_id"
SAMPLE_MAX = 10


@dataclass(slots=True)
class Erased:
    """What was deleted, by table; the subject's name is nowhere in it."""

    rows: dict[str, int] = field(default_factory=dict)
    snapshots: tuple[str, ...] = ()
    """The first of the snapshots."""
    unsearched: int = 0
    """Snapshots in the object store whose subject is not known: nobody looked into them."""

    @property
    def total(self) -> int:
        """Rows of all tables."""
        return sum(self.rows.values())


async def erase(conn: Connection, subject: str, source: str, *, tenant: str) -> Erased:
    """Delete everything of a subject, in the caller's transaction; objects go once it has committed.

    Raises: SubjectBusyError while a job processes one of his snapshots; UntraceableError where a table's rows
        cannot be told to be his; StillReferredError where others refer to them. Then nothing is deleted.
    """
    found = await conn.fetch(sql("etl", "erase_find"), tenant, source, subject)
    ids = [row["id"] for row in found]
    texts = [str(one) for one in ids]
    live = await jobs_naming(conn, NAMED, texts, tenant) if ids else []
    if running := sum(job.status == "running" for job in live):
        raise SubjectBusyError(running)
    erased = Erased(snapshots=tuple(texts[:SAMPLE_MAX]))
    erased.unsearched = await conn.fetchval(sql("etl", "erase_unsearched"), tenant, source)
    own, statements = await _mapped(conn, source)
    try:
        for table, statement in statements:
            erased.rows[table] = _count(await conn.execute(statement, tenant, subject))
    except asyncpg.ForeignKeyViolationError as error:
        raise StillReferredError(error.table_name, error.constraint_name) from None
    erased.rows["entity_seen"] = _count(
        await conn.execute(sql("etl", "erase_marks"), tenant, source, subject, own)
    )
    for table, statement in (("snapshot_quarantine", "erase_quarantine"), ("etl_errors", "erase_errors")):
        tag = await conn.execute(sql("etl", statement), tenant, source, subject, ids)
        erased.rows[table] = _count(tag)
    if ids:
        erased.rows |= await forget_naming(conn, NAMED, texts, tenant)
    erased.rows["snapshot_captures"] = _count(await conn.execute(sql("etl", "erase_captures"), ids))
    erased.rows["hero_snapshots"] = _count(await conn.execute(sql("etl", "erase_snapshots"), ids))
    await drop_raw(conn, [(row["raw_key"], tenant) for row in found if row["raw_key"] is not None])
    erased.rows = {table: rows for table, rows in erased.rows.items() if rows}
    return erased


async def _mapped(conn: Connection, source: str) -> tuple[list[str] | None, list[tuple[str, str]]]:
    """Return the source's own tables, and a statement for each that deletes a subject's rows, children first.

    None and nothing where no worker has ever written a snapshot of the source: then there are no rows.
    """
    noted = await conn.fetchrow(sql("etl", "noted_source"), source)
    if noted is None:
        return None, []
    tables: list[Mapping[str, Any]] = noted["tables"]
    own = [table["name"] for table in tables if not table["shared"]]
    key = await conn.fetchrow(sql("etl", "column_type"), _q(noted["subject_table"]), noted["subject_key"])
    links = await _links(conn, tables, own)
    is_his = f"tenant_id = $1 AND {_q(noted['subject_key'])} = $2::text::{key['type'] if key else 'text'}"
    conditions = {noted["subject_table"]: is_his}
    left = [name for name in own if name not in conditions]
    while reached := [name for name in left if any(link.parent in conditions for link in links[name])]:
        # Of the tables that are reached in this round none leads over another of the same round.
        conditions |= {name: _his(links[name], conditions) for name in reached}
        left = [name for name in left if name not in conditions]
    if left:
        raise UntraceableError(source, tuple(left))
    return own, [(name, f"DELETE FROM {_q(name)} WHERE {conditions[name]}") for name in reversed(own)]


@dataclass(frozen=True, slots=True)
class _Link:
    """Columns of a table that name a row of another."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


async def _links(
    conn: Connection, tables: Sequence[Mapping[str, Any]], own: list[str]
) -> dict[str, list[_Link]]:
    """Return what leads from each own table to others: its Refs, and the database's foreign keys."""
    links: dict[str, list[_Link]] = {name: [] for name in own}
    for table in tables:
        for ref in table["refs"] if table["name"] in links else ():
            if ref["to"] in links:
                links[table["name"]].append(_Link((ref["column"],), ref["to"], (ref["id"],)))
    for row in await conn.fetch(sql("etl", "foreign_keys"), own, [_q(name) for name in own]):
        link = _Link(tuple(row["columns"]), row["parent"], tuple(row["parent_columns"]))
        if link not in links[row["child"]] and row["parent"] != row["child"]:
            links[row["child"]].append(link)
    return links


def _his(links: Sequence[_Link], conditions: Mapping[str, str]) -> str:
    ways = [
        f"({_names(link.columns)}) IN (SELECT {_names(link.parent_columns)} FROM {_q(link.parent)}"
        f" WHERE {conditions[link.parent]})"
        for link in links
        if link.parent in conditions
    ]
    return f"tenant_id = $1 AND ({' OR '.join(ways)})"


def _names(columns: Sequence[str]) -> str:
    return ", ".join(map(_q, columns))


def _q(name: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
