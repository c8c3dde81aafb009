"""The supervisor: holds the lease, keeps one child running, and never runs user code.

It registers the worker, renews its lease, starts the child again when it dies, and tells it to stop.
Because it runs nothing else, no handler can keep the heartbeat from beating.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import msgspec
import structlog

from starforge.clock import monotonic_s
from starforge.db.errors import BudgetError, DatabaseUnreachableError
from starforge.db.leader import LEASE_S
from starforge.db.migrate import check_version
from starforge.db.pool import MAY_PASS, Connection, PoolSettings, connect, require_bound_role, shown
from starforge.errors import MisusedError, UnreachableError
from starforge.loop import backoff_s, wait
from starforge.queue.history import make_partitions
from starforge.queue.reclaim import reclaim
from starforge.telemetry.metrics import WORKER_RESTARTS
from starforge.telemetry.state import State
from starforge.worker import registry
from starforge.worker.charge import Charge
from starforge.worker.child import ORDERS_ENV, RETIRE, ChildOrders
from starforge.worker.duties import Gauges, duties
from starforge.worker.errors import ChildKeepsDyingError
from starforge.worker.limit import Limit
from starforge.worker.lines import Line
from starforge.worker.log import kept
from starforge.worker.logbook import Writer, keep
from starforge.worker.overdue import RECYCLED, book, noted, settle
from starforge.worker.registry import Registration, WorkerSettings
from starforge.worker.reload import Sources, folder_of
from starforge.worker.scrape import metrics_shown
from starforge.worker.upkeep import TASK_S_MAX, Task, Upkeep
from starforge.worker.watch import RecycleSettings

log = structlog.get_logger("worker")

QUICK_DEATH_S = 2.0
QUICK_DEATHS_MAX = 8
RESTART_S = 0.2
RESTART_S_MAX = 10.0
REGISTER_S = 0.2
REGISTER_S_MAX = 5.0
START_S_MAX = 30.0
"""Longest that the database may take to answer the first questions."""

ASK_S_MIN = 0.1
TELL_S_MAX = 5.0
"""Longest that the database may take to hear what became of the worker; its lease runs out otherwise."""

KILL_AFTER_GRACE_S = 5.0
UPKEEP_END_S_MAX = 10.0
"""Longest that the end of upkeep is waited for; its lease runs out otherwise."""

CONNECTIONS_FOR_UPKEEP = 6
"""From this many on upkeep has one of its own, and the child keeps four, its listener's among them.
With fewer the tasks are short questions on the supervisor's."""

CONNECTIONS_FOR_LOG = 8
"""From this many on the log has one of its own; with fewer it shares the supervisor's."""

TROUBLE: tuple[type[Exception], ...] = (asyncpg.PostgresError, *MAY_PASS)
"""Whatever the database says: no upkeep and no note may end a worker that holds its lease."""

T = TypeVar("T")


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


