"""The supervisor: holds the lease, keeps one child running, and never runs user code.

It registers the worker, renews its lease, starts the child again when it dies, says what was to blame for
that, and tells it to stop. Because it runs nothing else, no handler can keep the heartbeat from beating.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from starforge.clock import monotonic_s
from starforge.db.errors import DatabaseUnreachableError
from starforge.db.leader import LEASE_S, Lend
from starforge.db.migrate import check_version
from starforge.db.pool import Connection, connect, require_bound_role
from starforge.db.url import shown
from starforge.errors import MisusedError, UnreachableError
from starforge.loop import backoff_s, wait
from starforge.queue.history import make_partitions
from starforge.queue.reclaim import reclaim
from starforge.telemetry.metrics import WORKER_RESTARTS
from starforge.telemetry.state import State
from starforge.worker.burial import bury_the_gone
from starforge.worker.charge import Charge
from starforge.worker.child import ChildOrders
from starforge.worker.duties import Gauges, duties
from starforge.worker.errors import ChildKeepsDyingError
from starforge.worker.lease import START_S_MAX, Lease
from starforge.worker.life import TELL_S_MAX, Life
from starforge.worker.limit import Limit
from starforge.worker.lines import Line
from starforge.worker.log import kept
from starforge.worker.logbook import Writer, keep
from starforge.worker.registry import Registration, WorkerSettings
from starforge.worker.reload import Sources, folder_of
from starforge.worker.scrape import metrics_shown
from starforge.worker.upkeep import TASK_S_MAX, Task, Upkeep
from starforge.worker.wire import TROUBLE, Wire

log = structlog.get_logger("worker")

QUICK_DEATH_S = 2.0
QUICK_DEATHS_MAX = 8
RESTART_S = 0.2
RESTART_S_MAX = 10.0
UPKEEP_END_S_MAX = 10.0
"""Longest that the end of upkeep is waited for; its lease runs out otherwise."""

CONNECTIONS_FOR_UPKEEP = 6
"""From this many on upkeep has one of its own, and the child keeps four, its listener's among them.
With fewer the tasks are short questions on the supervisor's."""

CONNECTIONS_FOR_LOG = 8
"""From this many on the log has one of its own; with fewer it shares the supervisor's."""


Service = Callable[[Lend, Callable[[], UUID | None], asyncio.Event], Coroutine[Any, Any, None]]
"""What every supervisor does beside its child until the event is set: it is lent a connection for short
questions, and may ask as which worker the process is registered now. It waits out a database that is away."""


@dataclass(frozen=True, slots=True)
class WorkerOrders:
    """What a worker was started for."""

    url: str
    app: str
    registration: Registration
    log_level: str = "info"
    limit: Limit | None = None
    """How much memory it may use with its children."""

    chosen: tuple[UUID, ...] = ()
    """Where any are given: it runs these jobs, no others, and ends with them."""

    reload: bool = False
    """Replace the child when a source file of the app has changed."""

    upkeep: tuple[Task, ...] = field(default_factory=lambda: tuple(duties()))
    """What this worker does for all when it leads."""

    services: tuple[Service, ...] = ()


