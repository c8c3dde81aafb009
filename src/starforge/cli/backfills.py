"""Commands that look at backfills: list, status, failures, explain, claimable, poison."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from starforge.cli.doors import group
from starforge.cli.history import duration
from starforge.cli.render import as_table, out, print_json, say
from starforge.cli.snapshot_looks import read
from starforge.cli.work import JsonOption
from starforge.cli.workers import seconds_of
from starforge.errors import InvalidInputError, shortened

if TYPE_CHECKING:
    from starforge.backfill.partition.poison import Poison
    from starforge.backfill.show.reads import Failures, Listed, Made
    from starforge.backfill.show.status import Status
    from starforge.db.pool import Connection
    from starforge.worker.logbook import Kept

IdArgument = Annotated[UUID, typer.Argument(metavar="ID", help="The backfill's id.")]
LOG_LINES_MAX = 50
LOG_LINES = 5
LOG_CHARS_MAX = 200
ERROR_CHARS_MAX = 200


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    backfill = group(app, "backfill")
    backfill.command("list")(list_)
    backfill.command("status")(status)
    backfill.command("failures")(failures)
    backfill.command("poison")(poison)


def list_(
    state: Annotated[str | None, typer.Option(help="Only in this state.")] = None,
    asset: Annotated[str | None, typer.Option(help="Only of this asset.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant (TENANT_ID).")] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="Only those created before, as 2h or 1d.")
    ] = None,
    health: Annotated[str | None, typer.Option(help="Only so: stale, no-progress or ok.")] = None,
    sort: Annotated[str | None, typer.Option(help="newest, eta or heartbeat first.")] = None,
    after: Annotated[
        UUID | None, typer.Option(metavar="ID", help="Go on behind this one: the last of the page before.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List backfills with their progress, what is left, who looks after them, and how they are doing."""
    from starforge.backfill.show.reads import list_backfills

    older_s = None if older_than is None else seconds_of(older_than)
    order = sort or ("heartbeat" if health == "stale" else "newest")

    async def look(conn: Connection, _tenant: str) -> list[Listed]:
        return await list_backfills(
            conn,
            state=state,
            asset=asset,
            older_s=older_s,
            health=health,
            sort=order,
            after=after,
            most=limit,
        )

    found = read(look, tenant=tenant)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    if not found:
        say("No backfill fits.")
        return
    as_table(
        ("backfill", "asset", "state", "progress", "ends in", "sign", "pace", "by", ""),
        [_row(one) for one in found],
        reason_last=True,
    )
    if len(found) == limit:
        goes_on = f"--after {found[-1].id} goes on, " if order == "newest" else ""
        say(f"These are {limit}: {goes_on}--limit shows more.")


def _row(one: Listed) -> tuple[object, ...]:
    from starforge.cli.backfill_screen import interval, progress

    return (
        one.id,
        one.asset,
        one.state,
        progress(one.completed, one.total),
        None if one.eta_low_s is None else interval(one.eta_low_s, one.eta_high_s),
        None if one.heartbeat_age_s is None else duration(one.heartbeat_age_s),
        f"{one.pace:.0%}" if one.state == "running" else None,
        one.created_by,
        _note(one),
    )


def _note(one: Listed) -> str | None:
    """Say what is to know of a backfill beside its figures."""
    told = []
    if one.health == "stale":
        told.append("nobody coordinates it")
    elif one.health == "no-progress":
        told.append("no partition has ended for longer than they take")
    if one.failed:
        told.append(f"{one.failed} failed")
    if one.state == "running" and one.pace < 1:
        told.append(f"throttled: {one.pace_reason or 'no reason is kept'}")
    if one.state in ("paused", "cancelled", "resuming") and (one.state_by or one.state_reason):
        told.append(f"{one.state} by {one.state_by or 'SQL'}: {one.state_reason or 'no reason is kept'}")
    if one.sla_at is not None and one.eta_high_at is not None and one.eta_high_at > one.sla_at:
        told.append("may be late")
    return "; ".join(told) or None


