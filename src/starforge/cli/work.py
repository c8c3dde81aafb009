"""Commands that run things, and those that look: up, server, doctor, queue ls."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from starforge.cli.doors import group
from starforge.cli.render import as_table, err, out, print_json, run, say
from starforge.errors import InvalidInputError
from starforge.loop import loop_factory

if TYPE_CHECKING:
    from starforge.db.pool import Pool
    from starforge.queue.reads import Listing

AppOption = Annotated[str, typer.Option("--app", help="The app as module:attribute.", metavar="MODULE:ATTR")]
LevelOption = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
BUILT_IN = "starforge.app:app"


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("up")(up)
    app.command("server")(server)
    app.command("doctor")(doctor)
    group(app, "queue").command("ls")(queue_ls)


def log_at(level: str) -> None:
    """Set the log up; refuse a level that does not exist."""
    from starforge.telemetry.log import LEVELS, configure

    if level not in LEVELS:
        raise InvalidInputError(f"--log-level {level}: use one of {', '.join(LEVELS)}")
    configure(level)


def up(
    app: AppOption = BUILT_IN,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    log_level: LevelOption = "info",
) -> None:
    """Start database, migrations, server and one worker; Ctrl-C ends them in order."""
    with counted_together():
        from starforge.dev.up import on_signals, running

        log_at(log_level)

        async def run() -> None:
            stop = asyncio.Event()
            async with running(host=host, port=port, app=app, log_level=log_level) as (served, worker):
                on_signals(stop, [worker])
                out.print(f"StarForge runs at [bold]{served.url}[/] — token in {served.token_file}")
                out.print("Ctrl-C ends it.")
                await served.until(stop)
                err.print("stopping: running jobs may finish; Ctrl-C again gives them back at once")

        asyncio.run(run())


@contextmanager
def counted_together() -> Iterator[None]:
    """Let this process and its children count their metrics as one; comes before they are imported."""
    from starforge.telemetry.tree import share_counters

    with tempfile.TemporaryDirectory(prefix="starforge-metrics-") as folder:
        share_counters(Path(folder))
        yield


def server(
    app: AppOption = BUILT_IN,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    log_level: LevelOption = "info",
) -> None:
    """Serve the API, the first page and /metrics, without a worker."""
    from starforge.dev.up import on_signals, serving

    log_at(log_level)

    async def run() -> None:
        stop = asyncio.Event()
        on_signals(stop, [])
        async with serving(host=host, port=port, app=app) as running:
            out.print(f"StarForge serves at [bold]{running.url}[/] — token in {running.token_file}")
            await running.until(stop)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run())


def doctor(app: AppOption = BUILT_IN, as_json: JsonOption = False) -> None:
    """Check whether this deployment is fit to run, and say how to mend what is not."""
    from starforge.app import load
    from starforge.db.server import database
    from starforge.ops.doctor import Finding, examine

    mappings = tuple(load(app).mappings)

    async def run() -> list[Finding]:
        async with database(migrated=False) as db:
            url, embedded = db.url("owner"), db.embedded is not None
            return [finding async for finding in examine(url, embedded=embedded, mappings=mappings)]

    findings = asyncio.run(run())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "fault": "[red]fault[/]"}
        for finding in findings:
            out.print(
                f"{marks[finding.state]:>18}  [bold]{finding.check}[/]: {finding.found}", highlight=False
            )
            if finding.mend:
                out.print(f"          → {finding.mend}", highlight=False)
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(3 if any(f.check == "connection" and f.state == "fault" for f in findings) else 1)


def queue_ls(as_json: JsonOption = False) -> None:
    """Show what each queue holds by type and status, what is paused by whom and why, and who works."""
    from starforge.db.pool import set_tenant
    from starforge.queue.reads import listing
    from starforge.settings import HomeSettings

    async def read(pool: Pool) -> Listing:
        async with pool.connection() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            await set_tenant(conn, HomeSettings.read().tenant)
            return await listing(conn)

    found = run(read)
    if as_json:
        print_json(
            {
                "queues": found.queues,
                "pauses": [
                    {"scope": gate.scope, "name": gate.name, "cause": gate.cause, **gate.document()}
                    for gate in found.pauses
                ],
                "workers": found.workers,
            }
        )
        return
    _show_listing(found)


def _show_listing(found: Listing) -> None:
    if found.queues:
        counts = ("waiting", "delayed", "running", "paused", "failed", "quarantined")
        as_table(
            ("queue", "type", *counts, "oldest waits"),
            [
                (
                    held.queue,
                    held.type,
                    *(getattr(held, name) for name in counts),
                    _age(held.oldest_waiting_s),
                )
                for held in found.queues
            ],
        )
    else:
        say("No queue holds a job.")
    for gate in found.pauses:
        until = f"{gate.expires_at:%Y-%m-%d %H:%M} UTC"
        say(f"{gate.scope} {gate.name!r} {gate.told} until {until} by {gate.owner}: {gate.reason}")
        say(f"  ends it: {gate.undo}")
    if not found.workers:
        say("No worker lives: starforge worker, or starforge up.")
        return
    as_table(
        ("worker", "host", "pid", "state", "queues", "concurrency", "holds", "last sign"),
        [
            (
                who.id,
                who.host,
                who.pid,
                who.state,
                ", ".join(who.queues),
                who.concurrency,
                who.holds,
                f"{_age(who.heartbeat_age_s)} ago",
            )
            for who in found.workers
        ],
    )


def _age(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.0f} s"
