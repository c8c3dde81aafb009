"""The lease: a worker registers, has its share of the connections, and shows that it lives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog

from starforge.clock import failpoint, monotonic_s
from starforge.db.errors import BudgetError
from starforge.db.pool import MAY_PASS, Connection, PoolSettings
from starforge.db.statement import sql
from starforge.loop import backoff_s, wait
from starforge.worker import registry
from starforge.worker.charge import Charge
from starforge.worker.registry import Registration
from starforge.worker.wire import Wire

log = structlog.get_logger("worker")

REGISTER_S = 0.2
REGISTER_S_MAX = 5.0
START_S_MAX = 30.0
"""Longest that the database may take to answer the first questions."""

ASK_S_MIN = 0.1
STEP_S = 2.0
"""Between two heartbeats the database's clock may drift from this machine's by so much; more is a step."""


class Lease:
    """One supervisor's leases, one after the other: each child works under one of its own."""

    def __init__(self, wire: Wire, registration: Registration, lease_s: float) -> None:
        self._wire, self._registration, self._lease_s = wire, registration, lease_s
        self.share = 0
        """Connections of the worker, as of the last registration."""

        self.admitted = asyncio.Event()
        self._held_s = 0.0  # when the lease was last asked for and granted
        self._ahead_s: float | None = None  # the database's clock less our stopwatch

    async def take(self, stop: asyncio.Event, previous_id: UUID | None) -> UUID | None:
        """Register, waiting for the database as long as it takes; None when told to stop.

        Raises: BudgetError where the server has no connections for a new worker; one that worked before
            waits for its share.
        """
        failures = 0
        while not stop.is_set():
            try:
                return await self._wire.ask(lambda conn: self._admit(conn, previous_id), within_s=START_S_MAX)
            except MAY_PASS as error:
                log.warning("database.away", error=str(error) or repr(error))
            except BudgetError as error:
                if not self.admitted.is_set():
                    raise
                log.warning("worker.waits", error=str(error))
            failures += 1
            await wait(stop, backoff_s(failures, first_s=REGISTER_S, most_s=REGISTER_S_MAX))
        return None

    async def _admit(self, conn: Connection, previous_id: UUID | None) -> UUID:
        """Register with as many connections as the server has for this worker."""
        # Upkeep was told for good whether it has a connection of its own.
        wanted = self.share if self.admitted.is_set() else PoolSettings.read().pool_max
        asked_s = monotonic_s()
        worker_id, self.share = await registry.admit(
            conn, self._registration, lease_s=self._lease_s, wanted=wanted, previous_id=previous_id
        )
        if self.share < wanted:
            log.warning("connections.few", wanted=wanted, granted=self.share)
        self._held_s = asked_s
        self.admitted.set()
        failpoint("worker_registered")
        return worker_id

    async def keep(
        self, worker_id: UUID, charge: Charge, renewed: Callable[[Charge], Awaitable[None]]
    ) -> None:
        """Renew the lease; return when it is over. The database may be away for less than the lease.

        What cannot be renewed is over here before it is over there: the child is to have ended before
        others run its jobs, or take its tokens of a limit. `renewed` is called after each renewal.
        """
        lease_s = self._lease_s
        pause_s = lease_s / 3
        charge.heard(True)
        while True:
            left_s = self._held_s + lease_s - monotonic_s()
            await asyncio.sleep(max(0.0, min(pause_s, left_s)))
            asked_s = monotonic_s()
            left_s = self._held_s + lease_s - asked_s
            try:
                held = await self._wire.ask(
                    lambda conn: self._extend(conn, worker_id, charge),
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
            await renewed(charge)

    async def _extend(self, conn: Connection, worker_id: UUID, charge: Charge) -> bool:
        """Renew the lease; say so where the database's clock has stepped: leases end or last longer by it."""
        asked_s = monotonic_s()
        ahead_s = await conn.fetchval(sql("worker", "now")) - asked_s
        took_s = monotonic_s() - asked_s
        if self._ahead_s is not None and took_s < STEP_S < abs(ahead_s - self._ahead_s):
            log.warning("database.clock_stepped", by_s=round(ahead_s - self._ahead_s, 1))
        self._ahead_s = ahead_s
        return await registry.extend(conn, worker_id, lease_s=self._lease_s, vitals=charge.vitals())
