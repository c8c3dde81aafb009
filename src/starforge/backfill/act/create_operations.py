"""The operation that creates backfills. It has no inverse: what a backfill made, no cancelling unmakes."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from starforge.backfill.act.locked import afterwards
from starforge.backfill.asset.asset import CONCURRENCY_MAX
from starforge.backfill.asset.declared import declared_assets
from starforge.backfill.create.ask import ask
from starforge.backfill.create.create import Created, CreatedBackfill
from starforge.backfill.create.options import FAILED_MAX, Options
from starforge.backfill.create.preflight import Preflight
from starforge.backfill.select.canary import share_of
from starforge.backfill.select.select import Request
from starforge.backfill.select.selection import counted
from starforge.operation import Caller, Change, operation
from starforge.queue.entry import ATTEMPTS_MAX, PRIORITY_MAX

SAMPLE_MAX = 10


@operation("backfill create", role="operator", inverse=None)
async def create_backfill(
    caller: Caller,
    asset: Annotated[str, "Name of the asset."],
    *,
    from_: Annotated[str | None, "First partition, as in 2024-01-01; else the asset's first."] = None,
    to: Annotated[str | None, "Last partition, included; else the last one that has ended."] = None,
    keys: Annotated[str | None, "These partitions, with commas between them."] = None,
    stale: Annotated[
        bool, "Only those that are missing, older than what they are made from, or of another version."
    ] = False,
    concurrency: Annotated[
        Annotated[int, Meta(ge=1, le=CONCURRENCY_MAX)] | None,
        "Partitions at once; else as the asset declares.",
    ] = None,
    priority: Annotated[
        Annotated[int, Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] | None, "Higher goes first; 0 unless said."
    ] = None,
    sla: Annotated[str | None, "When it has to be complete: 6h, 1d12h, or a time."] = None,
    include_upstream: Annotated[bool, "Make what the asset is made from first."] = False,
    max_depth: Annotated[
        Annotated[int, Meta(ge=1)] | None, "Levels of upstream to include; else all, up to 10."
    ] = None,
    canary: Annotated[str | None, "Share of the partitions that has to go well first, as in 5%."] = None,
    failed_max: Annotated[
        Annotated[int, Meta(ge=0, le=FAILED_MAX)] | None,
        "So many partitions may fail and it is completed all the same; 0 unless said.",
    ] = None,
    attempts: Annotated[
        Annotated[int, Meta(ge=1, le=ATTEMPTS_MAX)] | None, "Failures after which a partition is given up."
    ] = None,
    override_preflight: Annotated[bool, "Create it whatever the preflight says; needs a reason."] = False,
    reason: Annotated[str, "Why; kept in the audit log."] = "",
) -> Change:
    """Create a backfill of ASSET: its partitions are listed now, once and for all, and run as workers can.

    `starforge backfill cancel` ends it; what it has made by then stays made.
    """
    request, options = asked_for(
        asset,
        from_=from_,
        to=to,
        keys=keys,
        stale=stale,
        concurrency=concurrency,
        priority=priority,
        sla=sla,
        include_upstream=include_upstream,
        max_depth=max_depth,
        canary=canary,
        failed_max=failed_max,
        attempts=attempts,
    )
    created, looked = await ask(
        caller.conn,
        await declared_assets(caller.conn),
        request,
        options,
        tenant=caller.tenant,
        actor=caller.actor,
        override=override_preflight,
        reason=reason,
    )
    return change_of(created, looked, planning=caller.planning)


def asked_for(
    asset: str,
    *,
    from_: str | None,
    to: str | None,
    keys: str | None,
    stale: bool,
    concurrency: int | None,
    priority: int | None,
    sla: str | None,
    include_upstream: bool,
    max_depth: int | None,
    canary: str | None,
    failed_max: int | None,
    attempts: int | None,
) -> tuple[Request, Options]:
    """Return what the operation's arguments ask for. Raises: SelectionError, BackfillOptionError."""
    request = Request(
        asset=asset,
        first=from_,
        last=to,
        keys=tuple(key.strip() for key in keys.split(",")) if keys is not None else (),
        stale=stale,
        include_upstream=include_upstream,
        max_depth=max_depth,
        canary=None if canary is None else share_of(canary),
    )
    options = Options(
        concurrency=concurrency, priority=priority, sla=sla, attempts=attempts, failed_max=failed_max
    )
    return request, options


def change_of(created: Created, looked: Preflight | None, *, planning: bool = False) -> Change:
    """Return what was created as the doors and the audit log show it.

    Of a plan no id is told: each look makes new ones, and so will the act.
    """
    findings = () if looked is None else looked.findings
    names = {each.id: each.asset for each in created.backfills} if planning else {}
    told = [each.told(names) for each in created.backfills]
    warned = [f"{found.check}: {found.text}" for found in findings if not found.refuses]
    also = "".join(f"; {note}" for note in (*created.notes, *(f"warning: {each}" for each in warned)))
    first = f"{len(told)} backfills, {counted(created.partitions)}; " if len(told) > 1 else ""
    made = "a backfill" if planning else f"backfill {created.id}"
    then = afterwards(created.id, planning=planning)
    if any(found.check == "worker" for found in findings):
        then = {"no live worker runs it; to start one": "starforge worker --app MODULE:ATTR", **then}
    return Change(
        summary=f"{made} is created: {first}{told[-1]}{also}",
        matched=created.partitions,
        changed=created.partitions,
        sample=tuple(f"{each.asset} {each.first} … {each.last}" for each in created.backfills[-SAMPLE_MAX:]),
        before={},
        after={
            **({} if planning else {"id": str(created.id)}),
            "backfills": [_document(each, planning=planning) for each in created.backfills],
            "warned": warned,
            "overridden": [f"{found.check}: {found.text}" for found in findings if found.refuses],
        },
        next=then,
    )


def _document(made: CreatedBackfill, *, planning: bool) -> dict[str, Any]:
    document = {
        "id": str(made.id),
        "asset": made.asset,
        "partitions": made.partitions,
        "first": made.first,
        "last": made.last,
        "canary": made.canary,
        "waits_for": [str(above) for above in made.waits_for],
    }
    return {name: value for name, value in document.items() if not (planning and name in ("id", "waits_for"))}
