"""What users hold: an app with job types and mappings.

app = StarForge("shop")

@app.job(queue="mail", retry=3)
async def welcome(user_id: int) -> None: ...

await welcome.enqueue(7)
await app.enqueue("welcome", {"user_id": 7})
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, Unpack, overload

from starforge.backfill.asset.upstream import Upstream
from starforge.backfill.declarer import Declarer
from starforge.backfill.partition.partition import Partition
from starforge.backfill.run.coordinate import coordinate
from starforge.backfill.run.run import partition_types
from starforge.backfill.scheme.hourly import Hourly
from starforge.backfill.scheme.keyed import KeyRange, Static
from starforge.backfill.scheme.scheme import KeySpan, Named, SnapshotWindow, Window
from starforge.backfill.scheme.snapshot_range import SnapshotRange
from starforge.backfill.scheme.window import Daily, Monthly
from starforge.backfill.state.retention import BATCH as BACKFILL_BATCH
from starforge.backfill.state.retention import prune_backfills
from starforge.db.pool import Connection, set_tenant
from starforge.etl.ingest.call import given
from starforge.etl.ingest.key import PRUNE_BATCH, prune_ingest_keys
from starforge.etl.ingest.receive import Receipt, take_here
from starforge.etl.load.job import process_snapshot_highmem_type, process_snapshot_type
from starforge.etl.mapping import Mapping as SourceMapping
from starforge.etl.mapping import Mappings
from starforge.etl.retention import retention
from starforge.etl.retention.sweep import sweep_objects
from starforge.etl.snapshot.quarantine import resume_released
from starforge.etl.source.catalogue import LOOK_S, settle
from starforge.etl.source.fit import FIT_S, report
from starforge.heroes.mapping import HERO
from starforge.operation import Change
from starforge.ops import coverage as _coverage  # noqa: F401 - adds its check to the preflight of app.backfill
from starforge.ops.audit import Entry, record
from starforge.ops.plan import prune_plans
from starforge.queue.call import plan
from starforge.queue.caller import is_asyncpg
from starforge.queue.context import current_context, current_job
from starforge.queue.declare import Declared, Limit, Rate, Retry, Unique, read_declared
from starforge.queue.depend import Depends, once
from starforge.queue.errors import CallerConnectionError, DeclarationError, ScheduleError
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
from starforge.queue.producer import Producer
from starforge.queue.results import JobState
from starforge.queue.schedule import Missed, Schedule, Schedules
from starforge.queue.signature import Signature
from starforge.reprocess import snapshot_range_handler, version_of
from starforge.settings import HomeSettings
from starforge.worker.child import load_app
from starforge.worker.duties import HOURLY_S, PRUNE_S, duties
from starforge.worker.errors import AppNotFoundError
from starforge.worker.supervise import Service
from starforge.worker.upkeep import Task, in_batches, unfenced

__all__ = [
    "Accepted",
    "Context",
    "Daily",
    "Depends",
    "Discard",
    "Hourly",
    "JobFunction",
    "JobState",
    "Key",
    "KeyRange",
    "KeySpan",
    "Limit",
    "Monthly",
    "Named",
    "NewJob",
    "Partition",
    "PermanentError",
    "Quarantined",
    "Rate",
    "Receipt",
    "Retry",
    "RetryLater",
    "SnapshotRange",
    "SnapshotWindow",
    "Snooze",
    "StarForge",
    "Static",
    "Unique",
    "Upstream",
    "Window",
    "app",
    "current_context",
    "current_job",
    "load",
]

RELEASED_S = 2.0
RELEASED_SHARE_MAX = 0.05
OBJECTS_S = 10.0

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


class StarForge(Producer, Declarer):
    """An app: the job types that a worker runs, assets, and the mappings that the ETL knows."""

    def __init__(self, name: str = "starforge", *, mappings: Iterable[SourceMapping] = ()) -> None:
        self.name = name
        self.mappings = Mappings([HERO, *mappings])
        types = JobTypes(
            [process_snapshot_type(self.mappings), process_snapshot_highmem_type(self.mappings), PROBE]
        )
        Producer.__init__(self, types, application=f"starforge app {name}")
        Declarer.__init__(self)
        self._schedules = Schedules()

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

    async def ingest(
        self,
        data: Any,
        source: str = HERO.name,
        *,
        captured_at: datetime | None = None,
        tenant: str | None = None,
        conn: Connection | None = None,
    ) -> Receipt:
        """Take one snapshot: it is stored and has a job, or is known already; the receipt says which.

        receipt = await app.ingest(profile)
        await app.ingest(raw, "fhir", captured_at=export.finished_at, conn=conn)

        Args:
            data: The document as bytes or text, kept byte for byte; or a value, which is encoded.
            source: The source whose mapping applies.
            captured_at: When it was taken; else the document says so, else now. Without a zone: UTC.
            tenant: For whom; inside a job that job's, else this process's.
            conn: An asyncpg connection whose open transaction the snapshot belongs to; else one that the
                app keeps, or the worker's own while a job runs here, and a transaction of its own.
        Raises: MalformedError, and nothing is kept; IngestPausedError; UnknownSourceError;
            InvalidInputError where a value cannot be made into JSON; CallerConnectionError.
        """
        judged = given(data, self.mappings.get(source), captured_at)
        inside = current_job()
        whose = tenant or (inside.tenant if inside else None) or HomeSettings.read().tenant
        if conn is not None:
            if not is_asyncpg(conn):
                raise CallerConnectionError("a snapshot goes over an asyncpg connection")
            return await take_here(conn, judged, tenant=whose)
        async with self._connected(None) as own, own.transaction():
            await set_tenant(own, whose)
            return await take_here(own, judged, tenant=whose)

    def upkeep(self) -> list[Task]:
        """Return what a worker of this app does for all when it leads."""
        fits = partial(report, mappings=tuple(self.mappings))
        return [
            *duties(),
            Task("plans", HOURLY_S, unfenced(prune_plans)),
            Task("catalogues", LOOK_S, unfenced(settle)),
            Task("mappings", FIT_S, unfenced(fits)),
            Task("released", RELEASED_S, unfenced(resume_released), share_max=RELEASED_SHARE_MAX),
            Task("snapshots", HOURLY_S, in_batches(retention.prune_snapshots, retention.BATCH)),
            Task("captures", HOURLY_S, in_batches(retention.prune_captures, retention.BATCH)),
            Task("quarantine", HOURLY_S, in_batches(retention.prune_quarantine, retention.BATCH)),
            Task("errors", HOURLY_S, in_batches(retention.prune_errors, retention.BATCH)),
            Task("objects", OBJECTS_S, in_batches(retention.drop_objects, retention.OBJECTS_BATCH)),
            Task("backfills", HOURLY_S, in_batches(prune_backfills, BACKFILL_BATCH)),
            Task("ingest_keys", PRUNE_S, in_batches(prune_ingest_keys, PRUNE_BATCH)),
            Task("orphans", HOURLY_S, unfenced(sweep_objects)),
        ]

    def services(self) -> list[Service]:
        """Return what a worker of this app does beside its jobs: it looks after backfills."""
        return [partial(coordinate, self.assets)]

    def job_types(self) -> JobTypes:
        """Return the job types, for a worker: also those that make the partitions of assets.

        Raises: AssetDeclarationError where the assets do not fit one another.
        """
        self.assets.bind()
        for job_type in partition_types(self.assets):
            if self._types.declared(job_type.name) is None:
                self._types.add(job_type)
        return self._types

    def _reprocessing(self, source: str) -> tuple[Callable[..., Any], str]:
        return snapshot_range_handler(self.mappings), version_of(self.mappings.get(source))

    async def _record(
        self,
        conn: Connection,
        operation: str,
        arguments: Mapping[str, Any],
        reason: str,
        tenant: str,
        change: Change,
    ) -> None:
        actor = f"app {self.name}"
        entry = Entry(tenant, actor, "operator", operation, arguments, reason or None, change=change)
        await record(conn, entry)


def load(reference: str) -> StarForge:
    """Import the app that `module:attribute` names; raise AppNotFoundError where there is none."""
    app = load_app(reference)
    if not isinstance(app, StarForge):
        raise AppNotFoundError(f"--app {reference}: it is a {type(app).__name__}, not a StarForge")
    return app


app = StarForge()
"""The app of a worker that was given no other: the hero profile and nothing else."""
