"""An app as the README shows it: defined, enqueued, run."""

from __future__ import annotations

import pytest

from starforge.app import StarForge
from starforge.db.pool import Pool
from starforge.queue.errors import DuplicateTypeError
from starforge.queue.handler import Context
from tests.stories.test_path_of_a_job import HISTORY, run_until


async def test_an_apps_jobs_get_their_payload_and_where_asked_their_context(pool: Pool) -> None:
    app = StarForge("shop")
    seen: list[tuple[int, int]] = []

    @app.job()
    async def welcome(user_id: int) -> None:
        seen.append((user_id, 0))

    @app.job("mail.again", priority=5, retry=7)
    async def again(ctx: Context, user_id: int) -> None:
        seen.append((user_id, ctx.attempt))

    async with pool.connection() as conn:
        await app.enqueue("welcome", {"user_id": 7}, conn=conn)
        await app.enqueue_many(conn, [app.new_job("mail.again", {"user_id": n}) for n in (8, 9)])
        row = await conn.fetchrow("SELECT priority, max_attempts FROM queue_jobs WHERE type = 'mail.again'")
    assert row is not None
    assert tuple(row) == (5, 7)
    await run_until(pool, app.job_types(), HISTORY, 3)
    assert sorted(seen) == [(7, 0), (8, 1), (9, 1)]


def test_a_second_handler_of_one_name_is_refused_where_it_is_declared() -> None:
    app = StarForge("shop")

    @app.job("twice")
    async def once() -> None: ...

    with pytest.raises(DuplicateTypeError, match="'twice'"):
        app.job("twice")(once)
