"""Commands that check backfills: verify one, stale partitions of an asset, what waits for a coordinator."""

from __future__ import annotations

from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from starforge.cli.backfills import IdArgument
from starforge.cli.doors import group
from starforge.cli.history import duration
from starforge.cli.render import as_table, print_json, say
from starforge.cli.snapshot_looks import read
from starforge.cli.work import JsonOption

if TYPE_CHECKING:
    from starforge.backfill.show.stale import Staleness
    from starforge.backfill.show.status import Status
    from starforge.backfill.show.verify import Report
    from starforge.db.pool import Connection
    from starforge.queue.reads import LiveWorker


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    backfill = group(app, "backfill")
    backfill.command("verify")(verify)
    backfill.command("stale")(stale)
    backfill.command("claimable")(claimable)


def verify(backfill_id: IdArgument, as_json: JsonOption = False) -> None:
    """Compare backfill ID with its partitions: checkpoint, counts, jobs, and its end; exit 1 if it is broken.

    What is a moment behind, and made good by the next count, is told and is no fault.
    """
    from starforge.backfill.show import verify as room

    async def look(conn: Connection, tenant: str) -> Report:
        return await room.verify(conn, backfill_id, tenant)

    found = read(look)
    if as_json:
        print_json(asdict(found))
    else:
        _show(found)
    if found.blocks:
        raise typer.Exit(1)


def _show(found: Report) -> None:
    from starforge.backfill.state.backfill import BACKFILL

    cancelled = found.total - found.completed - found.failed - found.open
    also = f", {cancelled} cancelled" if cancelled > 0 else ""
    say(
        f"backfill {found.id} of {found.asset} is {found.state}: {found.total} partitions,"
        f" {found.completed} completed, {found.failed} failed{also}, {found.open} open",
        style="bold",
    )
    say(f"checkpoint by its partitions: {found.checkpoint or 'none, the first one has not ended'}")
    for finding in found.findings:
        say(
            f"{'broken' if finding.blocks else 'noted'}: {finding.text}",
            style="red" if finding.blocks else "",
        )
    if found.blocks and found.state in BACKFILL.terminal:
        say("Its end is not to be trusted before this is cleared up: the partitions' rows are the truth.")
    elif found.blocks:
        say("It is not resumed before this is mended: the partitions' rows are the truth.")
    elif not found.findings:
        say("All that it says of itself holds.", style="green")
    else:
        say("Nothing of this is a fault.", style="green")


def stale(
    asset: Annotated[str, typer.Argument(metavar="ASSET", help="The asset's name.")],
    first: Annotated[str | None, typer.Option("--from", metavar="KEY", help="From this key.")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="KEY", help="To this key, included.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most partitions that are shown.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Find partitions of ASSET that are missing, older than their inputs, or made by another code version."""
    from starforge.backfill.asset.declared import declared_assets
    from starforge.backfill.create.facts import DatabaseFacts
    from starforge.backfill.show.stale import stale_partitions

    async def look(conn: Connection, tenant: str) -> Staleness:
        assets, facts = await declared_assets(conn), DatabaseFacts(conn, registering=False)
        return await stale_partitions(conn, assets, facts, asset, tenant=tenant, first=first, last=last)

    found = read(look)
    if as_json:
        print_json(asdict(found))
        return
    for note in found.notes:
        say(note, style="yellow")
    if not found.partitions:
        say(f"None of the {found.total} partitions of {asset} that were looked at is stale.")
        return
    counts = ((kind, found.count(kind)) for kind in ("missing", "older", "code"))
    words = {"missing": "missing", "older": "older than their inputs", "code": "made by another code version"}
    told = ", ".join(f"{count} {words[kind]}" for kind, count in counts if count)
    say(f"{len(found.partitions)} of {found.total} partitions of {asset} are stale: {told}", style="bold")
    as_table(
        ("partition", "place", "", "why"),
        [(one.key, one.ordinal, one.kind, one.why) for one in found.partitions[:limit]],
        reason_last=True,
    )
    if len(found.partitions) > limit:
        say(f"and {len(found.partitions) - limit} more: --limit shows them.")
    ends = ((" --from ", first), (" --to ", last))
    options = "".join(f"{name}{quote(key)}" for name, key in ends if key is not None)
    say(f"→ starforge backfill create {quote(asset)} --stale{options}")


def _held(one: LiveWorker) -> str:
    """Tell what a worker has claimed. It claims a little ahead, and a concurrency that fell ends nothing."""
    if not one.holds:
        return f"idle, runs {one.concurrency} at once"
    return f"{one.holds} job{'' if one.holds == 1 else 's'}, runs {one.concurrency} at once"


def claimable(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List what waits for a coordinator, in the order in which it is taken, why, and which workers live."""
    from starforge.backfill.show.status import unclaimed
    from starforge.cli.backfill_screen import progress
    from starforge.queue.reads import live_workers

    async def look(conn: Connection, _tenant: str) -> tuple[list[Status], list[LiveWorker]]:
        return await unclaimed(conn, most=limit), await live_workers(conn)

    waiting, workers = read(look)
    if as_json:
        print_json(
            {"backfills": [asdict(one) for one in waiting], "workers": [asdict(one) for one in workers]}
        )
        return
    if not waiting:
        say("No backfill waits for a coordinator.")
    else:
        as_table(
            ("backfill", "asset", "state", "progress", "free", ""),
            [
                (
                    one.id,
                    one.asset,
                    one.state,
                    progress(one.completed, one.total),
                    "yes" if one.claimable else "no",
                    one.why,
                )
                for one in waiting
            ],
            reason_last=True,
        )
    if not workers:
        say("No worker lives: starforge worker --app MODULE:ATTR")
        return
    say("\nworkers that live, of all tenants:", style="bold")
    as_table(
        ("worker", "where", "version", "queues", "holds", "last sign"),
        [
            (
                one.id,
                f"{one.host}:{one.pid}",
                one.version,
                ", ".join(one.queues),
                _held(one),
                f"{duration(one.heartbeat_age_s)} ago",
            )
            for one in workers
        ],
    )
