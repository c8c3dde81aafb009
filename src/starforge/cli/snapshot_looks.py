"""Commands that look at snapshots: list, show, quarantined, report. None reads their content."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from starforge.cli.doors import group
from starforge.cli.render import as_table, print_json, run, say
from starforge.cli.work import JsonOption
from starforge.cli.workers import seconds_of

if TYPE_CHECKING:
    from starforge.db.pool import Connection, Pool
    from starforge.etl.snapshot.listing import Held, Sizes, Snapshot, Whole

T = TypeVar("T")
MB = 1_000_000
SourceOption = Annotated[str | None, typer.Option(help="Only of this source.")]
SinceOption = Annotated[str | None, typer.Option(help="No older than this, as 30m, 2h or 7d.")]
UNDONE = ("received", "failed", "quarantined")
"""Statuses whose reason tells why it is so; of another one it is history."""

LimitOption = Annotated[int, typer.Option(help="At most so many.")]
IdArgument = Annotated[UUID, typer.Argument(metavar="ID", help="The snapshot's id.")]


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    snapshot = group(app, "snapshot")
    snapshot.command("list")(list_)
    snapshot.command("show")(show)
    snapshot.command("quarantined")(quarantined)
    snapshot.command("report")(report)


def list_(
    status: Annotated[str | None, typer.Option(help="Only with this status.")] = None,
    source: SourceOption = None,
    since: SinceOption = None,
    largest: Annotated[bool, typer.Option("--largest", help="The largest first, not the newest.")] = False,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List snapshots, the newest first or the largest, without their content."""
    from starforge.etl.snapshot.listing import list_snapshots

    async def look(conn: Connection, tenant: str) -> list[Snapshot]:
        since_s = None if since is None else seconds_of(since)
        return await list_snapshots(
            conn, tenant, status=status, source=source, since_s=since_s, largest=largest, most=limit
        )

    found = read(look)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    if not found:
        say("No snapshot fits.")
        return
    as_table(
        ("snapshot", "source", "subject", "size", "status", "rows", "came (UTC)", "reason"),
        [
            (
                one.id,
                one.source,
                one.subject,
                size(one.size_bytes),
                "processing" if one.processing else one.status,
                one.rows_written,
                minute(one.created_at),
                one.reason,
            )
            for one in found
        ],
        reason_last=True,
    )


def quarantined(source: SourceOption = None, limit: LimitOption = 1000, as_json: JsonOption = False) -> None:
    """List what is in quarantine, with who holds it and why: snapshots, and bytes that are no JSON."""
    from starforge.etl.snapshot.listing import held

    async def look(conn: Connection, tenant: str) -> list[Held]:
        return await held(conn, tenant, source=source, most=limit)

    found = read(look)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    if not found:
        say("Nothing is in quarantine.")
        return
    as_table(
        ("id", "cause", "source", "owner", "size", "since (UTC)", "by", "reason"),
        [
            (
                one.snapshot_id or one.id,
                one.cause,
                one.source,
                one.owner,
                size(one.size_bytes),
                minute(one.created_at),
                one.created_by,
                _why(one),
            )
            for one in found
        ],
        reason_last=True,
    )
    if len(found) == limit:
        say(f"These are the newest {limit}: --limit shows more.")
    if any(one.snapshot_id is not None for one in found):
        say("→ starforge snapshot show ID; snapshot release ID --to normal|highmem --reason …")
    if any(one.snapshot_id is None for one in found):
        say("→ what is malformed: starforge snapshot export ID --raw -o FILE; mend it; snapshot ingest FILE")


def _why(one: Held) -> str:
    if one.snapshot_id is None:
        return f"bytes of {one.name or 'no name'}: {one.reason}"
    status = "" if one.status == "quarantined" else f" (the snapshot is {one.status})"
    return f"{one.reason}{status}{', released to high-memory workers' if one.released_to else ''}"


