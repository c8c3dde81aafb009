"""Operations on gates: pause and resume by queue, type, tenant or tag; retries suspended and released.

Pausing is one act with four nouns: the same two functions, declared once for each (Q-47).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from starforge.operation import ROLES, Act, Caller, Change, operation
from starforge.queue import gate
from starforge.queue.errors import OtherTenantError
from starforge.queue.gate import PAUSE_MINUTES_MAX, Held, PauseSettings, Scope

Name = Annotated[str, Meta(min_length=1, max_length=200), "Its name."]
Minutes = Annotated[
    Annotated[int, Meta(ge=1, le=PAUSE_MINUTES_MAX)] | None,
    "Minutes after which it ends by itself; else STARFORGE_PAUSE_MINUTES.",
]
Why = Annotated[str, "Why; it is shown wherever the pause is."]
WhyNot = Annotated[str, "Why, for the audit log."]
RetryScope = Annotated[str, Meta(pattern="^(queue|type|tenant)$"), "queue, type or tenant."]

SCOPES: tuple[Scope, ...] = ("queue", "type", "tenant", "tag")
OPEN = {"paused": False}
NONCRITICAL = {"by": "queue pause-noncritical"}
"""What a gate says of itself that was closed with all the other non-critical queues."""


def _declare(scope: Scope) -> tuple[Act, Act]:
    """Declare `<scope> pause` and `<scope> resume`."""

    async def pause(caller: Caller, name: Name, *, reason: Why, minutes: Minutes = None) -> Change:
        _for_own_tenant(caller, scope, name)
        return await _pause(caller, scope, name, reason=reason, minutes=minutes)

    async def resume(caller: Caller, name: Name, *, reason: WhyNot = "") -> Change:
        _for_own_tenant(caller, scope, name)
        before = await gate.end(caller.conn, scope, name)
        return Change(
            summary=f"{scope} {name!r} runs again; {before.owner} had paused it: {before.reason}",
            matched=1,
            changed=1,
            sample=(name,),
            before=before.document(),
            after=OPEN,
            undo={"reason": before.reason},
        )

    pause.__doc__ = (
        f"Withhold the jobs of {scope} NAME: none starts until the pause is resumed or expires; "
        "what runs goes on.\n\n"
        f"Enqueueing stays possible and no job is changed. Pausing a paused {scope} renews reason and expiry."
    )
    resume.__doc__ = f"End the pause of {scope} NAME: its jobs start again, in their order."
    return (
        operation(f"{scope} pause", role="operator", inverse=f"{scope} resume")(pause),
        operation(f"{scope} resume", role="operator", inverse=f"{scope} pause")(resume),
    )


PAUSES: dict[Scope, tuple[Act, Act]] = {scope: _declare(scope) for scope in SCOPES}
"""The two acts of each scope: pause and resume."""


@operation("queue pause-noncritical", role="operator", inverse="queue resume-noncritical")
async def pause_noncritical(caller: Caller, *, reason: Why, minutes: Minutes = None) -> Change:
    """Pause every queue that holds no job type declared critical, and that none is declared for.

    Queues that somebody has paused already keep that pause, with its owner, reason and end.
    """
    conn = caller.conn
    names, changed, waiting, skipped = [], 0, 0, 0
    for name in await gate.noncritical_queues(conn):
        before = await gate.closed(conn, "queue", name)
        if before is not None and dict(before.detail) != NONCRITICAL:
            skipped += 1
            continue
        _, differs = await gate.close(
            conn,
            "queue",
            name,
            owner=caller.actor,
            reason=reason,
            minutes=minutes_or_default(minutes),
            detail=NONCRITICAL,
        )
        waiting += (await gate.held(conn, "queue", name)).waiting
        names.append(name)
        changed += differs
    already = f"; {_count(skipped, 'queue')} somebody had paused before" if skipped else ""
    paused = _count(len(names), "non-critical queue")
    return Change(
        summary=f"{paused} paused with {_count(waiting, 'waiting job')}{already}",
        matched=len(names),
        changed=changed,
        sample=tuple(names[:10]),
        before={},
        after={"paused": names, "waiting": waiting},
    )


@operation("queue resume-noncritical", role="operator", inverse="queue pause-noncritical")
async def resume_noncritical(caller: Caller, *, reason: WhyNot = "") -> Change:
    """End the pauses that `queue pause-noncritical` made, and no others."""
    names = [
        closed.name
        for closed in await gate.closed_gates(caller.conn)
        if closed.scope == "queue" and closed.cause == "pause" and dict(closed.detail) == NONCRITICAL
    ]
    for name in names:
        await gate.end(caller.conn, "queue", name)
    return Change(
        summary=f"{_count(len(names), 'non-critical queue')} run again",
        matched=len(names),
        changed=len(names),
        sample=tuple(names[:10]),
        before={"paused": names},
        after={"paused": []},
    )


@operation("retries suspend", role="operator", inverse="retries release")
async def suspend(
    caller: Caller, scope: RetryScope, name: Name, *, reason: Why, minutes: Minutes = None
) -> Change:
    """Let no failed job of SCOPE NAME run again by itself until released; first attempts go on.

    No job is changed and none is lost: what failed stays pending, with its attempts, and waits.
    """
    of = _scope(scope)
    _for_own_tenant(caller, of, name)
    before = await gate.closed(caller.conn, of, name, "retries")
    now, changed = await gate.close(
        caller.conn,
        of,
        name,
        "retries",
        owner=caller.actor,
        reason=reason,
        minutes=minutes_or_default(minutes),
    )
    held = await gate.held(caller.conn, of, name)
    return Change(
        summary=(
            f"retries of {of} {name!r} are suspended until {until(now.expires_at)}"
            f" with {_count(held.retries, 'job')} that failed before{_unknown(of, held)}"
        ),
        matched=1,
        changed=int(changed),
        sample=(name,),
        before=OPEN if before is None else before.document(),
        after={**now.document(), "waiting": held.retries},
    )


@operation("retries release", role="operator", inverse="retries suspend")
async def release(caller: Caller, scope: RetryScope, name: Name, *, reason: WhyNot = "") -> Change:
    """Let failed jobs of SCOPE NAME run again, each when its time has come."""
    of = _scope(scope)
    _for_own_tenant(caller, of, name)
    before = await gate.end(caller.conn, of, name, "retries")
    held = await gate.held(caller.conn, of, name)
    return Change(
        summary=f"retries of {of} {name!r} run again: {_count(held.retries, 'job')} failed before",
        matched=1,
        changed=1,
        sample=(name,),
        before=before.document(),
        after={**OPEN, "waiting": held.retries},
        undo={"reason": before.reason},
    )


async def _pause(caller: Caller, scope: Scope, name: str, *, reason: str, minutes: int | None) -> Change:
    before = await gate.closed(caller.conn, scope, name)
    now, changed = await gate.close(
        caller.conn, scope, name, owner=caller.actor, reason=reason, minutes=minutes_or_default(minutes)
    )
    held = await gate.held(caller.conn, scope, name)
    return Change(
        summary=(
            f"{scope} {name!r} is paused until {until(now.expires_at)}"
            f" with {_count(held.waiting, 'waiting job')}{_unknown(scope, held)}"
        ),
        matched=1,
        changed=int(changed),
        sample=(name,),
        before=OPEN if before is None else before.document(),
        after={**now.document(), "waiting": held.waiting},
    )


def _for_own_tenant(caller: Caller, scope: Scope, name: str) -> None:
    """Refuse whoever would hold back another tenant's jobs by name, unless they may administer all (G11)."""
    if scope == "tenant" and name != caller.tenant and caller.role != ROLES[-1]:
        raise OtherTenantError(f"{caller.actor} speaks for tenant {caller.tenant!r} and not for {name!r}")


def _scope(text: str) -> Scope:
    return next(scope for scope in SCOPES if scope == text)


def minutes_or_default(given: int | None) -> int:
    """Return how long a mitigation holds, in minutes."""
    return PauseSettings.read().minutes if given is None else given


def until(expires_at: datetime) -> str:
    """Return an expiry as summaries say it."""
    return f"{expires_at:%Y-%m-%d %H:%M} UTC"


def _unknown(scope: Scope, held: Held) -> str:
    names = {
        "queue": "no job and no live worker names this queue",
        "type": "no job and no live worker names this type",
        "tenant": "no live job belongs to this tenant",
        "tag": "no live job has this tag",
    }
    return "" if held.known else f"; {names[scope]}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
