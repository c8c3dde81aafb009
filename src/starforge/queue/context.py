"""The context of an attempt: what a handler may ask and say beside its payload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar
from uuid import UUID

import msgspec

from starforge.clock import monotonic_s
from starforge.db.pool import Connection, Pool, set_tenant
from starforge.db.probing import plan_by_probes
from starforge.queue.complete import complete
from starforge.queue.depend import Resources
from starforge.queue.errors import AttemptEndedError, LeaseLostError, NotInThreadError
from starforge.queue.job import LeasedJob
from starforge.queue.progress import Progress, forget, last_checkpoint, save_checkpoint
from starforge.queue.results import encode_result
from starforge.queue.standstill import Standstill
from starforge.telemetry.trace import Running, running

T = TypeVar("T")


class Threads(Protocol):
    """Where blocking code runs."""

    def run(self, call: Callable[[], Any], *, last: bool = False) -> Coroutine[Any, Any, Any]:
        """Run `call` in a thread and return what it returns; `last`: nothing is to follow it."""
        ...

    def stack(self, attempt: Running) -> str | None:
        """Return where an attempt's thread is now; None where it has none."""
        ...


def _ignore(_context: Context) -> None:
    """Nobody is there to end what cannot be ended."""


class Host:
    """What the process that runs attempts lends to each of them."""

    __slots__ = (
        "attempts",
        "cut",
        "loop",
        "on_overdue",
        "pool",
        "progress",
        "resources",
        "standstill",
        "threads",
        "worker_id",
    )

    def __init__(
        self,
        pool: Pool,
        worker_id: UUID,
        *,
        threads: Threads,
        on_overdue: Callable[[Context], None] = _ignore,
    ) -> None:
        self.pool, self.worker_id, self.threads, self.on_overdue = pool, worker_id, threads, on_overdue
        self.loop = asyncio.get_running_loop()
        self.resources = Resources(threads.run)
        self.progress = Progress(pool, worker_id)
        self.attempts: dict[UUID, Context] = {}
        """The attempts that run now, by their jobs' ids."""

        self.standstill = Standstill()
        self.cut = asyncio.Event()
        """Set when the worker stops and cancels what still runs."""


class Context(msgspec.Struct, eq=False):
    """What a handler is given beside its payload."""

    job: LeasedJob
    host: Host
    task: asyncio.Task[Any] | None = None
    started_s: float = 0.0
    asked: str | None = None
    """Why the job was cancelled, once somebody has asked for that."""

    expired: bool = False
    """Its time is over."""

    written: bool = False
    """Its completion is committed: nothing that follows changes that."""

    coroutine: Coroutine[Any, Any, Any] | None = None
    """The handler, once it runs: where it is can be read from it."""

    outcome: Any = None
    """What it said by `complete`."""

    @property
    def pool(self) -> Pool:
        """The worker's connections; `pool.transaction(tenant=ctx.tenant)` speaks for the job's tenant."""
        return self.host.pool

    @property
    def worker_id(self) -> UUID:
        return self.host.worker_id

    @property
    def attempt(self) -> int:
        """The number of this attempt: 1 for the first."""
        return self.job.attempt

    @property
    def tenant(self) -> str:
        """The tenant that the job belongs to."""
        return self.job.tenant

    @property
    def cancelled(self) -> bool:
        """Whether the handler should end now: its job is cancelled, its time is over, or its worker stops.

        A coroutine gets CancelledError as well; a plain function, which runs in a thread, has to ask.
        """
        return self.expired or self.asked is not None or self.host.cut.is_set()

    def check(self) -> None:
        """End a plain function here if it should end now: raise CancelledError where `cancelled` is true."""
        if self.cancelled:
            raise asyncio.CancelledError

    def cancel(self, reason: str) -> None:
        """Have the attempt end as cancelled; a handler that completes all the same has completed."""
        if self.asked is None and self.task is not None:
            self.asked = reason
            self.task.cancel()

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the job is; shown within a tenth of a second, from any thread."""
        self.host.progress.note(self.job, done, total, message)

    async def checkpoint(self, value: Any) -> None:
        """Keep a JSON value for the job's next attempt, should this one not complete.

        Raises: LeaseLostError when the job is no longer this worker's: stop, another one has it.
        """
        encoded = encode_result(value, what="checkpoint")
        self.host.progress.used.add(self.job.id)
        async with self.host.pool.connection() as conn:
            if not await save_checkpoint(conn, self.job, encoded, worker_id=self.host.worker_id):
                raise LeaseLostError(self.job.id, self.job.lease_epoch)

    async def last_checkpoint(self) -> Any:
        """Return the value of the newest checkpoint, this attempt's or an earlier one's; None without."""
        async with self.host.pool.connection() as conn:
            return await last_checkpoint(conn, self.job.id)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Open a transaction, of the job's tenant, that completes the job when it commits.

        What is written in the block and the completion are there together or not at all, also where
        another worker runs the job as well. Nothing that the handler does afterwards changes the outcome.
        Raises: LeaseLostError at the block's end when the job is no longer this worker's; all is undone.
        """
        if self.written:
            raise AttemptEndedError(f"job {self.job.id} is completed already")
        async with self.host.pool.connection() as conn:
            async with conn.transaction():
                await set_tenant(conn, self.job.tenant)
                yield conn
                await self._complete(conn)
            # Before the connection is handed back: a cancellation may come there.
            self.written = True

    async def _complete(self, conn: Connection) -> None:
        await conn.execute(plan_by_probes(local=True))
        await complete_together(conn, [self])

    def complete(self, result: Any) -> None:
        """Say inside `transaction()` what the job's result is."""
        if self.written:
            raise AttemptEndedError(f"job {self.job.id} is completed already")
        self.outcome = result

    def wait(self, what: Coroutine[Any, Any, T]) -> T:
        """Run something async from a plain function's thread and return what it returns.

        `ctx.wait(ctx.checkpoint(…))`, `ctx.wait(app.enqueue(…))`.
        Raises: NotInThreadError in a coroutine, which would wait for itself.
        """
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            what.close()
            raise NotInThreadError("ctx.wait(…) was called in a coroutine")
        return asyncio.run_coroutine_threadsafe(what, self.host.loop).result()


async def complete_together(conn: Connection, contexts: Sequence[Context]) -> None:
    """Complete the jobs of these attempts in the caller's transaction: all of them, or it must not commit.

    Whoever commits says so by `written`.
    Raises: LeaseLostError for the first that is no longer this worker's.
    """
    host, now_s = contexts[0].host, monotonic_s()
    accepted = await complete(
        conn,
        [each.job for each in contexts],
        [(now_s - each.started_s) * 1000 for each in contexts],
        worker_id=host.worker_id,
        results=[None if each.outcome is None else encode_result(each.outcome) for each in contexts],
    )
    for each in contexts:
        if each.job.id not in accepted:
            raise LeaseLostError(each.job.id, each.job.lease_epoch)
    if spoke := [each.job.id for each in contexts if each.job.id in host.progress.used]:
        await forget(conn, spoke)


def current_context() -> Context | None:
    """Return the context of the attempt that this code runs for; None outside of one."""
    found = running.get()
    return found if isinstance(found, Context) else None


def current_job() -> LeasedJob | None:
    """Return the job that this code runs for; None outside of one."""
    context = current_context()
    return None if context is None else context.job
