"""The queue's operations, each declared once; `ops/perform.py` runs them for every door."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from starforge.operation import Caller, Change, operation
from starforge.queue import gate, schedule_operations
from starforge.queue.gate import PAUSE_MINUTES_MAX, PauseSettings

__all__ = ["schedule_operations"]

QueueName = Annotated[str, Meta(min_length=1, max_length=200), "Name of the queue."]
Minutes = Annotated[int, Meta(ge=1, le=PAUSE_MINUTES_MAX)]
OPEN = {"paused": False}


@operation("queue pause", role="operator", inverse="queue resume")
async def pause(
    caller: Caller,
    name: QueueName,
    *,
    reason: Annotated[str, "Why; it is shown wherever the pause is."],
    minutes: Annotated[
        Minutes | None, "Minutes after which it ends by itself; else STARFORGE_PAUSE_MINUTES."
    ] = None,
) -> Change:
    """Withhold the jobs of queue NAME: none starts until the pause is resumed or expires; what runs goes on.

    Enqueueing stays possible and no job is changed. Pausing a paused queue renews reason and expiry.
    """
    before = await gate.paused(caller.conn, name)
    now, changed = await gate.pause(
        caller.conn,
        name,
        owner=caller.actor,
        reason=reason,
        minutes=PauseSettings.read().minutes if minutes is None else minutes,
    )
    held = await gate.held(caller.conn, name)
    unknown = "" if held.known else "; no job and no live worker names this queue"
    return Change(
        summary=(
            f"queue {name!r} is paused until {now.expires_at:%Y-%m-%d %H:%M} UTC"
            f" with {held.waiting} waiting job{'' if held.waiting == 1 else 's'}{unknown}"
        ),
        matched=1,
        changed=int(changed),
        sample=(name,),
        before=OPEN if before is None else before.document(),
        after={**now.document(), "waiting": held.waiting},
    )


@operation("queue resume", role="operator", inverse="queue pause")
async def resume(
    caller: Caller,
    name: QueueName,
    *,
    reason: Annotated[str, "Why, for the audit log."] = "",
) -> Change:
    """End the pause of queue NAME: its jobs start again, in their order."""
    before = await gate.resume(caller.conn, name)
    return Change(
        summary=f"queue {name!r} runs again; {before.owner} had paused it: {before.reason}",
        matched=1,
        changed=1,
        sample=(name,),
        before=before.document(),
        after=OPEN,
    )
