"""Catalogues: what documents refer to and all tenants share; what becomes of entries that they lack.

Each reference has its policy: an entry is made and registered (`placeholder`), the snapshot waits for it
(`hold`), or the foreign key refuses the document (`fail`). The leader looks every few seconds whether what
was lacking is there now, however it came there: by `starforge catalog seed` or by an INSERT by hand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.etl.errors import CatalogueGapError, NoCatalogueError
from starforge.etl.mapping import Mapping as SourceMapping
from starforge.etl.mapping.check import NAME
from starforge.etl.mapping.compile import Statements, q
from starforge.etl.mapping.tables import Catalogue, Column, Rows, Table
from starforge.etl.snapshot.hold import Hold, held_for
from starforge.etl.snapshot.quarantine import release_holds

log = structlog.get_logger("catalogue")

LOOK_S = 10.0
"""How soon at the latest it is noticed that an entry has come, while somebody leads."""

SEEN_MAX = 100_000
"""Of a catalogue so many ids are remembered, and some more."""

SHOWN_MAX = 1000
UNREADABLE = (asyncpg.SyntaxOrAccessError, asyncpg.DataError)
"""What a catalogue answers that was dropped, renamed, or may not be read."""

ENTRIES_MAX = 1000
"""Entries that are seeded at once."""


@dataclass(frozen=True, slots=True)
class Placeholder:
    """An entry that stands in a catalogue only because a document refers to it."""

    catalogue: str
    id: str
    source: str
    snapshot_id: UUID | None
    owner: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Seeded:
    """What a seed did."""

    key: str
    entries: int
    resolved: list[str]
    released: int


class Entries:
    """Entries that were seen in their catalogues, so that not every document asks for all of its own again.

    One that was deleted since is found out by the foreign key; then everything is forgotten and asked anew.
    """

    def __init__(self) -> None:
        self._seen: dict[str, set[Any]] = {}

    def unseen(self, catalogue: str, ids: list[Any]) -> list[Any]:
        """Return those that have to be asked for."""
        seen = self._seen.get(catalogue)
        return [id_ for id_ in ids if id_ not in seen] if seen else ids

    def note(self, catalogue: str, asked: Iterable[Any], made: Collection[Any]) -> None:
        """Remember what was there; what was made now is there only once its transaction is committed."""
        seen = self._seen.setdefault(catalogue, set())
        if len(seen) < SEEN_MAX:
            seen.update(set(asked) - set(made))

    def forget(self) -> bool:
        """Forget everything; tell whether there was anything."""
        known = bool(self._seen)
        self._seen = {}
        return known


async def supply(
    conn: Connection, statements: Statements, parts: Sequence[Rows], entries: Entries | None = None
) -> list[dict[str, list[Any]]]:
    """Make the entries that rows of one table refer to and their catalogues lack.

    Returns: For each part, the ids made for the first time because of it, by catalogue.
    """
    made: list[dict[str, list[Any]]] = [{} for _ in parts]
    for name, statement in statements.placeholders.items():
        table = _catalogue(parts[0].table, name).table
        wanted = [set(rows[name]) - {None} for rows in parts]
        ids = list(set().union(*wanted))
        if entries is not None:
            ids = entries.unseen(table, ids)
        if ids:
            found = {row[0] for row in await conn.fetch(statement, ids)}
            if entries is not None:
                entries.note(table, ids, found)
            for told, referred in zip(made, wanted, strict=True):
                if mine := sorted(found & referred):
                    told.setdefault(table, []).extend(mine)
                    found -= referred
    return made


async def provide(
    conn: Connection, statements: Statements, table: Table, name: str, ids: list[Any]
) -> dict[str, list[Any]]:
    """Do so for some values of one column; raise CatalogueGapError where documents wait for entries."""
    catalogue = _catalogue(table, name)
    gaps = statements.gaps.get(name)
    if gaps and (lacking := [row[0] for row in await conn.fetch(gaps, ids)]):
        raise _gap(catalogue, lacking)
    statement = statements.placeholders.get(name)
    made = [row[0] for row in await conn.fetch(statement, ids)] if statement else []
    return {catalogue.table: made} if made else {}


async def require_entries(conn: Connection, mapping: SourceMapping, found: Iterable[Rows]) -> None:
    """Raise CatalogueGapError where rows refer to what a catalogue lacks that documents wait for."""
    for rows in found:
        for name, statement in mapping.statements[rows.table.name].gaps.items():
            ids = _referred(rows, name)
            lacking = [row[0] for row in await conn.fetch(statement, ids)] if ids else []
            if lacking:
                raise _gap(_catalogue(rows.table, name), lacking)


async def register(
    conn: Connection, mapping: SourceMapping, made: Mapping[UUID, Mapping[str, Sequence[Any]]]
) -> None:
    """Write down the placeholders that documents made, in their transaction.

    Args:
        conn: In the transaction.
        mapping: Of their source.
        made: By snapshot: the ids made, by catalogue.
    """
    for catalogue in catalogues(mapping):
        pairs = [(str(id_), by) for by, told in made.items() for id_ in told.get(catalogue.table, ())]
        if not pairs:
            continue
        ids, snapshot_ids = zip(*pairs, strict=True)
        await conn.execute(
            sql("etl", "placeholder_note"),
            catalogue.table,
            catalogue.key,
            ids,
            mapping.name,
            snapshot_ids,
            catalogue.owner,
        )
        log.debug("catalogue.placeholder", catalogue=catalogue.table, ids=ids[:20], owner=catalogue.owner)


def catalogues(mapping: SourceMapping) -> list[Catalogue]:
    """Return the catalogues that a mapping refers to, each once."""
    found: dict[str, Catalogue] = {}
    for table in mapping.tables.values():
        for column in table.columns:
            if isinstance(column, Column) and column.catalogue:
                found.setdefault(column.catalogue.table, column.catalogue)
    return list(found.values())


async def placeholders(
    conn: Connection, catalogue: str | None = None, source: str | None = None, *, most: int = SHOWN_MAX
) -> tuple[list[Placeholder], int]:
    """Return what catalogues lack, oldest first, and how many more there are."""
    rows = await conn.fetch(sql("etl", "placeholders_open"), catalogue, source, most)
    found = [Placeholder(**{name: row[name] for name in set(row.keys()) - {"more"}}) for row in rows]
    return found, rows[0]["more"] if rows else 0


async def missing(conn: Connection, mapping: SourceMapping, found: Iterable[Rows]) -> dict[str, set[str]]:
    """Return which entries rows refer to that are not in their catalogues, whatever the policy."""
    told: dict[str, set[str]] = {}
    for rows in found:
        for column in rows.table.columns:
            if isinstance(column, Column) and column.catalogue:
                ids = [str(id_) for id_ in _referred(rows, column.name)]
                there = await _present(conn, column.catalogue.table, column.catalogue.key, ids)
                if lacking := set(ids) - there.keys():
                    told.setdefault(column.catalogue.table, set()).update(lacking)
    return told


async def settle(conn: Connection) -> tuple[list[tuple[str, str]], int]:
    """See which entries have come: resolve their placeholders and release what waited for them.

    Returns: (catalogue, id) of each placeholder that is one no more, and how many snapshots were released.
    Each catalogue is dealt with in a transaction of its own where the caller has none.
    """
    resolved: list[tuple[str, str]] = []
    released = 0
    for row in await conn.fetch(sql("etl", "wanting")):
        try:
            async with conn.transaction():
                ids, count = await _settle(conn, row["catalogue"], row["key_column"], row["ids"])
        except UNREADABLE as error:
            log.warning("catalogue.unreadable", catalogue=row["catalogue"], error=str(error))
            continue
        resolved += [(row["catalogue"], id_) for id_ in ids]
        released += count
    if resolved or released:
        log.info("catalogue.settled", resolved=len(resolved), released=released)
    return resolved, released


async def seed(conn: Connection, catalogue: str, entries: Sequence[Mapping[str, Any]]) -> Seeded:
    """Make or change entries of a catalogue; what waited for them goes on.

    Raises: NoCatalogueError where the table is none, or an entry has a column that it has not.
    """
    table = await _table(conn, catalogue)
    key, columns = table["key"], table["columns"]
    named = dict.fromkeys(name for entry in entries for name in entry)
    if unknown := [name for name in named if name not in columns]:
        raise NoCatalogueError(f"{catalogue} has no column {', '.join(unknown)}; it has {', '.join(columns)}")
    if lacking := [place for place, entry in enumerate(entries, 1) if entry.get(key) is None]:
        raise NoCatalogueError(f"entry {lacking[0]} has no {key}, by which {catalogue} knows its entries")
    await conn.execute(_upsert(catalogue, key, list(named), columns), [dict(entry) for entry in entries])
    failpoint("catalogue_seeded")
    ids = [str(entry[key]) for entry in entries]
    resolved = [row["id"] for row in await conn.fetch(sql("etl", "placeholders_resolve"), catalogue, ids)]
    released = await _release_satisfied(conn, catalogue, key)
    return Seeded(key, len(entries), resolved, released)


async def require_catalogue(conn: Connection, catalogue: str) -> None:
    """Raise NoCatalogueError where there is no table of that name that is one."""
    await _table(conn, catalogue)


async def _table(conn: Connection, catalogue: str) -> asyncpg.Record:
    named = NAME.fullmatch(catalogue) is not None
    row = await conn.fetchrow(sql("etl", "catalogue_column"), q(catalogue)) if named else None
    if row is None:
        raise NoCatalogueError(f"there is no table {catalogue}")
    if not row["shared"] or not row["has_meta"] or row["key"] is None:
        raise NoCatalogueError(
            f"{catalogue} is no catalogue: that is a table without tenant_id, with a jsonb column meta and a"
            " primary key of one column"
        )
    return row


def _upsert(catalogue: str, key: str, named: list[str], columns: Sequence[str]) -> str:
    """Write the upsert: what an entry does not say stays, and a placeholder becomes an entry."""
    plain = [name for name in named if name not in (key, "meta")]
    sets = [f"{q(name)} = coalesce(excluded.{q(name)}, t.{q(name)})" for name in plain]
    given = "coalesce(excluded.meta, '{}')" if "meta" in named else "'{}'::jsonb"
    sets.append(f"meta = (t.meta || {given}) - 'placeholder'")
    sets += ["updated_at = sf_now()"] if "updated_at" in columns and "updated_at" not in named else []
    into = ", ".join(map(q, named))
    values = ", ".join(
        "coalesce(meta, '{}') - 'placeholder'" if name == "meta" else q(name) for name in named
    )
    return (
        f"INSERT INTO {q(catalogue)} AS t ({into})\n"
        f"SELECT {values} FROM jsonb_populate_recordset(NULL::{q(catalogue)}, $1) ORDER BY {q(key)}\n"
        f"ON CONFLICT ({q(key)}) DO UPDATE SET {', '.join(sets)}"
    )


async def _settle(conn: Connection, table: str, key: str, ids: list[str]) -> tuple[list[str], int]:
    there = await _present(conn, table, key, ids)
    known = [id_ for id_, placeholder in there.items() if not placeholder]
    resolved = await conn.fetch(sql("etl", "placeholders_resolve"), table, known) if known else []
    return [row["id"] for row in resolved], await _release_satisfied(conn, table, key)


async def _release_satisfied(conn: Connection, table: str, key: str) -> int:
    """Release what waits for entries that are all there, placeholders included: somebody made these."""
    waiting: list[Hold] = await held_for(conn, table)
    wanted = sorted({id_ for hold in waiting for id_ in hold.missing})
    there = await _present(conn, table, key, wanted) if wanted else {}
    ready = [hold for hold in waiting if there.keys() >= set(hold.missing)]
    held = [(hold.quarantine_id, hold.snapshot_id) for hold in ready]
    return len(await release_holds(conn, held, who=f"catalogue {table}"))


async def _present(conn: Connection, table: str, key: str, ids: Sequence[str]) -> dict[str, bool]:
    """Return which of these ids a table has, and whether each is a placeholder."""
    type_ = await conn.fetchval(sql("etl", "catalogue_key"), q(table), key)
    if type_ is None:
        return {}
    rows = await conn.fetch(
        f"SELECT c.{q(key)}::text AS id,\n"
        "       coalesce(to_jsonb(c) -> 'meta' ->> 'placeholder' = 'true', false) AS held\n"
        f"FROM {q(table)} AS c WHERE c.{q(key)} = ANY ($1::text[]::{type_}[])",
        list(ids),
    )
    return {row["id"]: row["held"] for row in rows}


def _referred(rows: Rows, name: str) -> list[Any]:
    return list(set(rows[name]) - {None})


def _catalogue(table: Table, name: str) -> Catalogue:
    column = table.column(name)
    assert isinstance(column, Column)
    assert column.catalogue is not None
    return column.catalogue


def _gap(catalogue: Catalogue, missing: list[Any]) -> CatalogueGapError:
    return CatalogueGapError(catalogue.table, catalogue.key, missing, owner=catalogue.owner)
