"""What a coordinator knows of a backfill between two ticks: what is in hand, what is over, how it goes.

All of it is read from the rows when a coordinator begins, and again whenever somebody changed the backfill.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from asyncpg import Record

from starforge.backfill.estimate.eta import Estimator, Eta, NoEta, Pulse
from starforge.backfill.pace.breaker import FailureBreaker
from starforge.backfill.run.look import Look
from starforge.backfill.run.read import BEFORE_ALL, read_partitions
from starforge.backfill.state.checkpoint import Frontier
from starforge.clock import monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.errors import shortened
from starforge.telemetry.metrics import (
    ETA_DISTRIBUTION,
    PARTITION_DURATION,
    PARTITIONS_ENDED,
    PAUSE_DURATION,
)

log = structlog.get_logger("backfill")

FOLDED_MAX = 5_000
LOOK_S = 1.0
"""How often the estimate is made anew."""

SAID_S = 10.0
SAID_MAX = 20
"""Of so many partitions that ended since the last tick each is said; of more, how it goes every SAID_S, and
each in the debug log."""

ERROR_CHARS_MAX = 300
"""Of an error, in the log; the partition's row has more of it."""

SILENT_S = 30.0
"""After so long without an end it is looked whether the jobs in hand are still there."""

UNKNOWN = NoEta("no partition has completed yet; one is needed for an estimate")
NEVER_S = float("-inf")
ENDED = ("completed", "failed", "cancelled")

Row = Mapping[str, Any] | Record


