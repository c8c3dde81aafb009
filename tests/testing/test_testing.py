"""What users' tests are given: a clean queue each, jobs drained in the test itself, and jobs run inline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from starforge.app import Context, Discard, Retry, StarForge
from starforge.queue.errors import PayloadMisfitError, PayloadTooLargeError
from starforge.testing import URL_ENV, JobsFailedError, NoDatabaseError, NotDrainedError, Queue, inline
from tests.postgres import TestServer


@pytest.fixture(scope="session", autouse=True)
def on_the_sessions_server(server: TestServer) -> Iterator[None]:
    """The fixture's own server is the embedded one; here the session's will do, whichever version it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(URL_ENV, server.url())
        yield


@dataclass
class Shop:
    """A user's program: an app, and what its jobs have done."""

    app: StarForge = field(default_factory=lambda: StarForge("shop"))
    done: list[str] = field(default_factory=list)


@pytest.fixture
def shop() -> Shop:
    made = Shop()
    app, done = made.app, made.done

    @app.job("welcome")
    async def welcome(user: str) -> int:
        done.append(user)
        return len(done)

    @app.job("invite", queue="mail")
    async def invite(user: str, friends: list[str]) -> None:
        done.append(user)
        for friend in friends:
            await app.enqueue("welcome", {"user": friend})

    @app.job("blocking")
    def blocking(user: str) -> None:
        done.append(user)

    @app.job("picky", retry=Retry(attempts=3))
    async def picky(ctx: Context, user: str) -> None:
        if ctx.attempt == 1:
            raise ValueError(f"no {user}")
        done.append(user)

    @app.job("counts")
    async def counts(ctx: Context) -> None:
        async with ctx.pool.connection() as conn:
            done.append(str(await conn.fetchval("SELECT 1")))

    @app.job("unwanted")
    async def unwanted() -> None:
        raise Discard("nobody wants it")

    @app.job("endless")
    async def endless() -> None:
        await app.enqueue("endless")

    return made


async def test_due_jobs_and_what_they_enqueue_run_in_the_tests_process(
    starforge_queue: Queue, shop: Shop
) -> None:
    await shop.app.enqueue("invite", {"user": "ann", "friends": ["bob", "cid"]})
    assert [(job.type, job.queue, job.status) for job in await starforge_queue.jobs()] == [
        ("invite", "mail", "pending")
    ]
    drained = await starforge_queue.drain(shop.app)
    assert (drained.completed, drained.failures) == (3, [])
    assert sorted(shop.done) == ["ann", "bob", "cid"]
    assert await starforge_queue.jobs() == []


async def test_each_test_starts_with_an_empty_queue(starforge_queue: Queue) -> None:
    assert await starforge_queue.jobs() == []


async def test_a_later_job_waits_until_the_test_travels(starforge_queue: Queue, shop: Shop) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    await shop.app.enqueue("welcome", {"user": "ann"}, run_after=later)
    assert (await starforge_queue.drain(shop.app)).completed == 0
    await starforge_queue.travel(hours=2)
    assert (await starforge_queue.drain(shop.app)).completed == 1


async def test_a_failing_job_fails_the_drain_with_its_reason_and_is_retried_later(
    starforge_queue: Queue, shop: Shop
) -> None:
    await shop.app.enqueue("picky", {"user": "ann"})
    with pytest.raises(JobsFailedError, match=r"picky job .*: no ann"):
        await starforge_queue.drain(shop.app)
    await starforge_queue.travel(hours=2)
    assert (await starforge_queue.drain(shop.app)).completed == 1
    await shop.app.enqueue("picky", {"user": "bob"})
    drained = await starforge_queue.drain(shop.app, raising=False)
    assert [(job.type, job.attempts) for job in drained.failures] == [("picky", 1)]


async def test_discarded_and_blocking_jobs_are_told_apart(starforge_queue: Queue, shop: Shop) -> None:
    await shop.app.enqueue("unwanted")
    await shop.app.enqueue("blocking", {"user": "ann"})
    drained = await starforge_queue.drain(shop.app)
    assert (drained.completed, drained.cancelled, shop.done) == (1, 1, ["ann"])


async def test_a_queue_that_never_runs_dry_is_given_up_after_the_stated_time(
    starforge_queue: Queue, shop: Shop
) -> None:
    await shop.app.enqueue("endless")
    with pytest.raises(NotDrainedError):
        await starforge_queue.drain(shop.app, within_s=0.3)


def test_a_test_that_is_not_async_can_enqueue_and_drain(starforge_queue: Queue, shop: Shop) -> None:
    with psycopg.connect(starforge_queue.url) as conn:
        shop.app.enqueue_sync(conn, "welcome", {"user": "ann"})
    assert asyncio.run(starforge_queue.drain(shop.app)).completed == 1


async def test_inline_jobs_run_where_they_are_enqueued_with_what_they_enqueue(shop: Shop) -> None:
    with inline(shop.app) as ran:
        accepted = await shop.app.enqueue("invite", {"user": "ann", "friends": ["bob"]})
        assert shop.done == ["ann", "bob"]
    assert accepted.new
    assert [(job.type, job.ending) for job in ran] == [("welcome", "done"), ("invite", "done")]
    assert ran[0].result == 2


async def test_inline_arguments_are_checked_as_the_queue_would(shop: Shop) -> None:
    with inline(shop.app) as ran:
        with pytest.raises(PayloadMisfitError):
            await shop.app.enqueue("welcome", {"user": 7})
        with pytest.raises(PayloadTooLargeError):
            await shop.app.enqueue("welcome", {"user": "x" * 300_000})
    assert ran == []


async def test_an_inline_jobs_error_reaches_whoever_enqueued_it_or_is_kept(shop: Shop) -> None:
    with inline(shop.app), pytest.raises(ValueError, match="no ann"):
        await shop.app.enqueue("picky", {"user": "ann"})
    with inline(shop.app, raising=False) as ran:
        await shop.app.enqueue("picky", {"user": "ann"})
        await shop.app.enqueue("unwanted")
        await shop.app.enqueue("elsewhere")
    assert [(job.type, job.ending) for job in ran] == [
        ("picky", "failed"),
        ("unwanted", "cancelled"),
        ("elsewhere", "unknown"),
    ]


async def test_inline_there_is_no_database_and_the_error_says_what_to_use(shop: Shop) -> None:
    with inline(shop.app), pytest.raises(NoDatabaseError, match="connection cannot be had"):
        await shop.app.enqueue("counts")


def test_code_that_is_not_async_enqueues_inline_too(shop: Shop) -> None:
    never_used: Any = object()
    with inline(shop.app) as ran:
        shop.app.enqueue_sync(never_used, "blocking", {"user": "ann"})
    assert (shop.done, [job.ending for job in ran]) == (["ann"], ["done"])
