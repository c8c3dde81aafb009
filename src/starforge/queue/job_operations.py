"""The operations on single jobs, and on those with a tag; `ops/perform.py` runs them for every door."""

from __future__ import annotations

from collections import Counter
from typing import Annotated
from uuid import UUID

from msgspec import Meta

from starforge.errors import IllegalMoveError
from starforge.operation import Caller, Change, operation
from starforge.queue import cancel as jobs
from starforge.queue.job import JOB
from starforge.queue.results import job_state

Tag = Annotated[str, Meta(min_length=1, max_length=200), "Tag that the jobs carry."]
Job = Annotated[UUID, "Id of the job."]
SAMPLE_MAX = 10


@operation("job cancel", role="operator", inverse=None, risk="destructive")
async def cancel(
    caller: Caller,
    job_id: Job,
    *,
    reason: Annotated[str, "Why; it stays with the job."],
) -> Change:
    """End job JOB_ID for good: it is not run, or not run again, and is kept in history as cancelled.

    A running job is asked to end within a second: a coroutine is cancelled, a thread may see it. Should it
    complete before that, it has completed.
    """
    before = (await jobs.cancel(caller.conn, [job_id], reason=reason)).get(job_id)
    if before is None:
        state = await job_state(caller.conn, job_id)
        if state.status != "cancelled":
            raise IllegalMoveError(JOB.noun, "cancel", state.status, JOB.sources("cancel"))
        return Change(f"job {job_id} is cancelled already: {state.reason}", 1, 0, (str(job_id),))
    runs = before in ("running", "cancelling")
    return Change(
        summary=f"job {job_id} {'runs and is asked to end' if runs else f'was {before} and is cancelled'}",
        matched=1,
        changed=int(before != "cancelling"),
        sample=(str(job_id),),
        before={"status": before},
        after={"status": "cancelling" if runs else "cancelled", "reason": reason},
    )


@operation("job cancel-tagged", role="operator", inverse=None, risk="destructive")
async def cancel_tagged(
    caller: Caller,
    tag: Tag,
    *,
    reason: Annotated[str, "Why; it stays with the jobs."],
) -> Change:
    """End the live jobs with TAG for good; those that run are asked to end within a second."""
    before, more = await jobs.cancel_tagged(caller.conn, tag, reason=reason)
    counts = Counter(before.values())
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "none"
    left = "; there are more: ask again" if more else ""
    return Change(
        summary=f"{len(before)} jobs with tag {tag!r} are cancelled ({told}){left}",
        matched=len(before),
        changed=len(before),
        sample=tuple(str(job_id) for job_id in list(before)[:SAMPLE_MAX]),
        before=dict(counts),
        after={"cancelled": len(before) - counts["running"], "cancelling": counts["running"]},
    )


@operation("job release", role="operator", inverse=None)
async def release(
    caller: Caller,
    job_id: Job,
    *,
    reason: Annotated[str, "Why, for the audit log."] = "",
) -> Change:
    """Let the quarantined job JOB_ID run again.

    Where workers had died under it, its next attempt runs alone, in a process of its own.
    """
    held = await jobs.release(caller.conn, job_id)
    if held is None:
        state = await job_state(caller.conn, job_id)
        raise IllegalMoveError(JOB.noun, "release", state.status, JOB.sources("release"))
    return Change(
        summary=f"job {job_id} may run again; it was held: {held.get('reason', 'without a reason')}",
        matched=1,
        changed=1,
        sample=(str(job_id),),
        before={"status": "quarantined", "reason": held.get("reason")},
        after={"status": "pending"},
    )
