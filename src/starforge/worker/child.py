"""The child: the process that runs jobs. Its supervisor starts it, feeds it nothing, and outlives it.

Started as `python -m starforge.worker.child` with a JSON document of `ChildOrders` in its environment.
Its standard input is a pipe whose other end only the supervisor holds: when that closes, the supervisor
is gone, nobody renews the lease any more, and the child ends at once.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol
from uuid import UUID

import msgspec
import structlog

from starforge.db.errors import DatabaseUnreachableError
from starforge.db.notify import listen
from starforge.db.pool import MAY_PASS, Pool
from starforge.errors import StarForgeError, told
from starforge.queue.cancel import HINT as CANCEL_HINT
from starforge.queue.handler import JobTypes
from starforge.queue.hint import CHANNEL
from starforge.queue.schedule import Schedule, declare
from starforge.telemetry.log import configure
from starforge.telemetry.metrics import start_at_zero
from starforge.worker.errors import AppNotFoundError
from starforge.worker.overdue import RECYCLED, note
from starforge.worker.run import Runner
from starforge.worker.upkeep import Task

log = structlog.get_logger("worker")

ORDERS_ENV = "STARFORGE_CHILD_ORDERS"
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


class App(Protocol):
    """What the worker needs of an app."""

    name: str

    def job_types(self) -> JobTypes: ...

    def schedules(self) -> Iterable[Schedule]: ...

    def upkeep(self) -> Iterable[Task]: ...


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
        os._exit(75)

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()


async def _declare(pool: Pool, app: App) -> None:
    """Write down what the app declares; raise DatabaseUnreachableError where that cannot be now."""
    try:
        async with pool.transaction() as conn:
            changed = await declare(conn, app.schedules(), by=app.name)
    except MAY_PASS as error:
        raise DatabaseUnreachableError(f"the app's schedules could not be declared: {told(error)}") from None
    if changed:
        log.info("schedules.declared", app=app.name, changed=changed)


async def work(orders: ChildOrders) -> int:
    """Run jobs until the supervisor says stop, or a new process has to take over; return the exit status."""
    app = load_app(orders.app)
    types = app.job_types()
    start_at_zero(types=types.names())
    listens = orders.connections >= CONNECTIONS_FOR_LISTENER
    pool = await Pool.open(
        orders.url, size=orders.connections - listens, application=f"starforge worker {orders.worker_id}"
    )
    await _declare(pool, app)
    runner = Runner(
        pool,
        types,
        orders.worker_id,
        queues=tuple(orders.queues),
        concurrency=orders.concurrency,
        poll_s=orders.poll_s,
        tell_overdue=lambda overdue: note(orders.overdue_fd, overdue),
    )
    hurry, quiet = asyncio.Event(), asyncio.Event()
    stops = 0

    def told_to_stop() -> None:
        nonlocal stops
        stops += 1
        runner.stop()
        if stops > 1:
            hurry.set()

    def heard(hint: str) -> None:
        if hint in ("", CANCEL_HINT):
            runner.cancelling.hint()
        if hint != CANCEL_HINT:
            runner.announce(hint)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told_to_stop)
    listener = asyncio.create_task(
        listen(orders.url, CHANNEL, heard, quiet) if listens and not pool.pooled else asyncio.sleep(0)
    )
    # What was imported stays; the collector need not look at it again and again.
    gc.freeze()
    log.info("child.ready", worker_id=str(orders.worker_id), types=list(types.names()), queues=orders.queues)
    try:
        await runner.run(grace_s=orders.grace_s, hurry=hurry)
    finally:
        quiet.set()
        # It may be in the middle of a long attempt to connect.
        listener.cancel()
        await asyncio.wait({listener})
        await pool.close()
    event = "child.recycling" if runner.recycling else "child.done"
    log.info(event, finished=runner.finisher.finished, lost=runner.finisher.lost)
    if runner.stuck:
        # Waiting for what cannot be ended would be for ever: the process's end is what ends it.
        os._exit(RECYCLED)
    return RECYCLED if runner.recycling else 0


def main() -> int:
    """Run the child; return its exit status."""
    # Ctrl-C reaches the whole terminal group; only the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = msgspec.json.decode(os.environ.pop(ORDERS_ENV), type=ChildOrders)
    configure(orders.log_level)
    _die_with_supervisor()
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    try:
        with runner:
            return runner.run(work(orders))
    except StarForgeError as error:
        log.error("child.refused", code=error.code, error=str(error), remedy=error.remedy)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
