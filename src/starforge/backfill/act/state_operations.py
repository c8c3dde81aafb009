"""Pause, resume and cancel one backfill; `ops/perform.py` runs them for every door."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from starforge.backfill.act.locked import SAMPLE_MAX, BackfillId, Locked, Version, Why, follow, locked
from starforge.backfill.create.moment import moment, shown
from starforge.backfill.partition.gates import before_partitions, withheld
from starforge.backfill.state.ages import AgeSettings
from starforge.backfill.state.integrity import require_integrity
from starforge.backfill.state.slots import forget_slots
from starforge.db.statement import sql
from starforge.errors import InvalidInputError
from starforge.operation import Caller, Change, operation
from starforge.queue.gate import closed_gates

WAITING_MAX = 10_000
"""Most backfills that one cancel takes with it: an upstream has no more that wait for it."""


@operation("backfill pause", role="operator", inverse="backfill resume")
async def pause(
    caller: Caller,
    job_id: BackfillId,
    *,
    reason: Why = "",
    resume_in: Annotated[str | None, "When it is meant to go on, from now: 90m, 2h, 1d."] = None,
    resume_at: Annotated[str | None, "When it is meant to go on: 2026-01-31T12:00 (UTC)."] = None,
    expect_version: Version = None,
) -> Change:
    """Pause backfill JOB_ID at its next partition boundary: what runs ends and is counted, no other starts.

    Checkpoint, counters and what was learnt about durations stay. One that has not started can be paused too.
    Pausing a paused one changes nothing, save when it is meant to go on, where that is said.
    """
    row = await locked(caller, job_id, expect_version)
    until = _planned(row, resume_in, resume_at)
    if row.state == "paused":
        return await _planned_anew(caller, row, until)
    row.require("pause")
    now = await caller.conn.fetchrow(
        sql("backfill", "pause"),
        [row.id],
        caller.tenant,
        caller.actor,
        reason or None,
        until,
        "backfill pause",
    )
    runs = "what runs ends first; " if row.state == "running" else ""
    return Change(
        summary=f"{row.named} is paused, {row.completed} of {row.total} partitions completed;"
        f" {runs}{_goes_on(until)}",
        matched=1,
        changed=1,
        sample=(str(row.id),),
        before=row.terms(),
        after={
            "state": "paused",
            "version": now["version"],
            "paused_at": now["paused_at"],
            "resume_at": until,
        },
    )


@operation("backfill resume", role="operator", inverse="backfill pause")
async def resume(
    caller: Caller,
    job_id: BackfillId,
    *,
    reason: Why = "",
    override_integrity: Annotated[
        bool, "Resume although the checkpoint does not fit the partitions; needs a reason."
    ] = False,
    expect_version: Version = None,
) -> Change:
    """Resume the paused backfill JOB_ID: the next coordinator takes it and it goes on behind its checkpoint.

    The checkpoint is held against the partitions first. A mismatch that could skip partitions is refused and
    named, unless it is overridden.
    """
    row = await locked(caller, job_id, expect_version)
    row.require("resume")
    if override_integrity and not reason.strip():
        raise InvalidInputError("--override-integrity needs a reason: say why the mismatch does no harm")
    findings = await require_integrity(caller.conn, row.id, caller.tenant, overridden=override_integrity)
    now = await caller.conn.fetchrow(
        sql("backfill", "resume"),
        [row.id],
        caller.tenant,
        caller.actor,
        reason or None,
        AgeSettings.read().aged_s,
        "backfill resume",
    )
    after: dict[str, Any] = {"state": "resuming", "version": now["version"]}
    if findings:
        after["findings"] = findings
    notes, then = await _in_the_way(caller, row)
    noted = "".join(f"; {each}" for each in (*findings, *notes))
    left = row.total - row.completed - row.failed
    return Change(
        summary=f"{row.named} goes on as soon as a coordinator takes it,"
        f" {left} partition{' is' if left == 1 else 's are'} left{noted}",
        matched=1,
        changed=1,
        sample=(str(row.id),),
        before={
            **row.terms(),
            "paused_at": row.paused_at,
            "paused_by": row.state_by,
            "resume_at": row.resume_at,
        },
        after=after,
        next=then,
    )


async def _in_the_way(caller: Caller, row: Locked) -> tuple[list[str], dict[str, str]]:
    """Tell what keeps a resumed backfill from a good end all the same, and with which commands it goes on."""
    notes, then = [], {"to follow it": follow(row.id)}
    if row.failed > row.failed_max:
        notes.append(f"{row.failed} failed before, of which it tolerates {row.failed_max}")
        then["to make again what failed"] = f"starforge backfill retry-failed {row.id}"
    for gate in before_partitions(await closed_gates(caller.conn), row.job_type, caller.tenant):
        # The breaker of the queue holds the type for the same failures, and a resume does not end that.
        notes.append(withheld(gate))
        then[f"to end what withholds its partitions ({gate.cause})"] = gate.undo
    return notes, then


@operation("backfill cancel", role="operator", inverse=None, risk="destructive")
async def cancel(
    caller: Caller,
    job_id: BackfillId,
    *,
    reason: Annotated[str, "Why; it stays with the backfill."],
    expect_version: Version = None,
) -> Change:
    """End backfill JOB_ID for good: partitions that run end first and are counted, the rest is not made.

    What is completed stays. Backfills that wait for this one are cancelled with it. What is left
    can be made by a new one: `starforge backfill clone JOB_ID --unfinished`.
    """
    row = await locked(caller, job_id, expect_version)
    then = {"to make what is left": f"starforge backfill clone {row.id} --unfinished --reason TEXT"}
    if row.state == "cancelled":
        return Change(f"{row.named} is already {row.told()}", 1, 0, (str(row.id),), row.terms(), next=then)
    row.require("cancel")
    after = await end(caller, [row.id], reason, f"cancelled by {caller.actor}: {reason}", "backfill cancel")
    told = (
        f"; {len(after)} that waited for it are cancelled too: {', '.join(after[:SAMPLE_MAX])}"
        if after
        else ""
    )
    runs = "; partitions that run end first" if row.state == "running" else ""
    return Change(
        summary=f"{row.named} is cancelled, {row.completed} of {row.total} partitions completed{runs}{told}",
        matched=1 + len(after),
        changed=1 + len(after),
        sample=(str(row.id), *after)[:SAMPLE_MAX],
        before={**row.terms(), "waiting": after},
        after={"state": "cancelled", "version": row.version + 1, "cancelled_too": after},
        next=then,
    )


async def end(caller: Caller, ids: list[UUID], reason: str, message: str, operation: str) -> list[str]:
    """Cancel backfills that are locked, and those that wait for them; return the latter's ids as text."""
    rows = await caller.conn.fetch(sql("backfill", "lock_waiting"), caller.tenant, ids, WAITING_MAX)
    waiting = [row["id"] for row in rows]
    await end_only(caller, ids, reason, message, operation)
    which = ", ".join(str(one) for one in ids[:SAMPLE_MAX])
    too = f"cancelled with {which}, for which it waited: {reason}"
    await end_only(caller, waiting, reason, too, operation)
    return [str(one) for one in waiting]


