"""Jobs for a benchmark: enqueued as users do, or laid down by SQL where only the draining is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from starforge.clock import monotonic_s, new_id
from starforge.db.pool import Connection
from starforge.dev.bench.fleet import Fleet, until, until_counted
from starforge.dev.bench.place import Place
from starforge.dev.errors import BenchStalledError
from starforge.queue.enqueue import enqueue_many
from starforge.queue.hint import CHANNEL, EVERYWHERE
from starforge.queue.job import NewJob

BULK = 10_000
WARM_JOBS = 1000
TYPE, SYNC_TYPE = "bench.noop", "bench.noop_sync"
PAYLOAD = {"n": 0}
PLAN_S = 1.5
"""A worker's plan is at most a second old; what it claimed before it heard of a gate would not be counted."""

FINISHED = "SELECT count(*) FROM job_history WHERE type LIKE 'bench.noop%'"

Make = Callable[[int], NewJob]
"""Make job number i."""


def noop_job(number: int) -> NewJob:
    """Make a job that does nothing and carries nothing."""
    return NewJob(TYPE, PAYLOAD, id=new_id())


async def enqueue_all(conn: Connection, jobs: int, make: Make = noop_job) -> float:
    """Enqueue so many jobs in batches on one connection and return how many per second were accepted.

    The clock runs from the first COPY to the last commit; making the jobs themselves is not in it.
    """
    batches = [
        [make(number) for number in range(first, min(first + BULK, jobs))] for first in range(0, jobs, BULK)
    ]
    started_s = monotonic_s()
    for batch in batches:
        await enqueue_many(conn, batch)
    return jobs / (monotonic_s() - started_s)


LAY = """
INSERT INTO queue_jobs (id, tenant_id, queue, type, payload, priority, status, max_attempts, run_after)
SELECT (substr(stamp, 1, 8) || '-' || substr(stamp, 9, 4) || '-7'
        || substr(gen_random_uuid()::text, 16))::uuid,
       'default', $3, $2, '{"n": 0}', $4, $6, 5,
       sf_now() + make_interval(secs => $5) - ($1 - n) * interval '1 microsecond'
FROM generate_series(1, $1::int) AS n,
     lpad(to_hex((extract(epoch FROM sf_now()) * 1000)::bigint - ($1 - n) / $7), 12, '0') AS stamp
"""

LAID_PER_MS = 150
"""How many ids a bulk enqueue makes in a millisecond."""


async def lay(
    admin: Connection,
    jobs: int,
    *,
    type: str = TYPE,
    queue: str = "default",
    priority: int = 0,
    in_s: float = 0.0,
    status: str = "pending",
) -> None:
    """Lay so many jobs down by one statement, as a bulk enqueue leaves them: a microsecond apart, v7 ids."""
    await admin.execute(LAY, jobs, type, queue, priority, in_s, status, LAID_PER_MS)


async def settle(admin: Connection) -> None:
    """Let neither statistics nor a checkpoint of what was laid down fall into the measurement."""
    await admin.execute("ANALYZE queue_jobs")
    await admin.execute("CHECKPOINT")


async def warm(place: Place, make: Make = noop_job) -> None:
    """Let caches, plans and the workers' imports settle before anything is measured."""
    await enqueue_many(place.conn, [make(number) for number in range(WARM_JOBS)])
    await until(place.admin, FINISHED, WARM_JOBS)


async def hold(admin: Connection, queues: Sequence[str] = ("default",)) -> None:
    """Close the queues by gates, so that enqueueing and draining are measured apart."""
    await close_gates(admin, "queue", queues)
    await announce(admin)
    await asyncio.sleep(PLAN_S)


async def announce(admin: Connection) -> None:
    """Have the workers that listen look at once."""
    await admin.execute("SELECT pg_notify($1, $2)", CHANNEL, EVERYWHERE)


async def close_gates(admin: Connection, scope: str, names: Sequence[str]) -> None:
    """Pause these queues or types for an hour."""
    await admin.executemany(
        "INSERT INTO gates (scope, name, cause, owner, reason, expires_at)"
        " VALUES ($1, $2, 'pause', 'bench', 'measuring', sf_now() + interval '1 hour')",
        [(scope, name) for name in names],
    )


async def release(admin: Connection) -> datetime:
    """Open the gates of all queues, tell the workers, and return when that was on the database's clock."""
    at: datetime = await admin.fetchval("SELECT sf_now()")
    await admin.execute("DELETE FROM gates WHERE scope = 'queue'")
    await announce(admin)
    return at


SINCE = """
SELECT count(*) FROM job_history WHERE completed_at >= $1 AND started_at >= $1 AND type LIKE 'bench.noop%'
"""
SECONDS = """
SELECT extract(epoch FROM max(completed_at) - min(started_at))::float8 AS seconds, count(*) AS jobs
FROM job_history WHERE completed_at >= $1 AND started_at >= $1 AND type LIKE 'bench.noop%'
"""


@dataclass(frozen=True, slots=True)
class Drain:
    """A drain that is over."""

    per_s: float
    since: datetime
    """When it began, on the database's clock."""


async def drain(place: Place, workers: Fleet, jobs: int) -> Drain:
    """Open the queue that is held, wait until so many jobs are in the history, and return how fast that was.

    The clock is the database's: from the first claim to the last completion.
    """
    before = workers.marks.counted()
    since = await release(place.admin)
    await until_counted(workers.marks, place.admin, before + jobs, SINCE, since, wanted=jobs)
    row = await place.admin.fetchrow(SECONDS, since)
    if row is None or row["jobs"] != jobs:
        raise BenchStalledError(f"{row['jobs'] if row else 0} of {jobs} jobs are in the history")
    return Drain(float(jobs / row["seconds"]), since)