@dataclass(slots=True)
class Known:
    """What is known of one backfill."""

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
    fed_most: int = field(init=False)
    """None that is in hand lies behind it."""

    swept_s: float = NEVER_S
    """When nothing of an ended backfill waited any more; NEVER_S: some may."""

    ended: list[tuple[float, int]] = field(default_factory=list)
    """When lately how many attempts ended."""

    ended_s: float = field(default_factory=monotonic_s)
    told: list[Row] = field(default_factory=list)
    """Attempts that ended and are counted, to be measured and said once that is committed."""

    events: list[tuple[Callable[..., None], str, dict[str, Any]]] = field(default_factory=list)
    """What is to be said once it is committed."""

    cancelled: int = 0
    """Partitions that were cancelled, to be measured as well."""

    paused_s: float | None = None
    looked_s: float = 0.0
    runs: int = 0
    retried: set[int] = field(default_factory=set)
    """Of those in hand, which wait for their next attempt."""

    again_s: dict[int, float] = field(default_factory=dict)
    """Of these, when that was counted where it is not known yet for how long they wait."""

    eta: Eta | NoEta = UNKNOWN
    fresh: bool = True
    """There is something to be written beside counters."""

    hungry: bool = False
    recounted: bool = False
    """Its partitions are others than were known: all of it is to be read again."""

    slots: int = -1
    """How many may run at once now; -1: not worked out yet."""

    reason: str = ""
    cause: str = ""
    """Why not all of its concurrency, and that in a word."""

    said_s: float = field(default_factory=monotonic_s)

    def __post_init__(self) -> None:
        self.fed_most = max(self.in_flight, default=BEFORE_ALL)

    @classmethod
    async def read(
        cls, conn: Connection, backfill_id: UUID, row: Row, before: Known | None, *, resumed: bool
    ) -> Known:
        """Read a backfill from its rows: all that is in hand, and what is over behind the checkpoint."""
        found = await read_partitions(
            conn, backfill_id, row["checkpoint_ordinal"], before.ordinals if before else None
        )
        ordinals, look, running = found.ordinals, found.look, set(found.running)
        waiting = await conn.fetch(sql("backfill", "waiting"), row["job_type"], str(backfill_id))
        given_back = await conn.fetch(sql("backfill", "orphans"), backfill_id, found.running)
        running.difference_update(each["ordinal"] for each in given_back)
        if before:
            look.failures, look.ended, look.began_s = (
                before.look.failures,
                before.look.ended,
                before.look.began_s,
            )
        else:
            look.failures = Look.noted(row["look"])
        estimator = before.estimator if before else _estimator(row)
        if resumed:
            estimator.resume(monotonic_s(), paused_s=row["paused_s"])
        return cls(
            id=backfill_id,
            version=row["version"],
            ordinals=ordinals,
            frontier=found.frontier,
            look=look,
            estimator=estimator,
            breaker=before.breaker if before and not resumed else _breaker(row, resumed=resumed),
            in_flight=running | {each["ordinal"] for each in waiting},
            runs=len(running),
            retried=_retried(waiting),
            paused_s=row["paused_s"] if resumed else None,
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
        retried = 0
        for row in rows:
            ordinal, outcome = row["ordinal"], row["outcome"]
            place = self.frontier.place(ordinal)
            if place is None:
                continue  # somebody deleted the partition since
            self.estimator.finish((row["duration_ms"] or 0.0) / 1000, outcome)
            if outcome in ("retried", "failed"):
                mark = row["fingerprint"] or ""
                self.look.fail(row["partition_key"], mark, row["error_message"] or "", row["ended_at"])
            if outcome == "retried":
                retried += 1
                self.retried.add(ordinal)
                self.again_s[ordinal] = now_s
                self.swept_s = NEVER_S
                continue
            over.append(ordinal)
            counted[outcome] += 1
            self.look.end(place, outcome)
            self.in_flight.discard(ordinal)
        self.retried &= self.in_flight
        self.frontier.fold(over)
        counted["ended"] = len(rows)
        self.breaker.count(now_s, succeeded=counted["completed"], failed=counted["failed"] + retried)
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

    def tell(self, say: Callable[..., None], event: str, **fields: Any) -> None:
        """Have something said in the log once it is committed; `say` is a method of a log."""
        self.events.append((say, event, fields))

    def measure(self) -> None:
        """Count in the metrics and say in the log what was committed."""
        if self.paused_s is not None:
            PAUSE_DURATION.observe(self.paused_s)
            self.paused_s = None
        if self.cancelled:
            PARTITIONS_ENDED.labels(status="cancelled").inc(self.cancelled)
            self.cancelled = 0
        events, self.events = self.events, []
        for say, event, fields in events:
            say(event, **{"job_id": str(self.id), **fields})
        told, self.told = self.told, []
        for outcome, count in Counter(row["outcome"] for row in told if row["outcome"] != "retried").items():
            PARTITIONS_ENDED.labels(status=outcome).inc(count)
            duration = PARTITION_DURATION.labels(status=outcome)
            for row in told:
                if row["outcome"] == outcome:
                    duration.observe((row["duration_ms"] or 0.0) / 1000)
        many = len(told) > SAID_MAX
        silent = many and not log.bind().is_enabled_for(logging.DEBUG)
        for row in told:
            outcome = row["outcome"]
            if outcome == "completed" and silent:
                continue
            say = log.warning
            if outcome == "completed":
                say = log.debug if many else log.info
            why = {"error": shortened(row["error_message"], ERROR_CHARS_MAX)} if row["error_message"] else {}
            say(
                f"partition.{outcome}",
                job_id=str(self.id),
                key=row["partition_key"],
                attempt=row["attempt_count"],
                seconds=round((row["duration_ms"] or 0.0) / 1000, 3),
                **why,
            )

    @property
    def due(self) -> bool:
        """Whether it is time for what is done now and then."""
        return monotonic_s() - self.looked_s >= LOOK_S

    # ---- what is looked at now and then

    async def look_around(self, conn: Connection, row: Row) -> None:
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
            self.retried = _retried(waits)
            self._learn_waits(waits, now_s)
            retry_in_s = max((each["retry_in_s"] or 0.0 for each in waits), default=0.0)
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

    def _learn_waits(self, waits: Sequence[Row], now_s: float) -> None:
        """Tell the estimator for how long what was retried lately waits; what runs again already did not."""
        for each in waits:
            counted_s = self.again_s.pop(each["ordinal"], None)
            if counted_s is not None and each["retry_in_s"] is not None:
                self.estimator.wait(max(each["retry_in_s"], 0.0) + now_s - counted_s)
        self.again_s.clear()

    async def _see_after(self, conn: Connection, row: Row, running: set[int]) -> None:
        """Forget what is in hand by no row: jobs that were taken away are fed again."""
        lost = await conn.fetch(sql("backfill", "orphans"), self.id, sorted(self.in_flight))
        waiting = await conn.fetch(sql("backfill", "waiting"), row["job_type"], str(self.id))
        running.difference_update(each["ordinal"] for each in lost)
        if lost:
            self.swept_s = NEVER_S
        here = running | {each["ordinal"] for each in waiting}
        self.runs = len(running)
        self.retried = _retried(waiting)
        if gone := self.in_flight - here:
            self.in_flight = here
            self.fed_most = max([self.fed_most, *here])
            self.fed_upto = min([self.fed_upto, *(ordinal - 1 for ordinal in gone)])


def _estimator(row: Row) -> Estimator:
    """Go on with what the last coordinator learnt; where that cannot be read, with the mean duration."""
    total, average_ms = row["total_partitions"], row["avg_partition_duration_ms"]
    stored = Estimator.restore(row["eta_state"], total)
    if stored.done or average_ms is None or not row["completed_partitions"]:
        return stored
    return Estimator.from_average(average_ms, total)


def _breaker(row: Row, *, resumed: bool) -> FailureBreaker:
    """Go on with what the last coordinator counted; after a resume begin anew."""
    breaker = FailureBreaker()
    if not resumed:
        breaker.restore((row["look"] or {}).get("breaker"), monotonic_s())
    return breaker


def _retried(waiting: Sequence[Row]) -> set[int]:
    return {each["ordinal"] for each in waiting if each["retry_in_s"] is not None}
