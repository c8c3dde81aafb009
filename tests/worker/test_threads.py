"""Plain functions run in threads; what goes on past its deadline costs its process, and nobody else's job."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from starforge.app import StarForge
from starforge.db.pool import Connection, Pool, connect
from starforge.queue.context import Context, current_job
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.job import NewJob
from starforge.worker.overdue import Overdue, noted
from tests.covers import covers
from tests.worker.at_work import accept, at_work, ended, until
from tests.worker.marks import TABLE
from tests.worker.test_supervise import HISTORY, MARKS, a_worker
from tests.worker.test_supervise import until as until_row

pytestmark = pytest.mark.once(
    "it is about processes; its statements are prepared on both versions by tests/db/test_statement.py"
)

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is told to end has a fifth of a second for it."""
    monkeypatch.setenv("STARFORGE_CANCEL_S", "0.2")


async def test_a_plain_function_runs_in_a_thread_and_its_result_is_kept(pool: Pool) -> None:
    app = StarForge()

    @app.job
    def whoami(ctx: Context, n: int) -> dict[str, Any]:
        job = current_job()
        assert job is not None
        return {"n": n, "thread": threading.current_thread().name, "mine": job.id == ctx.job.id}

    job_id = await accept(pool, whoami.new(7))
    async with at_work(pool, app):
        row = await ended(pool, job_id)
    assert row["result"]["n"] == 7
    assert row["result"]["mine"] is True
    assert row["result"]["thread"].startswith("starforge-job-")


async def test_plain_functions_run_side_by_side_and_never_more_than_the_worker_has_slots(pool: Pool) -> None:
    app = StarForge()
    together = threading.Barrier(3)
    seen: set[int] = set()

    @app.job
    def meets() -> None:
        seen.add(threading.get_ident())
        together.wait(15)

    async with pool.connection() as conn:
        await enqueue_many(conn, [meets.new() for _ in range(12)])
    async with at_work(pool, app, concurrency=3):
        await until(pool, HISTORY, 12)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no"), "ValueError"),
        (SystemExit(3), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (StopIteration(1), "RuntimeError"),  # as from any coroutine
    ],
)
async def test_whatever_a_thread_raises_ends_its_attempt_and_nothing_else(
    pool: Pool, error: BaseException, told: str
) -> None:
    app = StarForge()

    @app.job(retry=1)
    def raises() -> None:
        raise error

    @app.job
    def good() -> None: ...

    job_id = await accept(pool, raises.new())
    other = await accept(pool, good.new())
    async with at_work(pool, app):
        assert (await ended(pool, job_id))["last_error"]["error"] == told
        assert (await ended(pool, other))["status"] == "completed"


async def test_what_one_job_sets_in_its_context_is_not_seen_by_the_next(pool: Pool) -> None:
    app = StarForge()
    seen: list[str] = []

    @app.job
    def threaded() -> None:
        seen.append(var.get())
        var.set("left behind")

    @app.job
    async def looped() -> None:
        seen.append(var.get())
        var.set("left behind")
        await asyncio.sleep(0)
        seen.append(var.get())

    async with pool.connection() as conn:
        await enqueue_many(conn, [kind.new() for kind in (threaded, looped) for _ in range(3)])
    async with at_work(pool, app, concurrency=1):
        await until(pool, HISTORY, 6)
    assert sorted(seen) == ["left behind"] * 3 + ["unset"] * 6


async def test_a_plain_function_may_ask_something_async_of_the_loop(pool: Pool) -> None:
    app = StarForge()

    @app.job
    def resumes(ctx: Context) -> Any:
        ctx.wait(ctx.checkpoint({"at": 3}))
        ctx.progress(3, 10)
        return ctx.wait(ctx.last_checkpoint())

    job_id = await accept(pool, resumes.new())
    async with at_work(pool, app):
        assert (await ended(pool, job_id))["result"] == {"at": 3}