class Supervisor:
    """One worker: a lease, a heartbeat and a child."""

    def __init__(self, orders: WorkerOrders) -> None:
        self._orders = orders
        self._settings = WorkerSettings.read()
        self._conn: Connection | None = None
        self._overdue_fd = -1
        self._child: asyncio.subprocess.Process | None = None
        self._asking = asyncio.Lock()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._leave = asyncio.Event()  # set when this process leads no more
        self._gauges = Gauges()
        self._share = 0  # connections, as of the last registration
        self._admitted = asyncio.Event()
        self._held_s = 0.0  # when the lease was last asked for and granted
        self._charge: Charge | None = None
        self._writer = Writer(orders.url)

    def stop(self) -> None:
        """Drain and end; told a second time, give the running jobs back at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()
        self._leave.set()
        self._admitted.set()
        self._tell_child(signal.SIGTERM)

    def _tell_child(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.send_signal(number)

    def last_lines(self) -> list[str]:
        """Return the last lines of the child that runs or has just ended, oldest first."""
        return self._charge.lines.last_lines() if self._charge else []

    def memory_curve(self) -> list[tuple[float, int]]:
        """Return what the worker used in the last minute, as (seconds ago, bytes)."""
        return self._charge.governor.curve() if self._charge else []

    @property
    def connected(self) -> bool:
        """Whether the supervisor has its connection: False from a heartbeat that failed to the next one."""
        return self._conn is not None and not self._conn.is_closed()

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
                self._charge = Charge(lines, orders.limit, sources)
                await self._prepare()
                async with self._upkeep():
                    await self._live(self._charge)
        finally:
            self._writer.close()
            self._drop_connection()

    async def _write_lines(self, lines: Sequence[Line]) -> None:
        if self._share >= CONNECTIONS_FOR_LOG:
            await self._writer.write(lines)
        else:
            await self._ask(lambda conn: keep(conn, lines), within_s=self._settings.lease_s / 3)

    async def _check(self) -> None:
        """Refuse a database that this worker cannot work with."""

        async def check(conn: Connection) -> None:
            await check_version(conn, what="this worker")
            await require_bound_role(conn, "this worker")

        try:
            await self._ask(check, within_s=START_S_MAX)
        except TimeoutError:
            where = shown(self._orders.url)
            raise DatabaseUnreachableError(f"{where} did not answer within {START_S_MAX:g} s") from None

    async def _live(self, charge: Charge) -> None:
        """Run one child after the other until told to stop."""
        quick = faults = 0
        while not self._stop.is_set():
            started_s = monotonic_s()
            status = await self._one_life(charge)
            if self._stop.is_set() or (self._orders.chosen and status == 0):
                return
            if charge.replaced:
                quick = faults = 0
                continue
            if monotonic_s() - started_s >= QUICK_DEATH_S:
                quick = faults = 0
            else:
                quick += 1
                # A child that found no database is no fault of its own: that is waited out, however long.
                faults += status != UnreachableError.exit_code
            if status == RECYCLED:
                log.info("child.recycled")
                continue
            log.error("child.died", exit_status=status, quick_deaths=quick)
            WORKER_RESTARTS.labels(cause="signal" if status < 0 else "exit").inc()
            if charge.sources is not None and not charge.was_ready:
                log.error("child.broken", waits_for=f"a change below {charge.sources.folder}")
                await charge.sources.changed(self._stop)
                quick = faults = 0
                continue
            if status == MisusedError.exit_code or faults >= QUICK_DEATHS_MAX:
                raise ChildKeepsDyingError(
                    f"the worker's child ended {quick or 1} times with status {status}"
                )
            if quick:
                await wait(self._stop, backoff_s(quick, first_s=RESTART_S, most_s=RESTART_S_MAX))

    async def _one_life(self, charge: Charge) -> int:
        """Register, run one child under the lease until it ends, and return its exit status."""
        worker_id = await self._registered()
        if worker_id is None:
            return 0
        self._overdue_fd = book()
        child = await self._start_child(worker_id, charge)
        ended = asyncio.create_task(child.wait())
        stopping = asyncio.create_task(self._stop.wait())
        lease = asyncio.create_task(self._keep_lease(worker_id, charge))
        due = asyncio.create_task(charge.due(child.pid, self._stop))
        await asyncio.wait({ended, stopping, lease, due}, return_when=asyncio.FIRST_COMPLETED)
        if due.done() and not (self._stop.is_set() or ended.done() or lease.done()):
            charge.replaced = due.result()
            await self._retire(worker_id, charge, {ended, stopping, lease})
        if self._stop.is_set() and not ended.done():
            await self._drain(worker_id, ended, lease)
        if not ended.done():
            log.error("child.killed", worker_id=str(worker_id), reason="its lease is over or it did not stop")
            child.kill()
        status = await ended
        for task in (stopping, lease, due):
            task.cancel()
        await asyncio.gather(stopping, lease, due, return_exceptions=True)
        await charge.settle()
        over = self._stop.is_set() or charge.replaced or (self._orders.chosen and status == 0)
        await self._tell("end" if over else "bury", worker_id, status)
        os.close(self._overdue_fd)
        await self._note_needs(charge)
        charge.end(worker_id)
        return status

    async def _retire(self, worker_id: UUID, charge: Charge, over: set[asyncio.Task[Any]]) -> None:
        """Have the child end its jobs and then itself; another takes its place."""
        log.info("child.replaced", worker_id=str(worker_id), reason=charge.replaced)
        self._tell_child(RETIRE)
        telling = asyncio.create_task(self._tell("stop", worker_id))
        within_s = RecycleSettings.read().drain_s + KILL_AFTER_GRACE_S
        await asyncio.wait(over, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({telling})

    async def _start_child(self, worker_id: UUID, charge: Charge) -> asyncio.subprocess.Process:
        settings, limit = self._settings, self._orders.limit
        page = charge.begin(worker_id)
        orders = ChildOrders(
            worker_id=worker_id,
            url=self._orders.url,
            app=self._orders.app,
            queues=list(self._orders.registration.queues),
            concurrency=self._orders.registration.concurrency,
            connections=self._connections(),
            grace_s=settings.grace_s,
            poll_s=settings.poll_s,
            overdue_fd=self._overdue_fd,
            log_level=self._orders.log_level,
            page_fd=page.fd,
            high_memory=self._orders.registration.high_memory,
            limit_bytes=limit.bytes if limit else None,
            beside_bytes=charge.governor.sample().rss_bytes,
            chosen=list(self._orders.chosen),
        )
        environment = {**os.environ, ORDERS_ENV: msgspec.json.encode(orders).decode()}
        self._child = await charge.spawn("starforge.worker.child", environment, (self._overdue_fd,))
        if self._stop.is_set():
            # The stop came while there was no child to tell.
            self._tell_child(signal.SIGTERM)
        return self._child

    async def _drain(self, worker_id: UUID, ended: asyncio.Task[int], lease: asyncio.Task[None]) -> None:
        """Let the child end its jobs for the grace period, under the lease; when hurried, not for so long."""
        telling = asyncio.create_task(self._tell("stop", worker_id))
        hurried = asyncio.create_task(self._hurry.wait())
        over = {ended, lease}
        grace_s = self._settings.grace_s
        await asyncio.wait({*over, hurried}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(over, timeout=KILL_AFTER_GRACE_S, return_when=asyncio.FIRST_COMPLETED)
        for task in (telling, hurried):
            task.cancel()
        await asyncio.gather(telling, hurried, return_exceptions=True)

    async def _keep_lease(self, worker_id: UUID, charge: Charge) -> None:
        """Renew the lease; return when it is over. The database may be away for less than the lease.

        What cannot be renewed is over here before it is over there: the child is to have ended before
        others run its jobs, or take its tokens of a limit.
        """
        lease_s = self._settings.lease_s
        pause_s = lease_s / 3
        charge.heard(True)
        while True:
            left_s = self._held_s + lease_s - monotonic_s()
            await asyncio.sleep(max(0.0, min(pause_s, left_s)))
            asked_s = monotonic_s()
            left_s = self._held_s + lease_s - asked_s
            try:
                held = await self._ask(
                    lambda conn: registry.extend(conn, worker_id, lease_s=lease_s, vitals=charge.vitals()),
                    within_s=min(lease_s / 3, max(ASK_S_MIN, left_s)),
                )
            except MAY_PASS as error:
                charge.heard(False)
                away_s = monotonic_s() - self._held_s
                log.warning("heartbeat.failed", away_s=round(away_s, 1), error=str(error) or repr(error))
                if away_s >= lease_s:
                    log.error("lease.lost", worker_id=str(worker_id))
                    return
                pause_s = lease_s / 15
                continue
            if not held:
                log.error("lease.lost", worker_id=str(worker_id))
                return
            self._held_s, pause_s = asked_s, lease_s / 3
            charge.heard(True)
            await self._note_needs(charge)
            await self._look_around()

    async def _note_needs(self, charge: Charge) -> None:
        """Write down what the types were seen to need of memory, where that is news."""
        if not (news := charge.news()):
            return
        try:
            await self._ask(lambda conn: charge.ledger.write(conn, news), within_s=TELL_S_MAX)
        except TROUBLE as error:
            log.warning("needs.unwritten", error=str(error) or repr(error))

    async def _prepare(self) -> None:
        """Make today's partitions before there are rows for them, and look who is gone."""

        async def prepare(conn: Connection) -> None:
            for table in ("job_history", "log_lines"):
                await make_partitions(conn, table)

        try:
            await self._ask(prepare, within_s=START_S_MAX)
        except TROUBLE as error:
            log.warning("partitions.late", error=str(error) or repr(error))
        await self._look_around()

    async def _look_around(self) -> None:
        """Bury those whose end only this machine can see; never at the price of the worker's own lease."""
        try:
            await self._ask(self._bury_the_gone, within_s=self._settings.lease_s / 3)
        except TROUBLE as error:
            log.warning("burial.failed", error=str(error) or repr(error))

    async def _bury_the_gone(self, conn: Connection) -> None:
        """Declare dead whose process is gone, and make their jobs pending."""
        if dead := await registry.bury_the_gone(conn):
            log.warning("job.reclaimed", workers=dead, jobs=await reclaim(conn))

    @asynccontextmanager
    async def _upkeep(self) -> AsyncIterator[None]:
        """Offer this process as the leader that does upkeep, for the length of a `with` block."""
        running = asyncio.create_task(self._keep_up())
        try:
            yield
        finally:
            self._leave.set()
            self._admitted.set()
            await asyncio.wait({running}, timeout=UPKEEP_END_S_MAX)
            running.cancel()

    async def _keep_up(self) -> None:
        """Do upkeep whenever this process leads, once it is known how many connections it has."""
        await self._admitted.wait()
        lease_s = self._settings.lease_s
        tasks = list(self._orders.upkeep)
        if self._settings.metrics_port:
            tasks.append(self._gauges.task())
        own = self._share >= CONNECTIONS_FOR_UPKEEP
        upkeep = Upkeep(
            self._lent,
            tasks,
            lease_s=min(LEASE_S, lease_s),
            own=(lambda: connect(self._orders.url, application="starforge upkeep")) if own else None,
            task_s_max=TASK_S_MAX if own else lease_s / 6,
            ended=self._gauges.forget,
        )
        await upkeep.run(self._leave)

    def _connections(self) -> int:
        """Return how many connections are the child's: others are the supervisor's, upkeep's, the log's."""
        share = self._share
        return share - 1 - (share >= CONNECTIONS_FOR_UPKEEP) - (share >= CONNECTIONS_FOR_LOG)

    def state(self) -> State | None:
        """Return what this worker's page of metrics shows of the database, or None while that is away."""
        return self._gauges.shown() if self.connected else None

    async def _tell(self, verb: str, worker_id: UUID, status: int = 0) -> None:
        """Record what became of the worker; where the database is away its lease runs out instead."""

        async def tell(conn: Connection) -> None:
            if verb != "stop":
                await settle(conn, noted(self._overdue_fd), worker_id=worker_id)
            if verb == "bury":
                why = "was recycled" if status == RECYCLED else f"ended with status {status}"
                await registry.bury(conn, worker_id, f"its child {why}")
            else:
                await registry.stop(conn, worker_id, ended=verb == "end", reason=self._why_it_stops())
            if verb != "stop":
                # What a child that was killed still held need not wait for another worker's sweep.
                await reclaim(conn)

        try:
            await self._ask(tell, within_s=TELL_S_MAX)
        except TROUBLE as error:
            log.warning("worker.untold", verb=verb, error=str(error) or repr(error))

    def _why_it_stops(self) -> str:
        replaced = self._charge.replaced if self._charge else ""
        return f"replaced: {replaced}" if replaced else "it was told to stop"

    async def _registered(self) -> UUID | None:
        """Register, waiting for the database as long as it takes; None when told to stop.

        Raises: BudgetError where the server has no connections for a new worker; one that worked before
            waits for its share.
        """
        failures = 0
        while not self._stop.is_set():
            try:
                return await self._ask(self._admit, within_s=START_S_MAX)
            except MAY_PASS as error:
                log.warning("database.away", error=str(error) or repr(error))
            except BudgetError as error:
                if not self._admitted.is_set():
                    raise
                log.warning("worker.waits", error=str(error))
            failures += 1
            await wait(self._stop, backoff_s(failures, first_s=REGISTER_S, most_s=REGISTER_S_MAX))
        return None

    async def _admit(self, conn: Connection) -> UUID:
        """Register with as many connections as the server has for this worker."""
        wanted = PoolSettings.read().pool_max
        if self._admitted.is_set():
            # Upkeep was told for good whether it has a connection of its own.
            wanted = self._share
        asked_s = monotonic_s()
        worker_id, self._share = await registry.admit(
            conn,
            self._orders.registration,
            lease_s=self._settings.lease_s,
            wanted=wanted,
            previous_id=self._charge.previous_id if self._charge else None,
        )
        if self._share < wanted:
            log.warning("connections.few", wanted=wanted, granted=self._share)
        self._held_s = asked_s
        self._admitted.set()
        return worker_id

    async def _ask(self, what: Callable[[Connection], Awaitable[T]], *, within_s: float) -> T:
        """Ask something on the one connection, one question at a time; a failed one costs the connection.

        Raises: TimeoutError when there is no answer within `within_s`: the connection may be half-open.
        """
        async with self._asking:
            try:
                async with asyncio.timeout(within_s):
                    if self._conn is None or self._conn.is_closed():
                        self._conn = await connect(self._orders.url, application="starforge supervisor")
                    return await what(self._conn)
            except BaseException:
                self._drop_connection()
                raise

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[Connection]:
        """Lend the one connection for a question whose time the borrower limits; see `_ask`."""
        async with self._asking:
            try:
                if self._conn is None or self._conn.is_closed():
                    self._conn = await connect(self._orders.url, application="starforge supervisor")
                yield self._conn
            except BaseException:
                self._drop_connection()
                raise

    def _drop_connection(self) -> None:
        if self._conn is not None:
            self._conn.terminate()
            self._conn = None


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
