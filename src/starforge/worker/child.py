"""The child: the process that runs jobs. Its supervisor starts it, feeds it nothing, and outlives it.

Started as `python -m starforge.worker.child` with a JSON document of `ChildOrders` in its environment.
When the supervisor is gone nobody renews the lease any more, and the child ends at once: the kernel kills
it. Where there is no such kernel it ends itself: its standard input closes, which only the supervisor held.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import msgspec
import structlog

from starforge.db.errors import DatabaseUnreachableError
from starforge.db.notify import listen
from starforge.db.pool import MAY_PASS, Pool
from starforge.errors import StarForgeError, told
from starforge.loop import loop_factory, wait
from starforge.queue.cancel import HINT as CANCEL_HINT
from starforge.queue.handler import JobTypes
from starforge.queue.hint import CHANNEL
from starforge.queue.known import declare_types
from starforge.queue.schedule import Schedule, declare
from starforge.queue.standstill import TURN_S, Standstill
from starforge.telemetry.log import configure
from starforge.telemetry.metrics import start_at_zero
from starforge.telemetry.process import Memory, memory_of
from starforge.worker.admit import Admission
from starforge.worker.chosen import LOOK_S, Chosen
from starforge.worker.collect import collect
from starforge.worker.errors import AppNotFoundError
from starforge.worker.inflight import InFlight
from starforge.worker.isolation import Isolation
from starforge.worker.limit import MemorySettings
from starforge.worker.need import needs
from starforge.worker.overdue import RECYCLED, note
from starforge.worker.page import Page
from starforge.worker.process import BEFORE_ITS_PARENT, ORPHANED, die_with, goes_before_others, prints_by_line
from starforge.worker.run import Runner
from starforge.worker.signs import Signs, give_back_memory
from starforge.worker.tell import tell_losses
from starforge.worker.upkeep import Task
from starforge.worker.watch import RecycleSettings

log = structlog.get_logger("worker")

ORDERS_ENV = "STARFORGE_CHILD_ORDERS"
RETIRE = signal.SIGUSR1
"""Told so, a child claims nothing more, ends its jobs, and then itself."""

LAST_S_MAX = 86400.0
"""A runner that stops for another reason than a signal lets its jobs run this long at most."""

NEEDS_S = 5.0
"""How often what the types need of memory is read, where there is a limit."""

COLLECT_OBJECTS = 50_000
"""So many more objects there are before the collector looks for cycles among the new ones. Python's 700 are a
twelfth of the time of a small snapshot."""

CONNECTIONS_FOR_LISTENER = 4
"""Below this many connections the listener's is worth more to the handlers."""


class ChildOrders(msgspec.Struct, frozen=True):
    """What a supervisor tells its child."""

    worker_id: UUID
    url: str
    app: str
    queues: list[str]
    concurrency: int
    connections: int
    grace_s: float
    poll_s: float
    overdue_fd: int
    log_level: str = "info"
    page_fd: int = -1
    """Where the page is that it shares with its supervisor."""

    high_memory: bool = False
    limit_bytes: int | None = None
    beside_bytes: int = 0
    """What the worker uses of its limit without this child."""

    chosen: list[UUID] = []
    """Where any are given: the jobs that it runs, no others."""

    inflight: str = ""
    """Where it marks what runs."""

    supervisor: int = 0
    """The process that it ends with."""

    progress_s: float = 60.0
    isolated_max: int = 1


class App(Protocol):
    """What the worker needs of an app."""

    name: str

    def job_types(self) -> JobTypes: ...

    def schedules(self) -> Iterable[Schedule]: ...

    def sources(self) -> Iterable[str]: ...

    def upkeep(self) -> Iterable[Task]: ...

    def services(self) -> Iterable[Callable[..., Coroutine[Any, Any, None]]]: ...


def load_app(reference: str) -> App:
    """Import `module:attribute`; raise AppNotFoundError with what is missing."""
    module_name, _, attribute = reference.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise AppNotFoundError(f"--app {reference}: there is no module {error.name} in {folder}") from None
    app: App | None = getattr(module, attribute or "app", None)
    if app is None or not hasattr(app, "job_types"):
        raise AppNotFoundError(
            f"--app {reference}: {module_name} has no StarForge called {attribute or 'app'}"
        )
    return app


