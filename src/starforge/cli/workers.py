"""Commands for workers: run one, list them, read what they said; and the probe of a queue."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
import typer

from starforge.cli.doors import group
from starforge.cli.render import as_table, err, print_json, run, say
from starforge.cli.work import BUILT_IN, AppOption, JsonOption, LevelOption, counted_together, log_at
from starforge.errors import InvalidInputError, shortened

if TYPE_CHECKING:
    from starforge.db.pool import Pool
    from starforge.queue.claim_these import Named
    from starforge.worker.logbook import Alike, Kept
    from starforge.worker.roll import Worker
    from starforge.worker.supervise import WorkerOrders

DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)?")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SECONDS_MAX = 36_500 * 86_400.0
FOLLOW_S = 0.5
MB = 1_000_000
LINE_CHARS_MAX = 1_000_000
"""Of one line: all that the logbook keeps."""

STYLES = {"warning": "yellow", "error": "red", "critical": "red", "debug": "dim"}


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    worker = group(app, "worker")
    worker.callback(invoke_without_command=True, no_args_is_help=False)(run_one)
    worker.command("ls")(ls)
    worker.command("logs")(logs)
    worker.command("errors")(errors)
    group(app, "queue").command("probe")(probe)


def seconds_of(text: str) -> float:
    """Return the seconds of `90`, `90s`, `30m`, `2h` or `1d`; raise InvalidInputError for anything else."""
    match = DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidInputError(f"{text!r} is no time: write 90s, 30m, 2h or 1d")
    found = float(match[1]) * SECONDS[match[2] or "s"]
    if found > SECONDS_MAX:
        raise InvalidInputError(f"{text!r} is longer than a hundred years")
    return found


def run_one(
    context: typer.Context,
    app: AppOption = BUILT_IN,
    queue: Annotated[
        list[str] | None, typer.Option("--queue", help="Queue to serve; may be repeated.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Jobs at once (WORKER_CONCURRENCY).")] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="What it may use with its children, as 4096MB or 2GiB.", metavar="SIZE")
    ] = None,
    high_memory: Annotated[
        bool, typer.Option("--high-memory", help="Also run types that ask for a high-memory worker.")
    ] = False,
    only_jobs: Annotated[
        list[UUID] | None,
        typer.Option(help="Run this job, no others, and end; may be repeated.", metavar="ID"),
    ] = None,
    lasts: Annotated[
        str | None,
        typer.Option("--for", help="Stop in order after this time, as 30m or 2h.", metavar="TIME"),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="For development: start anew when the app's sources change.")
    ] = False,
    log_level: LevelOption = "info",
) -> None:
    """Run jobs until told to stop (SIGTERM or Ctrl-C; a second one hurries)."""
    if context.invoked_subcommand is not None:
        return
    from starforge.telemetry.tree import FOLDER_ENV
    from starforge.worker.registry import WorkerSettings

    log_at(log_level)
    if os.environ.pop("STARFORGE_PARENT_PIPE", ""):
        _end_with_parent()
    if lasts is not None:
        _end_after(seconds_of(lasts))
    # The children count in processes of their own; whoever started this tree may have given it a folder.
    own_page = WorkerSettings.read().metrics_port and not os.environ.get(FOLDER_ENV)
    with counted_together() if own_page else nullcontext():
        from starforge.worker.child import load_app
        from starforge.worker.limit import find_limit
        from starforge.worker.registry import Registration
        from starforge.worker.supervise import WorkerOrders

        loaded = load_app(app)
        types = loaded.job_types().known_to(high_memory=high_memory)
        limit, chosen = find_limit(memory_limit), tuple(only_jobs or ())
        registration = Registration(
            # A worker for a few jobs serves no queue: nobody is to count on it.
            queues=() if chosen else tuple(queue or types.queues()),
            types=() if chosen else types.names(),
            concurrency=concurrency or WorkerSettings.read().concurrency,
            high_memory=high_memory,
            memory_limit_bytes=limit.bytes if limit else None,
        )
        upkeep = tuple(loaded.upkeep())
        services = () if chosen else tuple(loaded.services())
        orders = WorkerOrders("", app, registration, log_level, limit, chosen, reload, upkeep, services)
        _work(orders, types.names())


def _work(orders: WorkerOrders, types: Sequence[str]) -> None:
    from starforge.db.pool import connect
    from starforge.db.server import database
    from starforge.queue.claim_these import these
    from starforge.worker.supervise import supervise

    async def look(url: str) -> list[Named]:
        conn = await connect(url)
        try:
            return await these(conn, orders.chosen)
        finally:
            await conn.close()

    async def work() -> None:
        async with database() as db:
            url = db.url("engine")
            if orders.chosen:
                _require_some(orders.chosen, await look(url), types)
            await supervise(replace(orders, url=url))
            for job in await look(url) if orders.chosen else ():
                say(f"job {job.id} ({job.type}) is {job.status}", console=err)

    asyncio.run(work())


def _require_some(chosen: Sequence[UUID], found: Sequence[Named], types: Sequence[str]) -> None:
    """Say of each chosen job that cannot be run why not; raise NothingChosenError where none can."""
    from starforge.worker.chosen import told
    from starforge.worker.errors import NothingChosenError

    lines = told(chosen, found, types)
    for line in lines:
        say(line, console=err)
    if len(lines) == len(chosen):
        raise NothingChosenError("none of these jobs can be run by this worker")


def _end_with_parent() -> None:
    """Stop in order when the starter's end of standard input closes: an `up` that was killed."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _end_after(seconds: float) -> None:
    """Stop in order after a time: a debug worker with a raised limit is not forgotten (O-39)."""
    ending = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    ending.daemon = True
    ending.start()