class Supervisor:
    """One worker: a lease, a heartbeat and a child."""

    def __init__(self, orders: WorkerOrders) -> None:
        self._orders = orders
        self._settings = WorkerSettings.read()
        self._wire = Wire(orders.url)
        self._lease = Lease(self._wire, orders.registration, self._settings.lease_s)
        self._life: Life | None = None
        self._worker_id: UUID | None = None
        self._all_told = True  # that is, how the last child ended
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._leave = asyncio.Event()  # set when this process leads no more
        self._gauges = Gauges()
        self._writer = Writer(orders.url)

    def stop(self) -> None:
        """Drain and end; told a second time, give the running jobs back at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()
        self._leave.set()
        self._lease.admitted.set()
        if self._life is not None:
            self._life.tell(signal.SIGTERM)

    async def run(self) -> None:
        """Work until told to stop.

        Raises: DatabaseUnreachableError or SchemaVersionError where the start fails; later losses of the
            database are waited out. ChildKeepsDyingError where no child lives for two seconds.
        """
        orders = self._orders
        try:
            await self._check()
            sources = Sources(folder_of(orders.app)) if orders.reload else None
            async with kept(self._write_lines) as lines:
                await self._prepare()
                async with self._upkeep(), self._services():
                    await self._live(Charge(lines, orders.limit, sources))
        finally:
            self._writer.close()
            self._wire.drop()

    async def _write_lines(self, lines: Sequence[Line]) -> None:
        if self._lease.share >= CONNECTIONS_FOR_LOG:
            await self._writer.write(lines)
        else:
            await self._wire.ask(lambda conn: keep(conn, lines), within_s=self._settings.lease_s / 3)

    async def _check(self) -> None:
        """Refuse a database that this worker cannot work with."""

        async def check(conn: Connection) -> None:
            await check_version(conn, what="this worker")
            await require_bound_role(conn, "this worker")

        try:
            await self._wire.ask(check, within_s=START_S_MAX)
        except TimeoutError:
            where = shown(self._orders.url)
            raise DatabaseUnreachableError(f"{where} did not answer within {START_S_MAX:g} s") from None

    async def _live(self, charge: Charge) -> None:
        """Run one child after the other until told to stop."""
        quick = faults = 0
        while not self._stop.is_set():
            started_s = monotonic_s()
            life = await self._one_life(charge)
            if life is None or self._stop.is_set() or (self._orders.chosen and life.status == 0):
                return
            if charge.replaced:
                quick = faults = 0
                continue
            status, ending = life.status, life.ending
            if life.recycled:
                log.info("child.recycled")
                quick = faults = 0
                continue
            if monotonic_s() - started_s >= QUICK_DEATH_S or ending.running:
                # What ran is blamed for its end, and runs in a process of its own from now on.
                quick = faults = 0
            else:
                quick += 1
                # A child that found no database is no fault of its own: that is waited out, however long.
                faults += status != UnreachableError.exit_code
            log.error("child.died", exit_status=status, reason=ending.words, quick_deaths=quick)
            WORKER_RESTARTS.labels(cause=ending.cause).inc()
            if charge.sources is not None and not charge.was_ready:
                log.error("child.broken", waits_for=f"a change below {charge.sources.folder}")
                await charge.sources.changed(self._stop)
                quick = faults = 0
                continue
            refused = status == MisusedError.exit_code and not ending.running
            if refused or faults >= QUICK_DEATHS_MAX:
                raise ChildKeepsDyingError(
                    f"the worker's child ended {quick or 1} times with status {status}"
                )
            if quick:
                await wait(self._stop, backoff_s(quick, first_s=RESTART_S, most_s=RESTART_S_MAX))

    async def _one_life(self, charge: Charge) -> Life | None:
        """Register and run one child under the lease until it ends; None when told to stop before."""
        worker_id = await self._lease.take(self._stop, charge.previous_id)
        if worker_id is None:
            return None
        if not self._all_told:
            # The database is back: how the last child ended is in its record.
            await self._look_around()
        life = self._life = Life(worker_id, self._orders.url, charge, self._wire)
        await life.begin(self._child_orders(worker_id, charge, life))
        self._worker_id = worker_id
        if self._stop.is_set():
            # The stop came while there was no child to tell.
            life.tell(signal.SIGTERM)
        await life.run(self._lease.keep(worker_id, charge, self._renewed), self._stop, self._hurry)
        self._worker_id = None
        done = bool(self._orders.chosen) and life.status == 0
        await life.bury(in_order=self._stop.is_set() or bool(charge.replaced) or done)
        self._all_told = life.told
        await self._note_needs(charge)
        charge.end(worker_id)
        return life

    def _child_orders(self, worker_id: UUID, charge: Charge, life: Life) -> ChildOrders:
        settings, limit, registration = self._settings, self._orders.limit, self._orders.registration
        return ChildOrders(
            worker_id=worker_id,
            url=self._orders.url,
            app=self._orders.app,
            queues=list(registration.queues),
            concurrency=registration.concurrency,
            connections=self._connections(),
            grace_s=settings.grace_s,
            poll_s=settings.poll_s,
            overdue_fd=life.overdue_fd,
            log_level=self._orders.log_level,
            page_fd=charge.begin(worker_id).fd,
            high_memory=registration.high_memory,
            limit_bytes=limit.bytes if limit else None,
            beside_bytes=charge.governor.sample().rss_bytes,
            chosen=list(self._orders.chosen),
        )

    async def _renewed(self, charge: Charge) -> None:
        """Do what is done with every heartbeat."""
        await self._note_needs(charge)
        await self._look_around()

    async def _note_needs(self, charge: Charge) -> None:
        """Write down what the types were seen to need of memory, where that is news."""
        if not (news := charge.news()):
            return
        try:
            await self._wire.ask(lambda conn: charge.ledger.write(conn, news), within_s=TELL_S_MAX)
        except TROUBLE as error:
            log.warning("needs.unwritten", error=str(error) or repr(error))

    async def _prepare(self) -> None:
        """Make today's partitions before there are rows for them, and look who is gone."""

        async def prepare(conn: Connection) -> None:
            for table in ("job_history", "log_lines"):
                await make_partitions(conn, table)

        try:
            await self._wire.ask(prepare, within_s=START_S_MAX)
        except TROUBLE as error:
            log.warning("partitions.late", error=str(error) or repr(error))
        await self._look_around()

    async def _look_around(self) -> None:
        """Bury those whose end only this machine can see; never at the price of the worker's own lease."""
        try:
            await self._wire.ask(self._bury_the_gone, within_s=self._settings.lease_s / 3)
        except TROUBLE as error:
            log.warning("burial.failed", error=str(error) or repr(error))

    async def _bury_the_gone(self, conn: Connection) -> None:
        """Declare dead whose process is gone, judge their jobs and make them pending."""
        if dead := await bury_the_gone(conn, self._orders.url):
            log.warning("job.reclaimed", workers=dead, jobs=await reclaim(conn))

    @asynccontextmanager
    async def _upkeep(self) -> AsyncIterator[None]:
        """Offer this process as the leader that does upkeep, for the length of a `with` block."""
        running = asyncio.create_task(self._keep_up())
        try:
            yield
        finally:
            self._leave.set()
            self._lease.admitted.set()
            await asyncio.wait({running}, timeout=UPKEEP_END_S_MAX)
            running.cancel()

    async def _keep_up(self) -> None:
        """Do upkeep whenever this process leads, once it is known how many connections it has."""
        await self._lease.admitted.wait()
        lease_s = self._settings.lease_s
        tasks = list(self._orders.upkeep)
        if self._settings.metrics_port:
            tasks.append(self._gauges.task())
        own = self._lease.share >= CONNECTIONS_FOR_UPKEEP
        upkeep = Upkeep(
            self._wire.lent,
            tasks,
            lease_s=min(LEASE_S, lease_s),
            own=self._for_upkeep if own else None,
            task_s_max=TASK_S_MAX if own else lease_s / 6,
            ended=self._gauges.forget,
        )
        await upkeep.run(self._leave)

    @asynccontextmanager
    async def _services(self) -> AsyncIterator[None]:
        """Run what this worker does beside its child, for the length of a `with` block."""
        running = [
            asyncio.create_task(service(self._briefly, self._registered, self._leave))
            for service in self._orders.services
        ]
        try:
            yield
        finally:
            self._leave.set()
            if running:
                await asyncio.wait(running, timeout=UPKEEP_END_S_MAX)
            for task in running:
                task.cancel()
            for end in await asyncio.gather(*running, return_exceptions=True):
                if isinstance(end, Exception):
                    log.error("service.failed", error=repr(end))

    @asynccontextmanager
    async def _briefly(self) -> AsyncIterator[Connection]:
        """Lend the supervisor's connection for so short a time that no heartbeat comes too late."""
        async with self._wire.lent(self._settings.lease_s / 6) as conn:
            yield conn

    def _registered(self) -> UUID | None:
        """Return as which worker this process is registered; None while it is not."""
        return self._worker_id

    async def _for_upkeep(self) -> Connection:
        """Open a connection whose statements are planned each time: its tables grow and shrink."""
        return await connect(self._orders.url, application="starforge upkeep", cache=False)

    def _connections(self) -> int:
        """Return how many connections are the child's: others are the supervisor's, upkeep's, the log's."""
        share = self._lease.share
        return share - 1 - (share >= CONNECTIONS_FOR_UPKEEP) - (share >= CONNECTIONS_FOR_LOG)

    def state(self) -> State | None:
        """Return what this worker's page of metrics shows of the database, or None while that is away."""
        return self._gauges.shown() if self._wire.connected else None


async def supervise(orders: WorkerOrders) -> None:
    """Run a worker in this process until SIGTERM or SIGINT; a second one hurries it.

    Raises: MetricsPortError before anything is started, and what Supervisor.run raises.
    """
    supervisor = Supervisor(orders)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    with metrics_shown(WorkerSettings.read().metrics_port, supervisor.state):
        await supervisor.run()
