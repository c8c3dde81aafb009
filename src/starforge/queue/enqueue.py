"""Enqueue: accept jobs, alone, in bulk, or inside the caller's own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, cast

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.caller import AsyncCaller, Fetch, SyncCaller, async_fetch, is_asyncpg, sync_fetch
from starforge.queue.chunk import Chunk, chunks
from starforge.queue.entry import Kind, kind_of, payload_text
from starforge.queue.errors import CallerConnectionError
from starforge.queue.hint import CHANNEL, Debounce, Hint, hints_for
from starforge.queue.job import Accepted, JobSettings, NewJob
from starforge.queue.key import ask

_debounce = Debounce()


async def enqueue(conn: AsyncCaller, job: NewJob) -> Accepted:
    """Accept one job on a connection of asyncpg, psycopg or SQLAlchemy; the answer tells whether it is new.

    The job exists once the connection's transaction commits; outside a transaction that is now. An asyncpg
    connection may have whatever codecs its owner has set.
    Raises: PayloadError, JobOptionError, KeyContestedError, CallerConnectionError; then nothing was accepted.
    """
    fetch, kind = async_fetch(conn), kind_of(job)
    # When the caller's own transaction ends, and how, is not known: its hint may not stand for others.
    alone = is_asyncpg(conn) and not conn.is_in_transaction()
    hint = kind.lane.text() if not alone or _debounce.due(kind.lane) else None
    try:
        if job.unique is None:
            await fetch(sql("queue", "enqueue"), _row(job, kind, hint))
            accepted = Accepted(job.id, True)
        else:
            (accepted,) = await _unique(fetch, [job], hint)
    except BaseException:
        if alone and hint is not None:
            _debounce.unsent(kind.lane)
        raise
    failpoint("after_enqueue")
    return accepted


def enqueue_sync(conn: SyncCaller, job: NewJob) -> Accepted:
    """Accept one job on a connection of psycopg, SQLAlchemy or Django; for the rest see enqueue."""
    fetch, kind = sync_fetch(conn), kind_of(job)
    if job.unique is None:
        fetch(sql("queue", "enqueue"), _row(job, kind, kind.lane.text()))
        return Accepted(job.id, True)
    talk = ask([job], kind.lane.text())
    rows: Any = None
    try:
        while True:
            rows = fetch(sql("queue", "enqueue_unique"), (talk.send(rows),))
    except StopIteration as said:
        return cast("list[Accepted]", said.value)[0]


async def enqueue_many(conn: Connection, jobs: Sequence[NewJob]) -> list[Accepted]:
    """Accept all of these jobs or none, and return the answers in the same order.

    Raises: PayloadError, JobOptionError, KeyContestedError; then none is accepted.
    """
    if not is_asyncpg(conn):
        raise CallerConnectionError("a bulk goes over an asyncpg connection; enqueue one by one over others")
    if not jobs:
        return []
    keyed = [job for job in jobs if job.unique is not None]
    plain = [job for job in jobs if job.unique is None] if keyed else jobs
    async with conn.transaction():
        lanes = await _bulk(conn, chunks(plain))
        found = iter(await _unique(async_fetch(conn), keyed, None) if keyed else ())
        lanes |= {kind.lane for kind in map(kind_of, keyed) if kind.is_due}
        for hint in hints_for(lanes):
            await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, hint)
    failpoint("after_enqueue_many")
    return [Accepted(job.id, True) if job.unique is None else next(found) for job in jobs]


async def _bulk(conn: Connection, bulk: Iterator[Chunk]) -> set[Hint]:
    """Send each chunk, make the next one ready while the server works, and return the lanes with work."""
    lanes: set[Hint] = set()
    sent: asyncio.Task[str] | None = None
    try:
        for chunk in bulk:
            if sent is not None:
                await sent
            sent = asyncio.create_task(conn.execute(sql("queue", "enqueue_many"), *chunk.parameters()))
            lanes |= {kind.lane for kind in chunk.kinds if kind.is_due}
            await asyncio.sleep(0)  # lets it be sent before the next chunk takes the processor
    finally:
        if sent is not None:
            await sent
    return lanes


async def _unique(fetch: Fetch, jobs: Sequence[NewJob], hint: str | None) -> list[Accepted]:
    talk = ask(jobs, hint)
    rows: Any = None
    try:
        while True:
            rows = await fetch(sql("queue", "enqueue_unique"), (talk.send(rows),))
    except StopIteration as said:
        return cast("list[Accepted]", said.value)


def _row(job: NewJob, kind: Kind, hint: str | None) -> tuple[Any, ...]:
    return (job.id, payload_text(job, JobSettings.read().payload_bytes_max), *kind, hint)
