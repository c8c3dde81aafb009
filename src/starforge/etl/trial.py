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
from starforge.etl.guard import check
from starforge.etl.mapping import Mapped, Mapping
from starforge.etl.parse import parse
from starforge.etl.redact import redaction
from starforge.etl.rejects import error_type, reject_of
from starforge.etl.upsert import Written, write

Stage = Literal["guard", "parse", "map", "write"]
STAGES: tuple[Stage, ...] = ("guard", "parse", "map", "write")
LOCK_MS_MAX = 5_000
"""A trial waits no longer than this for rows that others write."""

UNKNOWN_MAX = 1000


@dataclass(frozen=True, slots=True)
class TableTrial:
    """What a document holds for one table, and what writing it would change there."""

    table: str
    rows: int
    inserted: int
    updated: int
    deleted: int


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
    pool: Pool, data: bytes, mapping: Mapping, *, tenant: str, captured_at: datetime | None = None
) -> Trial:
    """Do all that a worker does with a document, and take it back; nothing is written.

    Args:
        pool: Where the tables are.
        data: The document.
        mapping: How it becomes rows.
        tenant: Whose rows they would be.
        captured_at: When it was taken; else it says so, else now.
    Returns: The trial; what the document's processing raised is its failure.
    """
    trial = Trial(mapping.name, len(data))
    stage: list[Stage] = list(STAGES)
    try:
        with _timed(trial, "guard"):
            verdict = check(data)
        stage.pop(0)
        with _timed(trial, "parse"):
            document = parse(data, verdict)
        stage.pop(0)
        with _timed(trial, "map"):
            mapped = mapping.read(document)
            trial.subject = mapped.subject
            trial.captured_at = captured_at or mapping.captured_at(document)
            trial.unknown = unknown_fields(mapped)
        stage.pop(0)
        with _timed(trial, "write"):
            await _rehearse(pool, trial, mapping, mapped, document, tenant)
    except Exception as error:
        trial.failure = _failure(stage[0], error)
    return trial


def unknown_fields(mapped: Mapped) -> list[UnknownField]:
    """Return the fields that nothing took, by table, the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    firsts: dict[tuple[str, str], str] = {}
    for name, rows in mapped.tables.items():
        if rows.table.extra is None:
            continue
        for place, text in enumerate(rows.columns[rows.table.extra]):
            for key in msgspec.json.decode(text) if text not in (None, "{}") else ():
                counts[name, key] += 1
                if (name, key) not in firsts:
                    at = rows.path(place)
                    firsts[name, key] = f"{at}.{key}" if at else key
    return [UnknownField(*which, count, firsts[which]) for which, count in counts.most_common(UNKNOWN_MAX)]


async def _rehearse(
    pool: Pool, trial: Trial, mapping: Mapping, mapped: Mapped, document: Any, tenant: str
) -> None:
    async with pool.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        try:
            await set_tenant(conn, tenant)
            await conn.execute(f"SET LOCAL lock_timeout = {LOCK_MS_MAX}")
            when = trial.captured_at or await conn.fetchval("SELECT sf_now()")
            before = await _changes(conn)
            written = await write(conn, mapping, document, tenant=tenant, captured_at=when)
            after = await _changes(conn)
        finally:
            if not conn.is_closed():
                await transaction.rollback()
    _tell(trial, mapped, written, before, after)


def _tell(
    trial: Trial,
    mapped: Mapped,
    written: Written,
    before: dict[str, tuple[int, int, int]],
    after: dict[str, tuple[int, int, int]],
) -> None:
    trial.superseded = written.superseded
    trial.placeholders = {name: len(ids) for name, ids in written.placeholders.items()}
    for name, rows in mapped.tables.items():
        now, was = after.get(name, (0, 0, 0)), before.get(name, (0, 0, 0))
        changes = [new - old for new, old in zip(now, was, strict=True)]
        trial.tables.append(TableTrial(name, rows.count, *changes))


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
