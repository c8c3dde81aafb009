"""Naming: the live jobs whose payload names a thing, and what becomes of them with it.

A payload has no index: the queue is read once per call. That is for the acts of people, not for a hot path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.hint import CHANNEL, EVERYWHERE


@dataclass(frozen=True, slots=True)
class Naming:
    """A job in the queue and what its payload names."""

    id: UUID
    type: str
    status: str
    named: str
    created_at: datetime
    updated_at: datetime
    reason: str | None


async def jobs_naming(conn: Connection, key: str, values: Sequence[str], tenant: str | None) -> list[Naming]:
    """Return the live jobs, of a tenant or all, whose payload has one of `values` at `key`, newest first."""
    return [Naming(**row) for row in await conn.fetch(sql("queue", "naming"), key, list(values), tenant)]


async def quarantined_naming(conn: Connection, key: str, types: Sequence[str], most: int) -> list[Naming]:
    """Return quarantined jobs of these types with what their payloads name under `key`, the latest first."""
    rows = await conn.fetch(sql("queue", "naming_held"), key, list(types), most)
    return [Naming(**row) for row in rows]


async def ended_naming(conn: Connection, key: str, value: str, tenant: str, about: datetime) -> list[Naming]:
    """Return the jobs that name `value` and ended within 5 minutes of a time; `updated_at` is their end."""
    rows = await conn.fetch(sql("queue", "naming_ended"), key, value, tenant, about)
    return [Naming(**row) for row in rows]


async def release_as(conn: Connection, job_id: UUID, job_type: str, priority: int) -> bool:
    """Make a job that waits or is quarantined pending, of this type; False where it is neither any more.

    Where workers had died under it, they are forgotten, and its next attempt runs alone.
    """
    if await conn.fetchval(sql("queue", "release_as"), job_id, job_type, priority) is None:
        return False
    await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, EVERYWHERE)
    return True


async def forget_naming(conn: Connection, key: str, values: Sequence[str], tenant: str) -> dict[str, Any]:
    """Delete what the queue keeps of the jobs that name these: waiting ones, dead letters, lines and kills.

    Rows of history stay, without result and error. Return how many rows each table lost or had cleared.
    Running jobs are not touched: whoever asks makes sure that there are none.
    """
    found = await conn.fetch(sql("queue", "naming_ids"), key, list(values), tenant)
    ids = [row["id"] for row in found]
    cleared = {}
    for table, statement in (
        ("queue_jobs", "forget_live"),
        ("queue_jobs_dlq", "forget_dead"),
        ("job_history", "forget_history"),
        ("job_progress", "forget_progress"),
        ("job_kills", "forget_kills"),
        ("log_lines", "forget_lines"),
    ):
        tag = await conn.execute(sql("queue", statement), ids)
        cleared[table] = int(tag.rpartition(" ")[2])
    return cleared
