"""`starforge worker kills`: which jobs were running when a process died."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from starforge.cli.doors import group
from starforge.cli.render import as_table, print_json, run, say
from starforge.cli.work import JsonOption
from starforge.cli.workers import seconds_of

if TYPE_CHECKING:
    from starforge.db.pool import Pool
    from starforge.queue.kill import Kill


def add(app: typer.Typer) -> None:
    """Add this module's command."""
    group(app, "worker").command("kills")(kills)


def kills(
    since: Annotated[str, typer.Option(help="No longer ago than this, as 30m or 2h.")] = "1d",
    lines: Annotated[int, typer.Option(min=1, max=10_000, help="Most lines.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Show which jobs were running when a process died: suspects, guilty, and how many each has killed."""
    from starforge.queue import kill

    async def read(pool: Pool) -> list[Kill]:
        async with pool.connection() as conn:
            return await kill.kills(conn, since_s=seconds_of(since), limit=lines)

    found = run(read)
    if as_json:
        print_json([asdict(one) for one in found])
    elif not found:
        say(f"No process died with a job in it within {since}.")
    else:
        columns = (
            "when",
            "job",
            "type",
            "verdict",
            "its process",
            "ran",
            "killed",
            "payload",
            "is now",
            "worker",
        )
        as_table(columns, [_row(one) for one in found])


def _row(one: Kill) -> tuple[object, ...]:
    return (
        f"{one.at:%Y-%m-%d %H:%M:%S}",
        one.job_id,
        one.type,
        one.verdict,
        one.exit or one.cause,
        None if one.ran_s is None else f"{one.ran_s:.1f} s",
        one.kills,
        None if one.payload_bytes is None else f"{one.payload_bytes / 1000:.1f} kB",
        one.status,
        one.worker_id,
    )
