"""What users hold: an app with job types and mappings.

app = StarForge("shop")

@app.job(queue="mail", retry=3)
async def welcome(user_id: int) -> None: ...

await app.enqueue("welcome", {"user_id": 7})
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from starforge.db.pool import Connection, connect
from starforge.db.server import enqueue_url
from starforge.etl.ingest import process_snapshot_highmem_type, process_snapshot_type
from starforge.etl.mapping import Mapping as SourceMapping
from starforge.etl.mapping import Mappings
from starforge.heroes.mapping import HERO
from starforge.ops.plan import prune_plans
from starforge.queue.caller import AsyncCaller, SyncCaller
from starforge.queue.declare import (
    KeyOf,
    Limit,
    Rate,
    Retry,
    Unique,
    as_limit,
    as_rate,
    as_retry,
    as_unique,
    seconds,
)
from starforge.queue.enqueue import enqueue, enqueue_many, enqueue_sync
from starforge.queue.errors import HandlerNotAsyncError, ScheduleError
from starforge.queue.handler import Context, JobType, JobTypes
from starforge.queue.job import Accepted, NewJob
from starforge.queue.probe import PROBE
from starforge.queue.schedule import Missed, Schedule, Schedules
from starforge.worker.child import load_app
from starforge.worker.duties import HOURLY_S, duties
from starforge.worker.errors import AppNotFoundError
from starforge.worker.upkeep import Task, unfenced

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Any]])


class StarForge:
    """An app: the job types that a worker runs and the mappings that the ETL knows."""

    def __init__(self, name: str = "starforge", *, mappings: Iterable[SourceMapping] = ()) -> None:
        self.name = name
        self.mappings = Mappings([HERO, *mappings])
        self._types = JobTypes(
            [process_snapshot_type(self.mappings), process_snapshot_highmem_type(self.mappings), PROBE]
        )
        self._handlers: dict[str, Callable[..., Any]] = {}
        self._schedules = Schedules()

    def job(
        self,
        name: str | None = None,
        *,
        queue: str = "default",
        priority: int = 0,
        retry: int | Retry | None = None,
        timeout: float | timedelta | None = None,
        isolated: bool = False,
        high_memory: bool = False,
        unique: bool | KeyOf | Unique | None = None,
        limit: int | Limit | None = None,
        rate: str | Rate | None = None,
        owner: str | None = None,
        critical: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Register an async function as a job type; its parameters are the payload's keys.

        A parameter called `ctx` gets the attempt's Context.
        Raises: HandlerNotAsyncError, DuplicateTypeError, DeclarationError.
        """

        def register(handler: Handler) -> Handler:
            is_async = inspect.iscoroutinefunction(handler)
            if not is_async:
                raise HandlerNotAsyncError(
                    f"the handler of job type {name or handler.__name__!r} is not async"
                )
            self._types.add(
                JobType(
                    name=name or handler.__name__,
                    run=_called(handler),
                    queue=queue,
                    priority=priority,
                    retry=as_retry(retry),
                    timeout_s=None if timeout is None else seconds("timeout", timeout),
                    limit=as_limit(limit),
                    rate=as_rate(rate),
                    unique=as_unique(unique),
                    owner=owner,
                    critical=critical,
                    isolated=isolated,
                    high_memory=high_memory,
                )
            )
            self._handlers[name or handler.__name__] = handler
            return handler

        return register

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
    ) -> Callable[[Handler], Handler]:
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

        def register(handler: Handler) -> Handler:
            job_type = next((known for known, of in self._handlers.items() if of is handler), None)
            if job_type is None:
                raise ScheduleError(f"{handler.__name__} is no job yet: put @app.cron above @app.job")
            self.schedule(
                name or job_type,
                cron,
                job_type,
                payload,
                tz=tz,
                missed=missed,
                queue=queue,
                priority=priority,
            )
            return handler

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
        return [
            schedule.of_type(self._types.get(schedule.type), self._handlers.get(schedule.type))
            for schedule in self._schedules
        ]

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
        *,
        queue: str | None = None,
        priority: int | None = None,
        run_after: datetime | None = None,
        max_attempts: int | None = None,
    ) -> NewJob:
        """Make a job of a type with the type's own queue, priority and attempts where none are given."""
        known = self._types.get(job_type)
        return NewJob(
            type=job_type,
            payload=dict(payload or {}),
            queue=queue or (known.queue if known else "default"),
            priority=priority if priority is not None else (known.priority if known else 0),
            max_attempts=max_attempts or (known.max_attempts if known else None),
            run_after=run_after,
        )

    async def enqueue(
        self,
        job_type: str,
        payload: Mapping[str, Any] | None = None,
        *,
        conn: AsyncCaller | None = None,
        **options: Any,
    ) -> Accepted:
        """Accept one job; the answer has its id, and whether it is new.

        Args:
            job_type: Name of the type.
            payload: JSON object of the handler's arguments.
            conn: A connection of asyncpg, psycopg (AsyncConnection) or SQLAlchemy (AsyncConnection,
                AsyncSession) whose open transaction the job belongs to; a new one where not given.
            options: queue, priority, run_after, max_attempts.
        """
        job = self.new_job(job_type, payload, **options)
        if conn is not None:
            return await enqueue(conn, job)
        own = await connect(await enqueue_url())
        try:
            return await enqueue(own, job)
        finally:
            await own.close()

    def enqueue_sync(
        self,
        conn: SyncCaller,
        job_type: str,
        payload: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Accepted:
        """Accept one job in the open transaction of a psycopg, SQLAlchemy or Django connection.

        Args:
            conn: psycopg's Connection, SQLAlchemy's Connection or Session, or django.db.connection.
            job_type: Name of the type.
            payload: JSON object of the handler's arguments.
            options: As for enqueue.
        """
        return enqueue_sync(conn, self.new_job(job_type, payload, **options))

    async def enqueue_many(self, conn: Connection, jobs: Iterable[NewJob]) -> list[Accepted]:
        """Accept all of these jobs or none; the answers come in their order."""
        return await enqueue_many(conn, list(jobs))


def load(reference: str) -> StarForge:
    """Import the app that `module:attribute` names; raise AppNotFoundError where there is none."""
    app = load_app(reference)
    if not isinstance(app, StarForge):
        raise AppNotFoundError(f"--app {reference}: it is a {type(app).__name__}, not a StarForge")
    return app


def _called(handler: Callable[..., Awaitable[Any]]) -> Callable[[Context, Mapping[str, Any]], Awaitable[Any]]:
    if "ctx" in inspect.signature(handler).parameters:

        async def with_context(ctx: Context, payload: Mapping[str, Any]) -> Any:
            return await handler(ctx=ctx, **payload)

        return with_context

    async def without(_ctx: Context, payload: Mapping[str, Any]) -> Any:
        return await handler(**payload)

    return without


app = StarForge()
"""The app of a worker that was given no other: the hero profile and nothing else."""
