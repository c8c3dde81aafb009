"""Probe: a job of no consequence proves that a queue is served, from enqueue to history."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from starforge.clock import monotonic_s
from starforge.db.pool import Connection, Pool
from starforge.db.statement import sql
from starforge.queue.enqueue import enqueue
from starforge.queue.gate import closed_gates
from starforge.queue.handler import Context, JobType
from starforge.queue.job import NewJob
from starforge.settings import HomeSettings

PROBE_TYPE = "starforge.probe"
PRIORITY = 1000
"""It passes what waits: whether the queue is served is asked, and not how long it is."""

LOOK_S = 0.02
UNASKING_S = 60.0
"""A worker that has not asked for work for this long, with room for some, does not work."""


async def _answer(_context: Context, _payload: Mapping[str, Any]) -> None:
    """Nothing: that it ran is the answer."""


PROBE = JobType(name=PROBE_TYPE, run=_answer)


@dataclass(frozen=True, slots=True)
class Probed:
    """What became of a probe."""

    queue: str
    job_id: UUID
    picked_up: bool
    waited_s: float | None
    """Seconds from its enqueueing to its start on a worker, where it ran."""

    worker_id: UUID | None
    why: tuple[str, ...] = ()
    """What stood in its way, likeliest first; empty where it was picked up."""


async def probe(pool: Pool, queue: str, *, within_s: float) -> Probed:
    """Enqueue a probe and wait for it to be run; after `within_s` say why it was not, and withdraw it.

    Args:
        pool: Where the queue is.
        queue: Its name.
        within_s: Longest wait in seconds.
    """
    async with pool.connection() as conn:
        job = NewJob(PROBE_TYPE, queue=queue, priority=PRIORITY, max_attempts=1)
        job_id = (await enqueue(conn, job)).id
        until_s = monotonic_s() + within_s
        while monotonic_s() < until_s:
            if (seen := await conn.fetchrow(sql("queue", "probe_seen"), job_id)) is not None:
                return Probed(queue, job_id, True, seen["waited_s"], seen["worker_id"])
            await asyncio.sleep(LOOK_S)
        row = await conn.fetchrow(sql("queue", "probe_state"), job_id, queue, PROBE_TYPE, UNASKING_S)
        assert row is not None
        if row["status"] == "completed":
            return Probed(queue, job_id, True, row["waited_s"], row["worker_id"])
        why = await _why(conn, queue, row)
        await conn.fetchval(sql("queue", "probe_withdraw"), job_id, f"nobody ran it within {within_s:g} s")
        return Probed(queue, job_id, False, None, row["worker_id"], tuple(why))


async def _why(conn: Connection, queue: str, row: asyncpg.Record) -> list[str]:
    """Say what stands in the way, likeliest first."""
    why = []
    for gate in await closed_gates(conn):
        before = (("queue", queue), ("type", PROBE_TYPE), ("tenant", HomeSettings.read().tenant))
        if (gate.scope, gate.name) in before and gate.cause != "retries":
            until = f"until {gate.expires_at:%Y-%m-%d %H:%M} UTC"
            why.append(f"{gate.scope} {gate.name!r} {gate.told} by {gate.owner} {until}: {gate.reason}")
    workers = row["workers"]
    if not workers:
        return [*why, f"no living worker serves queue {queue!r}"]
    if row["status"] == "running":
        return [
            *why,
            f"worker {row['worker_id']} has claimed it and not run it: its slots are taken, or it hangs",
        ]
    for count, what in (
        (row["stopping"], "is stopping"),
        (row["unaware"], f"does not know type {PROBE_TYPE}: it is of an older version"),
        (row["unasking"], "gives a sign of life and does not ask for work"),
        (row["full"], "runs as many jobs as it may"),
    ):
        if count:
            why.append(f"{count} of {workers} worker{'s' if workers > 1 else ''} of the queue {what}")
    return why or [f"{workers} living worker{'s' if workers > 1 else ''} did not get to it in time"]
