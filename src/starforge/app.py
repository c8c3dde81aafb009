"""What users hold: an app with job types and mappings.

app = StarForge("shop")

@app.job(queue="mail", retry=3)
async def welcome(user_id: int) -> None: ...

await welcome.enqueue(7)
await app.enqueue("welcome", {"user_id": 7})
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, Unpack, overload
from uuid import UUID

from starforge.db.lasting import LastingPools
from starforge.db.pool import Connection
from starforge.db.server import enqueue_url
from starforge.etl.ingest import process_snapshot_highmem_type, process_snapshot_type
from starforge.etl.mapping import Mapping as SourceMapping
from starforge.etl.mapping import Mappings
from starforge.heroes.mapping import HERO
from starforge.ops.plan import prune_plans
from starforge.queue import results
from starforge.queue.call import plan
from starforge.queue.caller import AsyncCaller, SyncCaller
from starforge.queue.context import current_context, current_job
from starforge.queue.declare import Declared, Limit, Rate, Retry, Unique, read_declared
from starforge.queue.depend import Depends, once
from starforge.queue.enqueue import enqueue, enqueue_many, enqueue_sync
from starforge.queue.entry import arguments, refuse_unknown
from starforge.queue.errors import DeclarationError, ScheduleError
from starforge.queue.function import JobFunction
from starforge.queue.handler import (
    Context,
    Discard,
    JobType,
    JobTypes,
    Middleware,
    PermanentError,
    Quarantined,
    RetryLater,
    Snooze,
)
from starforge.queue.job import Accepted, Key, NewJob
from starforge.queue.probe import PROBE
from starforge.queue.results import JobState
from starforge.queue.schedule import Missed, Schedule, Schedules
from starforge.queue.signature import Signature
from starforge.telemetry.trace import current_traceparent
from starforge.worker.child import load_app
from starforge.worker.duties import HOURLY_S, duties
from starforge.worker.errors import AppNotFoundError
from starforge.worker.upkeep import Task, unfenced

__all__ = [
    "Accepted",
    "Context",
    "Depends",
    "Discard",
    "JobFunction",
    "JobState",
    "Key",
    "Limit",
    "NewJob",
    "PermanentError",
    "Quarantined",
    "Rate",
    "Retry",
    "RetryLater",
    "Snooze",
    "StarForge",
    "Unique",
    "app",
    "current_context",
    "current_job",
    "load",
]

P = ParamSpec("P")
R = TypeVar("R")
Provider = TypeVar("Provider", bound=Callable[..., Any])
Around = TypeVar("Around", bound=Middleware)


class Register(Protocol):
    """What `app.job(…)` returns: it takes the handler."""

    @overload
    def __call__(self, handler: Callable[Concatenate[Context, P], R], /) -> JobFunction[P, R]: ...

    @overload
    def __call__(self, handler: Callable[P, R], /) -> JobFunction[P, R]: ...


class StarForge:
    """An app: the job types that a worker runs and the mappings that the ETL knows."""

    def __init__(self, name: str = "starforge", *, mappings: Iterable[SourceMapping] = ()) -> None:
        self.name = name
        self.mappings = Mappings([HERO, *mappings])
        self._types = JobTypes(
            [process_snapshot_type(self.mappings), process_snapshot_highmem_type(self.mappings), PROBE]
        )
        self._schedules = Schedules()
        self._elsewhere: Callable[[NewJob], Awaitable[Accepted]] | None = None
        self._pools = LastingPools(enqueue_url, application=f"starforge app {name}")

    @overload
    def job(self, name: Callable[Concatenate[Context, P], R], /) -> JobFunction[P, R]: ...

    @overload
    def job(self, name: Callable[P, R], /) -> JobFunction[P, R]: ...

    @overload
    def job(self, name: str | None = None, **declared: Unpack[Declared]) -> Register: ...

    def job(self, name: Any = None, **declared: Unpack[Declared]) -> Any:
        """Register a function as a job type; its parameters are the payload's fields, typed as annotated.

        A coroutine function runs on the worker's loop, a plain one in a thread. A parameter called `ctx`, or
        annotated with Context, gets the attempt's context; one marked with Depends is opened for it.

        Args:
            name: Name of the type; the function's where not given. `@app.job` without parentheses will do.
            declared: What `Declared` holds: queue, priority, retry, timeout, isolated, memory_bytes_max,
                high_memory, unique, limit, rate, owner, critical.
        Raises: DuplicateTypeError, DeclarationError.
        """
        # Annotations may name what is local to whoever declares the handler.
        if callable(name):
            return self._declare(name, None, sys._getframe(1).f_locals, {})
        return lambda handler: self._declare(handler, name, sys._getframe(1).f_locals, declared)

    def _declare(
        self, handler: Callable[..., R], name: str | None, names: Mapping[str, Any], declared: Declared
    ) -> JobFunction[..., R]:
        called = name or handler.__name__
        blocking = not inspect.iscoroutinefunction(handler)
        if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
            raise DeclarationError(f"job {called}: its handler is a generator; a handler returns")
        signature = Signature.of(handler, called, context_type=Context, names=names)
        run = plan(handler, signature, blocking=blocking)
        job_type = JobType(called, run, signature=signature, **read_declared(called, declared))
        self._types.add(job_type)
        return JobFunction(handler, job_type, signature, new=self.new_job, accept=self.enqueue)

    def resource(self, provider: Provider) -> Provider:
        """Have what this provider opens opened once for each worker process, and closed at its end.

        @app.resource
        async def mailer() -> AsyncIterator[Mailer]:
            async with Mailer() as opened:
                yield opened

        A handler asks for it with `mail: Mailer = Depends(mailer)`. A provider that is no resource is opened
        for each attempt and closed after it.
        """
        once(provider)
        return provider

    def middleware(self, middleware: Around) -> Around:
        """Run `async def m(ctx, call)` around every attempt of this app; the first one is outermost.

        It awaits `call()` and returns what that returns; what it raises is the attempt's outcome.
        """
        self._types.wrap(middleware)
        return middleware

    def cron(
        self,
        cron: str,
        *,
        tz: str = "UTC",
        missed: Missed = "latest",
        name: str | None = None,
        payload: Mapping[str, Any] | None = None,
        queue: str | None = None,
        priority: int | None = None,
    ) -> Callable[[JobFunction[P, R]], JobFunction[P, R]]:
        """Run a job by the clock; stands above `@app.job(...)`.

        A parameter called `scheduled_at` gets the tick's time.

        Args:
            cron: Minute, hour, day of month, month, day of week; or @hourly, @daily, @weekly …
            tz: Time zone, as in Europe/Berlin.
            missed: What becomes of ticks that nobody was there for: skip them, run the latest, or all.
            name: Name of the schedule; the job type's where not given.
            payload: The handler's arguments.
            queue: Queue of its jobs; the job type's where not given.
            priority: Priority of its jobs; the job type's where not given.
        Raises: ScheduleError.
        """

        def register(function: JobFunction[P, R]) -> JobFunction[P, R]:
            if not isinstance(function, JobFunction):
                raise ScheduleError(f"{function!r} is no job yet: put @app.cron above @app.job")
            self.schedule(
                name or function.name,
                cron,
                function.name,
                payload,
                tz=tz,
                missed=missed,
                queue=queue,
                priority=priority,
            )
            return function

        return register

    def schedule(
        self,
        name: str,
        cron: str,
        job_type: str,
        payload: Mapping[str, Any] | None = None,
        *,
        tz: str = "UTC",
        missed: Missed = "latest",
        queue: str | None = None,
        priority: int | None = None,
    ) -> None:
        """Declare a schedule of jobs of a type; for the arguments see `cron`. Raises: ScheduleError."""
        self._schedules.add(
            Schedule(
                name=name,
                cron=cron,
                type=job_type,
                payload=dict(payload or {}),
                timezone=tz,
                missed=missed,
                queue=queue,
                priority=priority,
            )
        )

    def schedules(self) -> list[Schedule]:
        """Return the schedules, each with what its job type says, for a worker to declare."""
        return [schedule.of_type(self._types.declared(schedule.type)) for schedule in self._schedules]

    def sources(self) -> list[str]:
        """Return the sources of snapshots that the app's mappings know."""
        return list(self.mappings.sources)

    def upkeep(self) -> list[Task]:
        """Return what a worker of this app does for all when it leads."""
        return [*duties(), Task("plans", HOURLY_S, unfenced(prune_plans))]

    def job_types(self) -> JobTypes:
        """Return the job types, for a worker."""
        return self._types

    def new_job(
        self,
        job_type: str,
        payload: Mapping[str, Any] | None = None,
        /,
        *,
        queue: str | None = None,
        priority: int | None = None,
        run_after: datetime | None = None,
        delay_s: float | None = None,
        max_attempts: int | None = None,
        tenant: str | None = None,
        tags: Iterable[str] = (),
        timeout_s: float | None = None,
        trace: str | None = None,
        unique: str | Key | None = None,
    ) -> NewJob:
        """Make a job of a type, with what the type declares where nothing is given.

        Inside a job, tenant and trace are that job's. A type that this app does not know is accepted as it
        is: another worker may know it, and it waits until one does.
        Raises: PayloadMisfitError where the payload does not fit the handler's parameters.
        """
        known = self._types.declared(job_type)
        given = arguments(job_type, payload)
        if known is not None and known.signature is not None:
            given = known.signature.encode(given)
        inside = current_job()
        return NewJob(
            type=job_type,
            payload=given,
            queue=queue or (known.queue if known else "default"),
            priority=priority if priority is not None else (known.priority if known else 0),
            max_attempts=max_attempts or (known.max_attempts if known else None),
            run_after=run_after,
            delay_s=delay_s,
            tenant=tenant or (inside.tenant if inside else None),
            limit_key=known.limit.key_of(given) if known and known.limit else "",
            tags=tuple(tags),
            timeout_s=timeout_s,
            trace=trace or current_traceparent(),
            unique=_key(unique, known, given),
        )

    def _asked_for(
        self, job_type: str, payload: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> NewJob:
        refuse_unknown(job_type, options, OPTIONS)
        return self.new_job(job_type, payload, **options)

    async def enqueue(
        self,
        job_type: str,
        payload: Mapping[str, Any] | None = None,
        /,
        *,
        conn: AsyncCaller | None = None,
        **options: Any,
    ) -> Accepted:
        """Accept one job; the answer has its id, and whether it is new.

        Args:
            job_type: Name of the type.
            payload: The handler's arguments: JSON values, or what the parameters are annotated with.
            conn: A connection of asyncpg, psycopg (AsyncConnection) or SQLAlchemy (AsyncConnection,
                AsyncSession) whose open transaction the job belongs to; where none is given, one that the
                app keeps, or the worker's own while a job runs here, and a transaction of its own.
            options: What `new_job` takes.
        """
        job = self._asked_for(job_type, payload, options)
        if self._elsewhere is not None:
            return await self._elsewhere(job)
        if conn is not None:
            return await enqueue(conn, job)
        async with self._connected(None) as own:
            return await enqueue(own, job)

    def enqueue_sync(
        self,
        conn: SyncCaller,
        job_type: str,
        payload: Mapping[str, Any] | None = None,
        /,
        **options: Any,
    ) -> Accepted:
        """Accept one job in the open transaction of a psycopg, SQLAlchemy or Django connection.

        Args:
            conn: psycopg's Connection, SQLAlchemy's Connection or Session, or django.db.connection.
            job_type: Name of the type.
            payload: As for enqueue.
            options: What `new_job` takes.
        """
        job = self._asked_for(job_type, payload, options)
        if self._elsewhere is not None:
            return _elsewhere_sync(self._elsewhere, job)
        return enqueue_sync(conn, job)

    async def enqueue_many(self, conn: Connection, jobs: Iterable[NewJob]) -> list[Accepted]:
        """Accept all of these jobs or none; the answers come in their order."""
        if self._elsewhere is not None:
            return [await self._elsewhere(job) for job in jobs]
        return await enqueue_many(conn, list(jobs))

    @contextmanager
    def accepting(self, elsewhere: Callable[[NewJob], Awaitable[Accepted]]) -> Iterator[None]:
        """Give every job that is enqueued to `elsewhere` instead, for the length of the block: for tests."""
        before, self._elsewhere = self._elsewhere, elsewhere
        try:
            yield
        finally:
            self._elsewhere = before

    async def job_state(self, job_id: UUID, *, conn: Connection | None = None) -> JobState:
        """Return a job as it is now, with its progress; raise UnknownJobError where there is none."""
        async with self._connected(conn) as used:
            return await results.job_state(used, job_id)

    async def result(self, job_id: UUID, *, conn: Connection | None = None) -> Any:
        """Return what a completed job returned.

        Raises: JobUnfinishedError; JobFailedError where it failed, is held back or was cancelled;
            UnknownJobError.
        """
        async with self._connected(conn) as used:
            return await results.result(used, job_id)

    async def wait_for(self, job_id: UUID, *, timeout_s: float, conn: Connection | None = None) -> Any:
        """Wait until a job has ended, at most `timeout_s`; return its result or raise what `result` does."""
        return await results.wait_for(lambda: self.job_state(job_id, conn=conn), timeout_s=timeout_s)

    @asynccontextmanager
    async def _connected(self, conn: Connection | None) -> AsyncIterator[Connection]:
        """Use the caller's connection, else the worker's where a job runs here, else one that is kept."""
        if conn is not None:
            yield conn
            return
        attempt = current_context()
        # A plain function runs in a thread, where a loop would be one of its own.
        here = attempt is not None and attempt.host.loop is asyncio.get_running_loop()
        async with (attempt.host.pool if attempt and here else self._pools).connection() as kept:
            yield kept


OPTIONS = tuple(inspect.signature(StarForge.new_job).parameters)[3:]
"""What may be said of a job beside its type and payload."""


def load(reference: str) -> StarForge:
    """Import the app that `module:attribute` names; raise AppNotFoundError where there is none."""
    app = load_app(reference)
    if not isinstance(app, StarForge):
        raise AppNotFoundError(f"--app {reference}: it is a {type(app).__name__}, not a StarForge")
    return app


def _elsewhere_sync(elsewhere: Callable[[NewJob], Awaitable[Accepted]], job: NewJob) -> Accepted:
    """Wait for what is async from code that is not, on a loop of a thread's own."""

    async def given() -> Accepted:
        return await elsewhere(job)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, given()).result()


def _key(asked: str | Key | None, known: JobType | None, payload: Mapping[str, Any]) -> Key | None:
    """Return what makes a job unique: what its enqueue says, else what its type declares."""
    if isinstance(asked, str):
        return Key(asked)
    if asked is None and known is not None and known.unique is not None:
        return known.unique.of(payload)
    return asked


app = StarForge()
"""The app of a worker that was given no other: the hero profile and nothing else."""