def ls(
    since: Annotated[str, typer.Option(help="Also those that ended within this time, as 1h.")] = "1h",
    as_json: JsonOption = False,
) -> None:
    """List the workers: what they serve, hold and use, when they last asked for work, how the dead ended."""
    from starforge.worker.roll import roll

    async def read(pool: Pool) -> list[Worker]:
        async with pool.connection() as conn:
            return await roll(conn, ended_s=seconds_of(since))

    found = run(read)
    if as_json:
        print_json([{**asdict(one), "stale": one.stale} for one in found])
        return
    if not found:
        say("No worker lives: starforge worker, or starforge up.")
        return
    columns = (
        "worker",
        "where",
        "state",
        "queues",
        "runs",
        "holds",
        "done",
        "memory",
        "asked",
        "last sign",
        "",
    )
    as_table(columns, [_row(one) for one in found])


def _row(one: Worker) -> tuple[object, ...]:
    state = one.state if one.lives or one.state in ("stopped", "dead") else "lease over"
    limit = f" of {one.memory_limit_bytes / MB:.0f}" if one.memory_limit_bytes else ""
    asked = "–" if one.claim_age_s is None else f"{one.claim_age_s:.0f} s before"
    return (
        one.id,
        f"{one.host}:{one.pid}",
        "does not ask for work" if one.stale else state,
        ", ".join(one.queues) + (" +high-memory" if one.high_memory else ""),
        one.concurrency,
        one.holds,
        one.jobs_finished,
        None if one.rss_bytes is None else f"{one.rss_bytes / MB:.0f}{limit} MB",
        asked,
        f"{one.heartbeat_age_s:.0f} s ago",
        one.stop_reason or "",
    )


