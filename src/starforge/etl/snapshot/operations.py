"""The operations on single snapshots; `ops/perform.py` runs them for every door."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated
from uuid import UUID

from starforge.etl.snapshot import quarantine as snapshots
from starforge.etl.snapshot.quarantine import Lane, Queued, State
from starforge.operation import Caller, Change, operation

Snapshot = Annotated[UUID, "Id of the snapshot."]


@operation("snapshot quarantine", role="operator", inverse="snapshot release")
async def quarantine(
    caller: Caller,
    snapshot_id: Snapshot,
    *,
    reason: Annotated[str, "Why; it is shown wherever the snapshot is."],
) -> Change:
    """Hold snapshot SNAPSHOT_ID back: no ordinary worker processes it until it is released.

    A job of it that waits ends its attempt as quarantined and is pending again on release. Rows that the
    snapshot has written stay.
    """
    before, changed = await snapshots.quarantine(
        caller.conn, snapshot_id, tenant=caller.tenant, reason=reason, who=caller.actor
    )
    after = await snapshots.state(caller.conn, snapshot_id, caller.tenant)
    already = f"is quarantined already by {before.held_by}: {before.held}"
    return Change(
        summary=f"snapshot {snapshot_id} {f'is quarantined: {reason}' if changed else already}",
        matched=1,
        changed=int(changed),
        sample=(str(snapshot_id),),
        before=before.document(),
        after=after.document(),
    )


@operation("snapshot release", role="operator", inverse="snapshot quarantine")
async def release(
    caller: Caller,
    snapshot_id: Snapshot,
    *,
    reason: Annotated[str, "Why it may be processed now, for the audit log."],
    to: Annotated[Lane, "normal: any worker; highmem: workers started with --high-memory."] = "normal",
) -> Change:
    """Let the quarantined snapshot SNAPSHOT_ID be processed; one job of it waits for a worker then.

    What was released to high-memory workers can be released to all of them later. Bytes that are no JSON
    cannot be released: mend them, and offer them again.
    """
    before, queued = await snapshots.release(
        caller.conn, snapshot_id, to, tenant=caller.tenant, reason=reason, who=caller.actor
    )
    lane = "high-memory workers" if to == "highmem" else "all workers"
    change = await _queued(caller, snapshot_id, f"is released to {lane}", before, queued)
    return replace(change, undo={"reason": before.held})


@operation("snapshot retry", role="operator", inverse=None)
async def retry(
    caller: Caller,
    snapshot_id: Snapshot,
    *,
    reason: Annotated[str, "Why, for the audit log."] = "",
) -> Change:
    """Process the failed snapshot SNAPSHOT_ID once more, in the lane that it was released to last."""
    before, queued = await snapshots.retry(caller.conn, snapshot_id, tenant=caller.tenant)
    return await _queued(caller, snapshot_id, "had failed and is tried anew", before, queued)


async def _queued(caller: Caller, snapshot_id: UUID, what: str, before: State, queued: Queued) -> Change:
    after = await snapshots.state(caller.conn, snapshot_id, caller.tenant)
    again = "is pending again" if queued.status == "pending" else f"is {queued.status}"
    provisional = caller.planning and queued.new  # the act will make another one
    named = "a job" if provisional else f"job {queued.job_id}"
    job = f"{named} ({queued.type}) {'was made' if queued.new else again}"
    return Change(
        summary=f"snapshot {snapshot_id} {what}; {job}",
        matched=1,
        changed=1,
        sample=(str(snapshot_id),),
        before=before.document(),
        after={
            **after.document(),
            **({} if provisional else {"job_id": str(queued.job_id)}),
            "job_type": queued.type,
        },
    )
