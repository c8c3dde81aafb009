"""What a handler is given beside its payload, and what runs around it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import pytest
import structlog
from structlog.testing import capture_logs

from starforge.app import StarForge
from starforge.db.pool import Pool
from starforge.queue.context import Context, current_context, current_job
from starforge.queue.depend import Depends
from starforge.queue.enqueue import enqueue_many
from starforge.queue.errors import PayloadMisfitError
from starforge.telemetry.trace import current_traceparent, trace, with_job
from tests.worker.at_work import accept, at_work, ended, until

HISTORY = "SELECT count(*) FROM job_history"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

seen: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


async def _async_generator(ctx: Context) -> AsyncIterator[str]:
    seen.append(("open", ctx.attempt))
    yield "value"
    seen.append("close")


def _generator(ctx: Context) -> Iterator[str]:
    seen.append(("open", ctx.attempt))
    assert threading.current_thread().name.startswith("starforge-job-")
    yield "value"
    seen.append("close")


@asynccontextmanager
async def _async_manager(ctx: Context) -> AsyncIterator[str]:
    async for value in _async_generator(ctx):
        yield value


@contextmanager
def _manager(ctx: Context) -> Iterator[str]:
    yield from _generator(ctx)


async def _coroutine(ctx: Context) -> str:
    seen.append(("open", ctx.attempt))
    seen.append("close")
    return "value"


def _plain(ctx: Context) -> str:
    seen.append(("open", ctx.attempt))
    seen.append("close")
    return "value"


@pytest.mark.parametrize(
    "provider", [_async_generator, _generator, _async_manager, _manager, _coroutine, _plain]
)
@pytest.mark.parametrize("blocking", [False, True], ids=["coroutine", "thread"])
async def test_what_a_handler_depends_on_is_opened_and_closed_around_each_attempt(
    pool: Pool, provider: Callable[..., Any], blocking: bool
) -> None:
    app = StarForge()

    if blocking:

        @app.job("uses")
        def in_thread(n: int, thing: Annotated[str, Depends(provider)]) -> str:
            seen.append("run")
            return f"{thing} {n}"
    else:

        @app.job("uses")
        async def on_loop(n: int, thing: str = Depends(provider)) -> str:
            seen.append("run")
            return f"{thing} {n}"

    job_id = await accept(pool, app.new_job("uses", {"n": 7}))
    async with at_work(pool, app):
        assert (await ended(pool, job_id))["result"] == "value 7"
    assert sorted(map(str, seen)) == sorted(map(str, [("open", 1), "run", "close"]))


async def test_what_follows_a_failure_is_told_of_it_and_closes_all_the_same(pool: Pool) -> None:
    app = StarForge()

    async def session() -> AsyncIterator[int]:
        try:
            yield 1
        except ValueError as error:
            seen.append(f"rolled back: {error}")
            raise
        finally:
            seen.append("closed")

    @app.job(retry=1)
    async def fails(session: int = Depends(session)) -> None:
        raise ValueError("no")

    job_id = await accept(pool, fails.new())
    async with at_work(pool, app):
        assert (await ended(pool, job_id))["last_error"]["reason"] == "no"
    assert seen == ["rolled back: no", "closed"]


async def test_a_provider_is_opened_once_for_an_attempt_however_many_need_it(pool: Pool) -> None:
    app = StarForge()

    async def session() -> AsyncIterator[object]:
        seen.append("open")
        yield object()

    async def users(session: object = Depends(session)) -> object:
        return session

    @app.job
    async def uses(one: object = Depends(session), other: object = Depends(users)) -> bool:
        return one is other

    async with pool.connection() as conn:
        await enqueue_many(conn, [uses.new() for _ in range(3)])
    async with at_work(pool, app):
        await until(pool, "SELECT count(*) FROM job_history WHERE result = 'true'", 3)
    assert seen == ["open"] * 3


async def test_a_resource_is_opened_once_for_the_process_and_closed_at_its_end(pool: Pool) -> None:
    app = StarForge()

    @app.resource
    async def settings() -> AsyncIterator[str]:
        seen.append("open settings")
        yield "settings"
        seen.append("close settings")

    @app.resource
    async def client(settings: str = Depends(settings)) -> AsyncIterator[str]:
        task = asyncio.current_task()
        seen.append(f"open client with {settings}, for {current_job()}")
        yield "client"
        assert asyncio.current_task() is task  # what is bound to a task is closed in it
        seen.append("close client")

    @app.job
    async def calls(n: int, client: str = Depends(client)) -> str:
        return f"{client} {n}"

    async with pool.connection() as conn:
        await enqueue_many(conn, [calls.new(n) for n in range(20)])
    async with at_work(pool, app, concurrency=4):
        await until(pool, HISTORY, 20)
        assert seen == ["open settings", "open client with settings, for None"]
    assert seen[2:] == ["close client", "close settings"]


async def test_a_resource_that_cannot_be_opened_fails_its_attempt_and_is_tried_again(pool: Pool) -> None:
    app = StarForge()

    @app.resource
    async def client() -> str:
        seen.append("try")
        if len(seen) < 3:
            raise ConnectionRefusedError("nobody there")
        return "client"

    @app.job(retry=5)
    async def calls(client: str = Depends(client)) -> str:
        return client

    job_id = await accept(pool, calls.new())
    async with pool.connection() as conn, at_work(pool, app):
        for _ in range(2):
            await until(pool, "SELECT last_error IS NOT NULL AND status = 'pending' FROM queue_jobs", True)
            await conn.execute("UPDATE queue_jobs SET run_after = sf_now(), last_error = NULL")
        row = await ended(pool, job_id)
    assert (row["status"], row["attempts"], row["result"]) == ("completed", 2, "client")


async def test_nothing_is_opened_for_a_payload_that_does_not_fit(pool: Pool) -> None:
    app = StarForge()

    @app.job
    async def uses(n: int, thing: str = Depends(_async_generator)) -> None: ...

    with pytest.raises(PayloadMisfitError):
        app.new_job("uses", {"n": "x"})
    job = app.new_job("uses", {"n": 1})
    job.payload["n"] = "x"
    job_id = await accept(pool, job)
    async with at_work(pool, app):
        assert (await ended(pool, job_id))["status"] == "failed"
    assert seen == []


# Middleware.


@pytest.mark.parametrize("blocking", [False, True], ids=["coroutine", "thread"])
async def test_middleware_runs_around_every_attempt_the_first_outermost(pool: Pool, blocking: bool) -> None:
    app = StarForge()

    @app.middleware
    async def outer(ctx: Context, call: Callable[[], Awaitable[Any]]) -> Any:
        seen.append(f"outer before {ctx.job.type}")
        result = await call()
        seen.append("outer after")
        return {**result, "outer": True}

    if blocking:

        @app.job("works")
        def in_thread() -> dict[str, Any]:
            seen.append("run")
            return {}
    else:

        @app.job("works")
        async def works() -> dict[str, Any]:
            seen.append("run")
            return {}

    @app.middleware
    async def inner(ctx: Context, call: Callable[[], Awaitable[Any]]) -> Any:
        seen.append("inner before")
        try:
            return await call()
        finally:
            seen.append("inner after")

    job_id = await accept(pool, app.new_job("works"))
    async with at_work(pool, app):
        assert (await ended(pool, job_id))["result"] == {"outer": True}
    assert seen == ["outer before works", "inner before", "run", "inner after", "outer after"]


async def test_what_middleware_raises_is_the_attempts_outcome(pool: Pool) -> None:
    app = StarForge()

    @app.middleware
    async def refuses(ctx: Context, call: Callable[[], Awaitable[Any]]) -> Any:
        raise PermissionError("not today")

    @app.job(retry=1)
    async def works() -> None:
        seen.append("run")

    job_id = await accept(pool, works.new())
    async with at_work(pool, app):
        assert (await ended(pool, job_id))["last_error"]["reason"] == "not today"
    assert seen == []


async def test_without_middleware_nothing_is_around_a_handler() -> None:
    app = StarForge()

    @app.job
    async def works() -> None: ...

    found = app.job_types().get("works")
    assert found is works.type


# Context variables and traces.


async def test_code_far_below_a_handler_knows_for_which_job_it_runs(pool: Pool) -> None:
    app = StarForge()

    async def below() -> None:
        context, job = current_context(), current_job()
        assert context is not None
        seen.append((context.job is job, job is not None and job.type))

    @app.job
    async def works() -> None:
        await below()
        await asyncio.sleep(0)
        await asyncio.gather(below(), asyncio.create_task(below()))

    job_id = await accept(pool, works.new())
    async with at_work(pool, app):
        assert (await ended(pool, job_id))["status"] == "completed"
    assert seen == [(True, "works")] * 3
    assert current_job() is None


async def test_a_log_line_of_a_handler_names_its_job(pool: Pool) -> None:
    app = StarForge()

    @app.job
    async def works() -> None:
        seen.append(with_job(None, "info", {"event": "hello"}))
        seen.append(with_job(None, "info", {"event": "about another", "job_id": "x"}))
        structlog.contextvars.bind_contextvars(left="behind")

    @app.job
    async def after() -> None:
        seen.append(structlog.contextvars.get_contextvars())

    job_id = await accept(pool, works.new())
    async with at_work(pool, app, concurrency=1):
        await ended(pool, job_id)
        await ended(pool, await accept(pool, after.new()))
    assert seen == [
        {"event": "hello", "job_id": str(job_id), "type": "works"},
        {"event": "about another", "job_id": "x", "type": "works"},
        {},
    ]
    assert with_job(None, "info", {"event": "hello"}) == {"event": "hello"}


async def test_jobs_that_a_job_enqueues_belong_to_its_trace_and_its_tenant(pool: Pool) -> None:
    app = StarForge()

    @app.job
    async def parent(ctx: Context) -> None:
        assert ctx.job.trace == current_traceparent() == PARENT
        async with ctx.pool.connection() as conn:
            await child.options(conn=conn).enqueue()

    @app.job
    async def child(ctx: Context) -> list[str | None]:
        return [ctx.job.trace, ctx.tenant]

    token = trace.set(PARENT)
    job = parent.options(tenant="acme").new()
    trace.reset(token)
    assert current_traceparent() is None
    await accept(pool, job)
    async with at_work(pool, app):
        await until(pool, HISTORY, 2)
    async with pool.connection() as conn:
        rows = await conn.fetch("SELECT trace, tenant_id FROM job_history")
        assert await conn.fetchval("SELECT result FROM job_history WHERE type = 'child'") == [PARENT, "acme"]
    assert {tuple(row) for row in rows} == {(PARENT, "acme")}


async def test_where_opentelemetry_is_loaded_its_span_is_the_trace(pool: Pool) -> None:
    from opentelemetry import context
    from opentelemetry import trace as otel

    app = StarForge()

    @app.job
    async def works() -> str:
        span = otel.get_current_span().get_span_context()
        return f"{span.trace_id:032x}-{span.span_id:016x}-{span.is_remote}"

    parent = otel.SpanContext(
        0x0AF7651916CD43DD8448EB211C80319C,
        0xB7AD6B7169203331,
        is_remote=False,
        trace_flags=otel.TraceFlags(1),
    )
    token = context.attach(otel.set_span_in_context(otel.NonRecordingSpan(parent)))
    job = works.new()
    context.detach(token)
    assert job.trace == PARENT
    job_id = await accept(pool, job)
    async with at_work(pool, app):
        assert (await ended(pool, job_id))["result"] == (
            "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-True"
        )


async def test_a_trace_that_is_no_traceparent_is_carried_and_harms_nobody(pool: Pool) -> None:
    app = StarForge()

    @app.job
    async def works() -> str | None:
        return current_traceparent()

    job_id = await accept(pool, works.options(trace="order 7").new())
    with capture_logs():
        async with at_work(pool, app):
            assert (await ended(pool, job_id))["result"] == "order 7"
