"""Operations on circuit breakers: reset, and off or on for a type."""

from __future__ import annotations

from starforge.operation import Caller, Change, operation
from starforge.queue import breaker, override
from starforge.queue.gate_operations import Minutes, Name, WhyNot, minutes_or_default, until
from starforge.queue.override_operations import Why

OPEN = {"paused": False}


@operation("breaker reset", role="operator", inverse=None)
async def reset(caller: Caller, name: Name, *, reason: WhyNot = "") -> Change:
    """Let job type NAME run again now, whatever its breaker thinks; what failed so far no longer counts."""
    before = await breaker.reset(caller.conn, name)
    return Change(
        summary=f"type {name!r} runs again; its breaker had held it: {before.reason}",
        matched=1,
        changed=1,
        sample=(name,),
        before=before.document(),
        after=OPEN,
    )


@operation("breaker disable", role="operator", inverse="breaker enable")
async def disable(caller: Caller, name: Name, *, reason: Why, minutes: Minutes = None) -> Change:
    """Let job type NAME run however much of it fails, until enabled again or the time is over."""
    before = await override.overridden(caller.conn, "type", name, "breaker")
    now, changed = await override.override(
        caller.conn,
        "type",
        name,
        "breaker",
        False,
        owner=caller.actor,
        reason=reason,
        minutes=minutes_or_default(minutes),
    )
    return Change(
        summary=f"type {name!r} has no breaker until {until(now.expires_at)}",
        matched=1,
        changed=int(changed),
        sample=(name,),
        before={} if before is None else before.document(),
        after=now.document(),
    )


@operation("breaker enable", role="operator", inverse="breaker disable")
async def enable(caller: Caller, name: Name, *, reason: WhyNot = "") -> Change:
    """Have job type NAME held again when too much of it fails."""
    before = await override.reset(caller.conn, "type", name, "breaker")
    return Change(
        summary=f"type {name!r} has a breaker again; {before.owner} had turned it off: {before.reason}",
        matched=1,
        changed=1,
        sample=(name,),
        before=before.document(),
        after={},
        undo={"reason": before.reason},
    )
