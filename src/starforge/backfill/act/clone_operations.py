"""Clone: a backfill is given up for a new one with corrected parameters (B-44)."""

from __future__ import annotations

from typing import Annotated

from starforge.backfill.act.locked import SAMPLE_MAX, BackfillId, Locked, Version, afterwards, locked
from starforge.backfill.act.renew import chosen, renew
from starforge.backfill.act.set_operations import Attempts, Concurrency, FailedMax, Priority
from starforge.backfill.act.state_operations import end_only
from starforge.backfill.create.options import Options
from starforge.backfill.errors import PartitionsRunError
from starforge.backfill.partition.partition import PARTITION
from starforge.db.statement import sql
from starforge.operation import Caller, Change, operation

UNFINISHED = [state for state in PARTITION.states if state != "completed"]


@operation("backfill clone", role="operator", inverse=None, risk="destructive")
async def clone(
    caller: Caller,
    job_id: BackfillId,
    *,
    reason: Annotated[str, "Why; it stays with the backfill that is given up."],
    unfinished: Annotated[bool, "Only its partitions that are not completed; else all of them."] = False,
    concurrency: Concurrency = None,
    priority: Priority = None,
    sla: Annotated[
        str | None, "When the new one has to be complete: 6h from now, or 2026-01-31T12:00; else as it was."
    ] = None,
    attempts: Attempts = None,
    failed_max: FailedMax = None,
    expect_version: Version = None,
) -> Change:
    """Make a new backfill of JOB_ID's partitions, with other parameters; a live one is cancelled for it.

    What is not said is as it was. While partitions of it run it is refused, for the new one would make them
    at the same time: pause it first. Backfills that wait for it wait for the new one.
    """
    row = await locked(caller, job_id, expect_version)
    await _require_quiet(caller, row)
    which = UNFINISHED if unfinished else list(PARTITION.states)
    partitions = await chosen(caller, row, which)
    if not row.terminal:
        message = f"cancelled by {caller.actor} for a corrected one: {reason}"
        await end_only(caller, [row.id], reason, message, "backfill clone")
    as_it_was = row.sla_at if row.sla_at is not None and row.sla_at > row.now else None
    options = Options(
        concurrency=concurrency,
        priority=priority,
        sla=sla or as_it_was,
        attempts=attempts,
        failed_max=failed_max,
    )
    made = await renew(caller, row, partitions, options, "unfinished" if unfinished else "cloned")
    waiting = await caller.conn.fetch(sql("backfill", "take_place"), row.id, made.id, caller.tenant)
    gone = f"is {row.state}" if row.terminal else "is cancelled"
    also = f"; {len(waiting)} that waited for it wait for the new one" if waiting else ""
    named = "a new backfill" if caller.planning else f"backfill {made.id}"
    return Change(
        summary=f"{row.named} {gone}, its clone is {named}, {made.told()}{also}",
        matched=1,
        changed=1 + len(waiting),
        sample=(str(row.id), *sorted(str(one["id"]) for one in waiting))[:SAMPLE_MAX],
        before={**row.terms(), "partitions": len(partitions)},
        after={
            **({} if caller.planning else {"backfill": str(made.id)}),
            "parent": str(row.id),
            "partitions": made.partitions,
        },
        next=afterwards(made.id, planning=caller.planning),
    )


async def _require_quiet(caller: Caller, row: Locked) -> None:
    """Raise PartitionsRunError while partitions run: their attempts end whatever becomes of the backfill."""
    running = await caller.conn.fetchval(sql("backfill", "in_hand"), row.id, caller.tenant)
    if not running:
        return
    first = (
        "wait until they have ended: " if row.terminal or row.state == "paused" else "have them end first: "
    )
    command = "status" if row.terminal or row.state == "paused" else "pause"
    raise PartitionsRunError(
        f"{row.named} cannot be cloned while {running} of its partitions run;"
        f" {first}starforge backfill {command} {row.id}"
    )
