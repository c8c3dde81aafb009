"""Operations on sources, catalogues and what waits for them; `ops/perform.py` runs them for every door."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from starforge.clock import new_id
from starforge.db.statement import sql
from starforge.etl.errors import NoOffenderError
from starforge.etl.snapshot import hold as holds
from starforge.etl.snapshot.quarantine import release_holds
from starforge.etl.snapshot.snapshot import JOB_TYPE
from starforge.etl.source import catalogue as catalogues
from starforge.etl.source import mode as modes
from starforge.operation import ROLES, Caller, Change, operation
from starforge.queue.enqueue import enqueue_many
from starforge.queue.errors import OtherTenantError
from starforge.queue.gate_operations import Minutes, WhyNot, minutes_or_default, until
from starforge.queue.job import NewJob

SAMPLE_MAX = 10
WITHIN_MINUTES = 24 * 60
MOST = 1000
MOST_MAX = 10_000

Why = Annotated[str, Meta(min_length=1), "Why, for the audit log and for whoever looks at what is held."]
Source = Annotated[str, Meta(min_length=1, max_length=200), "Name of the source."]
Table = Annotated[str, Meta(min_length=1, max_length=127), "Table of the catalogue."]
Within = Annotated[int, Meta(ge=1, le=90 * 24 * 60), "Failures of so many minutes back."]
Everyone = Annotated[bool, "For every tenant, not only the own one; takes an admin."]


@operation("source mode", role="operator", inverse="source mode reset")
async def mode(
    caller: Caller,
    name: Source,
    mode: Annotated[Literal["strict", "tolerant"], "strict or tolerant."],
    *,
    reason: Why,
    all_tenants: Everyone = False,
    minutes: Minutes = None,
) -> Change:
    """Read source NAME strictly or tolerantly, whatever its mapping says, on every worker within seconds.

    Strict: a field that the mapping does not know fails the snapshot, with its path. Tolerant: it is kept in
    `extra`. Snapshots that failed meanwhile are tried again by `snapshot retry-failed`.
    """
    tenant = _tenant(caller, all_tenants=all_tenants)
    before = (await modes.modes(caller.conn, name)).exactly(tenant, name)
    now = await modes.switch(
        caller.conn,
        tenant,
        name,
        mode,
        owner=caller.actor,
        reason=reason,
        minutes=minutes_or_default(minutes),
    )
    return Change(
        summary=f"source {name!r} is {mode} until {until(now.expires_at)}",
        matched=1,
        changed=int(before is None or before.document() != now.document()),
        sample=(name,),
        before={} if before is None else before.document(),
        after=now.document(),
    )


@operation("source mode reset", role="operator", inverse="source mode")
async def mode_reset(
    caller: Caller, name: Source, *, all_tenants: Everyone = False, reason: WhyNot = ""
) -> Change:
    """Read source NAME again as its mapping says."""
    before = await modes.reset(caller.conn, _tenant(caller, all_tenants=all_tenants), name)
    return Change(
        summary=f"source {name!r} is read as its mapping says; {before.owner} had made it {before.mode}",
        matched=1,
        changed=1,
        sample=(name,),
        before=before.document(),
        after={},
        undo={"mode": before.mode, "reason": before.reason},
    )


@operation("catalog seed", role="operator", inverse=None)
async def seed(
    caller: Caller,
    catalog: Table,
    entries: Annotated[
        list[dict[str, Any]],
        Meta(min_length=1, max_length=catalogues.ENTRIES_MAX),
        "Entries, as JSON objects with the catalogue's columns.",
    ],
    *,
    reason: Why,
) -> Change:
    """Make or change entries of CATALOG; placeholders become entries, and snapshots that waited go on.

    What an entry does not say stays as it is.
    """
    done = await catalogues.seed(caller.conn, catalog, entries)
    return Change(
        summary=f"{catalog} has {done.entries} entries as given; {len(done.resolved)} placeholders are"
        f" resolved, {done.released} snapshots go on",
        matched=done.entries,
        changed=done.entries,
        sample=tuple(str(entry[done.key]) for entry in entries[:SAMPLE_MAX]),
        after={"resolved": len(done.resolved), "released": done.released},
    )


@operation("catalog release", role="operator", inverse=None)
async def release(caller: Caller, catalog: Table, *, reason: Why) -> Change:
    """Let the snapshots be processed that wait for entries of CATALOG, whether these are there or not.

    Those that still lack an entry wait again.
    """
    waiting = await holds.held_for(caller.conn, catalog)
    if not waiting:
        await catalogues.require_catalogue(caller.conn, catalog)  # nothing waits for a name that is misspelt
    held = [(each.quarantine_id, each.snapshot_id) for each in waiting]
    released = len(await release_holds(caller.conn, held, who=caller.actor, reason=reason))
    return Change(
        summary=f"{released} of {len(waiting)} snapshots that wait for {catalog} go on",
        matched=len(waiting),
        changed=released,
        sample=tuple(str(each.snapshot_id) for each in waiting[:SAMPLE_MAX]),
        before={"held": len(waiting)},
        after={"held": len(waiting) - released},
    )


@operation("snapshot hold-batch", role="operator", inverse="snapshot release-batch")
async def hold_batch(
    caller: Caller,
    *,
    reason: Why,
    constraint: Annotated[str | None, "Name of the constraint that was violated."] = None,
    fingerprint: Annotated[str | None, "Fingerprint of the failure."] = None,
    within: Within = WITHIN_MINUTES,
    most: Annotated[int, Meta(ge=1, le=holds.HOLDS_MAX), "Hold at most so many."] = MOST,
) -> Change:
    """Hold the snapshots behind a failure together; their jobs do not run until the batch is released."""
    found, more = await holds.offenders(
        caller.conn, constraint=constraint, fingerprint=fingerprint, within_s=within * 60.0, most=most
    )
    if (constraint is None and fingerprint is None) or not found:
        raise NoOffenderError(
            f"no snapshot failed by {constraint or fingerprint or 'no constraint and no fingerprint'}"
        )
    batch = str(new_id())
    ids = [each.snapshot_id for each in found]
    held = await holds.hold_batch(caller.conn, ids, batch=batch, by=caller.actor, reason=reason)
    left = f"; {more} more failed so: ask again" if more else ""
    named = "a batch" if caller.planning else f"batch {batch}"
    return Change(
        summary=f"{len(held)} snapshots are held as {named}{left}",
        matched=len(found),
        changed=len(held),
        sample=tuple(map(str, held[:SAMPLE_MAX])),
        after={"batch": batch, "held": len(held), "constraint": constraint, "fingerprint": fingerprint},
        undo={} if caller.planning else {"batch": batch},
    )


@operation("snapshot release-batch", role="operator", inverse="snapshot hold-batch")
async def release_batch(
    caller: Caller,
    batch: Annotated[
        str, Meta(min_length=1, max_length=200), "The batch, as `snapshot hold-batch` named it."
    ],
    *,
    reason: WhyNot = "",
) -> Change:
    """Release the snapshots of BATCH; jobs that ended at the hold run again."""
    released = await holds.release_batch(caller.conn, batch, by=caller.actor, reason=reason or None)
    if not released:
        raise NoOffenderError(f"no snapshot is held as batch {batch!r}")
    return Change(
        summary=f"{len(released)} snapshots of batch {batch} are held no more",
        matched=len(released),
        changed=len(released),
        sample=tuple(map(str, released[:SAMPLE_MAX])),
        before={"batch": batch, "held": len(released)},
        after={"held": 0},
        undo={"fingerprint": "FINGERPRINT"},
    )


@operation("snapshot retry-failed", role="operator", inverse=None)
async def retry_failed(
    caller: Caller,
    source: Source,
    *,
    reason: Why,
    error_type: Annotated[str | None, "Only those that failed so last: MAPPING_ERROR …"] = None,
    within: Within = WITHIN_MINUTES,
    most: Annotated[int, Meta(ge=1, le=MOST_MAX), "Try at most so many, the oldest first."] = MOST,
) -> Change:
    """Try the failed snapshots of SOURCE again, each with a new job; one that fails again is failed again."""
    rows = await caller.conn.fetch(
        sql("etl", "retry_failed"), caller.tenant, source, error_type, within * 60.0, most
    )
    ids = [str(row["id"]) for row in rows]
    jobs = [NewJob(type=JOB_TYPE, payload={"snapshot_id": id_}, tenant=caller.tenant) for id_ in ids]
    await enqueue_many(caller.conn, jobs)
    left = "; there may be more: ask again" if len(ids) == most else ""
    return Change(
        summary=f"{len(ids)} failed snapshots of source {source!r} are tried again{left}",
        matched=len(ids),
        changed=len(ids),
        sample=tuple(ids[:SAMPLE_MAX]),
        before={"failed": len(ids)},
        after={"received": len(ids)},
    )


def _tenant(caller: Caller, *, all_tenants: bool) -> str:
    if not all_tenants:
        return caller.tenant
    if caller.role != ROLES[-1]:
        raise OtherTenantError(f"{caller.actor} speaks for tenant {caller.tenant!r} and not for all")
    return modes.EVERY_TENANT
