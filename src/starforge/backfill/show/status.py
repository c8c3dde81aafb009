"""One backfill, whole: what it is, how far it is, who looks after it, and what would move it.

It is read from the backfill's own row and those of its coordinator and upstream, and from no partition, so it
takes as long for half a million of them as for ten. What it shows of partitions (by their place, the last
failures) its coordinator wrote into the row with its last count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from starforge.backfill.errors import UnknownBackfillError
from starforge.backfill.pace.pace import slots_of
from starforge.backfill.show.cause import likely_cause
from starforge.backfill.show.reads import Failures
from starforge.backfill.show.why import Row, Why, not_resumable, why
from starforge.backfill.state.ages import AgeSettings
from starforge.backfill.state.author import author
from starforge.backfill.state.backfill import BACKFILL
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.gate import closed_gates

STRIP_MAX = 60
POISON_MAX = 1000
"""So far poison rows are counted."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """When it will end, or why that is not known."""

    low_at: datetime | None
    """It ends between this and `high_at` in eight cases of ten."""

    at: datetime | None
    high_at: datetime | None
    low_s: float | None
    seconds: float | None
    """Left until `at`; never negative."""

    high_s: float | None
    basis: str
    """What the estimate rests on; without one, why there is none."""


@dataclass(frozen=True, slots=True)
class Executor:
    """The worker that coordinates it."""

    worker_id: UUID
    epoch: int
    host: str | None
    pid: int | None
    version: str | None
    alive: bool
    told: str


@dataclass(frozen=True, slots=True)
class Throttle:
    """How much of its concurrency it may use now, and why not all."""

    pace: float
    concurrency: int
    slots: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class Sla:
    """The time by which it is to be done."""

    at: datetime
    verdict: str
    """met, missed, safe, at-risk, late or unknown."""

    told: str


@dataclass(frozen=True, slots=True)
class Awaited:
    """An upstream backfill that must be completed first."""

    id: UUID
    asset: str
    state: str
    completed: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One backfill, whole; times are the database's, None where they do not apply."""

    id: UUID
    tenant: str
    asset: str
    state: str
    version: int
    why: str
    """Why it is in this state, in words."""

    moves: str
    """What would move it."""

    next: str
    """The sensible command; empty where waiting is all there is to do."""

    not_resumable: str
    """Why a resume would be refused; empty where it would be done."""

    claimable: bool
    """A worker may begin to coordinate it now."""

    total: int
    completed: int
    failed: int
    cancelled: int
    left: int
    failed_max: int
    """So many may fail for it to end as completed."""

    canary: int
    canary_judged_at: datetime | None
    checkpoint: str | None
    checkpoint_ordinal: int | None
    rate_per_s: float | None
    """Partitions that ended per second, over the last folds."""

    rate_per_minute: float | None
    average_ms: float | None
    in_flight: int | None
    """Partitions that are with the queue now."""

    eta: Estimate
    heartbeat_at: datetime | None
    heartbeat_age_s: float | None
    progress_at: datetime | None
    progress_age_s: float | None
    executor: Executor | None
    throttle: Throttle
    sla: Sla | None
    failures: list[Failures]
    strip: list[list[int]]
    """Partitions by their place: completed, failed, cancelled and all of each part of the whole."""

    poison: int
    """Rows of a table that were stepped over, counted up to `POISON_MAX`."""

    waits_for: list[Awaited]
    parent_id: UUID | None
    priority: int
    attempts_max: int
    code_version: str | None
    created_by: str | None
    state_by: str | None
    state_reason: str | None
    error_message: str | None
    created_at: datetime
    started_at: datetime | None
    paused_at: datetime | None
    resume_at: datetime | None
    completed_at: datetime | None
    closed_at: datetime | None
    now: datetime

    @property
    def ended(self) -> bool:
        """Tell whether nothing more will change: its state is terminal and everything is counted."""
        return self.closed_at is not None and self.state in BACKFILL.terminal

    @property
    def done(self) -> int:
        """How many partitions are terminal, whatever their end."""
        return self.completed + self.failed + self.cancelled


