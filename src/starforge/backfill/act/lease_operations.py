"""Reclaim backfills from coordinators that are gone, and end those that nobody took after their resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta

from starforge.backfill.act.locked import SAMPLE_MAX, BackfillId, Version, Why, follow, locked
from starforge.backfill.act.state_operations import end
from starforge.backfill.state.ages import AgeSettings
from starforge.db.statement import sql
from starforge.operation import Caller, Change, operation

BULK_MAX = 1_000
"""Most backfills that one act changes; it says where there are more."""

MINUTES_MAX = 7 * 24 * 60
BULK_MESSAGE = "Bulk cancelled: stuck in resuming state"

Minutes = Annotated[
    Annotated[int, Meta(ge=1, le=MINUTES_MAX)] | None,
    "Age of the heartbeat in minutes; else STARFORGE_BACKFILL_BULK_RECOVERY_S, 10 minutes.",
]


@operation("backfill reclaim", role="operator", inverse=None)
async def reclaim(
    caller: Caller, job_id: BackfillId, *, reason: Why = "", expect_version: Version = None
) -> Change:
    """Take the running backfill JOB_ID from its coordinator: another goes on from the checkpoint in seconds.

    The old coordinator, should it live, writes nothing more. Partitions that run go on, and are counted by
    the new one.
    """
    row = await locked(caller, job_id, expect_version)
    row.require("reclaim")
    now = await caller.conn.fetchrow(
        sql("backfill", "reclaim"),
        [row.id],
        caller.tenant,
        caller.actor,
        AgeSettings.read().aged_s,
        "backfill reclaim",
    )
    age = (
        "had no heartbeat"
        if row.heartbeat_age_s is None
        else f"heartbeat was {row.heartbeat_age_s:.0f} s old"
    )
    return Change(
        summary=f"{row.named} is free for another coordinator under epoch {now['lease_epoch']};"
        f" the last one's {age}",
        matched=1,
        changed=1,
        sample=(str(row.id),),
        before=row.terms(),
        after={"state": "running", "version": now["version"], "lease_epoch": now["lease_epoch"]},
        next={"to follow it": follow(row.id)},
    )


@operation("backfill reclaim-stale", role="operator", inverse=None)
async def reclaim_stale(caller: Caller, *, minutes: Minutes = None, reason: Why = "") -> Change:
    """Take every running backfill whose heartbeat is older than MINUTES from its coordinator.

    One that never had a heartbeat is as old as its last change.
    """
    age_s = _age_s(minutes)
    rows, more = await _stale(caller, "running", age_s)
    ids = [row["id"] for row in rows]
    await caller.conn.fetch(
        sql("backfill", "reclaim"),
        ids,
        caller.tenant,
        caller.actor,
        AgeSettings.read().aged_s,
        "backfill reclaim-stale",
    )
    return bulk(
        rows,
        "running",
        f"running with a heartbeat older than {age_s / 60:g} minutes: free for other coordinators",
        more,
    )


@operation("backfill cancel-resuming", role="operator", inverse=None, risk="destructive")
async def cancel_resuming(
    caller: Caller, *, reason: Annotated[str, "Why; it stays with the backfills."], minutes: Minutes = None
) -> Change:
    """Cancel every backfill that was resumed and that no coordinator took for MINUTES.

    It is the heartbeat's age that counts, which a resume sets to two minutes: a backfill is found after about
    eight minutes of resuming. Those that wait for one of them are cancelled too.
    """
    age_s = _age_s(minutes)
    rows, more = await _stale(caller, "resuming", age_s)
    too = await end(caller, [row["id"] for row in rows], reason, BULK_MESSAGE, "backfill cancel-resuming")
    what = f"resuming with a heartbeat older than {age_s / 60:g} minutes: cancelled"
    return bulk(rows, "cancelled", what, more, too=too)


def bulk(
    rows: Sequence[Any],
    now: str,
    what: str,
    more: bool,
    *,
    too: Sequence[str] = (),
    skipped: Sequence[str] = (),
    notes: Sequence[str] = (),
    then: Mapping[str, str] | None = None,
) -> Change:
    """Return what was done to many: how many, which, and whether there are more.

    Args:
        rows: Those that were changed (id, asset, state and version before).
        now: Their state now.
        what: What they were and are, after their number.
        more: There are more of them than one act changes.
        too: Others that were changed with them.
        skipped: Why some were not changed.
        notes: What else there is to know.
        then: What makes sense then, and the command for it.
    """
    shown = [f"{row['id']} ({row['asset']})" for row in rows[:SAMPLE_MAX]]
    parts = [f"{len(rows)} backfill{'' if len(rows) == 1 else 's'} {what}" if rows else "no backfill fits"]
    parts += [", ".join(shown) + (" …" if len(rows) > SAMPLE_MAX else "")] if shown else []
    parts += [f"{len(too)} that waited for them are cancelled too"] if too else []
    parts += skipped[:SAMPLE_MAX]
    parts += [f"… and {len(skipped) - SAMPLE_MAX} more stay so"] if len(skipped) > SAMPLE_MAX else []
    parts += notes
    parts += [f"there are more than {BULK_MAX}: ask again"] if more else []
    return Change(
        summary="; ".join(parts),
        matched=len(rows) + len(too) + len(skipped),
        changed=len(rows) + len(too),
        sample=tuple(str(row["id"]) for row in rows[:SAMPLE_MAX]),
        before={str(row["id"]): _terms(row, row["state"], row["version"]) for row in rows},
        after={str(row["id"]): _terms(row, now, row["version"] + 1) for row in rows}
        | ({"cancelled_too": list(too)} if too else {}),
        next=then or {},
    )


def _terms(row: Any, state: str, version: int) -> dict[str, Any]:
    return {"asset": row["asset"], "state": state, "version": version}


async def _stale(caller: Caller, state: str, age_s: float) -> tuple[list[Any], bool]:
    rows = await caller.conn.fetch(sql("backfill", "lock_stale"), caller.tenant, state, age_s, BULK_MAX + 1)
    return rows[:BULK_MAX], len(rows) > BULK_MAX


def _age_s(minutes: int | None) -> float:
    return AgeSettings.read().bulk_recovery_s if minutes is None else minutes * 60.0