async def test_a_coroutine_is_told_to_await_instead_of_waiting_for_itself(pool: Pool) -> None:
    app = StarForge()

    @app.job(retry=1)
    async def waits(ctx: Context) -> None:
        ctx.wait(ctx.checkpoint(1))

    job_id = await accept(pool, waits.new())
    async with at_work(pool, app):
        assert (await ended(pool, job_id))["last_error"]["error"] == "NotInThreadError"


async def test_a_coroutine_from_a_plain_function_is_refused_as_a_result(pool: Pool) -> None:
    """Somebody wrapped an async handler in a function that is not: it would never run."""
    app = StarForge()

    async def inner() -> None: ...

    app.job("wrapped")(lambda: inner())
    job_id = await accept(pool, app.new_job("wrapped"))
    async with at_work(pool, app):
        row = await ended(pool, job_id)
    assert row["status"] == "failed"
    assert "coroutine" in row["last_error"]["reason"]


# Deadlines.


async def test_a_thread_that_ends_soon_after_its_deadline_has_failed_and_costs_no_process(
    pool: Pool,
) -> None:
    app = StarForge()

    @app.job(retry=1, timeout=0.05)
    def polite(ctx: Context) -> str:
        while not ctx.cancelled:
            time.sleep(0.005)
        return "half of it"

    job_id = await accept(pool, polite.new())
    with capture_logs() as lines:
        async with at_work(pool, app) as runner:
            row = await ended(pool, job_id)
            assert not runner.recycling
    assert (row["status"], row["last_error"]["reason"]) == ("failed", "no result within 0.05 s")
    [told] = [line for line in lines if line["event"] == "job.overdue"]
    assert "in polite" in told["stack"]


async def test_the_jobs_own_timeout_wins_over_its_types(pool: Pool) -> None:
    app = StarForge()

    @app.job(retry=1, timeout=600)
    async def lingers() -> None:
        await asyncio.Event().wait()

    job_id = await accept(pool, lingers.options(timeout_s=0.05).new())
    async with at_work(pool, app):
        assert (await ended(pool, job_id))["last_error"]["reason"] == "no result within 0.05 s"


async def test_a_coroutine_that_turns_its_cancellation_into_something_else_has_timed_out(pool: Pool) -> None:
    app = StarForge()

    @app.job(retry=1, timeout=0.05)
    async def swallows(how: str) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if how == "raises":
                raise ValueError("cleaned up badly") from None
        return "as if nothing had been"

    ids = [await accept(pool, swallows.new(how)) for how in ("raises", "returns")]
    async with at_work(pool, app):
        for job_id in ids:
            assert (await ended(pool, job_id))["last_error"]["reason"] == "no result within 0.05 s"


@pytest.mark.parametrize("colour", ["thread", "coroutine"])
async def test_what_cannot_be_ended_stays_leased_while_the_others_end_and_its_process_is_given_up(
    pool: Pool, quick: None, colour: str
) -> None:
    app = StarForge()
    may_end, other_may_end = threading.Event(), asyncio.Event()

    @app.job("deaf.thread", timeout=0.1, retry=2)
    def thread() -> None:
        may_end.wait(30)

    @app.job("deaf.coroutine", timeout=0.1, retry=2)
    async def coroutine() -> None:
        while not may_end.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    @app.job
    async def other() -> None:
        await other_may_end.wait()

    overdue: list[Overdue] = []
    deaf = await accept(pool, NewJob(f"deaf.{colour}"))
    async with pool.connection() as conn:
        await enqueue(conn, other.new())
    with capture_logs() as lines:
        async with at_work(pool, app, concurrency=2, overdue=overdue) as runner:
            async with asyncio.timeout(15):
                while not runner.recycling:
                    await asyncio.sleep(0.01)
            await accept(pool, other.new())  # nobody claims it here any more
            other_may_end.set()
            await until(pool, HISTORY, 1)
        assert runner.stuck
        async with pool.connection() as conn:
            row = await conn.fetchrow("SELECT status, attempts FROM queue_jobs WHERE id = $1", deaf)
    assert row is not None
    assert tuple(row) == ("running", 0)
    told = [line for line in lines if line["event"] == "job.overdue"]
    assert "test_threads.py" in told[0]["stack"]
    assert [(each.job_id, each.final) for each in overdue] == [(deaf, False)]
    assert overdue[0].error["error"] == "TimeoutError"
    may_end.set()
    async with asyncio.timeout(10):
        while runner.stuck:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["checks", "raises", "coroutine"])
