"""A held backfill: what its coordinator does with it at each tick, in one transaction under its lease.

It counts what has ended, moves the checkpoint, gives the queue the next partitions, judges the canary, stops
where a rule says so, and ends it. What is in memory is only what the rows say: after any error it is built
from them again.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from asyncpg import LockNotAvailableError, Record

from starforge.backfill.ages import AgeSettings
from starforge.backfill.breaker import FailureBreaker
from starforge.backfill.caps import capped
from starforge.backfill.checkpoint import Frontier
from starforge.backfill.eta import Estimator, Eta, NoEta, Pulse
from starforge.backfill.look import Look
from starforge.backfill.pace import Pace
from starforge.backfill.partition import QUEUE
from starforge.clock import failpoint, monotonic_s, new_id
from starforge.db.pool import Connection, set_tenant
from starforge.db.statement import sql
from starforge.queue.enqueue import enqueue_all
from starforge.queue.job import NewJob
from starforge.queue.override import overridden, override, reset
from starforge.telemetry.metrics import (
    ETA_DISTRIBUTION,
    PARTITION_DURATION,
    PARTITIONS_ENDED,
    PAUSE_DURATION,
)

log = structlog.get_logger("backfill")

AHEAD = 4
"""So many partitions are with the queue for each that may run; or what ends in AHEAD_S, if that is more."""

AHEAD_S = 0.5
FOLDED_MAX = 5_000
FED_MAX = 2_000
DROPPED_MAX = 5_000
PAGE = 50_000
LOOK_S = 1.0
"""How often the estimate is made anew."""

BEAT_S = 5.0
SAID_S = 10.0
SAID_MAX = 20
"""Of so many partitions that ended since the last tick each is said; of more, how it goes every SAID_S."""

OVERRIDE_MINUTES = 10 * 366 * 24 * 60
BEATS = 4
"""At least so many heartbeats fit into the age at which one is suspected, where that is set short."""

SILENT_S = 30.0
"""After so long without an end it is looked whether the jobs in hand are still there."""

UNKNOWN = NoEta("no partition has completed yet; one is needed for an estimate")
BEFORE_ALL = -(1 << 63)
ENDED = ("completed", "failed", "cancelled")

Row = Mapping[str, Any] | Record


@dataclass(slots=True)
class Held:
    """A backfill in the hands of this process."""

    id: UUID
    worker_id: UUID
    epoch: int
    heartbeat_at: Any
    was: str
    """Its state before it was claimed."""

    mind: _Mind | None = None
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
        return goes_on

    async def _tick(self, conn: Connection, row: Row, pace: Pace) -> bool:
        mind = self.mind
        if mind is None or mind.version != row["version"]:
            mind = self.mind = await _Mind.read(conn, self, row, mind)
        counted = await mind.fold(conn)
        state = row["state"]
        over = {key: row[f"{key}_partitions"] + counted[key] for key in ENDED}
        left = row["total_partitions"] - sum(over.values())
        if state == "running" and left > 0:
            await mind.drive(conn, row, pace)
        elif state in ENDED:
            counted["cancelled"] += await mind.drop(conn)
        await mind.look_around(conn, row, pace)
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
        self, conn: Connection, row: Row, mind: _Mind, counted: Mapping[str, int], pace: Pace
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
            mind.look.document(now_s, len(mind.in_flight), mind.cause if runs else ""),
            pace.share if runs else 1.0,
            (mind.reason or None) if runs else None,
            beats,
            counted["ended"] > 0,
        )
        if beats:
            self.beat_s = now_s
        mind.fresh = False


@dataclass(slots=True)
class _Mind:
    """What a coordinator knows of a backfill between two ticks."""

    id: UUID
    version: int
    ordinals: Sequence[int]
    frontier: Frontier
    look: Look
    estimator: Estimator
    breaker: FailureBreaker
    in_flight: set[int]
    """Ordinals whose jobs are with the queue, or run."""

    fed_upto: int = BEFORE_ALL
    ended: list[tuple[float, int]] = field(default_factory=list)
    """When lately how many attempts ended."""

    ended_s: float = field(default_factory=monotonic_s)
    told: list[Row] = field(default_factory=list)
    """Attempts that ended and are counted, to be measured and said once that is committed."""

    paused_s: float | None = None
    looked_s: float = 0.0
    runs: int = 0
    retried: bool = False
    eta: Eta | NoEta = UNKNOWN
    fresh: bool = True
    """There is something to be written beside counters."""

    hungry: bool = False
    slots: int = -1
    """How many may run at once now; -1: not worked out yet."""

    reason: str = ""
    cause: str = ""
    """Why not all of its concurrency, and that in a word."""

    said_s: float = field(default_factory=monotonic_s)

    @classmethod
    async def read(cls, conn: Connection, held: Held, row: Row, before: _Mind | None) -> _Mind:
        """Read a backfill from its rows: all that is in hand, and what is over behind the checkpoint."""
        ordinals = before.ordinals if before else await _ordinals(conn, held.id)
        frontier = Frontier(ordinals, upto=row["checkpoint_ordinal"])
        running: set[int] = set()
        after = BEFORE_ALL
        while True:
            # All of them: what was asked to run again may lie before the checkpoint.
            page = await conn.fetchrow(sql("backfill", "ordinals"), held.id, after, PAGE)
            if page is None or not page["ordinals"]:
                break
            frontier.fold(page["over"] or ())
            running.update(page["running"] or ())
            after = page["ordinals"][-1]
        waiting = await conn.fetch(sql("backfill", "waiting"), row["job_type"], str(held.id))
        given_back = await conn.fetch(sql("backfill", "orphans"), held.id, sorted(running))
        running.difference_update(each["ordinal"] for each in given_back)
        look = None if before else Look.restore(row["look"], len(ordinals))
        if look is not None and look.counts() != [row[f"{key}_partitions"] for key in ENDED]:
            look = None  # some of it was asked to run again meanwhile
        if look is None:
            parts = min(60, len(ordinals))
            strip = await conn.fetch(sql("backfill", "strip"), held.id, len(ordinals), max(parts, 1))
            fresh = Look.begin(len(ordinals), strip)
            if before:
                fresh.failures, fresh.ended, fresh.began_s = (
                    before.look.failures,
                    before.look.ended,
                    before.look.began_s,
                )
            look = fresh
        total = row["total_partitions"]
        estimator = before.estimator if before else Estimator.restore(row["eta_state"], total)
        if held.was == "resuming":
            estimator.resume(monotonic_s(), paused_s=row["paused_s"])
        return cls(
            id=held.id,
            version=row["version"],
            ordinals=ordinals,
            frontier=frontier,
            look=look,
            estimator=estimator,
            breaker=before.breaker if before and held.was != "resuming" else FailureBreaker(),
            in_flight=running | {each["ordinal"] for each in waiting},
            runs=len(running),
            retried=any(each["retry_in_s"] is not None for each in waiting),
            paused_s=row["paused_s"] if held.was == "resuming" else None,
        )

    # ---- what has ended

    async def fold(self, conn: Connection) -> dict[str, int]:
        """Take in what has ended; return how many partitions completed, failed, and attempts ended."""
        rows = await conn.fetch(sql("backfill", "fold"), self.id, FOLDED_MAX)
        counted = dict.fromkeys((*ENDED, "ended"), 0)
        if not rows:
            return counted
        now_s = monotonic_s()
        self.told += rows
        over: list[int] = []
        for row in rows:
            ordinal, outcome = row["ordinal"], row["outcome"]
            self.estimator.finish((row["duration_ms"] or 0.0) / 1000, outcome)
            if outcome in ("retried", "failed"):
                mark = row["fingerprint"] or ""
                self.look.fail(row["partition_key"], mark, row["error_message"] or "", row["ended_at"])
            if outcome == "retried":
                self.retried = True
                continue
            over.append(ordinal)
            counted[outcome] += 1
            self.look.end(self._place(ordinal), outcome)
            self.in_flight.discard(ordinal)
        self.frontier.fold(over)
        counted["ended"] = len(rows)
        bad = counted["failed"] + len(rows) - len(over)
        self.breaker.count(now_s, succeeded=counted["completed"], failed=bad)
        self.look.count(now_s, len(over))
        self.ended.append((now_s, len(over)))
        self.ended_s = now_s
        return counted

    def _say(self, row: Row, now_s: float) -> None:
        self.said_s = now_s
        log.info(
            "backfill.progress",
            job_id=str(self.id),
            asset=row["asset_name"],
            ended=sum(self.look.counts()),
            total=row["total_partitions"],
            per_s=round(self.look.rate_per_s(now_s), 1),
            left_s=round(self.eta.p50_s) if isinstance(self.eta, Eta) else None,
            slots=self.slots,
        )

    def measure(self) -> None:
        """Count in the metrics and say in the log what was committed."""
        if self.paused_s is not None:
            PAUSE_DURATION.observe(self.paused_s)
            self.paused_s = None
        told, self.told = self.told, []
        for row in told:
            outcome, seconds = row["outcome"], (row["duration_ms"] or 0.0) / 1000
            say = log.warning
            if outcome == "completed":
                say = log.info if len(told) <= SAID_MAX else log.debug
            say(
                f"partition.{outcome}",
                job_id=str(self.id),
                ordinal=row["ordinal"],
                key=row["partition_key"],
                attempt=row["attempt_count"],
                seconds=round(seconds, 3),
                error=row["error_message"],
            )
            if outcome != "retried":
                PARTITIONS_ENDED.labels(status=outcome).inc()
                PARTITION_DURATION.labels(status=outcome).observe(seconds)

    def _place(self, ordinal: int) -> int:
        return bisect_left(self.ordinals, ordinal)

    # ---- what is to be done

    async def drive(self, conn: Connection, row: Row, pace: Pace) -> None:
        """Stop by a rule, or give the queue the next partitions."""
        self.hungry = False
        if reason := self.breaker.tripped(monotonic_s()):
            self.breaker.reset()
            await _pause(conn, self.id, "breaker", reason)
            return
        canary = row["canary_partitions"] > 0 and row["canary_judged_at"] is None
        if canary and not self.in_flight and not await self._judge(conn):
            return
        if self.slots < 0 or self.due:
            await self._throttle(conn, row, pace)
        await self._feed(conn, row, self._ahead(row["concurrency"], self.slots), canary=canary)

    @property
    def due(self) -> bool:
        """Whether it is time for what is done now and then."""
        return monotonic_s() - self.looked_s >= LOOK_S

    async def _throttle(self, conn: Connection, row: Row, pace: Pace) -> None:
        """Work out how many may run at once, and have workers heed it: what is with the queue already too."""
        name, concurrency = str(self.id), row["concurrency"]
        slots, self.reason, self.cause = await capped(
            conn, pace, tenant=row["tenant_id"], concurrency=concurrency
        )
        if slots == self.slots:
            return
        now = await overridden(conn, "key", name, "limit")
        if slots < concurrency or (now is not None and now.value != slots):
            reason = self.reason or "its own concurrency"
            await override(
                conn,
                "key",
                name,
                "limit",
                slots,
                owner="coordinator",
                reason=reason,
                minutes=OVERRIDE_MINUTES,
            )
        self.slots, self.fresh = slots, True

    def _ahead(self, concurrency: int, slots: int) -> int:
        if slots < concurrency:
            return slots  # throttled: what is with the queue may all run at once
        now_s = monotonic_s()
        self.ended = [(at_s, count) for at_s, count in self.ended if now_s - at_s < AHEAD_S]
        return max(AHEAD * concurrency, sum(count for _, count in self.ended))

    async def _feed(self, conn: Connection, row: Row, ahead: int, *, canary: bool) -> None:
        room = min(ahead - len(self.in_flight), FED_MAX)
        # A few at a time cost as much as many.
        if room <= 0 or (room < ahead / 4 and len(self.in_flight) > row["concurrency"]):
            return
        statement = sql("backfill", "feed_canary" if canary else "feed")
        rows = await conn.fetch(statement, self.id, self.fed_upto, room + len(self.in_flight))
        fed = [each for each in rows if each["ordinal"] not in self.in_flight][:room]
        if not fed:
            self.fed_upto = rows[-1]["ordinal"] if rows else self.fed_upto
            if not rows and not self.in_flight and self.due:
                await self._begin_again(conn)
            return
        await enqueue_all(conn, [self._job(row, each) for each in fed])
        failpoint("backfill_fed")
        self.fed_upto = fed[-1]["ordinal"]
        self.in_flight.update(each["ordinal"] for each in fed)
        self.hungry = len(fed) == room

    async def _begin_again(self, conn: Connection) -> None:
        """Look from the beginning for what was given back; where there is nothing, trust the rows' counts."""
        if self.fed_upto != BEFORE_ALL:
            self.fed_upto = BEFORE_ALL
        elif (counts := await conn.fetchrow(sql("backfill", "count_anew"), self.id)) is not None:
            log.warning("backfill.recounted", job_id=str(self.id), **dict(counts))

    def _job(self, row: Row, partition: Row) -> NewJob:
        payload = {
            "backfill_id": str(self.id),
            "key": partition["partition_key"],
            "ordinal": partition["ordinal"],
        }
        return NewJob(
            row["job_type"],
            payload,
            queue=QUEUE,
            priority=row["priority"],
            max_attempts=max(1, row["attempts_max"] - partition["attempt_count"]),
            tenant=row["tenant_id"],
            limit_key=str(self.id),
            id=new_id(),
        )

    async def _judge(self, conn: Connection) -> bool:
        """Judge the canary once it is over; return whether the rest may run now."""
        found = await conn.fetchrow(sql("backfill", "canary"), self.id)
        if found is None or found["open"]:
            return True  # there are some to be fed
        await conn.execute(sql("backfill", "canary_judged"), self.id)
        self.fed_upto = BEFORE_ALL
        if not found["failed"]:
            log.info("backfill.canary_passed", job_id=str(self.id))
            return False  # the row that is in hand still says otherwise; the next tick feeds the rest
        keys = ", ".join(found["keys"])
        await _pause(
            conn,
            self.id,
            "canary",
            f"{found['failed']} partitions of the canary failed ({keys}); a resume runs all the others",
        )
        return False

    async def drop(self, conn: Connection) -> int:
        """Cancel some of what waits of a backfill that was ended; return how many."""
        rows = await conn.fetch(sql("backfill", "drop_pending"), self.id, self.fed_upto, DROPPED_MAX)
        if not rows and self.fed_upto != BEFORE_ALL:
            self.fed_upto = BEFORE_ALL  # once more from the beginning: what was given back
            return await self.drop(conn)
        dropped = sorted(row["ordinal"] for row in rows)
        if dropped:
            self.fed_upto = dropped[-1]
            self.frontier.fold(dropped)
            for ordinal in dropped:
                self.look.end(self._place(ordinal), "cancelled")
            self.in_flight.difference_update(dropped)
        return len(dropped)

    # ---- what is looked at now and then

    async def look_around(self, conn: Connection, row: Row, pace: Pace) -> None:
        """Make the estimate anew, and see after jobs of which nothing was heard."""
        now_s = monotonic_s()
        state = row["state"]
        if not self.due and state == "running":
            return
        self.looked_s = now_s
        running = await conn.fetch(sql("backfill", "running"), self.id, sorted(self.in_flight))
        self.runs = len(running)
        if state != "running":
            await self._see_after(conn, row, {each["ordinal"] for each in running})
            if state == "paused":
                self.estimator.pause(now_s)
        elif now_s - self.ended_s >= SILENT_S and self.in_flight:
            self.ended_s = now_s
            await self._see_after(conn, row, {each["ordinal"] for each in running})
        retry_in_s = 0.0
        if self.retried and state == "running":
            waits = await conn.fetch(sql("backfill", "waiting"), row["job_type"], str(self.id))
            delays = [each["retry_in_s"] for each in waits if each["retry_in_s"] is not None]
            self.retried, retry_in_s = bool(delays), max(delays, default=0.0)
        self.eta = self.estimator.look(
            Pulse(
                now_s=now_s,
                left=self.frontier.total - sum(self.look.counts()),
                ages_s=[each["age_s"] for each in running],
                slots=max(self.slots, 0),
                concurrency=row["concurrency"],
                retry_in_s=max(retry_in_s, 0.0),
            )
        )
        if now_s - self.said_s >= SAID_S and state == "running":
            self._say(row, now_s)
        if isinstance(self.eta, Eta) and state == "running":
            ETA_DISTRIBUTION.observe(self.eta.p50_s)
        self.fresh = True

    async def _see_after(self, conn: Connection, row: Row, running: set[int]) -> None:
        """Forget what is in hand by no row: jobs that were taken away are fed again."""
        lost = await conn.fetch(sql("backfill", "orphans"), self.id, sorted(running))
        waiting = await conn.fetch(sql("backfill", "waiting"), row["job_type"], str(self.id))
        running.difference_update(each["ordinal"] for each in lost)
        here = running | {each["ordinal"] for each in waiting}
        self.runs = len(running)
        if gone := self.in_flight - here:
            self.in_flight = here
            self.fed_upto = min([self.fed_upto, *(ordinal - 1 for ordinal in gone)])


