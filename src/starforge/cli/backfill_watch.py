"""`starforge backfill status --watch`: a live view on a terminal, a line per change where it is piped."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING
from uuid import UUID

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from starforge.cli.backfill_screen import line, screen
from starforge.cli.history import duration
from starforge.cli.render import out, plain, run, say
from starforge.cli.tasks import print_line

if TYPE_CHECKING:
    from starforge.backfill.show.follow import Away
    from starforge.backfill.show.status import Status
    from starforge.db.pool import Pool

TERMINAL_S, PIPED_S = 0.5, 1.0


def watch(backfill_id: UUID, *, as_json: bool) -> None:
    """Follow a backfill to its end.

    Raises: typer.Exit with 1 where it does not end as completed, with 130 where Ctrl-C leaves it.
    """
    live = out.is_terminal and not as_json

    async def work(pool: Pool) -> Status | None:
        return await (_live(pool, backfill_id) if live else _piped(pool, backfill_id, as_json=as_json))

    try:
        last = run(work)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(130) from None
    if last is None or last.state != "completed":
        raise typer.Exit(1)


async def _live(pool: Pool, backfill_id: UUID) -> Status | None:
    """Show it on a screen of its own, which a terminal of any size takes; leave its last state behind."""
    from starforge.backfill.show.follow import follow
    from starforge.backfill.show.status import Status
    from starforge.settings import HomeSettings

    last: Status | None = None
    away = False
    try:
        with Live(console=out, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            async for look in follow(pool, backfill_id, HomeSettings.read().tenant, every_s=TERMINAL_S):
                away = not isinstance(look, Status)
                last = look if isinstance(look, Status) else last
                live.update(_shown(look, last), refresh=True)
    finally:
        if last is not None:
            ended = last.ended
            out.print(screen(last, width=out.width))
            if not ended:
                since = "; the database has not answered since" if away else ""
                say(f"\nThis was its last state seen{since}; it goes on by itself.")
    return last


def _shown(look: Status | Away, last: Status | None) -> RenderableType:
    from starforge.backfill.show.follow import Away

    if not isinstance(look, Away):
        assert last is not None
        return Group(screen(last, width=out.width), Text("\nCtrl-C leaves it running.", style="dim"))
    told = plain(_away(look))
    told.stylize("bold red")
    return Group(told, Text(), screen(last, width=out.width)) if last is not None else told


async def _piped(pool: Pool, backfill_id: UUID, *, as_json: bool) -> Status | None:
    from starforge.backfill.show.follow import Away, follow
    from starforge.settings import HomeSettings

    last: Status | None = None
    away = False
    async for look in follow(pool, backfill_id, HomeSettings.read().tenant, every_s=PIPED_S):
        if isinstance(look, Away):
            if not away:
                print_line({"away": look.told}) if as_json else say(_away(look))
            away = True
            continue
        if away or last is None or _changes(look) != _changes(last):
            if as_json:
                print_line(asdict(look))
            else:
                say(f"{look.now:%H:%M:%S} {line(look)}")
        away, last = False, look
    return last


def _away(away: Away) -> str:
    since = f" for {duration(away.since_s)}" if away.since_s >= 1 else ""
    return f"The database does not answer{since}; this goes on when it does: {away.told}"


def _changes(one: Status) -> tuple[object, ...]:
    """What a line is worth for: figures and words, not the passing of time."""
    return (
        one.state,
        one.version,
        one.completed,
        one.failed,
        one.cancelled,
        one.throttle.pace,
        one.throttle.reason,
        one.state != "running" or one.eta.basis,
        one.sla and one.sla.verdict,
        one.closed_at,
    )
