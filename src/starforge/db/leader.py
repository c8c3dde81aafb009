"""The leader: of many processes one does what only one may do, under a lease row on the database's clock.

A lease is taken, renewed and released in one fenced statement each. Its epoch rises with every holder, so
that a leader which was frozen beyond its lease can be told from the one that leads now: what must not be
done twice carries `Lease` into its WHERE. No session state is used, so it works behind a pooler.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import structlog

from starforge.clock import monotonic_s, new_id, randomness
from starforge.db.pool import MAY_PASS, Connection
from starforge.db.statement import sql
from starforge.errors import told
from starforge.loop import backoff_s, wait

log = structlog.get_logger("leader")

LEASE_S = 10.0
"""A leader that gives no sign for this long is followed by another."""

END_BEFORE = 0.1
"""The work ends with this share of the lease left: before the database's clock lets another lead."""

END_S_MAX = 5.0
"""Longest that work which was told to end is waited for."""

FAILED_S = 1.0
FAILED_S_MAX = 5.0

TROUBLE: tuple[type[Exception], ...] = (asyncpg.PostgresError, *MAY_PASS)

Lend = Callable[[], AbstractAsyncContextManager[Connection]]
"""Lends a connection for a short question: `pool.connection`, or a supervisor's own."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a leader holds; an epoch is never given to two holders."""

    name: str
    holder: UUID
    epoch: int


async def take(conn: Connection, name: str, holder: UUID, *, lease_s: float) -> Lease | None:
    """Take the lease where nobody else's holds, or return None; `holder` is not working at that time."""
    who = f"{socket.gethostname()} process {os.getpid()}"
    epoch = await conn.fetchval(sql("db", "lease_take"), name, holder, lease_s, who)
    return None if epoch is None else Lease(name, holder, epoch)


async def renew(conn: Connection, lease: Lease, *, lease_s: float) -> bool:
    """Go on for `lease_s` from now; return False when the lease is over."""
    row = await conn.fetchval(sql("db", "lease_renew"), lease.name, lease.holder, lease.epoch, lease_s)
    return row is not None


async def release(conn: Connection, lease: Lease) -> bool:
    """End the lease, so that nobody has to wait for it; return False when it was over already."""
    row = await conn.fetchval(sql("db", "lease_release"), lease.name, lease.holder, lease.epoch)
    return row is not None


async def lead(
    lend: Lend,
    name: str,
    work: Callable[[Lease], Awaitable[None]],
    stop: asyncio.Event,
    *,
    lease_s: float = LEASE_S,
) -> None:
    """Compete for the lease until `stop`, and run `work(lease)` whenever it is held.

    The work is cancelled when the lease could not be renewed in time, before another may have it. A term
    that ends by an error of the work is said, given up, and followed by another try: no fault of one task
    may leave a process that would never lead again.

    Args:
        lend: Lends a connection for a short question; may raise what a database that is away raises.
        name: Which lease.
        work: What the leader does; it ends when it is cancelled.
        stop: Set when this process competes no more.
        lease_s: How long a leader may be silent; the others ask for the lease three times in this time.
    """
    holder = new_id()
    failures = 0
    while not stop.is_set():
        asked_s = monotonic_s()
        try:
            async with asyncio.timeout(lease_s / 3), lend() as conn:
                lease = await take(conn, name, holder, lease_s=lease_s)
            if lease is not None:
                await _term(lend, lease, work, stop, lease_s=lease_s, held_s=asked_s)
            failures = 0
        except TROUBLE as error:
            failures += 1
            log.warning("leader.failed", lease=name, failures=failures, error=told(error))
        except Exception as error:  # whatever the work meets: the next term may not
            failures += 1
            log.error("leader.failed", lease=name, failures=failures, error=repr(error), exc_info=True)
        pause_s = backoff_s(failures, first_s=FAILED_S, most_s=FAILED_S_MAX) if failures else lease_s / 3
        if await wait(stop, pause_s * randomness.uniform(0.8, 1.2)):
            return


async def _term(
    lend: Lend,
    lease: Lease,
    work: Callable[[Lease], Awaitable[None]],
    stop: asyncio.Event,
    *,
    lease_s: float,
    held_s: float,
) -> None:
    """Lead until told to stop, until the lease is over, or until the work ends; raise what it ended by."""
    log.info("leader.leads", lease=lease.name, epoch=lease.epoch)
    working = asyncio.ensure_future(work(lease))
    keeping = asyncio.create_task(_keep(lend, lease, lease_s=lease_s, held_s=held_s))
    stopping = asyncio.create_task(stop.wait())
    tasks = {working, keeping, stopping}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        lost = keeping.done()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=END_S_MAX)
    if lost:
        log.warning("leader.lost", lease=lease.name, epoch=lease.epoch)
    else:
        await _give_up(lend, lease, within_s=lease_s / 3)
    if working.done() and not working.cancelled():
        working.result()


async def _give_up(lend: Lend, lease: Lease, *, within_s: float) -> None:
    """Release the lease; where the database is away it runs out by itself."""
    try:
        async with asyncio.timeout(within_s), lend() as conn:
            await release(conn, lease)
    except TROUBLE as error:
        log.warning("leader.unreleased", lease=lease.name, error=told(error))


async def _keep(lend: Lend, lease: Lease, *, lease_s: float, held_s: float) -> None:
    """Renew the lease again and again; return when it is over, or so nearly that it might be.

    Time is counted from before each question was asked, so that the database never ends it earlier.
    """
    pause_s = lease_s / 3
    while True:
        await asyncio.sleep(pause_s)
        asked_s = monotonic_s()
        left_s = held_s + lease_s * (1 - END_BEFORE) - asked_s
        if left_s <= 0:
            return
        try:
            async with asyncio.timeout(min(left_s, lease_s / 3)), lend() as conn:
                if not await renew(conn, lease, lease_s=lease_s):
                    return
        except TROUBLE as error:
            log.warning("leader.unrenewed", lease=lease.name, error=told(error))
            pause_s = lease_s / 15
            continue
        held_s, pause_s = asked_s, lease_s / 3