def _die_with_supervisor() -> None:
    """End this process when the supervisor's end of standard input closes."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(ORPHANED)

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()


async def _declare(pool: Pool, app: App) -> None:
    """Write down what the app declares; raise DatabaseUnreachableError where that cannot be now."""
    try:
        async with pool.transaction() as conn:
            await declare_types(conn, app.job_types())
            changed = await declare(conn, app.schedules(), by=app.name)
    except MAY_PASS as error:
        raise DatabaseUnreachableError(f"what the app declares could not be kept: {told(error)}") from None
    if changed:
        log.info("schedules.declared", app=app.name, changed=changed)


async def _beat(record: InFlight, standstill: Standstill) -> None:
    """Give the supervisor a sign of life for as long as the loop goes round."""
    while True:
        record.beat()
        standstill.look()
        await asyncio.sleep(TURN_S)


async def work(orders: ChildOrders, record: InFlight) -> int:
    """Run jobs until the supervisor says stop, or a new process has to take over; return the exit status."""
    app = load_app(orders.app)
    types = app.job_types().known_to(high_memory=orders.high_memory)
    start_at_zero(types=types.names(), sources=app.sources())
    listens = orders.connections >= CONNECTIONS_FOR_LISTENER and not orders.chosen
    pool = await Pool.open(
        orders.url, size=orders.connections - listens, application=f"starforge worker {orders.worker_id}"
    )
    await _declare(pool, app)
    admission = _admission(orders) if orders.limit_bytes else None
    chosen = Chosen(orders.chosen, types.names()) if orders.chosen else None
    isolation = Isolation(
        pool,
        worker_id=orders.worker_id,
        app=orders.app,
        log_level=orders.log_level,
        most=orders.isolated_max,
        progress_s=orders.progress_s,
    )
    runner = Runner(
        pool,
        types,
        orders.worker_id,
        queues=tuple(orders.queues),
        concurrency=orders.concurrency,
        poll_s=orders.poll_s,
        admission=admission,
        chosen=chosen,
        tell_overdue=lambda overdue: note(orders.overdue_fd, overdue),
        inflight=record,
        isolation=isolation,
    )

    def heard(hint: str) -> None:
        if hint in ("", CANCEL_HINT):
            runner.cancelling.hint()
        if hint != CANCEL_HINT:
            runner.announce(hint)

    hurry, quiet = _stopped_by_signals(runner, orders.grace_s), asyncio.Event()
    beside = [
        asyncio.create_task(collect(lambda: runner.finisher.finished, debug=orders.log_level == "debug")),
        asyncio.create_task(tell_losses(pool, types, quiet)),
        asyncio.create_task(_beat(record, runner.host.standstill)),
    ]
    if listens and not pool.pooled:
        beside.append(asyncio.create_task(listen(orders.url, CHANNEL, heard, quiet)))
    if admission is not None:
        beside.append(asyncio.create_task(_learn(pool, admission, quiet)))
    if chosen is not None:
        beside.append(asyncio.create_task(_end_with(chosen, pool, runner, orders.worker_id)))
    # What was imported stays; the collector need not look at it again and again.
    give_back_memory()
    gc.freeze()
    signs = Signs(Page.open(orders.page_fd), runner, orders.worker_id, admission=admission)
    signs.start()
    log.info("child.ready", worker_id=str(orders.worker_id), types=list(types.names()), queues=orders.queues)
    try:
        # How long the jobs have is for the signals to say, unless it stops of its own accord.
        await runner.run(grace_s=LAST_S_MAX, recycle_s=orders.grace_s, hurry=hurry)
    finally:
        quiet.set()
        for task in beside:
            # One may be in the middle of a long attempt to connect.
            task.cancel()
        await asyncio.wait(beside)
        signs.end()
        await isolation.close()
        await pool.close()
    event = "child.recycling" if runner.recycling else "child.done"
    log.info(event, finished=runner.finisher.finished, lost=runner.finisher.lost)
    # Whatever still runs here is not what ends this process.
    record.clear()
    if runner.stuck:
        # Waiting for what cannot be ended would be for ever: the process's end is what ends it.
        os._exit(RECYCLED)
    return RECYCLED if runner.recycling else 0


def _stopped_by_signals(runner: Runner, grace_s: float) -> asyncio.Event:
    """Let SIGTERM and RETIRE stop the runner; return the event that cuts what still runs.

    It is set when the jobs have had their time, or by a second SIGTERM.
    """
    hurry = asyncio.Event()
    loop = asyncio.get_running_loop()
    told = 0

    def terminate() -> None:
        nonlocal told
        told += 1
        runner.stop()
        if told > 1:
            hurry.set()
        else:
            loop.call_later(grace_s, hurry.set)

    def retire() -> None:
        runner.stop()
        loop.call_later(RecycleSettings.read().drain_s, hurry.set)

    loop.add_signal_handler(signal.SIGTERM, terminate)
    loop.add_signal_handler(RETIRE, retire)
    return hurry


def _admission(orders: ChildOrders) -> Admission:
    """Return what bounds the jobs' memory: the mark, less what the worker uses without them."""
    assert orders.limit_bytes is not None
    idle = memory_of(os.getpid()) or Memory()
    mark = orders.limit_bytes * MemorySettings.read().mark
    return Admission(max(0, int(mark) - orders.beside_bytes - idle.rss_bytes))


async def _learn(pool: Pool, admission: Admission, quiet: asyncio.Event) -> None:
    """Keep knowing what the types need of memory."""
    while True:
        try:
            async with pool.connection() as conn:
                admission.learned(await needs(conn))
        except MAY_PASS as error:
            log.warning("needs.unread", error=str(error) or repr(error))
        if await wait(quiet, NEEDS_S):
            return


async def _end_with(chosen: Chosen, pool: Pool, runner: Runner, worker_id: UUID) -> None:
    """Stop the runner when the chosen jobs are over."""
    while not await chosen.over(pool, worker_id):
        await asyncio.sleep(LOOK_S)
    runner.stop()


def main() -> int:
    """Run the child; return its exit status."""
    # Ctrl-C reaches the whole terminal group; only the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = msgspec.json.decode(os.environ.pop(ORDERS_ENV), type=ChildOrders)
    configure(orders.log_level)
    prints_by_line()
    die_with(orders.supervisor)
    _die_with_supervisor()
    goes_before_others(BEFORE_ITS_PARENT)
    record = InFlight.open(orders.inflight)
    # Where it was when it died, or when its supervisor asks because nothing moves any more.
    faulthandler.enable(file=record.last_words())
    faulthandler.register(signal.SIGQUIT, file=record.last_words(), all_threads=True)
    # A child makes thousands of objects for each job and hardly a cycle among them.
    gc.set_threshold(COLLECT_OBJECTS)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(work(orders, record))
    except StarForgeError as error:
        log.error("child.refused", code=error.code, error=str(error), remedy=error.remedy)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
