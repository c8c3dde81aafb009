"""A held backfill: what its coordinator does with it at each tick, in one transaction under its lease.

It counts what has ended, moves the checkpoint, gives the queue the next partitions, judges the canary, stops
where a rule says so, and ends it. What is in memory is only what the rows say: after any error it is built
from them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from asyncpg import LockNotAvailableError

from starforge.backfill.estimate.eta import Eta, NoEta
from starforge.backfill.pace.pace import Pace
from starforge.backfill.run.feed import drive, drop, recount
from starforge.backfill.run.known import ENDED, Known, Row
from starforge.backfill.state.ages import AgeSettings
from starforge.backfill.state.slots import forget_slots
from starforge.clock import failpoint, monotonic_s
from starforge.db.pool import Connection, set_tenant
from starforge.db.probing import plan_by_probes
from starforge.db.statement import sql

log = structlog.get_logger("backfill")


BEAT_S = 5.0

BEATS = 4
"""At least so many heartbeats fit into the age at which one is suspected, where that is set short."""


@dataclass(slots=True)
class Held:
    """A backfill in the hands of this process."""

    id: UUID
    worker_id: UUID
    epoch: int
    heartbeat_at: Any
    was: str
    """Its state before it was claimed."""

    mind: Known | None = None
    """What is known of it; None: to be read from its rows."""

    hungry: bool = False
    """The queue could take more at once."""

    beat_s: float = field(default_factory=monotonic_s)
    failures: int = 0
    """Ticks in a row that failed."""

    rests_until_s: float = 0.0

    async def tick(self, conn: Connection, pace: Pace) -> bool:
        """Do what is due; return False where this process has nothing more to do with it.

        Args:
            conn: A connection without a transaction.
            pace: What the health of the database leaves to backfills.
        """
        locked = False
        try:
            async with conn.transaction():
                row = await conn.fetchrow(
                    sql("backfill", "hold"), self.id, self.worker_id, self.epoch, self.heartbeat_at
                )
                locked = True
                if row is None:
                    log.warning("backfill.lost", job_id=str(self.id), epoch=self.epoch)
                    return False
                await set_tenant(conn, row["tenant_id"])
                goes_on = await self._tick(conn, row, pace)
                failpoint("backfill_before_fold_commit")
            failpoint("backfill_after_fold_commit")
        except BaseException as error:
            if isinstance(error, LockNotAvailableError) and not locked:
                return True  # somebody is changing the row: the next tick sees
            self.mind = None  # whether it was committed is not known: the rows say
            raise
        self.was = "running"  # what was to be made of it is committed
        if self.mind is not None:
            self.mind.measure()
            if self.mind.recounted:
                self.mind = None
        return goes_on

    async def _tick(self, conn: Connection, row: Row, pace: Pace) -> bool:
        mind = self.mind
        if mind is None or mind.version != row["version"]:
            mind = self.mind = await Known.read(conn, self.id, row, mind, resumed=self.was == "resuming")
        # From here on a few rows are wanted of many: by their order, not by all that may be behind them.
        await conn.execute(plan_by_probes(local=True))
        counted = await mind.fold(conn)
        state = row["state"]
        over = {key: row[f"{key}_partitions"] + counted[key] for key in ENDED}
        left = row["total_partitions"] - sum(over.values())
        if state == "running" and left > 0:
            await drive(conn, mind, row, pace)
        elif state in ENDED:
            counted["cancelled"] += await drop(conn, mind)
        await mind.look_around(conn, row)
        dropping = counted["cancelled"] > 0
        self.hungry = dropping or (mind.hungry and state == "running" and left > 0)
        await self._save(conn, row, mind, counted, pace)
        if state == "running":
            return left > 0 or not await _finish(conn, mind, over)
        if state in ENDED:
            if left > counted["cancelled"] and (dropping or mind.runs):
                return True
            return not await _close(conn, mind, state)
        # Paused, or asked to go on by somebody's hand: what runs ends, then another claim takes it.
        if mind.runs or counted["ended"]:
            return True
        await conn.execute(sql("backfill", "release"), self.id, self.worker_id, self.epoch)
        return False

    async def _save(
        self, conn: Connection, row: Row, mind: Known, counted: Mapping[str, int], pace: Pace
    ) -> None:
        now_s = monotonic_s()
        beats = now_s - self.beat_s >= min(BEAT_S, AgeSettings.read().suspect_s / BEATS)
        if not (counted["ended"] or counted["cancelled"] or mind.fresh):
            if beats:
                self.heartbeat_at = await conn.fetchval(sql("backfill", "beat"), self.id)
                self.beat_s = now_s
            return
        runs = row["state"] == "running"
        eta = mind.eta if isinstance(mind.eta, Eta) and runs else None
        self.heartbeat_at = await conn.fetchval(
            sql("backfill", "save"),
            self.id,
            counted["completed"],
            counted["failed"],
            counted["cancelled"],
            mind.frontier.ordinal,
            mind.estimator.average_ms,
            eta.p10_s if eta else None,
            eta.p50_s if eta else None,
            eta.p90_s if eta else None,
            eta.basis if eta else mind.eta.reason if isinstance(mind.eta, NoEta) else None,
            mind.estimator.state() if mind.fresh else None,
            {
                **mind.look.document(
                    now_s,
                    len(mind.in_flight),
                    mind.cause if runs else "",
                    mind.slots if runs and mind.slots >= 0 else None,
                ),
                "breaker": mind.breaker.state(now_s),
            },
            pace.share if runs else 1.0,
            (mind.reason or None) if runs else None,
            beats,
            counted["ended"] > 0,
        )
        if beats:
            self.beat_s = now_s
        mind.fresh = False


async def _finish(conn: Connection, mind: Known, over: Mapping[str, int]) -> bool:
    state = await conn.fetchval(sql("backfill", "finish"), mind.id)
    if state is None:  # a partition is open that the counters have as over
        await recount(conn, mind)
        return False
    mind.tell(log.info, f"backfill.{state}", **over)
    await forget_slots(conn, [mind.id])
    if state != "completed":
        await _cascade(conn, mind)
    return True


async def _close(conn: Connection, mind: Known, state: str) -> bool:
    if state != "completed":
        await _cascade(conn, mind)
    closed = await conn.fetchval(sql("backfill", "close"), mind.id) is not None
    if closed:
        await forget_slots(conn, [mind.id])
        mind.tell(log.info, "backfill.closed", state=state)
    return closed


async def _cascade(conn: Connection, mind: Known) -> None:
    for row in await conn.fetch(sql("backfill", "cascade"), mind.id):
        cancelled = {"job_id": str(row["id"]), "asset": row["asset_name"], "upstream": str(mind.id)}
        mind.tell(log.warning, "backfill.cancelled", **cancelled)
