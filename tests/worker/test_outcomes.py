"""How an attempt may end: each outcome as the database has it afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from starforge.app import StarForge
from starforge.db.pool import Pool
from starforge.queue.cancel import release
from starforge.queue.context import Context
from starforge.queue.declare import Retry
from starforge.queue.errors import (
    AttemptEndedError,
    JobFailedError,
    JobUnfinishedError,
    LeaseLostError,
    UnknownJobError,
)
from starforge.queue.job import NewJob
from starforge.queue.outcome import Discard, PermanentError, Quarantined, RetryLater, Snooze
from tests.covers import covers
from tests.postgres import TestServer
from tests.proxy import proxied
from tests.worker.at_work import accept, at_work, ended, until

NOW = Retry(attempts=3, base_s=0.01, max_s=0.01)
COLUMNS = "SELECT status, attempts, last_error, run_after - updated_at AS waits FROM queue_jobs WHERE id = $1"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (0, 0),
        ({"a": [1, None, "é"]}, {"a": [1, None, "é"]}),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (False, False),
    ],
)
async def test_what_a_handler_returns_is_kept_with_its_job(pool: Pool, value: Any, kept: Any) -> None:
    app = StarForge()

    @app.job
    async def returns() -> Any:
        return value

    job_id = await accept(pool, returns.new())
    async with at_work(pool, app), pool.connection() as conn:
        assert await app.wait_for(job_id, timeout_s=20, conn=conn) == kept
        state = await app.job_state(job_id, conn=conn)
        assert (state.status, state.result, state.attempts) == ("completed", kept, 0)
        assert await app.result(job_id, conn=conn) == kept


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), "the result is not JSON"),
        ("x" * 70_000, "the result has 70002 bytes; at most 65536 are kept"),
        ("a\0b", "the result holds a NUL character"),
    ],
)
async def test_a_result_that_cannot_be_kept_ends_in_the_dead_letters_and_is_not_tried_again(
    pool: Pool, value: Any, told: str
) -> None:
    """The work is done, and doing it again would return the same: somebody has to see it."""
    app = StarForge()
    runs: list[int] = []

    @app.job(retry=5)
    async def returns() -> Any:
        runs.append(1)
        return value

    job_id = await accept(pool, returns.new())
    async with at_work(pool, app):
        row = await ended(pool, job_id)
    assert (row["status"], runs) == ("failed", [1])
    assert row["last_error"]["reason"].startswith(told)


@covers("J-38", "Q-69")
async def test_an_exception_that_is_never_tried_again_goes_to_the_dead_letters_at_once(pool: Pool) -> None:
    app = StarForge()

    @app.job(retry=Retry(attempts=5, never=(ValueError,)))
    async def fails() -> None:
        raise ValueError("no such user")

    @app.job(retry=5)
    async def gives_up() -> None:
        raise PermanentError("it is gone")

    ids = [await accept(pool, fails.new()), await accept(pool, gives_up.new())]
    async with at_work(pool, app):
        rows = [await ended(pool, job_id) for job_id in ids]
    assert [(row["status"], row["attempts"]) for row in rows] == [("failed", 1)] * 2
    async with pool.connection() as conn:
        letters = await conn.fetch("SELECT reason FROM queue_jobs_dlq ORDER BY reason")
    assert [row["reason"] for row in letters] == ["it is gone", "no such user"]


@covers("F-47")
async def test_a_failed_attempt_notes_the_version_of_the_code_that_ran_it(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_CODE_VERSION", "2026.11.3")
    app = StarForge()

    @app.job(retry=1)
    async def fails() -> None:
        raise ValueError("no")

    job_id = await accept(pool, fails.new())
    async with at_work(pool, app):
        assert (await ended(pool, job_id))["last_error"]["version"] == "2026.11.3"


async def test_a_payload_that_no_longer_fits_goes_to_the_dead_letters_with_the_field(pool: Pool) -> None:
    app = StarForge()

    @app.job(retry=5)
    async def counts(ctx: Context, n: int) -> None: ...

    job_id = await accept(pool, NewJob("counts", {"n": "many"}))
    async with at_work(pool, app):
        row = await ended(pool, job_id)
    assert (row["status"], row["attempts"]) == ("failed", 1)
    assert row["last_error"]["reason"] == "the payload does not fit the handler: n: expected int, got str"


@pytest.mark.parametrize("counts", [True, False])
async def test_a_job_that_asks_for_a_later_attempt_waits_as_long_as_it_was_told(
    pool: Pool, counts: bool
) -> None:
    app = StarForge()

    @app.job(retry=5)
    async def later() -> None:
        raise RetryLater("120", "the mail server is busy", counts=counts)

    job_id = await accept(pool, later.new())
    async with at_work(pool, app), pool.connection() as conn:
        await until(pool, "SELECT last_error IS NOT NULL FROM queue_jobs", True)
        row = await conn.fetchrow(COLUMNS, job_id)
    assert row is not None
    assert (row["status"], row["attempts"]) == ("pending", int(counts))
    assert row["last_error"]["reason"] == "the mail server is busy"
    assert row["waits"] == timedelta(seconds=120)


async def test_a_later_attempt_that_counts_is_not_had_beyond_the_last(pool: Pool) -> None:
    app = StarForge()

    @app.job(retry=2)
    async def later() -> None:
        raise RetryLater(0.01)

    job_id = await accept(pool, later.new())
    async with at_work(pool, app):
        row = await ended(pool, job_id)
    assert (row["status"], row["attempts"]) == ("failed", 2)


async def test_a_job_runs_at_the_time_that_a_server_named(pool: Pool) -> None:
    app = StarForge()
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)

    @app.job
    async def later() -> None:
        raise RetryLater(at)

    await accept(pool, later.new())
    async with at_work(pool, app):
        await until(pool, "SELECT run_after FROM queue_jobs", at)


async def test_a_snooze_burns_no_attempt_and_leaves_the_last_error_as_it_was(pool: Pool) -> None:
    app = StarForge()
    runs: list[int] = []

    @app.job(retry=NOW)
    async def naps(ctx: Context) -> str:
        runs.append(ctx.attempt)
        if len(runs) == 1:
            raise ValueError("a real failure")
        if len(runs) < 8:
            raise Snooze(0.01)
        return "awake"

    job_id = await accept(pool, naps.new())
    async with at_work(pool, app):
        row = await ended(pool, job_id)
    assert (row["status"], row["attempts"], row["result"]) == ("completed", 1, "awake")
    assert runs == [1, 2, 2, 2, 2, 2, 2, 2]
    assert row["last_error"]["reason"] == "a real failure"


async def test_a_discarded_job_is_cancelled_with_its_reason(pool: Pool) -> None:
    app = StarForge()

    @app.job
    async def unwanted() -> None:
        raise Discard("the user has left")

    job_id = await accept(pool, unwanted.new())
    async with at_work(pool, app), pool.connection() as conn:
        row = await ended(pool, job_id)
        assert (row["status"], row["reason"], row["attempts"]) == ("cancelled", "the user has left", 0)
        with pytest.raises(JobFailedError, match="is cancelled: the user has left"):
            await app.result(job_id, conn=conn)
        assert await conn.fetchval("SELECT sum(cancelled) FROM job_minutes") == 1


async def test_a_job_that_is_held_back_is_released_and_runs_again(pool: Pool) -> None:
    app = StarForge()
    runs: list[int] = []

    @app.job
    async def holds() -> str:
        runs.append(1)
        if len(runs) == 1:
            raise Quarantined("look at this first")
        return "released"

    job_id = await accept(pool, holds.new())
    async with at_work(pool, app), pool.connection() as conn:
        with pytest.raises(JobFailedError, match="is quarantined: look at this first"):
            await app.wait_for(job_id, timeout_s=20, conn=conn)
        assert await release(conn, job_id) is not None
        assert await release(conn, job_id) is None
        assert await app.wait_for(job_id, timeout_s=20, conn=conn) == "released"


async def test_waiting_for_a_job_ends_in_time_and_says_what_is_not_there(pool: Pool) -> None:
    app = StarForge()
    job = NewJob("of.nobody")
    async with pool.connection() as conn:
        with pytest.raises(UnknownJobError):
            await app.result(job.id, conn=conn)
        await accept(pool, job)
        with pytest.raises(JobUnfinishedError, match="is pending"):
            await app.wait_for(job.id, timeout_s=0.05, conn=conn)


# A transaction of its own.

EFFECTS = "CREATE TABLE effects (n integer)"
COUNT = "SELECT count(*) FROM effects"


async def test_what_a_handler_writes_and_its_completion_commit_together(pool: Pool) -> None:
    app = StarForge()

    @app.job
    async def writes(ctx: Context, n: int) -> None:
        async with ctx.transaction() as conn:
            await conn.execute("INSERT INTO effects VALUES ($1)", n)
            ctx.complete({"wrote": n})

    async with pool.connection() as conn:
        await conn.execute(EFFECTS)
    job_id = await accept(pool, writes.new(7))
    async with at_work(pool, app) as runner:
        row = await ended(pool, job_id)
        assert (row["status"], row["result"]) == ("completed", {"wrote": 7})
        async with pool.connection() as conn:
            assert await conn.fetchval(COUNT) == 1
            assert await conn.fetchval("SELECT sum(completed) FROM job_minutes") == 1
        await until(pool, "SELECT 1", 1)
    assert (runner.finisher.finished, runner.finisher.lost) == (1, 0)


async def test_what_fails_in_the_transaction_undoes_it_and_is_tried_again(pool: Pool) -> None:
    app = StarForge()

    @app.job(retry=NOW)
    async def writes(ctx: Context) -> None:
        async with ctx.transaction() as conn:
            await conn.execute("INSERT INTO effects VALUES (1)")
            if ctx.attempt < 3:
                raise ValueError("not yet")

    async with pool.connection() as conn:
        await conn.execute(EFFECTS)
    job_id = await accept(pool, writes.new())
    async with at_work(pool, app):
        row = await ended(pool, job_id)
    assert (row["status"], row["attempts"]) == ("completed", 2)
    async with pool.connection() as conn:
        assert await conn.fetchval(COUNT) == 1


async def test_nothing_that_follows_the_transaction_changes_what_it_did(pool: Pool) -> None:
    app = StarForge()

    @app.job
    async def writes(ctx: Context) -> str:
        async with ctx.transaction() as conn:
            await conn.execute("INSERT INTO effects VALUES (1)")
        with pytest.raises(AttemptEndedError):
            async with ctx.transaction():
                pass
        raise ValueError("too late")

    async with pool.connection() as conn:
        await conn.execute(EFFECTS)
    job_id = await accept(pool, writes.new())

    @app.job
    async def returns(ctx: Context) -> str:
        async with ctx.transaction():
            ctx.complete("said in time")
        return "said too late"

    other_id = await accept(pool, returns.new())
    with capture_logs() as lines:
        async with at_work(pool, app) as runner:
            assert (await ended(pool, job_id))["status"] == "completed"
            assert (await ended(pool, other_id))["result"] == "said in time"
            async with asyncio.timeout(10):
                while runner.finisher.finished < 2:
                    await asyncio.sleep(0.01)
    assert {"job.failed_after_completion", "job.result_dropped"} <= {line["event"] for line in lines}


@covers("Q-67", "D-12")
async def test_a_job_that_is_delivered_twice_has_its_effect_once(pool: Pool) -> None:
    """A zombie and its heir both reach the end of their transactions; one of them may commit."""
    app = StarForge()
    inside, may_go_on = asyncio.Event(), asyncio.Event()
    lost: list[LeaseLostError] = []

    @app.job
    async def writes(ctx: Context) -> None:
        try:
            async with ctx.transaction() as conn:
                await conn.execute("INSERT INTO effects VALUES (1)")
                if ctx.job.lease_epoch == 1:
                    inside.set()
                    await may_go_on.wait()
        except LeaseLostError as error:
            lost.append(error)
            raise

    async with pool.connection() as conn:
        await conn.execute(EFFECTS)
    job_id = await accept(pool, writes.new())
    async with at_work(pool, app) as zombie:
        await inside.wait()
        zombie.stop()  # it claims nothing more
        async with pool.connection() as conn:
            back = "UPDATE queue_jobs SET status = 'pending', worker_id = NULL, lease_epoch = lease_epoch + 1"
            await conn.execute(back)
        async with at_work(pool, app):
            row = await ended(pool, job_id)
        may_go_on.set()
    assert (row["status"], row["lease_epoch"]) == ("completed", 3)
    assert [error.code for error in lost] == ["SF201"]
    assert zombie.finisher.lost == 1
    async with pool.connection() as conn:
        assert await conn.fetchval(COUNT) == 1
        assert await conn.fetchval("SELECT count(*) FROM job_history") == 1


async def test_a_commit_whose_answer_is_lost_has_its_effect_once(
    pool: Pool, database: str, server: TestServer
) -> None:
    """The handler sees an error and its attempt is written as failed: the fence refuses that."""
    app = StarForge()
    runs: list[int] = []

    async with pool.connection() as conn:
        await conn.execute(EFFECTS)
    async with proxied(server.port) as proxy:

        @app.job(retry=NOW)
        async def writes(ctx: Context) -> None:
            runs.append(ctx.attempt)
            async with ctx.transaction() as conn:
                await conn.execute("INSERT INTO effects VALUES (1)")
                proxy.lose = b"COMMIT\0"

        cut = await Pool.open(proxy.url(database), size=4)
        job_id = await accept(pool, writes.new())
        async with at_work(cut, app) as runner:
            row = await ended(pool, job_id)
            async with asyncio.timeout(20):
                while runner.finisher.lost == 0:
                    await asyncio.sleep(0.01)
        await cut.close()
    assert (row["status"], runs) == ("completed", [1])
    async with pool.connection() as conn:
        assert await conn.fetchval(COUNT) == 1


# The database is away.


async def _kill_connections(pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'cut'"
        )


async def _on_our_pool(ctx: Context, pool: Pool) -> None:
    async with ctx.pool.connection() as conn:
        await _kill_connections(pool)
        await conn.execute("SELECT 1")


async def _on_a_socket(_ctx: Context, _pool: Pool) -> None:
    raise ConnectionResetError("the chat's, not the database's")


async def _in_a_cause(ctx: Context, pool: Pool) -> None:
    try:
        await _on_our_pool(ctx, pool)
    except asyncpg.PostgresError as error:
        raise ValueError("it did not work") from error


@pytest.mark.parametrize(
    ("breaks", "burnt"),
    [(_on_our_pool, 0), (_in_a_cause, 0), (_on_a_socket, 1)],
    ids=["ours", "cause", "other"],
)
async def test_an_attempt_that_the_databases_absence_ended_is_not_burnt(
    pool: Pool, database: str, breaks: Callable[[Context, Pool], Awaitable[None]], burnt: int
) -> None:
    app = StarForge()
    runs: list[int] = []

    @app.job(retry=NOW)
    async def works(ctx: Context) -> None:
        runs.append(ctx.attempt)
        if len(runs) == 1:
            await breaks(ctx, pool)

    own = await Pool.open(database, size=4, application="cut")
    job_id = await accept(pool, works.new())
    async with at_work(own, app):
        row = await ended(pool, job_id)
    await own.close()
    assert (row["status"], row["attempts"]) == ("completed", burnt)
    assert runs == [1, 1 + burnt]


async def test_attempts_are_not_spared_for_ever(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that breaks its own connection each time looks just like an outage."""
    monkeypatch.setattr("starforge.queue.retry.SPARED_MAX", 3)
    app = StarForge()
    runs: list[int] = []

    @app.job(retry=Retry(attempts=2, base_s=0.01, max_s=0.01))
    async def breaks(ctx: Context) -> None:
        runs.append(ctx.attempt)
        async with ctx.pool.connection() as conn:
            conn.terminate()
            await conn.execute("SELECT 1")

    job_id = await accept(pool, breaks.new())
    async with at_work(pool, app):
        row = await ended(pool, job_id)
    assert row["status"] == "failed"
    assert runs == [1, 1, 1, 1, 2, 3]
    assert row["attempts"] == 3
