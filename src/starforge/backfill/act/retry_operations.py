"""Partitions that failed run again: in place on a live backfill, in a new one of a backfill that is over."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from starforge.backfill.act.locked import (
    SAMPLE_MAX,
    BackfillId,
    Locked,
    Version,
    Why,
    afterwards,
    follow,
    locked,
)
from starforge.backfill.act.renew import chosen, renew
from starforge.backfill.create.options import Options
from starforge.backfill.errors import NothingFailedError
from starforge.db.statement import sql
from starforge.operation import Caller, Change, operation

REOPENED_MAX = 500_000
"""Most partitions that one act reopens: its locks hold for seconds then; it says where there are more."""

Fingerprint = Annotated[
    Annotated[str, Meta(min_length=1, max_length=200)] | None,
    "Only those that failed so; else all that failed.",
]


@operation("backfill retry-failed", role="operator", inverse=None)
async def retry_failed(
    caller: Caller,
    job_id: BackfillId,
    *,
    fingerprint: Fingerprint = None,
    reason: Why = "",
    expect_version: Version = None,
) -> Change:
    """Have the failed partitions of backfill JOB_ID run again, or those of one fingerprint.

    Of a live one they are pending again, and a paused one makes them once it is resumed. Of one that has
    ended they become a new backfill, which tolerates no failure. What is completed does not run again.
    """
    row = await locked(caller, job_id, expect_version)
    if row.terminal:
        return await _anew(caller, row, fingerprint)
    return await _in_place(caller, row, fingerprint)


async def _in_place(caller: Caller, row: Locked, fingerprint: str | None) -> Change:
    conn, tenant = caller.conn, caller.tenant
    done = await conn.fetchrow(sql("backfill", "reopen"), row.id, tenant, fingerprint, REOPENED_MAX)
    reopened: int = done["reopened"]
    if not reopened:
        raise _none(row, fingerprint)
    now = await conn.fetchrow(
        sql("backfill", "uncount"), row.id, tenant, caller.actor, done["counted"], "backfill retry-failed"
    )
    more = f"; there may be more than {REOPENED_MAX}: ask again" if reopened == REOPENED_MAX else ""
    paused = "; they run once it is resumed" if row.state == "paused" else ""
    are = "partition is" if reopened == 1 else "partitions are"
    return Change(
        summary=f"{reopened} failed {are} pending again in {row.named}{_so(fingerprint)}{paused}{more}",
        matched=reopened,
        changed=reopened,
        sample=tuple(done["keys"]),
        before={**row.terms(), "failed": reopened},
        after={"state": row.state, "version": now["version"], "pending": reopened},
        next=(
            {"to let them run": f"starforge backfill resume {row.id}"}
            if row.state == "paused"
            else {"to follow them": follow(row.id)}
        ),
    )


async def _anew(caller: Caller, row: Locked, fingerprint: str | None) -> Change:
    failed = await chosen(caller, row, ["failed"], fingerprint)
    if not failed:
        raise _none(row, fingerprint)
    made = await renew(caller, row, failed, Options(failed_max=0), "failed")
    named = "is a new backfill" if caller.planning else f"is the new backfill {made.id}"
    return Change(
        summary=f"{row.named} is over: what failed in it{_so(fingerprint)} {named}, {made.told()}",
        matched=len(failed),
        changed=len(failed),
        sample=tuple(failed.keys[:SAMPLE_MAX]),
        before={**row.terms(), "failed": len(failed)},
        after={
            **({} if caller.planning else {"backfill": str(made.id)}),
            "parent": str(row.id),
            "partitions": made.partitions,
        },
        next=afterwards(made.id, planning=caller.planning),
    )


def _none(row: Locked, fingerprint: str | None) -> NothingFailedError:
    return NothingFailedError(f"{row.named} has no failed partition{_so(fingerprint)}; it is {row.told()}")


def _so(fingerprint: str | None) -> str:
    return "" if fingerprint is None else f" with fingerprint {fingerprint!r}"
