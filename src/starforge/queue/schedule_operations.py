"""The operations on schedules: pause, resume, run now, remove."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from starforge.operation import Caller, Change, operation
from starforge.queue import schedule
from starforge.queue.enqueue import enqueue
from starforge.queue.gate_operations import Minutes, WhyNot, minutes_or_default, until

ScheduleName = Annotated[str, Meta(min_length=1, max_length=schedule.NAME_CHARS_MAX), "Name of the schedule."]


@operation("schedule pause", role="operator", inverse="schedule resume")
async def pause(
    caller: Caller,
    name: ScheduleName,
    *,
    reason: Annotated[str, "Why; it is shown wherever the pause is."],
    minutes: Minutes = None,
) -> Change:
    """Let no tick of schedule NAME become a job until the pause is resumed or expires.

    Its ticks in this time are not caught up. Jobs that it made already are not touched.
    """
    before = await schedule.find(caller.conn, caller.tenant, name)
    now = await schedule.pause(
        caller.conn,
        caller.tenant,
        name,
        owner=caller.actor,
        reason=reason,
        minutes=minutes_or_default(minutes),
    )
    assert now.paused_until is not None
    return Change(
        summary=f"schedule {name!r} is paused until {until(now.paused_until)}",
        matched=1,
        changed=1,
        sample=(name,),
        before=before.terms(),
        after=now.terms(),
    )


@operation("schedule resume", role="operator", inverse="schedule pause")
async def resume(
    caller: Caller,
    name: ScheduleName,
    *,
    reason: WhyNot = "",
) -> Change:
    """End the pause of schedule NAME: its next tick becomes a job again."""
    before = await schedule.find(caller.conn, caller.tenant, name)
    now = await schedule.resume(caller.conn, caller.tenant, name)
    return Change(
        summary=(
            f"schedule {name!r} runs again, next at {until(now.next_at)};"
            f" {before.paused_by} had paused it: {before.pause_reason}"
        ),
        matched=1,
        changed=1,
        sample=(name,),
        before=before.terms(),
        after=now.terms(),
        undo={"reason": before.pause_reason},
    )


@operation("schedule run-now", role="operator", inverse=None)
async def run_now(
    caller: Caller,
    name: ScheduleName,
    *,
    reason: WhyNot = "",
) -> Change:
    """Enqueue one job of schedule NAME now, beside its ticks, also while it is paused."""
    found = await schedule.find(caller.conn, caller.tenant, name)
    job = found.job_now(found.now.replace(microsecond=0))
    await enqueue(caller.conn, job)
    named = "a job" if caller.planning else f"job {job.id}"
    return Change(
        summary=f"{named} of type {job.type!r} is enqueued for schedule {name!r}",
        matched=1,
        changed=1,
        sample=(name,),
        before=found.terms(),
        after={**found.terms(), **({} if caller.planning else {"job_id": str(job.id)})},
    )


@operation("schedule remove", role="operator", inverse=None, risk="destructive")
async def remove(
    caller: Caller,
    name: ScheduleName,
    *,
    reason: WhyNot,
) -> Change:
    """Forget schedule NAME; the jobs it made stay.

    A worker whose app declares it makes it anew when it starts.
    """
    before = await schedule.find(caller.conn, caller.tenant, name)
    await schedule.remove(caller.conn, caller.tenant, name)
    return Change(
        summary=f"schedule {name!r} is removed; {before.declared_by or 'nobody'} declared it last",
        matched=1,
        changed=1,
        sample=(name,),
        before=before.terms(),
        after={},
    )
