"""The producer: makes jobs of the types that an app knows, enqueues them, and tells what became of them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from starforge.db.lasting import LastingPools
from starforge.db.pool import Connection
from starforge.db.server import enqueue_url
from starforge.queue import results
from starforge.queue.caller import AsyncCaller, SyncCaller
from starforge.queue.context import current_context, current_job
from starforge.queue.enqueue import enqueue, enqueue_many, enqueue_sync
from starforge.queue.entry import arguments, refuse_unknown
from starforge.queue.handler import JobType, JobTypes
from starforge.queue.job import Accepted, Key, NewJob
from starforge.queue.results import JobState
from starforge.telemetry.trace import current_traceparent


class Producer:
    """The half of an app that a program enqueues with; the other half declares what its workers run.

    Args:
        types: The types that it knows; jobs of others are accepted as they are.
        application: What its own connections are called in the database.
    """

    def __init__(self, types: JobTypes, *, application: str) -> None:
        self._types = types
        self._elsewhere: Callable[[NewJob], Awaitable[Accepted]] | None = None
        self._pools = LastingPools(enqueue_url, application=application)

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


OPTIONS = tuple(inspect.signature(Producer.new_job).parameters)[3:]
"""What may be said of a job beside its type and payload."""


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
