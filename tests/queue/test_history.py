"""What is kept by the day: partitions are made and dropped beside those who read and those who complete."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from starforge.db.pool import Connection, Pool
from starforge.queue.complete import complete
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.fail import fail, quarantine
from starforge.queue.history import drop_partitions, make_partitions
from starforge.queue.job import NewJob
from starforge.queue.retry import retry
from starforge.worker.duties import forget, strays
from tests.conftest import Travel
from tests.covers import covers
from tests.queue.jobs import a_worker, claimed

PARTITIONS = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'job_history'::regclass"
COMPLETED = (
    "INSERT INTO job_history (id, tenant_id, queue, type, payload, priority, status, attempts, max_attempts,"
    " run_after, lease_epoch, created_at, completed_at)"
    " VALUES ($1, 'default', 'default', 't', '{}', 0, 'completed', 0, 5, sf_now(), 1, sf_now(), sf_now())"
)
LINES = (
    "INSERT INTO log_lines (at, worker_id, level, line)"
    " SELECT sf_now() - make_interval(days => n), gen_random_uuid(), 'info', 'x'"
    " FROM generate_series($1::int, $2::int) AS n"
)
WAITS = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE pid = $1 AND NOT granted)"


async def test_partitions_are_made_once_and_have_the_indexes_of_the_history(conn: Connection) -> None:
    before = await conn.fetchval(PARTITIONS)
    assert await make_partitions(conn, days=9) > 0
    assert await make_partitions(conn, days=9) == 0
    assert await conn.fetchval(PARTITIONS) == 11 > before  # ten days and the default
    newest = await conn.fetchval(
        "SELECT 'job_history_' || to_char((sf_now() AT TIME ZONE 'UTC')::date + 9, 'YYYYMMDD')"
    )
    assert await conn.fetchval("SELECT count(*) FROM pg_indexes WHERE tablename = $1", newest) == 2
    assert await conn.fetchval("SELECT relowner::regrole::text FROM pg_class WHERE relname = $1", newest) == (
        "starforge_owner"
    )
    with pytest.raises(asyncpg.CheckViolationError, match="job_history_status"):
        await conn.execute(COMPLETED.replace("'completed'", "'done'"), uuid4())


@pytest.mark.direct("it goes by the process ids of its connections")
async def test_a_long_reader_of_history_delays_a_partition_and_no_completion(pool: Pool) -> None:
    """CREATE … PARTITION OF would queue for the whole table, and every completion behind it."""
    async with pool.transaction() as reader, pool.connection() as worker, pool.connection() as finisher:
        await reader.fetchval("SELECT count(*) FROM job_history")
        await finisher.execute("SET statement_timeout = '500ms'")
        task = asyncio.create_task(make_partitions(worker, days=5))
        while not await finisher.fetchval(WAITS, worker.get_server_pid()):
            assert not task.done()
        await finisher.execute(COMPLETED, uuid4())
        with pytest.raises(asyncpg.LockNotAvailableError):
            await task
    async with pool.connection() as worker:
        assert await make_partitions(worker, days=5) == 3


@covers("Q-13", "G12")
async def test_every_finished_attempt_is_counted_once_in_the_minute_that_it_ended_in(
    conn: Connection,
) -> None:
    await enqueue_many(conn, [NewJob("t") for _ in range(7)])
    worker_id = await a_worker(conn)
    jobs = await claimed(conn, worker_id)
    assert await complete(conn, jobs[:3], [10.0, 20.0, 30.0], worker_id=worker_id)
    assert await complete(conn, jobs[2:4], [5.0, 5.0], worker_id=worker_id) == {jobs[3].id}
    error = {"reason": "r"}
    await retry(conn, [jobs[4]], [error], [60.0], worker_id=worker_id)
    await fail(conn, [jobs[5]], [error], worker_id=worker_id)
    await quarantine(conn, [jobs[6]], [error], worker_id=worker_id)
    [row] = await conn.fetch(
        "SELECT queue, type, worker_id, completed, retried, failed, quarantined, ran_ms, ran_ms_max"
        " FROM job_minutes"
    )
    assert tuple(row) == ("default", "t", worker_id, 4, 1, 1, 1, 65.0, 30.0)


async def test_what_a_job_returned_and_carried_is_found_in_its_history(conn: Connection) -> None:
    await enqueue(conn, NewJob("t", tags=["a", "b"], trace="00-1-2-01"))
    worker_id = await a_worker(conn)
    [job] = await claimed(conn, worker_id)
    assert (job.tags, job.trace) == (("a", "b"), "00-1-2-01")
    await complete(conn, [job], [1.0], worker_id=worker_id, results=['{"rows": 3}'])
    row = await conn.fetchrow("SELECT tags, trace, result FROM job_history WHERE id = $1", job.id)
    assert row is not None
    assert tuple(row) == (["a", "b"], "00-1-2-01", {"rows": 3})


async def test_days_that_are_kept_no_longer_are_dropped_whole(conn: Connection, travel: Travel) -> None:
    await make_partitions(conn, "job_history", days=2)
    await make_partitions(conn, "log_lines", days=2)
    await conn.execute(
        "INSERT INTO log_lines (worker_id, level, line) VALUES (gen_random_uuid(), 'info', 'x')"
    )
    await travel(conn, days=7)
    await forget(conn, "log_lines")
    assert await conn.fetchval("SELECT count(*) FROM log_lines") == 1
    await travel(conn, days=1)
    await forget(conn, "log_lines")
    await forget(conn, "job_history")
    assert await conn.fetchval("SELECT count(*) FROM log_lines") == 0
    parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = $1::text::regclass"
    assert await conn.fetchval(parts, "log_lines") == 3  # two that are younger, and the default
    assert await conn.fetchval(parts, "job_history") == 4
    await travel(conn, days=25)
    await forget(conn, "job_history")
    assert await conn.fetchval(parts, "job_history") == 1


async def test_old_rows_in_the_default_partition_are_deleted_in_batches_and_no_others(
    conn: Connection, travel: Travel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starforge.queue.history.STRAYS_BATCH", 10)
    await make_partitions(conn, "job_history", days=2)
    stray = COMPLETED.replace("$1", "gen_random_uuid()").replace(
        "sf_now())", "sf_now() + make_interval(days => $1))"
    )
    for days in (-40, -20, 0):
        await conn.executemany(stray, [(days,)] * 25)
    await conn.execute(LINES, 1, 20)
    counted = [await strays(conn, "job_history") for _ in range(4)]
    assert counted == [10, 10, 5, 0]
    assert await conn.fetchval("SELECT count(*) FROM job_history") == 50
    assert [await strays(conn, "log_lines") for _ in range(3)] == [10, 3, 0]


@pytest.mark.direct("it goes by the process ids of its connections")
async def test_a_long_reader_of_history_delays_a_drop_and_completions_only_for_a_moment(pool: Pool) -> None:
    async with pool.connection() as worker:
        await worker.execute("SELECT sf_history_partitions(0)")
        await worker.execute(
            "CREATE TABLE job_history_20010101 PARTITION OF job_history"
            " FOR VALUES FROM ('2001-01-01') TO ('2001-01-02');"
            " ALTER TABLE job_history_20010101 OWNER TO starforge_owner"
        )
        async with pool.transaction() as reader, pool.connection() as finisher:
            await reader.fetchval("SELECT count(*) FROM job_history")
            await finisher.execute("SET statement_timeout = '2s'")
            dropping = asyncio.create_task(drop_partitions(worker, "job_history", kept_days=30))
            while not await finisher.fetchval(
                "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE pid = $1 AND NOT granted)",
                worker.get_server_pid(),
            ):
                assert not dropping.done()
            await finisher.execute("UPDATE job_history SET attempts = 0")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await dropping
        assert await drop_partitions(worker, "job_history", kept_days=30) == ["job_history_20010101"]
