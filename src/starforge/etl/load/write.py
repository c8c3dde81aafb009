"""Write: documents, or one entity of a document, become rows inside the caller's transaction.

Locks are taken in one order by every document: the subject's own watermarks, then table by table the
missing rows of catalogues by id, missing shared rows by key, the watermarks of shared rows by key. So
documents that share guilds or catalogue rows wait for each other and never in a circle, as long as a
transaction writes one document, one entity of it, or several documents by one call of `write_all`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starforge.db.pool import Connection
from starforge.etl.gears.entities import Entities
from starforge.etl.load.parts import Part, Writing, Written
from starforge.etl.load.upsert import ROWS_AT_ONCE, Writer
from starforge.etl.load.watermark import supersedes, take
from starforge.etl.mapping import Mapped, Mapping
from starforge.etl.mapping.tables import Table
from starforge.etl.source.catalogue import Entries, require_entries


@dataclass(frozen=True, slots=True)
class Captured:
    """A document's rows, and when it was taken; that guards each entity against older ones."""

    mapped: Mapped
    captured_at: datetime


async def write(
    conn: Connection,
    mapping: Mapping,
    document: Any,
    *,
    tenant: str,
    captured_at: datetime,
    only: Collection[str] | None = None,
    batch: int = ROWS_AT_ONCE,
    entries: Entries | None = None,
) -> Written:
    """Write a document that lies in memory; an identical replay and an older capture change nothing.

    Args:
        conn: In a READ COMMITTED transaction that speaks for `tenant` and writes no other document.
        mapping: How the document becomes rows.
        document: The parsed document.
        tenant: Whose rows they are.
        captured_at: When the document was taken, with its offset.
        only: The tables to write; all where not given. What the others hold is found and left alone.
        batch: Rows that are sent together.
        entries: What is known of catalogues.
    Raises: MappingError, before anything is written where the document is at fault; asyncpg's errors, for
        instance where a foreign key is not satisfied; CatalogueGapError where the document is to wait.
    """
    one = Captured(mapping.read(document), captured_at)
    [written] = await write_all(conn, mapping, [one], tenant=tenant, only=only, batch=batch, entries=entries)
    return written


async def write_all(
    conn: Connection,
    mapping: Mapping,
    captured: Sequence[Captured],
    *,
    tenant: str,
    only: Collection[str] | None = None,
    batch: int = ROWS_AT_ONCE,
    entries: Entries | None = None,
) -> list[Written]:
    """Write documents of different subjects together, as if one after the other.

    Args:
        conn, mapping, tenant, only, batch, entries: As in `write`.
        captured: The documents.
    Raises: as `write`, whichever document is at fault.
    """
    wanted = [table for table in mapping.tables.values() if only is None or table.name in only]
    own = [table.name for table in wanted if not table.shared]
    documents = [Writing(one.mapped.subject, one.captured_at) for one in captured]
    marks = {(name, each.subject): each.captured_at for each in documents for name in own}
    seen = await take(conn, tenant, mapping.name, marks)
    for each in documents:
        each.previous = {name: seen[name, each.subject] for name in own}
        each.superseded = {name for name in own if supersedes(each.previous[name], each.captured_at)}
        each.complete = not own or len(each.superseded) < len(own)
    writer = Writer(conn, mapping, tenant, batch, entries)
    for_each = {
        table.name: [
            Part(each, one.mapped.tables[table.name])
            for each, one in zip(documents, captured, strict=True)
            if each.complete and (table.shared or table.name not in each.superseded)
        ]
        for table in wanted
    }
    await require_entries(conn, mapping, (part.rows for parts in for_each.values() for part in parts))
    for table in wanted:
        if parts := for_each[table.name]:
            await (writer.write_shared(parts) if table.shared else writer.write_own(parts))
    return [each.told() for each in documents]


async def write_entity(
    conn: Connection,
    entities: Entities,
    table: Table,
    *,
    tenant: str,
    captured_at: datetime,
    batch: int,
    entries: Entries | None = None,
) -> Written:
    """Write the rows of one table of a document, which may come in pieces of at most `batch` items.

    Args:
        conn: In a READ COMMITTED transaction that speaks for `tenant` and writes nothing else.
        entities: The document's rows by table; the tables that this one refers to are written already.
        table: The table.
        tenant, captured_at, entries: As in `write`.
        batch: Rows that are sent together, and items in memory at a time where the document is not.
    Raises: as `write`, but a part that was sent may have to be rolled back by the caller.
    """
    document = Writing(entities.subject, captured_at)
    writer = Writer(conn, entities.mapping, tenant, batch, entries)
    pieces = entities.rows(table, batch)
    if table.shared:
        async for rows in pieces:
            await writer.write_shared([Part(document, rows)])
        return document.told()
    first, second = await anext(pieces), await anext(pieces, None)
    staged = second is not None
    if second is not None:
        # A stream takes its time: nobody is to wait for a watermark meanwhile.
        await writer.stage(first)
        await writer.stage(second)
        async for rows in pieces:
            await writer.stage(rows)
        await writer.refuse_twice(table)
    mark = table.name, entities.subject
    previous = (await take(conn, tenant, entities.mapping.name, {mark: captured_at}))[mark]
    document.previous[table.name] = previous
    if supersedes(previous, captured_at):
        document.superseded.add(table.name)
        document.complete = False
    elif staged:
        await writer.write_staged(Part(document, first))
    else:
        await require_entries(conn, entities.mapping, [first])
        await writer.write_own([Part(document, first)])
    return document.told()
