"""Process: a snapshot that is in hand becomes rows.

A small one in one transaction, with its own state. A large one with a transaction for each entity: what
fails is recorded and tried again alone, and nobody waits long for anybody's locks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

import asyncpg

from starforge.clock import failpoint
from starforge.db.group_commit import GroupCommit
from starforge.db.pool import DATABASE_AWAY, Connection, Pool, set_tenant
from starforge.db.statement import sql
from starforge.etl.document.guard import MB, Guard
from starforge.etl.document.parse import parse, read_document
from starforge.etl.errors import CatalogueGapError, EntitiesFailedError
from starforge.etl.gears.document import Document, Whole
from starforge.etl.gears.entities import Entities
from starforge.etl.gears.limits import ProcessSettings, process_settings
from starforge.etl.gears.spool import spooled
from starforge.etl.gears.stream import Streamed
from starforge.etl.load.parts import Written
from starforge.etl.load.write import Captured, write_all, write_entity
from starforge.etl.mapping import Mapping
from starforge.etl.mapping.tables import Derived, Ref, Table
from starforge.etl.source.catalogue import Entries, register
from starforge.etl.source.watch import watch_of
from starforge.etl.store.raw import open_raw

GROUP_LOCK_MS_MAX = 200
"""Longest that snapshots which are written together wait for a lock: one that has to wait longer does so
alone, and holds up no other."""

SENT_S = 0.003
"""In this time two megabytes have left for the database: what is to be worked out meanwhile can begin."""

T = TypeVar("T")

EVERYWHERE: tuple[type[Exception], ...] = (*DATABASE_AWAY, MemoryError)
"""What the next entity would meet too."""


@dataclass(frozen=True, slots=True)
class InHand:
    """A stored snapshot that a worker has taken in hand."""

    id: UUID
    tenant: str
    size_bytes: int
    captured_at: datetime
    raw: bytes | None
    """The document where it is small enough to be read as a whole."""
    guarded: bool
    """The guard has passed these very bytes as they are."""
    though_held: bool
    """It is processed although it is held back from ordinary workers."""


async def process(
    pool: Pool, mapping: Mapping, snapshot: InHand, limits: ProcessSettings | None = None
) -> Written:
    """Write a snapshot's rows; when this returns, they and the snapshot's new state are committed.

    Args:
        pool: Where the database is.
        mapping: How documents of its source become rows.
        snapshot: The snapshot.
        limits: How much is in memory and in one transaction; as the process is set where not given.
    Raises: MalformedError; MappingError; EntitiesFailedError where some entities of a large one failed and
        the others are written; asyncpg's errors.
    """
    limits = limits or process_settings()
    if snapshot.raw is not None and snapshot.size_bytes <= limits.together_max_mb * MB:
        return await _together(pool, mapping, snapshot, limits.batch_rows)
    async with _document(pool, mapping, snapshot) as document:
        looked = asyncio.create_task(_look(pool, mapping, snapshot, document.root, after_s=SENT_S))
        try:
            entities = await Entities.of(mapping, document)
            return await _Apart(pool, entities, snapshot, limits.batch_rows).write()
        finally:
            await looked  # what is new in a document is noted also where it fails


async def _together(pool: Pool, mapping: Mapping, snapshot: InHand, batch: int) -> Written:
    document = _parsed(snapshot)
    await _look(pool, mapping, snapshot, document)
    captured = Captured(mapping.read(document), snapshot.captured_at)
    ready = _Ready(pool, mapping, snapshot, captured, batch)
    groups = _GROUPS.get(pool)
    if groups is None:
        groups = _GROUPS[pool] = GroupCommit(_commit_group, EVERYWHERE)
    written = await groups.take(ready, kind=ready.kind, key=captured.mapped.subject)
    if written is None:
        [written] = await _unless_forgotten(watch_of(pool).entries, partial(_commit, [ready]))
    return written


def _parsed(snapshot: InHand) -> Any:
    assert snapshot.raw is not None
    return parse(snapshot.raw, None) if snapshot.guarded else read_document(snapshot.raw)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A small snapshot that is ready to be written."""

    pool: Pool
    mapping: Mapping
    snapshot: InHand
    captured: Captured
    batch: int

    @property
    def kind(self) -> Hashable:
        """What snapshots share that are written together."""
        return self.mapping.name, id(self.mapping.statements), self.snapshot.tenant, self.batch


async def _commit_group(group: Sequence[_Ready], stay: Callable[[], None]) -> list[Written]:
    return await _commit(group, stay, lock_ms_max=GROUP_LOCK_MS_MAX)


async def _commit(
    ready: Sequence[_Ready], stay: Callable[[], None] | None = None, lock_ms_max: int | None = None
) -> list[Written]:
    pool, mapping, tenant = ready[0].pool, ready[0].mapping, ready[0].snapshot.tenant
    async with pool.transaction(probing=True) as conn:
        await set_tenant(conn, tenant, lock_ms_max=lock_ms_max)
        written = await write_all(
            conn,
            mapping,
            [each.captured for each in ready],
            tenant=tenant,
            batch=ready[0].batch,
            entries=watch_of(pool).entries,
        )
        told = [(each.snapshot, one) for each, one in zip(ready, written, strict=True)]
        await register(conn, mapping, {snapshot.id: one.placeholders for snapshot, one in told})
        await _end(conn, told)
        if stay is not None:
            stay()
    return written


_GROUPS: WeakKeyDictionary[Pool, GroupCommit[_Ready, Written]] = WeakKeyDictionary()


