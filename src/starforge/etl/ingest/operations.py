"""The operations on ingestion; `ops/perform.py` runs them for every door."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from starforge.db.statement import sql
from starforge.etl.ingest import control
from starforge.etl.source.operations import Source
from starforge.operation import Caller, Change, operation
from starforge.queue.gate_operations import Minutes, WhyNot, minutes_or_default

Why = Annotated[str, "Why; producers that are refused see it."]
SUBJECT = ("ingest_control",)
OPEN = {"paused": False}


@operation("ingest pause", role="operator", inverse="ingest resume")
async def pause(
    caller: Caller,
    *,
    reason: Why,
    minutes: Minutes = None,
) -> Change:
    """Refuse new snapshots until the pause is resumed or expires; what was accepted is processed.

    Pausing again renews reason and expiry, also of a pause that was set by hand.
    """
    before, now, changed = await control.pause(
        caller.conn,
        owner=caller.actor,
        reason=reason,
        minutes=minutes_or_default(minutes),
    )
    return Change(
        summary=f"ingestion is paused: {now}",
        matched=1,
        changed=int(changed),
        sample=SUBJECT,
        before=OPEN if before is None else before.document(),
        after=now.document(),
    )


@operation("ingest resume", role="operator", inverse="ingest pause")
async def resume(caller: Caller, *, reason: WhyNot = "") -> Change:
    """Accept snapshots again, also when ingestion was paused by hand."""
    before = await control.resume(caller.conn)
    return Change(
        summary=f"ingestion runs again; it was paused: {before}",
        matched=1,
        changed=1,
        sample=SUBJECT,
        before=before.document(),
        after=OPEN,
        undo={"reason": before.reason},
    )


@operation("source pause", role="operator", inverse="source resume")
async def pause_source(caller: Caller, name: Source, *, reason: Why, minutes: Minutes = None) -> Change:
    """Refuse new snapshots of source NAME, of every tenant, and tell whoever answers for the source.

    It lasts until it is resumed or expires. What was accepted is processed, and other sources are taken.
    Pausing again renews reason and expiry.
    """
    # Operations are read before a worker says where its processes count; the alert's room counts.
    from starforge.etl.snapshot.alert import alert_paused

    known = await caller.conn.fetchrow(sql("etl", "source_owner"), name)
    told = known["owner"] if known else None
    before, now, changed = await control.pause_source(
        caller.conn,
        name,
        owner=caller.actor,
        reason=reason,
        minutes=minutes_or_default(minutes),
        told=told,
    )
    if changed:
        caller.committed.append(
            partial(alert_paused, name, owner=told, by=caller.actor, reason=reason, until=now.until)
        )
    return Change(
        summary=f"ingestion of source {name!r} is paused: {now}; {_whom(told, known=known is not None)}",
        matched=1,
        changed=int(changed),
        sample=(name,),
        before=OPEN if before is None else {**before.document(), "told": before.told},
        after={**now.document(), "told": now.told},
    )


@operation("source resume", role="operator", inverse="source pause")
async def resume_source(caller: Caller, name: Source, *, reason: WhyNot = "") -> Change:
    """Accept snapshots of source NAME again, also when it was paused by hand; a pause of all goes on."""
    before = await control.resume_source(caller.conn, name)
    whole = await control.ingest_pause(caller.conn)
    left = f"; ingestion as a whole is paused still: {whole}" if whole else ""
    return Change(
        summary=f"source {name!r} is taken again; it was paused: {before}{left}",
        matched=1,
        changed=1,
        sample=(name,),
        before={**before.document(), "told": before.told},
        after=OPEN,
        undo={"reason": before.reason},
    )


def _whom(told: str | None, *, known: bool) -> str:
    """Say who is told; where that is nobody, why."""
    if told is not None:
        return f"told to {told}, who answers for it"
    if known:
        return "its mapping names nobody who answers for it (owner=)"
    return "no worker has written a snapshot of it yet: is this its name?"