def status(
    backfill_id: IdArgument,
    watching: Annotated[
        bool, typer.Option("--watch", help="Follow it to its end; Ctrl-C leaves it.")
    ] = False,
    parts: Annotated[bool, typer.Option("--partitions", help="Page through its partitions instead.")] = False,
    state: Annotated[str | None, typer.Option(help="With --partitions: only in this state.")] = None,
    after: Annotated[
        int | None, typer.Option(help="With --partitions: those behind this place.", metavar="PLACE")
    ] = None,
    limit: Annotated[int, typer.Option(help="With --partitions: at most so many.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Show backfill ID: progress, rate, when it ends, who makes it, what failed, and what to do next.

    With --watch the exit code is 0 where it completes and 1 where it fails or is cancelled.
    """
    if parts:
        if watching:
            raise InvalidInputError("--watch follows the whole and --partitions shows its parts: give one")
        _partitions(backfill_id, state=state, after=after, limit=limit, as_json=as_json)
        return
    if state is not None or after is not None:
        raise InvalidInputError("--state and --after choose among partitions: give --partitions too")
    if watching:
        from starforge.cli.backfill_watch import watch

        watch(backfill_id, as_json=as_json)
        return
    one, lines, last = read(lambda conn, _tenant: _whole(conn, backfill_id))
    if as_json:
        log = [asdict(line) for line in lines]
        print_json({**asdict(one), "log": log, "executor_log": [asdict(line) for line in last]})
        return
    from starforge.cli.backfill_screen import screen
    from starforge.cli.workers import show_lines

    out.print(screen(one, width=out.width))
    if lines:
        say("\nlogged of it last (UTC)", style="bold")
        show_lines(lines[-LOG_LINES:], chars_max=LOG_CHARS_MAX)
        say(f"  more: starforge worker logs --job {backfill_id}", style="dim")
    if last and last[0] not in lines[-LOG_LINES:]:
        say("\nlogged by its coordinator's worker last", style="bold")
        show_lines(last, chars_max=LOG_CHARS_MAX)
    if one.next:
        say(f"\n→ {one.next}")


async def _whole(conn: Connection, backfill_id: UUID) -> tuple[Status, list[Kept], list[Kept]]:
    """Return a backfill, what was logged of it last (B-34), and what its coordinator's worker said last."""
    from starforge.backfill.show import status as room
    from starforge.worker.logbook import lines

    found = await room.status(conn, backfill_id)
    about = await lines(conn, job_id=backfill_id, limit=LOG_LINES_MAX)
    if found.executor is None:
        return found, about, []
    return found, about, await lines(conn, worker_id=found.executor.worker_id, limit=1)


def _partitions(
    backfill_id: UUID, *, state: str | None, after: int | None, limit: int, as_json: bool
) -> None:
    from starforge.backfill.show.reads import partitions

    async def look(conn: Connection, _tenant: str) -> list[Made]:
        return await partitions(conn, backfill_id, state=state, after=after, most=limit)

    from starforge.cli.backfill_screen import took

    found = read(look)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    if not found:
        say("No partition fits.")
        return
    as_table(
        ("partition", "place", "state", "attempts", "took", "ended (UTC)", "error"),
        [
            (
                one.key,
                one.ordinal,
                one.state,
                one.attempts,
                None if one.duration_ms is None else took(one.duration_ms),
                None if one.completed_at is None else f"{one.completed_at:%m-%d %H:%M:%S}",
                one.error and shortened(one.error, ERROR_CHARS_MAX),
            )
            for one in found
        ],
        reason_last=True,
    )
    if len(found) == limit:
        chosen = f" --state {state}" if state else ""
        say(f"→ starforge backfill status {backfill_id} --partitions{chosen} --after {found[-1].ordinal}")


def failures(
    backfill_id: IdArgument,
    limit: Annotated[int, typer.Option(help="At most so many groups.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Group the failed partitions of backfill ID by what failed, with the likely cause of each group."""
    from starforge.backfill.show.reads import failures as grouped

    async def look(conn: Connection, _tenant: str) -> list[Failures]:
        return await grouped(conn, backfill_id, most=limit)

    found = read(look)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    if not found:
        say("None of its partitions has failed. Attempts that failed and are made again are in its status:")
        say(f"→ starforge backfill status {backfill_id}")
        return
    from starforge.cli.backfill_screen import failed

    for one in found:
        out.print(failed(one))
    say(f"→ starforge backfill retry-failed {backfill_id}")
    say(f"→ starforge backfill status {backfill_id} --partitions --state failed")


def poison(
    backfill_id: IdArgument,
    after: Annotated[int | None, typer.Option(help="Only those with a key above.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List the rows of a table that backfill ID stepped over, with what was wrong with each."""
    from starforge.backfill.partition.poison import poison_of
    from starforge.backfill.show.reads import require

    async def look(conn: Connection, _tenant: str) -> list[Poison]:
        await require(conn, backfill_id)
        return await poison_of(conn, backfill_id, after=after, most=limit)

    found = read(look)
    if as_json:
        print_json([one.document() for one in found])
        return
    if not found:
        say("It has stepped over no row." if after is None else f"None has a key above {after}.")
        return
    as_table(
        ("row key", "partition", "error", "message"),
        [
            (one.row_key, one.partition_key, one.error_type, shortened(one.error_message, ERROR_CHARS_MAX))
            for one in found
        ],
        reason_last=True,
    )
    if len(found) == limit:
        say(f"→ starforge backfill poison {backfill_id} --after {found[-1].row_key}")
    keys = ",".join(str(one.row_key) for one in found)
    say("once the rows, or the code, are mended:", style="bold")
    say(f"→ starforge backfill create {found[0].asset_name} --keys {keys}")