async def _unless_forgotten(entries: Entries, act: Callable[[], Awaitable[T]]) -> T:
    """Do it once more where an entry that was seen in its catalogue may be there no longer."""
    try:
        return await act()
    except asyncpg.ForeignKeyViolationError:
        if not entries.forget():
            raise
        return await act()


async def _look(pool: Pool, mapping: Mapping, snapshot: InHand, root: Any, after_s: float = 0.0) -> None:
    """Note what a document has that none of its source had; of one in pieces that is its skeleton."""
    await asyncio.sleep(after_s)
    await watch_of(pool).look(pool, mapping.name, root, tenant=snapshot.tenant, snapshot_id=snapshot.id)


async def _end(conn: Connection, told: Sequence[tuple[InHand, Written]]) -> None:
    await conn.execute(
        sql("etl", "processed"),
        [snapshot.id for snapshot, _ in told],
        ["processed" if written.complete else "superseded" for _, written in told],
        [written.rows_written for _, written in told],
        [snapshot.though_held for snapshot, _ in told],
    )
    failpoint("before_processed_commit")


@asynccontextmanager
async def _document(pool: Pool, mapping: Mapping, snapshot: InHand) -> AsyncIterator[Document]:
    """Give the document by the gear that its size asks for."""
    if snapshot.raw is not None:
        yield Whole(_parsed(snapshot))
        return
    async with spooled(open_raw(pool, snapshot.id, tenant=snapshot.tenant)) as opened:
        yield await Streamed.of(mapping.layout, opened, Guard())


@dataclass(slots=True)
class _Apart:
    """Writes a document entity by entity, each in a transaction of its own."""

    pool: Pool
    entities: Entities
    snapshot: InHand
    batch: int
    failed: dict[str, BaseException] = field(default_factory=dict)
    written: dict[str, Written] = field(default_factory=dict)

    async def write(self) -> Written:
        tables = self.entities.mapping.tables.values()
        done = await self._done()
        ahead = asyncio.create_task(self._ahead())
        try:
            for table in tables:
                if table.name not in done:
                    await self._entity(table)
        finally:
            ahead.cancel()
        if self.failed:
            gaps = [one for one in self.failed.values() if isinstance(one, CatalogueGapError)]
            if len(gaps) == len(self.failed):
                raise gaps[0]  # the snapshot waits; nothing is wrong with it
            raise EntitiesFailedError(self.failed, len(tables))
        own = {table.name for table in tables if not table.shared}
        superseded = {name for told in self.written.values() for name in told.superseded}
        told = Written(
            sum(one.rows_written for one in self.written.values()) + sum(done.values()),
            _together_of(one.placeholders for one in self.written.values()),
            tuple(sorted(superseded)),
            complete=not own <= superseded,
        )
        async with self.pool.transaction(tenant=self.snapshot.tenant, probing=True) as conn:
            await _end(conn, [(self.snapshot, told)])
        return told

    async def _ahead(self) -> None:
        """Read the tables to come while the database writes, once the first one is on its way."""
        await asyncio.sleep(SENT_S)
        await self.entities.read_ahead()

    async def _done(self) -> dict[str, int]:
        """Return what an earlier attempt on this capture wrote, where entities are left: rows by entity."""
        async with self.pool.transaction(tenant=self.snapshot.tenant, probing=True) as conn:
            rows = await conn.fetch(sql("etl", "entities_done"), self.snapshot.id, self.snapshot.captured_at)
        return {row["entity"]: row["rows_written"] for row in rows}

    async def _entity(self, table: Table) -> None:
        if missing := sorted(_needs(table) & self.failed.keys()):
            self.failed[table.name] = self.failed[missing[0]]
            return
        try:
            written = await _unless_forgotten(watch_of(self.pool).entries, partial(self._once, table))
        except EVERYWHERE:
            raise
        except Exception as error:
            self.failed[table.name] = error
            async with self.pool.transaction(tenant=self.snapshot.tenant, probing=True) as conn:
                await self._note(conn, table, "failed", 0)
        else:
            self.written[table.name] = written

    async def _once(self, table: Table) -> Written:
        snapshot, mapping = self.snapshot, self.entities.mapping
        async with self.pool.transaction(tenant=snapshot.tenant, probing=True) as conn:
            written = await write_entity(
                conn,
                self.entities,
                table,
                tenant=snapshot.tenant,
                captured_at=snapshot.captured_at,
                batch=self.batch,
                entries=watch_of(self.pool).entries,
            )
            await register(conn, mapping, {snapshot.id: written.placeholders})
            status = "superseded" if not written.complete else "written"
            await self._note(conn, table, status, written.rows_written)
            failpoint("before_entity_commit")
        return written

    async def _note(self, conn: Connection, table: Table, status: str, rows_written: int) -> None:
        snapshot = self.snapshot
        await conn.execute(
            sql("etl", "entity"),
            snapshot.id,
            table.name,
            snapshot.tenant,
            snapshot.captured_at,
            status,
            rows_written,
        )


def _needs(table: Table) -> set[str]:
    """Return the tables whose rows this one refers to or is worked out from."""
    refs = {column.to for column in table.columns if isinstance(column, Ref)}
    return refs | {column.over for column in table.columns if isinstance(column, Derived) and column.over}


def _together_of(parts: Iterable[dict[str, list[int | str]]]) -> dict[str, list[int | str]]:
    found: dict[str, list[int | str]] = {}
    for part in parts:
        for name, ids in part.items():
            found.setdefault(name, []).extend(ids)
    return found
