"""The supervisor: holds the lease, keeps one child running, and never runs user code.

It registers the worker, renews its lease, starts the child again when it dies, and tells it to stop.
Because it runs nothing else, no handler can keep the heartbeat from beating.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from uuid import UUID

import msgspec
import structlog

from starforge.clock import monotonic_s
from starforge.db.migrate import check_version
from starforge.db.pool import DATABASE_AWAY, Connection, PoolSettings, connect, require_bound_role
from starforge.loop import wait
from starforge.queue.history import make_partitions
from starforge.queue.reclaim import reclaim
from starforge.worker import registry
from starforge.worker.child import ORDERS_ENV, ChildOrders
from starforge.worker.errors import ChildKeepsDyingError
from starforge.worker.registry import Registration, WorkerSettings
from starforge.worker.scrape import metrics_shown

log = structlog.get_logger("worker")

QUICK_DEATH_S = 2.0
QUICK_DEATHS_MAX = 8
RESTART_S_MAX = 10.0
KILL_AFTER_GRACE_S = 5.0
PARTITIONS_S = 3600.0
PARTITION_DAYS = 3


@dataclass(frozen=True, slots=True)
class WorkerOrders:
    """What a worker was started for."""

    url: str
    app: str
    registration: Registration
    log_level: str = "info"


class Supervisor:
    """One worker: a lease, a heartbeat and a child."""

    def __init__(self, orders: WorkerOrders) -> None:
        self._orders = orders
        self._settings = WorkerSettings.read()
        self._conn: Connection | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._stop = asyncio.Event()
        self._stops = 0
        self._reclaim_at_s = 0.0
        self._partitions_at_s = 0.0

    def stop(self) -> None:
        """Drain and end; told a second time, give the running jobs back at once."""
        self._stops += 1
        self._stop.set()
        if self._child is not None and self._child.returncode is None:
            self._child.send_signal(signal.SIGTERM)

    @property
    def connected(self) -> bool:
        """Whether the supervisor has its connection: False from a heartbeat that failed to the next one."""
        return self._conn is not None and not self._conn.is_closed()

    async def run(self) -> None:
        """Work until told to stop.

        Raises: DatabaseUnreachableError or SchemaVersionError where the start fails; later losses of the
            database are waited out. ChildKeepsDyingError where no child lives for two seconds.
        """
        conn = await self._connection()
        await check_version(conn, what="this worker")
        await require_bound_role(conn, "this worker")
        await self._upkeep(conn)
        quick = 0
        while not self._stop.is_set():
            started_s = monotonic_s()
            status = await self._one_life()
            if self._stop.is_set():
                break
            quick = quick + 1 if monotonic_s() - started_s < QUICK_DEATH_S else 0
            log.error("child.died", exit_status=status, quick_deaths=quick)
            if status == 2 or quick >= QUICK_DEATHS_MAX:
                raise ChildKeepsDyingError(
                    f"the worker's child ended {quick or 1} times with status {status}"
                )
            if quick:
                await wait(self._stop, min(RESTART_S_MAX, 0.1 * 2**quick))
        if self._conn is not None:
            self._conn.terminate()

    async def _one_life(self) -> int:
        """Register, run one child under the lease until it ends, and return its exit status."""
        conn = await self._patient_connection()
        if conn is None:
            return 0
        worker_id = await registry.register(conn, self._orders.registration, lease_s=self._settings.lease_s)
        child = await self._start_child(worker_id)
        ended = asyncio.create_task(child.wait())
        stopping = asyncio.create_task(self._stop.wait())
        lease = asyncio.create_task(self._keep_lease(worker_id))
        await asyncio.wait({ended, stopping, lease}, return_when=asyncio.FIRST_COMPLETED)
        if self._stop.is_set() and not ended.done():
            await self._tell("stop", worker_id)
            # The lease goes on while the child drains.
            await asyncio.wait(
                {ended, lease},
                timeout=self._settings.grace_s + KILL_AFTER_GRACE_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
        if not ended.done():
            log.error("child.killed", worker_id=str(worker_id), reason="its lease is over or it did not stop")
            child.kill()
        status = await ended
        for task in (stopping, lease):
            task.cancel()
        await asyncio.gather(stopping, lease, return_exceptions=True)
        await self._tell("end" if self._stop.is_set() else "bury", worker_id, status)
        return status

    async def _start_child(self, worker_id: UUID) -> asyncio.subprocess.Process:
        settings = self._settings
        orders = ChildOrders(
            worker_id=worker_id,
            url=self._orders.url,
            app=self._orders.app,
            queues=list(self._orders.registration.queues),
            concurrency=self._orders.registration.concurrency,
            connections=PoolSettings.read().pool_max - 1,
            grace_s=settings.grace_s,
            poll_s=settings.poll_s,
            log_level=self._orders.log_level,
        )
        self._child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "starforge.worker.child",
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, ORDERS_ENV: msgspec.json.encode(orders).decode()},
        )
        return self._child

    async def _keep_lease(self, worker_id: UUID) -> None:
        """Renew the lease; return when it is over. The database may be away for less than the lease."""
        lease_s = self._settings.lease_s
        held_s = monotonic_s()
        while True:
            await asyncio.sleep(lease_s / 3)
            try:
                conn = await self._connection()
                if not await registry.extend(conn, worker_id, lease_s=lease_s):
                    log.error("lease.lost", worker_id=str(worker_id))
                    return
                held_s = monotonic_s()
                await self._upkeep(conn)
            except DATABASE_AWAY as error:
                away_s = monotonic_s() - held_s
                log.warning("heartbeat.failed", away_s=round(away_s, 1), error=str(error) or repr(error))
                self._drop_connection()

    async def _upkeep(self, conn: Connection) -> None:
        """Declare the dead dead and make their jobs pending; keep the history's partitions ahead."""
        now_s = monotonic_s()
        dead = await registry.expire(conn) + await registry.bury_the_gone(conn)
        if dead or now_s >= self._reclaim_at_s:
            jobs = await reclaim(conn)
            self._reclaim_at_s = now_s + self._settings.lease_s
            if dead or jobs:
                log.warning("job.reclaimed", workers=dead, jobs=jobs)
        if now_s >= self._partitions_at_s:
            await make_partitions(conn, days=PARTITION_DAYS)
            self._partitions_at_s = now_s + PARTITIONS_S

    async def _tell(self, verb: str, worker_id: UUID, status: int = 0) -> None:
        """Record what became of the worker; where the database is away its lease runs out instead."""
        try:
            conn = await self._connection()
            if verb == "bury":
                await registry.bury(conn, worker_id, f"its child ended with status {status}")
                await reclaim(conn)
            else:
                await registry.stop(conn, worker_id, ended=verb == "end", reason="it was told to stop")
        except DATABASE_AWAY as error:
            log.warning("worker.untold", verb=verb, error=str(error) or repr(error))
            self._drop_connection()

    async def _connection(self) -> Connection:
        if self._conn is None or self._conn.is_closed():
            self._conn = await connect(self._orders.url, application="starforge supervisor")
        return self._conn

    async def _patient_connection(self) -> Connection | None:
        """Return a connection, waiting for the database as long as it takes; None when told to stop."""
        pause_s = 0.2
        while not self._stop.is_set():
            try:
                conn = await self._connection()
                await conn.execute("SELECT 1")
                return conn
            except DATABASE_AWAY as error:
                log.warning("database.away", error=str(error) or repr(error))
                self._drop_connection()
                await wait(self._stop, pause_s)
                pause_s = min(5.0, pause_s * 2)
        return None

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
    with metrics_shown(WorkerSettings.read().metrics_port, lambda: supervisor.connected):
        await supervisor.run()
