"""What the queue's tests share: a registered worker, and lanes of the default queue."""

from __future__ import annotations

from uuid import UUID

from starforge.db.pool import Connection
from starforge.queue.claim import claim
from starforge.queue.job import LeasedJob
from starforge.queue.plan import Plan
from starforge.worker.registry import Registration, register

TYPES = ("t", "process_snapshot")


async def a_worker(conn: Connection, *, lease_s: float = 30) -> UUID:
    """Register a worker of this process."""
    return await register(conn, Registration(("default",), TYPES, 1), lease_s=lease_s)


async def claimed(conn: Connection, worker_id: UUID, n: int = 100) -> list[LeasedJob]:
    """Claim what is ready in the default queue."""
    return await claim(conn, Plan(["default"], TYPES), n=n, worker_id=worker_id)
