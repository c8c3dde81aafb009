"""The operations on ingestion; `ops/perform.py` runs them for every door."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from starforge.etl import control
from starforge.operation import Caller, Change, operation
from starforge.queue.gate import PAUSE_MINUTES_MAX, PauseSettings

Minutes = Annotated[int, Meta(ge=1, le=PAUSE_MINUTES_MAX)]
SUBJECT = ("ingest_control",)
OPEN = {"paused": False}


@operation("ingest pause", role="operator", inverse="ingest resume")
async def pause(
    caller: Caller,
    *,
    reason: Annotated[str, "Why; producers that are refused see it."],
    minutes: Annotated[
        Minutes | None, "Minutes after which it ends by itself; else STARFORGE_PAUSE_MINUTES."
    ] = None,
) -> Change:
    """Refuse new snapshots until the pause is resumed or expires; what was accepted is processed.

    Pausing again renews reason and expiry, also of a pause that was set by hand.
    """
    before, now, changed = await control.pause(
        caller.conn,
        owner=caller.actor,
        reason=reason,
        minutes=PauseSettings.read().minutes if minutes is None else minutes,
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
async def resume(caller: Caller, *, reason: Annotated[str, "Why, for the audit log."] = "") -> Change:
    """Accept snapshots again, also when ingestion was paused by hand."""
    before = await control.resume(caller.conn)
    return Change(
        summary=f"ingestion runs again; it was paused: {before}",
        matched=1,
        changed=1,
        sample=SUBJECT,
        before=before.document(),
        after=OPEN,
    )
