"""The errand: what a child and an isolated process say to each other, and the process's side of it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Self, get_type_hints
from uuid import UUID

import msgspec

from starforge.db.errors import PoolExhaustedError
from starforge.db.pool import Connection, Pool
from starforge.queue.context import Host
from starforge.queue.handler import JobType, JobTypes
from starforge.queue.job import LeasedJob
from starforge.telemetry.process import Memory, memory_of
from starforge.worker.allowance import Allowance
from starforge.worker.attempt import attempt
from starforge.worker.carry import Carried, carried, rebuilt
from starforge.worker.outcome import Outcome
from starforge.worker.process import ORPHANED
from starforge.worker.threads import Threads

ALIVE_S = 1.0
CLOSE_S_MAX = 5.0
THREADS_MAX = 8
"""Threads of one job that is a plain function, its middleware and what is opened for it."""


class IsolatedOrders(msgspec.Struct, frozen=True):
    """What a child tells a process that it starts."""

    worker_id: UUID
    url: str
    app: str
    child: int
    connections: int
    pooled: bool
    stacks: str
    log_level: str = "info"


class Do(msgspec.Struct, tag=True):
    """Child: run this job."""

    job: LeasedJob
    timeout_s: float | None
    """What holds for it now; an operator may have said otherwise than its type."""


class Cut(msgspec.Struct, tag=True):
    """Child: end the job."""

    stopping: bool
    """The worker stops: the job is to be given back."""

    reason: str | None
    """Why somebody has asked for its cancellation, where that is it."""


class Lent(msgspec.Struct, tag=True):
    """Child: here is the right to one more connection, or there is none."""

    granted: bool


class Ready(msgspec.Struct, tag=True):
    """Process: the app is imported."""


class Alive(msgspec.Struct, tag=True):
    """Process: the loop goes round, and this is what is taken of memory."""

    rss_bytes: int


class Borrow(msgspec.Struct, tag=True):
    """Process: the handler wants one more connection."""


class Ended(msgspec.Struct, tag=True):
    """Process: how the attempt ended, and whether another job may follow in this process."""

    outcome: dict[str, Any]
    error: Carried | None
    fit: bool
    spoke: bool
    """It has said something of its progress, or left a checkpoint."""


Request = Do | Cut | Lent
Reply = Ready | Alive | Borrow | Ended

_APART = {"job", "error"}


def told_ending(outcome: Outcome, *, fit: bool, spoke: bool) -> Ended:
    """Return an outcome as it travels."""
    names = [name for name in outcome.__struct_fields__ if name not in _APART]
    error = carried(outcome.error) if outcome.error is not None else None
    return Ended({name: getattr(outcome, name) for name in names}, error, fit, spoke)


def outcome_of(job: LeasedJob, ended: Ended) -> Outcome:
    """Return the outcome that was told."""
    hints = get_type_hints(Outcome)
    values = {name: msgspec.convert(value, hints[name]) for name, value in ended.outcome.items()}
    return Outcome(job=job, error=rebuilt(ended.error) if ended.error else None, **values)


class BorrowedPool(Pool):
    """The connections of one job, each asked for before it is opened: they are out of the child's budget."""

    ask: Callable[[], Awaitable[bool]]
    _borrowed = 0
    _used = 0

    @asynccontextmanager
    async def connection(self, *, probing: bool = False) -> AsyncIterator[Connection]:
        """Lend a connection; raise PoolExhaustedError where the child has none to spare."""
        self._used += 1
        try:
            if self._used > self._borrowed:
                self._borrowed += 1
                if not await self.ask():
                    self._borrowed -= 1
                    raise PoolExhaustedError("the worker has no connection to spare for an isolated job")
            async with super().connection(probing=probing) as conn:
                yield conn
        finally:
            self._used -= 1

    async def give_back(self) -> None:
        """Close what was opened: the job has ended, and the child has its connections again."""
        await self.reopen()
        self._borrowed = 0


async def serve(orders: IsolatedOrders, requests: int, replies: int) -> None:
    """Run the jobs that come in on `requests` until it ends."""
    # What counts is imported by the app, after it was settled how this process counts.
    from starforge.worker.child import load_app

    types = load_app(orders.app).job_types()
    line = _Line.open(requests, replies)
    pool = await BorrowedPool.unopened(
        orders.url,
        size=orders.connections,
        pooled=orders.pooled,
        application=f"starforge isolated {orders.worker_id}",
    )
    pool.ask = line.borrow
    host = Host(pool, orders.worker_id, threads=Threads(THREADS_MAX))
    line.say(Ready())
    while True:
        line.say(await _run(host, pool, types, line))


