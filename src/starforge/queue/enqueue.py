"""Enqueue: accept jobs, alone, in bulk, or inside the caller's own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from starforge.clock import failpoint, monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.caller import AsyncCaller, Fetch, SyncCaller, async_fetch, is_asyncpg, sync_fetch
from starforge.queue.chunk import Chunk, chunks
from starforge.queue.entry import Kind, checked_key, encoded_states, kind_of, payload_text, trace_of
from starforge.queue.errors import CallerConnectionError
from starforge.queue.hint import CHANNEL, EVERYWHERE, Debounce, Hint, hints_for
from starforge.queue.job import Accepted, JobSettings, NewJob
from starforge.queue.key import ask, met_once

FRESH_MIN = 10
"""So many jobs with keys, and more, are first taken for new ones."""

LATE_S = 0.2
"""A bulk that took longer is announced as one to be looked for behind the watermarks too. When the caller's
own transaction commits is not known here: what that brings late is for the workers' sweeps."""

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
    hint = _debounce.word(kind.lane) if alone else kind.lane.text()
    try:
        if await fetch(*_first(job, kind, hint)):
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
    if fetch(*_first(job, kind, kind.lane.text())):
        return Accepted(job.id, True)
    talk = ask([job], kind.lane.text())
    rows: Any = None
    try:
        while True:
            rows = fetch(sql("queue", "enqueue_unique"), (talk.send(rows),))
    except StopIteration as said:
        accepted: Accepted = said.value[0]
        return accepted


async def enqueue_many(conn: Connection, jobs: Sequence[NewJob]) -> list[Accepted]:
    """Accept all of these jobs or none, and return the answers in the same order.

    Raises: PayloadError, JobOptionError, KeyContestedError; then none is accepted.
    """
    if not is_asyncpg(conn):
        raise CallerConnectionError("a bulk goes over an asyncpg connection; enqueue one by one over others")
    if not jobs:
        return []
    async with conn.transaction():
        accepted = await enqueue_all(conn, jobs)
    failpoint("after_enqueue_many")
    return accepted


async def enqueue_all(conn: Connection, jobs: Sequence[NewJob]) -> list[Accepted]:
    """Accept all of these jobs, as enqueue_many does, in the open transaction of an asyncpg connection.

    Without the price of a savepoint: what it raises ends the caller's transaction.
    """
    keyed = [job for job in jobs if job.unique is not None]
    plain = [job for job in jobs if job.unique is None] if keyed else jobs
    began_s = monotonic_s()
    lanes, _ = await _bulk(conn, "enqueue_many", chunks(plain))
    found = iter(await _keyed(conn, keyed) if keyed else ())
    lanes |= {kind.lane for kind in map(kind_of, keyed) if kind.is_due}
    # What is committed long after it was due is behind the workers' watermarks.
    late = monotonic_s() - began_s > LATE_S
    for hint in [EVERYWHERE] if late and lanes else hints_for(lanes):
        await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, hint)
    return [Accepted(job.id, True) if job.unique is None else next(found) for job in jobs]


async def _bulk(conn: Connection, name: str, bulk: Iterator[Chunk]) -> tuple[set[Hint], set[UUID]]:
    """Send each chunk, make the next one ready while the server works.

    Returns: the lanes with work, and the ids that the statement gave.
    """
    lanes: set[Hint] = set()
    given: set[UUID] = set()
    sent: asyncio.Task[list[asyncpg.Record]] | None = None
    try:
        for chunk in bulk:
            if sent is not None:
                given.update(row[0] for row in await sent)
            sent = asyncio.create_task(conn.fetch(sql("queue", name), *chunk.parameters()))
            lanes |= {kind.lane for kind in chunk.kinds if kind.is_due}
            await asyncio.sleep(0)  # lets it be sent before the next chunk takes the processor
    finally:
        if sent is not None:
            given.update(row[0] for row in await sent)
    return lanes, given


async def _keyed(conn: Connection, jobs: Sequence[NewJob]) -> list[Accepted]:
    """Accept jobs with keys: the many whose key nobody has yet at once, the others as each of them asks."""
    once = met_once(jobs)
    _, fresh = await _bulk(conn, "enqueue_fresh", chunks(once)) if len(once) >= FRESH_MIN else ((), set())
    found = iter(await _unique(async_fetch(conn), [job for job in jobs if job.id not in fresh], None))
    return [Accepted(job.id, True) if job.id in fresh else next(found) for job in jobs]


async def _unique(fetch: Fetch, jobs: Sequence[NewJob], hint: str | None) -> list[Accepted]:
    talk = ask(jobs, hint)
    rows: Any = None
    try:
        while True:
            rows = await fetch(sql("queue", "enqueue_unique"), (talk.send(rows),))
    except StopIteration as said:
        accepted: list[Accepted] = said.value
        return accepted


def _first(job: NewJob, kind: Kind, hint: str | None) -> tuple[str, tuple[Any, ...]]:
    """Return the statement that accepts a job, and its values; with a key it may give no row."""
    text = payload_text(job, JobSettings.read().payload_bytes_max)
    values = (job.id, text, *kind, trace_of(job), hint)
    if job.unique is None:
        return sql("queue", "enqueue"), values
    key = checked_key(job, job.unique)
    return sql("queue", "enqueue_first"), (*values, key.text, encoded_states(key), key.within_s)
