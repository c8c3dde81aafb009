"""The registry of workers: who ended long ago is forgotten, who lives never is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starforge.db.pool import Connection
from starforge.worker.registry import prune, stop
from tests.queue.jobs import a_worker


async def test_a_worker_that_ended_is_kept_a_week_and_then_forgotten(
    conn: Connection, travel: Callable[..., Awaitable[None]]
) -> None:
    ended = await a_worker(conn)
    await stop(conn, ended, ended=True, reason="told to")
    assert await prune(conn) == 0
    await travel(conn, days=8)
    living = await a_worker(conn)
    assert await prune(conn) == 1
    assert [row["id"] for row in await conn.fetch("SELECT id FROM workers")] == [living]