async def _run(host: Host, pool: BorrowedPool, types: JobTypes, line: _Line) -> Ended:
    """Wait for a job, run it, and return how it ended; its connections are closed by then."""
    job, timeout_s = await line.job()
    job_type = types.get(job.type)
    assert job_type is not None  # the child runs the same app
    job_type = replace(job_type, timeout_s=timeout_s, timeout_set=True)
    running = asyncio.create_task(attempt(job, _bounded(job_type), host))
    never = asyncio.Event()
    beside = [
        asyncio.create_task(_cut(line, host, job, running)),
        asyncio.create_task(_live(line)),
        asyncio.create_task(host.progress.run(never)),
    ]
    outcome = await running
    for task in beside:
        task.cancel()
    await asyncio.wait(beside)
    try:
        async with asyncio.timeout(CLOSE_S_MAX):
            await pool.give_back()
        fit = True
    except TimeoutError:
        fit = False
    # What was cut short may have left something behind that goes on.
    cut_short = isinstance(outcome.error, MemoryError | TimeoutError | asyncio.CancelledError)
    spoke = job.id in host.progress.used
    host.progress.used.discard(job.id)
    return told_ending(outcome, fit=fit and not cut_short, spoke=spoke)


async def _live(line: _Line) -> None:
    while True:
        line.say(Alive((memory_of(os.getpid()) or Memory()).rss_bytes))
        await asyncio.sleep(ALIVE_S)


def _bounded(job_type: JobType) -> JobType:
    if job_type.memory_bytes_max is None:
        return job_type
    return replace(job_type, run=Allowance(job_type.memory_bytes_max).guarded(job_type.run))


async def _cut(line: _Line, host: Host, job: LeasedJob, running: asyncio.Task[Outcome]) -> None:
    """End the attempt when the child says so."""
    cut = await line.cut()
    context = host.attempts.get(job.id)
    if cut.reason is not None and context is not None:
        context.cancel(cut.reason)
        return
    if cut.stopping:
        host.cut.set()
    running.cancel()


class _Line:
    """The two pipes to the child; a thread reads, so that the end of the child is seen at once."""

    def __init__(self, replies: int) -> None:
        self._replies = replies
        self._jobs: asyncio.Queue[tuple[LeasedJob, float | None]] = asyncio.Queue()
        self._cuts: asyncio.Queue[Cut] = asyncio.Queue()
        self._lent: asyncio.Queue[bool] = asyncio.Queue()

    @classmethod
    def open(cls, requests: int, replies: int) -> Self:
        line = cls(replies)
        loop = asyncio.get_running_loop()
        threading.Thread(target=line._read, args=(requests, loop), name="child-watch", daemon=True).start()
        return line

    def _read(self, requests: int, loop: asyncio.AbstractEventLoop) -> None:
        with os.fdopen(requests, "rb") as lines:
            for text in lines:
                loop.call_soon_threadsafe(self._heard, msgspec.json.decode(text, type=Request))
        os._exit(ORPHANED)

    def _heard(self, request: Request) -> None:
        match request:
            case Do(job, timeout_s):
                # A word about the last job that crossed with its end.
                self._cuts, self._lent = asyncio.Queue(), asyncio.Queue()
                self._jobs.put_nowait((job, timeout_s))
            case Cut():
                self._cuts.put_nowait(request)
            case Lent(granted):
                self._lent.put_nowait(granted)

    def say(self, reply: Reply) -> None:
        """Write one line; a pipe that is full holds this process up until the child reads."""
        line = msgspec.json.encode(reply) + b"\n"
        while line:
            line = line[os.write(self._replies, line) :]

    async def job(self) -> tuple[LeasedJob, float | None]:
        """Wait for a job and for how long it may take."""
        return await self._jobs.get()

    async def cut(self) -> Cut:
        """Wait until the job is to be ended."""
        return await self._cuts.get()

    async def borrow(self) -> bool:
        """Ask for one more connection; return whether it was granted."""
        self.say(Borrow())
        return await self._lent.get()
