"""Commands that look along time: what the queue did in the last minutes, and what comes by the clock."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from starforge.cli.doors import group
from starforge.cli.render import as_table, print_json, run, say
from starforge.queue.minutes import MINUTES_MAX

if TYPE_CHECKING:
    from starforge.db.pool import Pool
    from starforge.queue.minutes import Lag, Minute
    from starforge.queue.schedule import Scheduled

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
BARS = "▁▂▃▄▅▆▇█"
BARS_MAX = 30
COLUMNS = (
    "queue", "type", "finished", "per s", "failed", "finishing", "waiting", "oldest", "depth", "comes", "",
)  # fmt: skip


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    group(app, "queue").command("history")(queue_history)
    group(app, "schedule").command("ls")(schedule_ls)


def queue_history(
    minutes: Annotated[
        int, typer.Option(min=2, max=MINUTES_MAX, help="How many; a week of them is kept.")
    ] = 60,
    job_type: Annotated[str | None, typer.Option("--type", help="Only jobs of this type.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the queue did in the last minutes, by type: no metrics server is asked."""
    from starforge.queue.minutes import lags, last_minutes

    async def read(pool: Pool) -> list[Minute]:
        async with pool.connection() as conn:
            return await last_minutes(conn, minutes)

    lines = [line for line in run(read) if job_type in (None, line.type)]
    found = lags(lines)
    if as_json:
        shown = [line.document() for line in lines]
        print_json({"minutes": minutes, "lines": shown, "lags": [lag.document() for lag in found]})
        return
    if not lines:
        say(f"Nothing was finished, and nothing waited, in the last {minutes} minutes.")
        return
    lag_of = {(lag.queue, lag.type): lag for lag in found}
    lanes: dict[tuple[str, str], list[Minute]] = defaultdict(list)
    for line in lines:
        lanes[line.queue, line.type].append(line)
    as_table(COLUMNS, [(*lane, *_row(of), _verdict(lag_of.get(lane))) for lane, of in sorted(lanes.items())])


def _row(of: Sequence[Minute]) -> tuple[str | None, ...]:
    """Put a queue and type's minutes together: sums and the newest figures, and how they went."""
    finished = sum(line.finished for line in of)
    failed = sum(line.failed + line.retried for line in of)
    seconds = sum(line.seconds for line in of)
    depths = [line for line in of if line.depth is not None]
    came = [line.enqueued_per_s for line in of if line.enqueued_per_s is not None]
    newest = depths[-1] if depths else None
    return (
        f"{finished}",
        f"{finished / seconds:.2f}",
        f"{failed / finished:.1%}" if finished else None,
        bars([line.finished for line in of]),
        None if newest is None else f"{newest.depth}",
        None if newest is None or newest.oldest_s is None else duration(newest.oldest_s),
        bars([line.depth for line in of]),
        f"{sum(came) / len(came):.2f}/s" if came else None,
    )


def _verdict(lag: Lag | None) -> str:
    """Say whether a queue and type keeps up."""
    if lag is None:
        return "not sampled: no worker leads"
    if lag.behind:
        return f"falls behind by {lag.enqueued_per_s - lag.left_per_s:.2f}/s"
    if lag.depth and lag.drained_in_s is not None:
        return f"empty in {duration(lag.drained_in_s)}"
    return "keeps up"


def bars(values: Sequence[float | None]) -> str:
    """Draw a line of values as bars, at most BARS_MAX wide; a gap stands for what is not known."""
    wide = math.ceil(len(values) / BARS_MAX)
    groups = [values[start : start + wide] for start in range(0, len(values), wide)]
    tops = [_highest(group) for group in groups]
    most = max((top for top in tops if top is not None), default=0) or 1
    drawn = [" " if top is None else BARS[round(top / most * (len(BARS) - 1))] for top in tops]
    return "".join(drawn)


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def duration(seconds: float) -> str:
    """Say a duration in its largest unit: 45 s, 12 min, 3.5 h, 2.1 d."""
    for unit, size in (("d", 86400), ("h", 3600)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def schedule_ls(as_json: JsonOption = False) -> None:
    """Show every schedule: when it ticks next, what it made last, who declared it, and what holds it up."""
    from starforge.db.pool import set_tenant
    from starforge.queue.schedule import schedules
    from starforge.settings import HomeSettings

    async def read(pool: Pool) -> list[Scheduled]:
        async with pool.transaction() as conn:
            await set_tenant(conn, HomeSettings.read().tenant)
            return await schedules(conn)

    found = run(read)
    if as_json:
        print_json([schedule.document() for schedule in found])
        return
    if not found:
        say("There is no schedule: @app.cron(…) above @app.job(…), or app.schedule(…), and start a worker.")
        return
    as_table(
        ("schedule", "type", "cron", "time zone", "next (UTC)", "last (UTC)", "declared", ""),
        [
            (
                schedule.name,
                schedule.type,
                schedule.cron,
                schedule.timezone,
                _minute(schedule.next_at),
                _minute(schedule.last_at),
                f"by {schedule.declared_by}, {duration(schedule.declared_s_ago)} ago",
                _holdup(schedule),
            )
            for schedule in found
        ],
    )


def _holdup(schedule: Scheduled) -> str:
    if schedule.paused:
        until = _minute(schedule.paused_until)
        return f"paused until {until} by {schedule.paused_by}: {schedule.pause_reason}"
    return f"faulty: {schedule.fault}" if schedule.fault else ""


def _minute(at: datetime | None) -> str | None:
    return None if at is None else f"{at:%Y-%m-%d %H:%M}"
