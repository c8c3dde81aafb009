"""A live backfill goes on in other terms, in its row and in the queue, and has the old ones again."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from starforge.backfill.errors import BackfillStateError, StaleVersionError, UnknownBackfillError
from starforge.db.pool import Pool
from starforge.errors import InvalidInputError
from starforge.operation import BadArgumentError
from starforge.ops.audit import Result
from starforge.ops.perform import perform
from starforge.queue.enqueue import enqueue_many
from starforge.queue.job import NewJob
from tests.backfill.backfills import ANN, LIVE, TERMINAL, made, row_of
from tests.covers import covers

TERMS = ("concurrency", "priority", "attempts_max", "failed_max", "sla_at")


async def put(pool: Pool, backfill_id: UUID, **arguments: Any) -> Result:
    return await perform(pool, "backfill set", {"job_id": str(backfill_id), **arguments}, **ANN)


async def terms_of(pool: Pool, backfill_id: UUID) -> tuple[Any, ...]:
    row = await row_of(pool, backfill_id)
    return tuple(row[name] for name in TERMS)


@pytest.mark.parametrize("state", LIVE)
@covers("B-45")
async def test_a_live_backfill_has_new_terms_and_the_command_that_undoes_it_gives_it_the_old_ones(
    pool: Pool, state: str
) -> None:
    backfill_id = await made(pool, state, "pending")
    before = await terms_of(pool, backfill_id)
    done = await put(pool, backfill_id, concurrency=16, priority=7, attempts=9, failed_max=2, sla="6h")
    row = await row_of(pool, backfill_id)
    assert (row["state"], row["version"]) == (state, 6)
    assert (await terms_of(pool, backfill_id))[:4] == (16, 7, 9, 2)
    away_s = (row["sla_at"] - datetime.now(UTC)).total_seconds()
    assert 21_500 < away_s < 21_610
    assert done.before["concurrency"] == 4
    assert "starforge" not in done.summary
    words = shlex.split(done.undone_by.partition("starforge backfill set ")[2])
    assert words[0] == str(backfill_id)
    options = {
        name[2:].replace("-", "_"): value for name, value in zip(words[1::2], words[2::2], strict=True)
    }
    undone = await put(pool, backfill_id, **options)
    assert await terms_of(pool, backfill_id) == before
    assert undone.changed == 1


@pytest.mark.parametrize("state", TERMINAL)
@covers("B-45")
async def test_one_that_has_ended_is_refused_with_what_works(pool: Pool, state: str) -> None:
    backfill_id = await made(pool, state, "completed", completed_at=datetime.now(UTC))
    with pytest.raises(BackfillStateError, match=rf"cannot be set, for it is {state} .*starforge backfill"):
        await put(pool, backfill_id, concurrency=16)


@covers("B-45")
async def test_a_concurrency_overrides_the_limit_of_its_key_for_as_long_as_any_backfill_takes(
    pool: Pool,
) -> None:
    backfill_id = await made(pool, "running", "pending")
    await put(pool, backfill_id, concurrency=16, reason="tonight it may")
    async with pool.connection() as conn:
        row = await conn.fetchrow("SELECT *, expires_at - sf_now() AS lasts FROM setting_overrides")
    assert row is not None
    assert (row["scope"], row["name"], row["setting"], row["value"]) == ("key", str(backfill_id), "limit", 16)
    assert (row["owner"], row["reason"]) == ("ann", "tonight it may")
    assert row["lasts"] > timedelta(days=3650)
    await put(pool, backfill_id, concurrency=4)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT value FROM setting_overrides") == 4


async def _jobs(pool: Pool, backfill_id: UUID) -> None:
    """Queue two jobs of the backfill, of which one runs, one of another key, and one of another tenant."""
    key = str(backfill_id)
    jobs = [
        NewJob("asset:daily", queue="backfill", limit_key=key, max_attempts=3, tags=["waits"]),
        NewJob("asset:daily", queue="backfill", limit_key=key, max_attempts=3, tags=["runs"]),
        NewJob("asset:daily", queue="backfill", limit_key="other", max_attempts=3, tags=["other"]),
        NewJob("asset:daily", queue="backfill", limit_key=key, max_attempts=3, tags=["bolt"], tenant="bolt"),
    ]
    async with pool.transaction() as conn:
        await enqueue_many(conn, jobs)
        await conn.execute("UPDATE queue_jobs SET status = 'running' WHERE tags = '{runs}'")


async def _queue(pool: Pool) -> dict[str, tuple[int, int]]:
    async with pool.connection() as conn:
        rows = await conn.fetch("SELECT tags[1] AS tag, priority, max_attempts FROM queue_jobs")
    return {row["tag"]: (row["priority"], row["max_attempts"]) for row in rows}


@covers("B-45", "B-70")
async def test_priority_and_attempts_reach_the_backfills_jobs_in_the_queue_and_no_others(pool: Pool) -> None:
    backfill_id = await made(pool, "running", "pending", "running")
    await _jobs(pool, backfill_id)
    done = await put(pool, backfill_id, priority=7, attempts=5)
    assert "1 waiting job moved with it" in done.summary
    assert "the attempt that runs ends by the number that held when it began" in done.summary
    assert await _queue(pool) == {"waits": (7, 5), "runs": (0, 5), "other": (0, 3), "bolt": (0, 3)}
    await put(pool, backfill_id, attempts=1)
    assert (await _queue(pool))["waits"] == (7, 1), "one attempt is left in any case"


async def test_the_same_terms_change_nothing(pool: Pool) -> None:
    backfill_id = await made(pool, "running", "pending")
    assert (await put(pool, backfill_id, concurrency=4, sla="none")).changed == 0
    assert (await row_of(pool, backfill_id))["version"] == 5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "nothing is to be set"),
        ({"sla": "yesterday"}, "--sla 'yesterday' is no moment"),
        ({"sla": "2020-01-01"}, "is not after now"),
        ({"concurrency": 0}, "concurrency: Expected `int` >= 1"),
        ({"concurrency": 1001}, "concurrency: Expected `int` <= 1000"),
        ({"priority": 1001}, "priority: Expected"),
        ({"attempts": 0}, "attempts: Expected"),
        ({"failed_max": -1}, "failed_max: Expected"),
    ],
)
async def test_terms_that_cannot_be_are_refused(pool: Pool, arguments: dict[str, Any], told: str) -> None:
    backfill_id = await made(pool, "running", "pending")
    with pytest.raises((InvalidInputError, BadArgumentError), match=told):
        await put(pool, backfill_id, **arguments)
    assert (await row_of(pool, backfill_id))["version"] == 5


@covers("B-47", "B-70")
async def test_a_stale_version_and_another_tenants_backfill_are_refused(pool: Pool) -> None:
    backfill_id = await made(pool, "running", "pending")
    theirs = await made(pool, "running", "pending", tenant="bolt")
    with pytest.raises(StaleVersionError, match="has version 5 by now and not 4"):
        await put(pool, backfill_id, concurrency=16, expect_version=4)
    with pytest.raises(UnknownBackfillError):
        await put(pool, theirs, concurrency=16)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM setting_overrides") == 0
