"""Many backfills at once: pause, resume, cancel what has not started (F-24, F-25)."""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta

from starforge.backfill.act.lease_operations import BULK_MAX, bulk
from starforge.backfill.act.locked import Why
from starforge.backfill.act.state_operations import end
from starforge.backfill.partition.gates import before_partitions, withheld
from starforge.backfill.state.ages import AgeSettings
from starforge.backfill.state.integrity import blocking, unfit
from starforge.db.statement import sql
from starforge.operation import Caller, Change, operation
from starforge.queue.gate import Gate, closed_gates

PAUSE_ALL = "backfill pause-all"

COMPARED_MAX = 1_000_000
"""Partitions that one act compares at most, while it holds the backfills."""

Asset = Annotated[
    Annotated[str, Meta(min_length=1, max_length=200)] | None,
    "Only backfills of this asset; else of every one.",
]
Pausable = Literal["pending", "running", "resuming"]
PAUSABLE: tuple[Pausable, ...] = ("pending", "running", "resuming")


@operation(PAUSE_ALL, role="operator", inverse="backfill resume-all")
async def pause_all(
    caller: Caller,
    *,
    reason: Annotated[str, "Why; it stays with the backfills."],
    asset: Asset = None,
    state: Annotated[Pausable | None, "Only those in this state; else all that are not paused yet."] = None,
) -> Change:
    """Pause every backfill of this tenant, or those of one asset or state: `--state pending` is what waits.

    Those that somebody had paused before keep their pause, and `resume-all` leaves them paused.
    """
    states = PAUSABLE if state is None else (state,)
    rows, more = await _live(caller, states, asset)
    await caller.conn.fetch(
        sql("backfill", "pause"), _ids(rows), caller.tenant, caller.actor, reason, None, PAUSE_ALL
    )
    return bulk(rows, "paused", "paused", more)


@operation("backfill resume-all", role="operator", inverse=PAUSE_ALL)
async def resume_all(
    caller: Caller,
    *,
    reason: Why = "",
    asset: Asset = None,
    everyone: Annotated[bool, "Also those that were paused otherwise, one by one or by hand."] = False,
) -> Change:
    """Resume every backfill of this tenant that `pause-all` paused, or those of one asset.

    One whose checkpoint does not fit its partitions stays paused, and is told.
    """
    found, more = await _live(caller, ("paused",), asset, paused_with=None if everyone else PAUSE_ALL)
    compared = _compared(found)
    held = await unfit(caller.conn, _ids(compared), caller.tenant)
    rows = [row for row in compared if row["id"] not in held]
    skipped = [await _stays(caller, row["id"]) for row in compared if row["id"] in held]
    if len(compared) < len(found):
        skipped.append(f"{len(found) - len(compared)} more are as they were, for they are large: ask again")
    await caller.conn.fetch(
        sql("backfill", "resume"),
        _ids(rows),
        caller.tenant,
        caller.actor,
        reason or None,
        AgeSettings.read().aged_s,
        "backfill resume-all",
    )
    closed, gates = await closed_gates(caller.conn), dict[str, Gate]()
    for job_type in {row["job_type"] for row in rows}:
        gates |= {gate.undo: gate for gate in before_partitions(closed, job_type, caller.tenant)}
    notes = [withheld(gate) for gate in gates.values()]
    then = {
        f"to end what withholds partitions ({gate.scope} {gate.name})": gate.undo for gate in gates.values()
    }
    return bulk(rows, "resuming", "resumed", more, skipped=skipped, notes=notes, then=then)


@operation("backfill cancel-pending", role="operator", inverse=None, risk="destructive")
async def cancel_pending(
    caller: Caller, *, reason: Annotated[str, "Why; it stays with the backfills."], asset: Asset = None
) -> Change:
    """Cancel every backfill of this tenant that has not started, or those of one asset."""
    rows, more = await _live(caller, ("pending",), asset)
    message = f"cancelled by {caller.actor} with all that were pending: {reason}"
    too = await end(caller, _ids(rows), reason, message, "backfill cancel-pending")
    return bulk(rows, "cancelled", "pending: cancelled", more, too=too)


def _compared(found: list[Any]) -> list[Any]:
    """Return the first of these, as many as have COMPARED_MAX partitions, and one at least."""
    upto = accumulate(row["total"] for row in found)
    return [
        row
        for place, (row, total) in enumerate(zip(found, upto, strict=True))
        if not place or total <= COMPARED_MAX
    ]


async def _stays(caller: Caller, backfill_id: UUID) -> str:
    reasons = await blocking(caller.conn, backfill_id, caller.tenant)
    return (
        f"{backfill_id} stays paused: {reasons[0]}"
        if reasons
        else f"{backfill_id} changed just now: ask again"
    )


async def _live(
    caller: Caller, states: tuple[str, ...], asset: str | None, *, paused_with: str | None = None
) -> tuple[list[Any], bool]:
    rows = await caller.conn.fetch(
        sql("backfill", "lock_live"), caller.tenant, states, asset, paused_with, BULK_MAX + 1
    )
    return rows[:BULK_MAX], len(rows) > BULK_MAX


def _ids(rows: list[Any]) -> list[Any]:
    return [row["id"] for row in rows]