async def status(conn: Connection, backfill_id: UUID) -> Status:
    """Return one backfill; raise UnknownBackfillError where the caller's tenant has none of this id."""
    row = await _row(conn, backfill_id)
    eta = _eta(row)
    executor = _executor(row)
    told = why(row, await closed_gates(conn))
    look: Mapping[str, Any] = row["look"] if isinstance(row["look"], dict) else {}
    by, reason = author(row)
    rate = look.get("rate_per_s") if row["state"] == "running" else None
    ended = row["completed_partitions"] + row["failed_partitions"] + row["cancelled_partitions"]
    return Status(
        id=row["id"],
        tenant=row["tenant_id"],
        asset=row["asset_name"],
        state=row["state"],
        version=row["version"],
        why=told.why,
        moves=told.moves,
        next=told.command,
        not_resumable=not_resumable(row),
        claimable=told.claimable,
        total=row["total_partitions"],
        completed=row["completed_partitions"],
        failed=row["failed_partitions"],
        cancelled=row["cancelled_partitions"],
        left=max(row["total_partitions"] - ended, 0),
        failed_max=row["failed_max"],
        canary=row["canary_partitions"],
        canary_judged_at=row["canary_judged_at"],
        checkpoint=row["checkpoint_partition_key"],
        checkpoint_ordinal=row["checkpoint_ordinal"],
        rate_per_s=rate,
        rate_per_minute=None if rate is None else rate * 60,
        average_ms=row["avg_partition_duration_ms"],
        in_flight=look.get("in_flight"),
        eta=eta,
        heartbeat_at=row["heartbeat_at"],
        heartbeat_age_s=row["heartbeat_age_s"] if row["closed_at"] is None else None,
        progress_at=row["progress_at"],
        progress_age_s=row["progress_age_s"] if row["state"] == "running" else None,
        executor=executor,
        throttle=_throttle(row),
        sla=_sla(row, eta),
        failures=_failures(look.get("failures") or ()),
        strip=[list(part) for part in (look.get("strip") or ())[:STRIP_MAX]],
        poison=row["poison"],
        waits_for=[Awaited(**{**one, "id": UUID(one["id"])}) for one in row["waits"]],
        parent_id=row["parent_id"],
        priority=row["priority"],
        attempts_max=row["attempts_max"],
        code_version=row["code_version"],
        created_by=row["created_by"],
        state_by=by,
        state_reason=reason,
        error_message=row["error_message"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        paused_at=row["paused_at"],
        resume_at=row["resume_at"],
        completed_at=row["completed_at"],
        closed_at=row["closed_at"],
        now=row["now"],
    )


async def explanation(conn: Connection, backfill_id: UUID) -> tuple[str, str, Why, str]:
    """Return a backfill's asset and state, why it is in it, and why a resume would be refused.

    Raises: UnknownBackfillError.
    """
    row = await _row(conn, backfill_id)
    return row["asset_name"], row["state"], why(row, await closed_gates(conn)), not_resumable(row)


async def unclaimed(conn: Connection, *, most: int = 50) -> list[Status]:
    """Return the backfills that wait for a coordinator, at most `most`, those first that are taken first."""
    rows = await conn.fetch(sql("backfill", "unclaimed"), AgeSettings.read().reclaimable_s, most)
    return [await status(conn, row["id"]) for row in rows]


async def _row(conn: Connection, backfill_id: UUID) -> Row:
    row = await conn.fetchrow(
        sql("backfill", "status"), backfill_id, AgeSettings.read().reclaimable_s, POISON_MAX
    )
    if row is None:
        raise UnknownBackfillError(backfill_id)
    silent: list[asyncpg.Record] = []
    if row["closed_at"] is None:
        silent = await conn.fetch(sql("backfill", "silent"), row["job_type"], str(backfill_id))
    return {**row, "silent": silent}


def _eta(row: Row) -> Estimate:
    """Read the estimate; a time that has passed is now, and what does not run has none (B-49)."""
    times = (row["eta_low_at"], row["estimated_completion_at"], row["eta_high_at"])
    if row["state"] != "running" or row["estimated_completion_at"] is None or not row["completed_partitions"]:
        return Estimate(None, None, None, None, None, None, _no_eta(row))
    low, at, high = (None if time is None else max(time, row["now"]) for time in times)
    low_s, left_s, high_s = (
        None if time is None else (time - row["now"]).total_seconds() for time in (low, at, high)
    )
    return Estimate(low, at, high, low_s, left_s, high_s, row["eta_basis"] or "its basis was not kept")


def _no_eta(row: Row) -> str:
    state = row["state"]
    if state in BACKFILL.terminal:
        return f"it is {state}"
    if not row["completed_partitions"]:
        return "no partition has completed yet: an estimate needs one"
    if state != "running":
        return f"it is {state}, not running"
    return row["eta_basis"] or "its coordinator has written none yet"


def _executor(row: Row) -> Executor | None:
    worker_id = row["worker_id"]
    if worker_id is None:
        return None
    where = f"{row['host']}, pid {row['pid']}" if row["host"] else "a worker that is not registered"
    if row["alive"]:
        told = f"{where}: alive, its last sign {row['worker_age_s']:.0f} s ago"
    elif row["worker_state"] in ("stopped", "dead"):
        told = f"{where}: {row['worker_state']}, {row['stop_reason'] or 'no reason is kept'}"
    else:
        told = f"{where}: its lease is over"
    return Executor(
        worker_id,
        row["lease_epoch"],
        row["host"],
        row["pid"],
        row["worker_version"],
        bool(row["alive"]),
        told,
    )


def _throttle(row: Row) -> Throttle:
    pace, concurrency = row["pace"], row["concurrency"]
    slots = (row["look"] or {}).get("slots") if row["state"] == "running" else None
    if slots is None:
        slots = slots_of(concurrency, pace)
    return Throttle(pace, concurrency, min(slots, concurrency), row["pace_reason"])


def _sla(row: Row, eta: Estimate) -> Sla | None:
    at = row["sla_at"]
    if at is None:
        return None
    ended_at = row["completed_at"]
    if row["state"] in BACKFILL.terminal and ended_at is not None:
        word = "met" if ended_at <= at and row["state"] == "completed" else "missed"
        return Sla(at, word, f"it is {row['state']} since {_time(ended_at)}")
    if row["now"] > at:
        return Sla(at, "late", "the time has passed and it is not done")
    if eta.at is None or eta.high_at is None:
        return Sla(at, "unknown", f"there is no estimate: {eta.basis}")
    if eta.at > at:
        return Sla(at, "at-risk", f"it is expected to end at {_time(eta.at)}, after it")
    if eta.high_at > at:
        return Sla(at, "at-risk", f"it may end as late as {_time(eta.high_at)}, after it")
    return Sla(at, "safe", f"it ends by {_time(eta.high_at)} in nine cases of ten")


def _failures(told: Sequence[Mapping[str, Any]]) -> list[Failures]:
    return [
        Failures(
            fingerprint=one.get("fingerprint"),
            message=str(one.get("message") or ""),
            count=int(one.get("count") or 0),
            keys=[str(key) for key in one.get("keys") or ()],
            last_at=_parsed(one.get("last_at")),
            cause=likely_cause(str(one.get("message") or "")),
        )
        for one in told
    ]


def _parsed(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
