"""Trial: one document goes through guard, parser, mapping and write, in a transaction that is rolled back."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import msgspec

from starforge.clock import monotonic_s
from starforge.db.pool import Connection, Pool, set_tenant
from starforge.db.statement import sql
from starforge.errors import told
from starforge.etl.document.guard import MB, Guard, check
from starforge.etl.document.parse import parse
from starforge.etl.document.path import join
from starforge.etl.document.redact import redaction
from starforge.etl.gears.document import Document, Whole
from starforge.etl.gears.entities import Entities
from starforge.etl.gears.limits import process_settings
from starforge.etl.gears.stream import Opened, Streamed
from starforge.etl.load.parts import Written
from starforge.etl.load.write import write, write_entity
from starforge.etl.mapping import Mapping
from starforge.etl.mapping.reading import NO_EXTRA
from starforge.etl.mapping.tables import Rows
from starforge.etl.snapshot.rejects import error_type, reject_of

Stage = Literal["guard", "parse", "map", "write"]
LOCK_MS_MAX = 5_000
"""A trial waits no longer than this for rows that others write."""

UNKNOWN_MAX = 1000


@dataclass(slots=True)
class TableTrial:
    """What a document holds for one table, and what writing it would change there."""

    table: str
    rows: int
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True)
class UnknownField:
    """A field that no column takes: kept in the table's `extra`."""

    table: str
    field: str
    count: int
    first: str
    """The path of the first one."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Where and why a document fails."""

    stage: Stage
    error_type: str
    error: str
    message: str
    path: str | None
    details: dict[str, Any]
    trace: str


@dataclass(slots=True)
class Trial:
    """What became of a document, and would have been written."""

    source: str
    size_bytes: int
    subject: str | None = None
    captured_at: datetime | None = None
    tables: list[TableTrial] = field(default_factory=list)
    superseded: tuple[str, ...] = ()
    """Tables of which a later capture is written: nothing would change there."""
    placeholders: dict[str, int] = field(default_factory=dict)
    """Catalogues for which rows would be made up, and how many."""
    unknown: list[UnknownField] = field(default_factory=list)
    took_s: dict[str, float] = field(default_factory=dict)
    failure: Failure | None = None


async def attempt(
    pool: Pool,
    opened: Opened,
    size_bytes: int,
    mapping: Mapping,
    *,
    tenant: str,
    captured_at: datetime | None = None,
) -> Trial:
    """Do all that a worker does with a document, and take it back; nothing is written.

    Args:
        pool: Where the tables are.
        opened: Opens the document, each time from its beginning.
        size_bytes: How large it is: a large one is read in pieces, as a worker does.
        mapping: How it becomes rows.
        tenant: Whose rows they would be.
        captured_at: When it was taken; else it says so, else now.
    Returns: The trial; what the document's processing raised is its failure.
    """
    trial = Trial(mapping.name, size_bytes)
    stage: Stage = "guard"
    try:
        if size_bytes <= process_settings().whole_max_mb * MB:
            with _timed(trial, stage):
                data = b"".join([chunk async for chunk in opened()])
                verdict = check(data)
            with _timed(trial, stage := "parse"):
                document: Document = Whole(parse(data, verdict))
        else:
            with _timed(trial, stage := "parse"):
                document = await Streamed.of(mapping.layout, opened, Guard())
        with _timed(trial, stage := "map"):
            entities = await _map(trial, mapping, document)
            trial.captured_at = captured_at or mapping.captured_at(document.root)
        with _timed(trial, stage := "write"):
            await _rehearse(pool, trial, entities, document, tenant)
    except Exception as error:
        trial.failure = _failure(stage, error)
    return trial


async def _map(trial: Trial, mapping: Mapping, document: Document) -> Entities:
    """Read every table's rows; note how many there are and which fields nothing took."""
    entities = await Entities.of(mapping, document)
    trial.subject = entities.subject
    counts: Counter[tuple[str, str]] = Counter()
    firsts: dict[tuple[str, str], str] = {}
    for table in mapping.tables.values():
        count = 0
        async for rows in entities.rows(table, process_settings().batch_rows):
            count += rows.count
            for key, at in _unknown(rows):
                counts[table.name, key] += 1
                firsts.setdefault((table.name, key), at)
        trial.tables.append(TableTrial(table.name, count))
    trial.unknown = [
        UnknownField(*which, times, firsts[which]) for which, times in counts.most_common(UNKNOWN_MAX)
    ]
    return entities


def _unknown(rows: Rows) -> Iterator[tuple[str, str]]:
    """Yield each field that nothing took, and its path."""
    if rows.table.extra is None:
        return
    for place, text in enumerate(rows.columns[rows.table.extra]):
        for key in msgspec.json.decode(text) if text not in (None, NO_EXTRA) else ():
            yield key, join(rows.path(place), key)


async def _rehearse(pool: Pool, trial: Trial, entities: Entities, document: Document, tenant: str) -> None:
    async with pool.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        try:
            await set_tenant(conn, tenant)
            await conn.execute(f"SET LOCAL lock_timeout = {LOCK_MS_MAX}")
            when = trial.captured_at or await conn.fetchval("SELECT sf_now()")
            before = await _changes(conn)
            written = await _write(conn, entities, document, tenant, when)
            after = await _changes(conn)
        finally:
            if not conn.is_closed():
                await transaction.rollback()
    trial.superseded = tuple(sorted({name for one in written for name in one.superseded}))
    for one in written:
        for name, ids in one.placeholders.items():
            trial.placeholders[name] = trial.placeholders.get(name, 0) + len(ids)
    for table in trial.tables:
        now, was = after.get(table.table, (0, 0, 0)), before.get(table.table, (0, 0, 0))
        table.inserted, table.updated, table.deleted = (new - old for new, old in zip(now, was, strict=True))


async def _write(
    conn: Connection, entities: Entities, document: Document, tenant: str, when: datetime
) -> list[Written]:
    mapping = entities.mapping
    if isinstance(document, Whole):
        return [await write(conn, mapping, document.root, tenant=tenant, captured_at=when)]
    batch = process_settings().batch_rows
    return [
        await write_entity(conn, entities, table, tenant=tenant, captured_at=when, batch=batch)
        for table in mapping.tables.values()
    ]


async def _changes(conn: Connection) -> dict[str, tuple[int, int, int]]:
    """Return what this session has inserted, updated and deleted, by table, as it counts it itself."""
    rows = await conn.fetch(sql("etl", "changes"))
    return {row["name"]: (row["inserted"], row["updated"], row["deleted"]) for row in rows}


def _failure(stage: Stage, error: Exception) -> Failure:
    found = reject_of(error)
    rules = redaction()
    path = getattr(error, "path", None)
    return Failure(
        stage=stage,
        error_type=error_type(error),
        error=type(error).__name__,
        message=rules.text(told(error)),
        path=path if isinstance(path, str) else None,
        details=rules.value(found.details),
        trace=rules.text("".join(traceback.format_exception(error))),
    )


@contextmanager
def _timed(trial: Trial, stage: Stage) -> Iterator[None]:
    began_s = monotonic_s()
    try:
        yield
    finally:
        trial.took_s[stage] = round(monotonic_s() - began_s, 4)