async def _ordinals(conn: Connection, backfill_id: UUID) -> Sequence[int]:
    found = await conn.fetchrow(sql("backfill", "places"), backfill_id)
    assert found is not None
    count, first, last = found
    if not count:
        return range(0)
    if last - first + 1 == count:
        return range(first, last + 1)
    ordinals, after = array("q"), BEFORE_ALL
    while len(ordinals) < count:
        page = await conn.fetchval(sql("backfill", "ordinals"), backfill_id, after, PAGE)
        ordinals.extend(page)
        after = page[-1]
    return ordinals


async def _pause(conn: Connection, backfill_id: UUID, by: str, reason: str) -> None:
    log.warning("backfill.paused", job_id=str(backfill_id), by=by, reason=reason)
    await conn.execute(sql("backfill", "pause_itself"), backfill_id, by, reason)


async def _finish(conn: Connection, mind: _Mind, over: Mapping[str, int]) -> bool:
    state = await conn.fetchval(sql("backfill", "finish"), mind.id)
    if state is None:
        return False
    log.info(f"backfill.{state}", job_id=str(mind.id), **over)
    await _unlimit(conn, mind.id)
    if state != "completed":
        await _cascade(conn, mind.id)
    return True


async def _close(conn: Connection, mind: _Mind, state: str) -> bool:
    if state != "completed":
        await _cascade(conn, mind.id)
    closed = await conn.fetchval(sql("backfill", "close"), mind.id) is not None
    if closed:
        await _unlimit(conn, mind.id)
        log.info("backfill.closed", job_id=str(mind.id), state=state)
    return closed


async def _unlimit(conn: Connection, backfill_id: UUID) -> None:
    """Forget what it might run at once."""
    if await overridden(conn, "key", str(backfill_id), "limit") is not None:
        await reset(conn, "key", str(backfill_id), "limit")


async def _cascade(conn: Connection, backfill_id: UUID) -> None:
    for row in await conn.fetch(sql("backfill", "cascade"), backfill_id):
        log.warning(
            "backfill.cancelled", job_id=str(row["id"]), asset=row["asset_name"], upstream=str(backfill_id)
        )