def show(snapshot_id: IdArgument, as_json: JsonOption = False) -> None:
    """Show all that is known of one snapshot but its content: state, captures, errors, holds, jobs."""
    from starforge.etl.snapshot.listing import whole

    async def look(conn: Connection, tenant: str) -> Whole:
        return await whole(conn, snapshot_id, tenant)

    found = read(look)
    if as_json:
        told = asdict(found)
        print_json({**told.pop("snapshot"), **told})
        return
    one = found.snapshot
    say(
        f"snapshot {one.id} of {one.source} is {'processing' if one.processing else one.status}", style="bold"
    )
    if one.reason:
        say(f"  {'' if one.status in UNDONE else 'what went wrong before: '}{one.reason}")
    where = f"object {found.raw_key}" if found.raw_key else "the database"
    say(f"subject {one.subject or 'not known'} · {size(one.size_bytes)} in {where} · sha256 {found.sha256}")
    rows = "no rows" if one.rows_written is None else f"{one.rows_written} rows"
    done = f"processed {at(one.processed_at)}: {rows}" if one.processed_at else "not processed"
    say(
        f"captured {at(one.captured_at) or 'at a time not known'} · came {at(one.created_at)} · {done}"
        f" · failed or held {one.error_count or 0} times (UTC)"
    )
    _part(
        "held",
        ("since", "cause", "by", "reason", "released", "to", "by"),
        [
            (
                at(hold["created_at"]),
                hold["cause"],
                hold["created_by"],
                hold["reason"],
                at(hold["released_at"]),
                hold["released_to"],
                hold["released_by"],
            )
            for hold in found.holds
        ],
    )
    _part(
        "jobs",
        ("job", "type", "status", "since"),
        [(j.id, j.type, j.status, at(j.updated_at)) for j in found.jobs],
    )
    _part(
        "captures",
        ("captured", "came"),
        [(at(c["captured_at"]), at(c["created_at"])) for c in found.captures],
    )
    _part(
        "entities of the subject",
        ("entity", "as of"),
        [(e["entity"], at(e["captured_at"])) for e in found.entities],
    )
    _part(
        "errors",
        ("when", "class", "path", "message"),
        [(at(e["created_at"]), e["error_type"], e["path"], e["message"]) for e in found.errors],
    )


def report(
    since: SinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report what decides on memory: sizes of snapshots, peaks by type, how much is read in pieces."""
    from starforge.etl.gears.by_name import streamed_bytes
    from starforge.etl.snapshot.listing import sizes
    from starforge.worker.need import needs

    threshold = streamed_bytes()

    async def look(conn: Connection, tenant: str) -> tuple[Sizes, dict[str, int]]:
        since_s = None if since is None else seconds_of(since)
        return await sizes(conn, tenant, since_s=since_s, split=threshold), await needs(conn)

    found, peaks = read(look)
    streamed = found.share_from(threshold)
    if as_json:
        print_json(
            {
                "sizes": asdict(found),
                "peak_bytes": peaks,
                "streaming": {"from_bytes": threshold, "share_of_bytes": streamed or 0.0},
            }
        )
        return
    if not found.snapshots:
        say("No snapshot is stored.")
    else:
        say(
            f"{found.snapshots} snapshots, {size(found.bytes)}: half up to {size(found.p50_bytes)}, 95 %"
            f" up to {size(found.p95_bytes)}, the largest {size(found.largest_bytes)};"
            f" {100 * (found.above_2_mb or 0):.1f} % above 2 MB",
            style="bold",
        )
        as_table(
            ("from", "to", "snapshots", "together"),
            [
                (size(one.from_bytes), size(one.to_bytes), one.snapshots, size(one.bytes))
                for one in found.buckets
            ],
        )
    _part(
        "peak memory of one job", ("type", "needs"), [(of, size(peak)) for of, peak in sorted(peaks.items())]
    )
    say(f"read in pieces: {100 * (streamed or 0):.1f} % of the bytes (what is above {size(threshold)})")


def read(look: Callable[[Connection, str], Awaitable[T]], *, tenant: str | None = None) -> T:
    """Look at one picture of the database, for a tenant: this process's where none is given."""
    from starforge.db.pool import set_tenant
    from starforge.settings import HomeSettings

    async def work(pool: Pool) -> T:
        whose = HomeSettings.read().tenant if tenant is None else tenant
        async with pool.connection() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            await set_tenant(conn, whose)
            return await look(conn, whose)

    found: T = run(work)
    return found


def size(size_bytes: int | None) -> str | None:
    """Return a size for people: 2.81 MB."""
    if size_bytes is None:
        return None
    return f"{size_bytes / MB:.2f} MB" if size_bytes >= MB / 10 else f"{size_bytes / 1000:.1f} kB"


def at(time: datetime | None) -> str | None:
    """Return a time for people, in UTC as all of them."""
    return None if time is None else f"{time:%Y-%m-%d %H:%M:%S}"


def minute(time: datetime | None) -> str | None:
    """Return a time for a column of a list."""
    return None if time is None else f"{time:%m-%d %H:%M}"


def _part(name: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    if rows:
        say(f"{name}:", style="bold")
        as_table(columns, rows)
