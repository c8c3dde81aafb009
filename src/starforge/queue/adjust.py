"""Adjust: jobs under one limit key are changed where they are, in the queue, while others go on."""

from __future__ import annotations

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.entry import ATTEMPTS_MAX
from starforge.queue.gate import announce


async def reprioritize(
    conn: Connection, queue: str, job_type: str, tenant: str, limit_key: str, priority: int
) -> int:
    """Give the jobs that wait under a limit key another priority; return how many had another one."""
    moved = await conn.fetch(sql("queue", "reprioritize"), queue, job_type, tenant, limit_key, priority)
    await announce(conn)
    return len(moved)


async def allow_attempts(
    conn: Connection, queue: str, job_type: str, tenant: str, limit_key: str, more: int
) -> int:
    """Let the jobs that wait or run under a limit key fail `more` times more often; return how many run.

    An attempt that runs now ends as its worker knows it: by the number that the job had when it began.
    """
    changed = await conn.fetch(
        sql("queue", "allow_attempts"), queue, job_type, tenant, limit_key, more, ATTEMPTS_MAX
    )
    return sum(row["status"] == "running" for row in changed)
