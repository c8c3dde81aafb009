"""The operations that let data go: retention, prune, erasure; `ops/perform.py` runs them for every door."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta

from starforge.errors import InvalidInputError
from starforge.etl.retention import retention
from starforge.etl.retention.erase import erase as erase_all
from starforge.etl.retention.retention import Kind
from starforge.operation import HIDDEN, Caller, Change, operation

PRUNED_MAX = 10_000
MENTION_CHARS_MIN = 4
"""A shorter subject may stand in a reason by chance."""

KindOf = Annotated[Kind, "snapshots, captures, quarantine or errors."]
Source = Annotated[str, Meta(max_length=200), "Only of this source; else of all that have no rule."]
Subject = Annotated[
    str, Meta(min_length=1, max_length=500), HIDDEN, "Whose data it is: a hero's NameCode, a patient's id."
]


@operation("retention set", role="admin", inverse="retention reset", risk="destructive")
async def set_retention(
    caller: Caller,
    kind: KindOf,
    days: Annotated[int, Meta(ge=0, le=36_500), "How long; 0: for ever."],
    *,
    reason: Annotated[str, "Why; it is shown beside the rule."],
    source: Source = "",
) -> Change:
    """Keep KIND for DAYS from now on; what is older is deleted within the hour and cannot be had back."""
    before, now = await retention.set_rule(
        caller.conn, kind, days, tenant=caller.tenant, source=source, owner=caller.actor, reason=reason
    )
    whose = f"source {source!r}" if source else "all sources"
    kept = f"{days} days" if days else "ever"
    return Change(
        summary=f"{kind} of {whose} are kept for {kept}",
        matched=1,
        changed=int(before is None or before.document() != now.document()),
        sample=(f"{kind} {source}".strip(),),
        before={} if before is None else before.document(),
        after=now.document(),
    )


@operation("retention reset", role="admin", inverse="retention set")
async def reset_retention(
    caller: Caller,
    kind: KindOf,
    *,
    source: Source = "",
    reason: Annotated[str, "Why, for the audit log."] = "",
) -> Change:
    """Let the settings decide again how long KIND is kept."""
    ended = await retention.reset_rule(caller.conn, kind, tenant=caller.tenant, source=source)
    days = retention.RetentionSettings.read().days(kind)
    return Change(
        summary=f"{kind} are kept as the settings say: {f'{days} days' if days else 'for ever'}",
        matched=1,
        changed=1,
        sample=(f"{kind} {source}".strip(),),
        before=ended.document(),
        after={"days": days},
        undo={"days": ended.days, "reason": ended.reason},
    )


@operation("snapshot prune", role="admin", inverse=None, risk="destructive")
async def prune(
    caller: Caller,
    *,
    before: Annotated[str, "A date or time (UTC): what nothing has happened to since goes."],
    reason: Annotated[str, "Why, for the audit log."],
    source: Annotated[str | None, "Only of this source."] = None,
) -> Change:
    """Delete the snapshots that are through and older than BEFORE, with their captures; --plan only counts.

    Left are those that wait, are held, or have a job that does; and everything that they became.
    """
    try:
        when = datetime.fromisoformat(before)
    except ValueError:
        raise InvalidInputError(
            f"--before {before!r} is no time: write 2026-01-31 or 2026-01-31T12:00"
        ) from None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    pruned, more = await retention.prune_before(
        caller.conn, when, tenant=caller.tenant, source=source, most=PRUNED_MAX
    )
    left = f"; {pruned.waiting} are left, for a job of theirs waits" if pruned.waiting else ""
    again = "; there are more: ask again" if more else ""
    return Change(
        summary=f"{pruned.snapshots} snapshots from before {when:%Y-%m-%d %H:%M} UTC are deleted"
        f" ({pruned.bytes / 1_000_000:.1f} MB){left}{again}",
        matched=pruned.snapshots + pruned.waiting,
        changed=pruned.snapshots,
        sample=pruned.sample,
        before={"snapshots": pruned.snapshots, "bytes": pruned.bytes, "captures": pruned.captures},
        after={"snapshots": 0, "holds_deleted": pruned.holds, "waiting": pruned.waiting},
    )


@operation("subject erase", role="admin", inverse=None, risk="destructive")
async def erase(
    caller: Caller,
    subject: Subject,
    *,
    source: Annotated[str, "The source whose subject it is."],
    reason: Annotated[str, "Why, for the audit log; without the subject."],
) -> Change:
    """Delete everything that is kept of SUBJECT: snapshots, captures, errors, jobs, rows; --plan only counts.

    Waiting jobs of his snapshots go too; while one runs it is refused. Rows that several subjects share stay,
    and so does what other subjects' documents say of him. The audit log keeps a hash of the subject.
    """
    if len(subject) >= MENTION_CHARS_MIN and subject in reason:
        raise InvalidInputError(
            "the reason names the subject, and would stay in the audit log: say it without"
        )
    erased = await erase_all(caller.conn, subject, source, tenant=caller.tenant)
    told = (
        ", ".join(f"{rows} of {table}" for table, rows in sorted(erased.rows.items()))
        or "nothing was kept under that name"
    )
    note = ""
    if erased.unsearched:
        note = f"; {erased.unsearched} snapshots in the object store, of nobody known, were not looked into"
    return Change(
        summary=f"the subject is erased: {told}{note}",
        matched=erased.total,
        changed=erased.total,
        sample=erased.snapshots,
        before=erased.rows,
        after={"unsearched": erased.unsearched},
    )
