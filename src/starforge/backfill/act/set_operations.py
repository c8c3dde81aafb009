"""Change a live backfill: concurrency, priority, SLA, attempts, tolerance (B-45)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Annotated, Any

from msgspec import Meta

from starforge.backfill.act.locked import BackfillId, Locked, Version, Why, locked
from starforge.backfill.asset.asset import CONCURRENCY_MAX
from starforge.backfill.create.moment import moment
from starforge.backfill.create.options import FAILED_MAX
from starforge.backfill.partition.partition import QUEUE
from starforge.backfill.state.slots import set_slots
from starforge.db.statement import sql
from starforge.errors import InvalidInputError
from starforge.operation import Caller, Change, operation
from starforge.queue.adjust import allow_attempts, reprioritize
from starforge.queue.entry import ATTEMPTS_MAX, PRIORITY_MAX

NO_SLA = "none"

Concurrency = Annotated[
    Annotated[int, Meta(ge=1, le=CONCURRENCY_MAX)] | None, "Partitions that run at once, over all workers."
]
Priority = Annotated[
    Annotated[int, Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] | None,
    "Higher goes first, before what waits too.",
]
Attempts = Annotated[
    Annotated[int, Meta(ge=1, le=ATTEMPTS_MAX)] | None, "Failures after which a partition is given up."
]
FailedMax = Annotated[
    Annotated[int, Meta(ge=0, le=FAILED_MAX)] | None, "Failed partitions that it may have and be completed."
]


@dataclass(frozen=True, slots=True)
class Terms:
    """What can be changed of a live backfill."""

    concurrency: int
    priority: int
    attempts: int
    failed_max: int
    sla: datetime | None

    @classmethod
    def of(cls, row: Locked) -> Terms:
        """Return what a backfill's row says."""
        return cls(row.concurrency, row.priority, row.attempts_max, row.failed_max, row.sla_at)

    def differing(self, other: Terms) -> dict[str, Any]:
        """Return what of these terms is not as in the other ones, by option."""
        names = [field.name for field in fields(self)]
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(other, name)}


@operation("backfill set", role="operator", inverse="backfill set")
async def set_terms(
    caller: Caller,
    job_id: BackfillId,
    *,
    concurrency: Concurrency = None,
    priority: Priority = None,
    sla: Annotated[
        str | None, "When it has to be complete: 6h from now, or 2026-01-31T12:00; none: not at all."
    ] = None,
    attempts: Attempts = None,
    failed_max: FailedMax = None,
    reason: Why = "",
    expect_version: Version = None,
) -> Change:
    """Have the live backfill JOB_ID go on in other terms; what runs goes on, and what is done stays done.

    Workers follow within seconds, and the command that sets the old terms again is printed. An attempt that
    runs now is its partition's last where it was to be; partitions that have failed are tried again by
    `starforge backfill retry-failed JOB_ID`.
    """
    row = await locked(caller, job_id, expect_version)
    if row.terminal:
        row.refuse("cannot be set", "set")
    before = Terms.of(row)
    given: dict[str, Any] = {
        "concurrency": concurrency,
        "priority": priority,
        "attempts": attempts,
        "failed_max": failed_max,
        "sla": None if sla in (None, NO_SLA) else moment(str(sla), "--sla", row.now),
    }
    said = {name: value for name, value in given.items() if value is not None}
    now = replace(before, **said)
    if sla == NO_SLA:
        now = replace(now, sla=None)
    if not said and sla is None:
        raise InvalidInputError(
            "nothing is to be set: give --concurrency, --priority, --sla, --attempts or --failed-max"
        )
    old, new = before.differing(now), now.differing(before)
    if not new:
        return Change(f"{row.named} has these terms already", 1, 0, (str(row.id),), row.terms(), row.terms())
    version, notes = await _write(caller, row, now, new, reason)
    told = ", ".join(f"{_option(name)[2:]} {_word(value)}" for name, value in new.items())
    return Change(
        summary=f"{row.named} has {told} now{notes}",
        matched=1,
        changed=1,
        sample=(str(row.id),),
        before={**row.terms(), **old},
        after={"state": row.state, "version": version, **new},
        undo={name: _word(value) for name, value in old.items()},
    )


async def _write(
    caller: Caller, row: Locked, now: Terms, new: dict[str, Any], reason: str
) -> tuple[int, str]:
    """Change the row and what follows from it in the queue; return the version and what there is to say."""
    conn, key = caller.conn, str(row.id)
    version: int = await conn.fetchval(
        sql("backfill", "set"),
        row.id,
        caller.tenant,
        caller.actor,
        now.concurrency,
        now.priority,
        now.attempts,
        now.failed_max,
        now.sla,
        "backfill set",
    )
    notes = ""
    if "concurrency" in new:
        why = reason or f"backfill set {row.id}"
        await set_slots(conn, row.id, now.concurrency, owner=caller.actor, reason=why)
    if "priority" in new:
        moved = await reprioritize(conn, QUEUE, row.job_type, caller.tenant, key, now.priority)
        notes += f", {moved} waiting job{'' if moved == 1 else 's'} moved with it" if moved else ""
    if "attempts" in new:
        more = now.attempts - row.attempts_max
        runs = await allow_attempts(conn, QUEUE, row.job_type, caller.tenant, key, more)
        if runs:
            notes += f"; {_running(runs)} by the number that held when it began"
    return version, notes


def _running(attempts: int) -> str:
    return "the attempt that runs ends" if attempts == 1 else f"each of the {attempts} attempts that run ends"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _word(value: object) -> str:
    """Write a value as its option takes it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    return NO_SLA if value is None else str(value)