def logs(
    name: Annotated[
        str | None, typer.Argument(metavar="[WORKER]", help="Its id, the start of it, or host:pid.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="No older than this, as 30m or 2h.")] = None,
    lines: Annotated[int, typer.Option(min=1, max=100_000, help="Most lines.")] = 1000,
    previous: Annotated[
        bool, typer.Option("--previous", help="Of the worker that this one took the place of.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    level: Annotated[str | None, typer.Option(help="debug, info, warning or error, and graver.")] = None,
    job: Annotated[UUID | None, typer.Option(help="Only lines about this job.", metavar="ID")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a worker and its jobs wrote, from the database: also when it is dead, or its host is gone."""
    from starforge.worker import logbook
    from starforge.worker.errors import UnknownWorkerError

    if name is None and (job is None or previous):
        raise InvalidInputError("name a worker (starforge worker ls lists them), or a job with --job")
    if level is not None and level not in logbook.LEVELS:
        raise InvalidInputError(f"--level {level}: use one of {', '.join(logbook.LEVELS)}")
    if follow and as_json:
        raise InvalidInputError("--json answers with one document: leave out --follow")
    since_s = None if since is None else seconds_of(since)

    async def whose(pool: Pool) -> UUID | None:
        if name is None:
            return None
        async with pool.connection() as conn:
            found = await logbook.who(conn, name)
        if not previous:
            return found.id
        if found.previous_id is None:
            raise UnknownWorkerError(f"worker {found.id} took nobody's place")
        return found.previous_id

    async def read(pool: Pool, worker_id: UUID | None, after: int) -> list[Kept]:
        async with pool.connection() as conn:
            return await logbook.lines(
                conn, worker_id=worker_id, job_id=job, since_s=since_s, level=level, after=after, limit=lines
            )

    async def show(pool: Pool) -> list[Kept]:
        worker_id = await whose(pool)
        found = await read(pool, worker_id, 0)
        last = 0
        while follow:
            show_lines(found)
            last = found[-1].id if found else last
            await asyncio.sleep(FOLLOW_S)
            found = await read(pool, worker_id, last)
        return found

    try:
        shown = run(show)
    except KeyboardInterrupt:
        return  # the way to end --follow
    if as_json:
        print_json([asdict(line) for line in shown])
    else:
        show_lines(shown)


def show_lines(lines: Sequence[Kept], *, chars_max: int = LINE_CHARS_MAX) -> None:
    """Print lines of the logbook, each with at most so many characters."""
    for line in lines:
        text = shortened(_told(line), chars_max)
        say(f"{line.at:%Y-%m-%d %H:%M:%S} {line.level:<8} {text}", style=STYLES.get(line.level, ""))


def _told(line: Kept) -> str:
    """Return a line of our own log as words, any other as it is."""
    try:
        document = msgspec.json.decode(line.line, type=dict[str, Any])
        event = document.pop("event")
    except (msgspec.MsgspecError, KeyError):
        return line.line
    rest = [
        f"{name}={value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
        for name, value in document.items()
        if name not in ("level", "at")
    ]
    return " ".join([str(event), *rest])


def errors(
    since: Annotated[str, typer.Option(help="No older than this, as 30m or 2h.")] = "1h",
    lines: Annotated[int, typer.Option(min=1, max=10_000, help="Most lines that are looked at.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Group what workers said last that is an error, or tells of anything failed or of a panic."""
    from starforge.worker import logbook

    since_s = seconds_of(since)

    async def read(pool: Pool) -> list[Alike]:
        async with pool.connection() as conn:
            return await logbook.faults(conn, since_s=since_s, limit=lines)

    found = run(read)
    if as_json:
        print_json([asdict(alike) for alike in found])
    elif not found:
        say(f"No worker spoke of an error within {since}.")
    else:
        rows = [(alike.count, alike.workers, f"{alike.last_at:%H:%M:%S}", alike.said) for alike in found]
        as_table(("lines", "workers", "last", "what"), rows)


def probe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the queue.")],
    within: Annotated[str, typer.Option(help="How long to wait, as 10s.")] = "10s",
    as_json: JsonOption = False,
) -> None:
    """Prove that queue NAME is served by a job that does nothing; exit 1 where nobody runs it in time."""
    from starforge.queue import probe as probes

    within_s = seconds_of(within)
    found = run(lambda pool: probes.probe(pool, name, within_s=within_s))
    if as_json:
        print_json(asdict(found))
    elif found.picked_up:
        waited_ms = (found.waited_s or 0) * 1000
        say(f"queue {name!r} is served: worker {found.worker_id} started the probe after {waited_ms:.1f} ms")
    else:
        say(f"queue {name!r}: nobody ran the probe within {within_s:g} s", style="bold red")
        for reason in found.why:
            say(f"  {reason}")
    if not found.picked_up:
        raise typer.Exit(1)