async def test_what_a_handler_makes_of_its_workers_stop_burns_no_attempt(pool: Pool, how: str) -> None:
    app = StarForge()
    started = threading.Event()

    @app.job
    def thread(ctx: Context) -> None:
        started.set()
        while not ctx.cancelled:
            time.sleep(0.005)
        if how == "checks":
            ctx.check()
        raise InterruptedError("stopped in the middle")

    @app.job
    async def coroutine() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise InterruptedError("stopped in the middle") from None

    await accept(pool, (coroutine if how == "coroutine" else thread).new())
    async with at_work(pool, app) as runner:
        async with asyncio.timeout(10):
            while not started.is_set():
                await asyncio.sleep(0.01)
        runner.stop()
    async with pool.connection() as conn:
        row = await conn.fetchrow("SELECT status, attempts, last_error FROM queue_jobs")
    assert row is not None
    assert tuple(row) == ("pending", 0, None)


# With processes.

APP = "tests.worker.marks:app"


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    conn = await connect(database)
    await conn.execute(TABLE)
    yield conn
    await conn.close()


@pytest.mark.parametrize("kind", ["marks.overdue_thread", "marks.overdue_coroutine"])
@covers("D-19")
async def test_an_overdue_job_fails_once_its_process_is_dead_and_a_new_one_goes_on(
    db: Connection, database: str, kind: str
) -> None:
    """Its first attempt never ends; the second, in another process, ends well."""
    await enqueue(db, NewJob(kind, max_attempts=2, timeout_s=0.3))
    async with a_worker(
        database, STARFORGE_CANCEL_S="0.3", STARFORGE_GRACE_S="1", STARFORGE_BACKOFF_BASE_S="0.01"
    ):
        await until_row(db, HISTORY, 1)
    row = await db.fetchrow("SELECT attempts, last_error FROM job_history")
    assert row is not None
    assert row["attempts"] == 1
    assert row["last_error"]["reason"].startswith("it went on past its timeout and could not be stopped")
    assert await db.fetchval("SELECT count(DISTINCT worker_id) FROM marks") == 2
    assert await db.fetchval(MARKS, "start") == 2
    assert await db.fetchval("SELECT stop_reason FROM workers WHERE state = 'dead'") == (
        "its process was recycled"
    )
    assert await db.fetchval("SELECT count(*) FROM job_kills") == 0  # nobody is blamed for it


async def test_a_thread_that_goes_on_after_the_grace_period_is_killed_and_its_job_given_back(
    db: Connection, database: str
) -> None:
    await enqueue(db, NewJob("marks.overdue_thread", max_attempts=1, timeout_s=60))
    async with a_worker(database, STARFORGE_GRACE_S="0.5") as worker:
        await until_row(db, MARKS, 1, "start")
        worker.terminate()
        assert await asyncio.wait_for(worker.wait(), 15) == 0
    row = await db.fetchrow("SELECT status, attempts FROM queue_jobs")
    assert row is not None
    assert tuple(row) == ("pending", 0)


def test_a_line_that_was_cut_off_says_nothing(tmp_path: Any) -> None:
    file = tmp_path / "overdue"
    file.write_text('{"job_id": "')
    with file.open("rb") as opened:
        assert noted(opened.fileno()) == []