async def end_only(caller: Caller, ids: list[UUID], reason: str, message: str, operation: str) -> None:
    """Cancel backfills that are locked, and forget what concurrency was set for them."""
    conn = caller.conn
    await conn.fetch(sql("backfill", "cancel"), ids, caller.tenant, caller.actor, reason, message, operation)
    await forget_slots(conn, ids)


async def _planned_anew(caller: Caller, row: Locked, until: datetime | None) -> Change:
    """A paused one is meant to go on at another time, where one is said; else nothing is changed."""
    if until is None or until == row.resume_at:
        return Change(f"{row.named} is already {row.told()}", 1, 0, (str(row.id),), row.terms(), row.terms())
    now = await caller.conn.fetchrow(
        sql("backfill", "plan_resume"), row.id, caller.tenant, caller.actor, until, "backfill pause"
    )
    return Change(
        summary=f"{row.named} was paused already; {_goes_on(until)}",
        matched=1,
        changed=1,
        sample=(str(row.id),),
        before={**row.terms(), "resume_at": row.resume_at},
        after={"state": "paused", "version": now["version"], "resume_at": until},
        undo=None,
    )


def _planned(row: Locked, resume_in: str | None, resume_at: str | None) -> datetime | None:
    if resume_in is not None and resume_at is not None:
        raise InvalidInputError("--resume-in and --resume-at say the same thing: give one of them")
    if resume_in is not None:
        return moment(resume_in, "--resume-in", row.now)
    return None if resume_at is None else moment(resume_at, "--resume-at", row.now)


def _goes_on(until: datetime | None) -> str:
    return "it goes on when it is resumed" if until is None else f"it is to go on at {shown(until)}"
