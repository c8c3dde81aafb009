"""Coordinate: of all processes one looks after each backfill, under the lease and epoch of its row.

It makes no partition itself and needs no code of an asset: any supervisor can do it, and its heartbeat does
not wait for anybody's work. One that was frozen, and followed, finds its epoch or heartbeat changed and
writes nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

import structlog

from starforge.backfill.asset.asset import Assets
from starforge.backfill.asset.declared import DECLARE_S, declare
from starforge.backfill.pace.pace import Health, Pace, PaceSettings, Throttle
from starforge.backfill.run.health import LIVE_S, HealthReader
from starforge.backfill.run.held import Held
from starforge.backfill.run.planned import Planned
from starforge.backfill.state.ages import AgeSettings
from starforge.clock import failpoint, monotonic_s, randomness
from starforge.db.leader import TROUBLE, Lend
from starforge.db.pool import DATABASE_AWAY, Connection
from starforge.db.statement import sql
from starforge.errors import told
from starforge.loop import backoff_s, wait

log = structlog.get_logger("backfill")

TICK_S = 0.2
BUSY_TICK_S = 0.05
"""While the queue takes all that it is given."""

CLAIM_S = 1.0
HEALTH_S = 2.0
STOPPED_S = 2 * LIVE_S
"""After so long without a start nothing that live jobs wait for is a backfill's."""

HELD_MAX = 16
FAILED_S = 0.2
FAILED_S_MAX = 5.0


async def coordinate(
    assets: Assets, lend: Lend, worker: Callable[[], UUID | None], stop: asyncio.Event
) -> None:
    """Coordinate backfills until `stop`, and say what assets there are; see Coordinator."""
    await Coordinator(lend, worker, assets).run(stop)


class Coordinator:
    """Takes backfills that nobody looks after, and looks after them until they end or are paused.

    Args:
        lend: Lends a connection, for as short a time as it limits.
        worker: Returns as which worker this process is registered now; None: it is not.
        assets: What this process's app declares: it is written down, for whoever creates backfills.
    """

    def __init__(self, lend: Lend, worker: Callable[[], UUID | None], assets: Assets | None = None) -> None:
        self._lend, self._worker, self._assets = lend, worker, assets
        self._declared_s = -DECLARE_S
        self._health, self._throttle = HealthReader(), Throttle()
        self._planned = Planned()
        self._read_s = -HEALTH_S
        self._stopped_s: float | None = None
        self._held: dict[UUID, Held] = {}
        self._claimed_s = 0.0
        self._pace = Pace(1.0, PaceSettings.read().batch_s, "")

    async def run(self, stop: asyncio.Event) -> None:
        """Coordinate until `stop`, then let go of everything, so that others need not wait."""
        failures = 0
        while not stop.is_set():
            pause_s = TICK_S if self._held else CLAIM_S * randomness.uniform(0.8, 1.2)
            try:
                await self._once()
                failures = 0
                if any(held.hungry for held in self._held.values()):
                    pause_s = BUSY_TICK_S
            except TROUBLE as error:
                failures += 1
                log.warning("backfill.trouble", failures=failures, error=told(error))
                pause_s = backoff_s(failures, first_s=FAILED_S, most_s=FAILED_S_MAX)
            except Exception as error:  # whatever it is, it does not end this process's coordinating
                failures += 1
                log.error("backfill.trouble", failures=failures, error=repr(error), exc_info=True)
                pause_s = backoff_s(failures, first_s=FAILED_S, most_s=FAILED_S_MAX)
            await wait(stop, pause_s)
        await self._let_go()

    async def _once(self) -> None:
        if self._assets and monotonic_s() - self._declared_s >= DECLARE_S:
            async with self._lend() as conn:
                await declare(conn, self._assets)
            self._declared_s = monotonic_s()
        if monotonic_s() - self._claimed_s >= CLAIM_S * 0.8:
            self._claimed_s = monotonic_s()
            await self._claim()
            await self._resume_due()
        if self._held and monotonic_s() - self._read_s >= HEALTH_S:
            self._read_s = monotonic_s()
            async with self._lend() as conn:
                health = await self._health.read(conn)
            self._heed(health, self._read_s)
        for held in list(self._held.values()):
            if monotonic_s() >= held.rests_until_s and not await self._look_after(held):
                del self._held[held.id]

    def _heed(self, health: Health, now_s: float) -> None:
        """Set the pace; how long live jobs wait although nothing was started for a while is their normal."""
        self._pace = self._throttle.judge(health, now_s)
        if self._pace.share > 0:
            self._stopped_s = None
        elif self._stopped_s is None:
            self._stopped_s = now_s
        elif now_s - self._stopped_s >= STOPPED_S and health.live_p95_ms is not None:
            self._health.learn(health.live_p95_ms)

    async def _look_after(self, held: Held) -> bool:
        """Do what is due for one; whatever it meets is its own matter, and the others go on."""
        try:
            async with self._lend() as conn:
                return await self._tick(held, conn)
        except TimeoutError as error:  # it took longer than a connection is lent for
            _rest(held, error)
            return True

    async def _tick(self, held: Held, conn: Connection) -> bool:
        try:
            goes_on = await held.tick(conn, self._pace)
        except DATABASE_AWAY:
            raise
        except Exception as error:
            _rest(held, error)
            return True
        held.failures = 0
        return goes_on

    async def _resume_due(self) -> None:
        """Resume what was paused until now; that it takes too long stops none of those that run."""
        try:
            async with self._lend() as conn:
                await self._planned.resume_due(conn)
        except TimeoutError as error:
            log.error("backfill.unresumed", error=told(error))

    async def _claim(self) -> None:
        worker_id = self._worker()
        while worker_id is not None and len(self._held) < HELD_MAX:
            async with self._lend() as conn:
                row = await self._take(conn, worker_id)
            if row is None:
                return
            failpoint("backfill_claimed")
            self._held[row.id] = row
            log.info("backfill.claimed", job_id=str(row.id), was=row.was, epoch=row.epoch)

    async def _take(self, conn: Connection, worker_id: UUID) -> Held | None:
        stale_s = AgeSettings.read().reclaimable_s
        row = await conn.fetchrow(sql("backfill", "claim"), worker_id, stale_s, list(self._held))
        if row is None:
            return None
        return Held(row["id"], worker_id, row["epoch"], row["heartbeat_at"], row["was"])

    async def _let_go(self) -> None:
        try:
            async with self._lend() as conn:
                for held in self._held.values():
                    await conn.execute(sql("backfill", "release"), held.id, held.worker_id, held.epoch)
        except TROUBLE as error:
            log.warning("backfill.unreleased", error=told(error))
        self._held.clear()


def _rest(held: Held, error: Exception) -> None:
    """Say what one met, and leave it alone for a while that grows."""
    held.failures += 1
    rest_s = backoff_s(held.failures, first_s=FAILED_S, most_s=FAILED_S_MAX)
    held.rests_until_s = monotonic_s() + rest_s
    ours = not isinstance(error, TROUBLE)
    log.error(
        "backfill.trouble",
        job_id=str(held.id),
        failures=held.failures,
        error=repr(error) if ours else told(error),
        exc_info=ours,
    )
