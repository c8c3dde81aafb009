"""Enqueue: accepted with the caller's transaction, in bulk all or none, refused when it cannot be kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from starforge.db.pool import Connection, Pool, connect
from starforge.queue.enqueue import COPY_ROWS_MIN, enqueue, enqueue_many
from starforge.queue.errors import PayloadError
from starforge.queue.job import NewJob
from tests.covers import covers
from tests.postgres import TestServer


async def test_a_job_exists_only_once_the_callers_transaction_commits(pool: Pool) -> None:
    async with pool.connection() as watcher:
        with pytest.raises(ZeroDivisionError):
            async with pool.transaction() as conn:
                await enqueue(conn, NewJob("t"))
                raise ZeroDivisionError
        assert await watcher.fetchval("SELECT count(*) FROM queue_jobs") == 0
        async with pool.transaction() as conn:
            await enqueue(conn, NewJob("t"))
            assert await watcher.fetchval("SELECT count(*) FROM queue_jobs") == 0
        assert await watcher.fetchval("SELECT count(*) FROM queue_jobs") == 1


@covers("Q-23")
async def test_an_enqueued_job_has_the_given_columns_and_the_tables_defaults(conn: Connection) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    job_id = await enqueue(
        conn, NewJob("t", {"a": [1, None, "é"]}, priority=3, run_after=later, max_attempts=2)
    )
    row = await conn.fetchrow("SELECT * FROM queue_jobs WHERE id = $1", job_id)
    assert row is not None
    assert (row["type"], row["queue"], row["status"], row["tenant_id"]) == (
        "t",
        "default",
        "pending",
        "default",
    )
    assert (row["payload"], row["priority"], row["max_attempts"]) == ({"a": [1, None, "é"]}, 3, 2)
    assert (row["attempts"], row["kills"], row["lease_epoch"], row["run_after"]) == (0, 0, 0, later)


@pytest.mark.parametrize("count", [1, 7, COPY_ROWS_MIN, COPY_ROWS_MIN + 1])
@pytest.mark.parametrize("user", ["tester", "starforge_engine"])
async def test_bulk_enqueue_keeps_every_job_in_either_way(
    server: TestServer, database: str, user: str, count: int
) -> None:
    """Below the threshold by INSERT, above it by COPY, and under row security through a temporary table."""
    conn = await connect(database.replace("tester@", f"{user}@"))
    jobs = [NewJob("t", {"n": n}, priority=n % 3) for n in range(count)]
    assert await enqueue_many(conn, jobs) == [job.id for job in jobs]
    rows = await conn.fetch("SELECT id, payload, priority, run_after <= sf_now() AS due FROM queue_jobs")
    assert {row["id"]: (row["payload"]["n"], row["priority"], row["due"]) for row in rows} == {
        job.id: (job.payload["n"], job.priority, True) for job in jobs
    }
    await conn.close()


def _deep(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(levels):
        inner = {"in": inner}
    return inner


async def test_a_bulk_with_one_bad_payload_keeps_none(conn: Connection) -> None:
    jobs = [NewJob("t", {"n": 1}), NewJob("t", {"n": object()})]
    with pytest.raises(PayloadError, match="is not JSON"):
        await enqueue_many(conn, jobs)
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == 0


@pytest.mark.parametrize("payload", [_deep(5000), {"n": "\ud800"}, {"n": 10**5000}, [], None, "x"])
async def test_a_payload_that_no_worker_could_read_is_refused(conn: Connection, payload: Any) -> None:
    with pytest.raises(PayloadError):
        await enqueue(conn, NewJob("t", payload))


async def test_a_payload_over_the_limit_is_refused_with_its_size(conn: Connection) -> None:
    with pytest.raises(PayloadError, match=r"of a t job has 300\d\d\d bytes; at most 262144") as refused:
        await enqueue(conn, NewJob("t", {"text": "x" * 300_000}))
    assert "reference" in refused.value.remedy


async def test_a_callers_own_connection_needs_no_codec_of_ours(database: str) -> None:
    conn = await asyncpg.connect(database)
    async with conn.transaction():
        await enqueue(conn, NewJob("t", {"a": "é"}))
        await enqueue_many(conn, [NewJob("t", {"a": "é"})])
        for _ in range(2):
            await enqueue_many(conn, [NewJob("t", {"a": "é"}) for _ in range(COPY_ROWS_MIN)])
    rows = await conn.fetch("SELECT DISTINCT payload FROM queue_jobs")
    assert [json.loads(row["payload"]) for row in rows] == [{"a": "é"}]
    await conn.close()


async def test_a_payload_with_a_nul_is_refused_and_one_that_only_looks_so_is_kept(conn: Connection) -> None:
    with pytest.raises(PayloadError, match="NUL"):
        await enqueue(conn, NewJob("t", {"text": "a\x00b"}))
    await enqueue(conn, NewJob("t", {"text": "a\\u0000b"}))
    assert await conn.fetchval("SELECT payload ->> 'text' FROM queue_jobs") == "a\\u0000b"
