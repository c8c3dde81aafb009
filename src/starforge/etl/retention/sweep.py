"""The sweep: objects that no row names are deleted, once they are too old to be work in progress."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.etl.store.objects import Head, ObjectStore
from starforge.etl.store.store import object_store

log = structlog.get_logger("objects")

SWEPT_AGE_S = 3600.0
"""An upload takes less. Where one takes longer, its ingest finds its object gone and says so."""

RAW = "raw"
SHOWN_MAX = 20


@dataclass(slots=True)
class Swept:
    """What was found, and deleted unless it was a dry run."""

    objects: int = 0
    size_bytes: int = 0
    sample: list[str] = field(default_factory=list)
    """The first keys."""


async def sweep_objects(
    conn: Connection,
    store: ObjectStore | None = None,
    *,
    age_s: float = SWEPT_AGE_S,
    dry_run: bool = False,
) -> Swept:
    """Delete the objects older than `age_s` that no row names; with `dry_run` only say which.

    Its role must see the rows of all tenants: engine, operator or owner. The object store must be this
    database's alone.
    """
    store, swept = store or object_store(), Swept()
    async for page in store.list(RAW):
        old = [head for head in page if head.age_s >= age_s]
        if old:
            await _sweep(conn, store, old, swept, dry_run=dry_run)
    if swept.objects and not dry_run:
        log.info("objects.swept", objects=swept.objects, size_bytes=swept.size_bytes)
    return swept


async def _sweep(
    conn: Connection, store: ObjectStore, old: list[Head], swept: Swept, *, dry_run: bool
) -> None:
    """Delete what nobody names of one page, while nobody can give any of it a row."""
    async with conn.transaction():
        if not dry_run:
            await conn.execute(sql("etl", "objects_sweep"))
        rows = await conn.fetch(sql("etl", "objects_named"), [head.key for head in old])
        named = {row["key"] for row in rows}
        for head in old:
            if head.key in named:
                continue
            if not dry_run:
                await store.delete(head.key)
            swept.objects += 1
            swept.size_bytes += head.size_bytes
            if len(swept.sample) < SHOWN_MAX:
                swept.sample.append(head.key)
