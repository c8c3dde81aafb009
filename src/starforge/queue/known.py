"""Known types: what the workers' apps declare, written down for whoever has not imported the app."""

from __future__ import annotations

import msgspec

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.handler import JobType, JobTypes
from starforge.queue.job import NewJob


async def declare_types(conn: Connection, types: JobTypes) -> None:
    """Write down the types of an app: the pages know them before their first job."""
    known = [declared for name in types.names() if (declared := types.declared(name)) is not None]
    await conn.execute(
        sql("queue", "declare_types"),
        [job_type.name for job_type in known],
        [job_type.queue for job_type in known],
        [job_type.owner for job_type in known],
        [job_type.critical for job_type in known],
        [job_type.isolated for job_type in known],
        [job_type.timeout_s for job_type in known],
        [job_type.max_attempts for job_type in known],
        [msgspec.json.encode(_limits(job_type)).decode() for job_type in known],
    )


async def known_types(conn: Connection) -> list[tuple[str, str]]:
    """Return the declared types as (queue, type)."""
    return [(row["queue"], row["type"]) for row in await conn.fetch(sql("queue", "known_types"))]


async def as_declared(conn: Connection, job: NewJob, *, queue: bool) -> bool:
    """Give a job what its type's declaration says: its attempts and, where that is wanted, its queue.

    Returns: whether a worker has declared the type.
    """
    row = await conn.fetchrow(sql("queue", "declared"), job.type)
    if row is None:
        return False
    job.max_attempts = row["max_attempts"]
    if queue:
        job.queue = row["queue"]
    return True


async def workers_knowing(conn: Connection, queue: str, job_type: str) -> int:
    """Count the live workers that run jobs of a type in a queue."""
    found: int = await conn.fetchval(sql("queue", "workers_knowing"), queue, job_type)
    return found


def _limits(job_type: JobType) -> dict[str, float]:
    """Return the limits of a type as `job_types.limits` has them."""
    limit, rate = job_type.limit, job_type.rate
    said: dict[str, float | None] = {}
    if limit is not None:
        said |= {"global": limit.total, "worker": limit.per_worker, "per_key": limit.per_key}
    if rate is not None:
        said |= {"rate_per_s": rate.per_s, "burst": rate.burst}
    return {name: value for name, value in said.items() if value is not None}
