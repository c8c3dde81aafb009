"""Commands that run things: up, worker, server, doctor, settings."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from starforge.cli.render import as_table, err, out, print_json
from starforge.errors import InvalidInputError

AppOption = Annotated[str, typer.Option("--app", help="The app as module:attribute.", metavar="MODULE:ATTR")]
LevelOption = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
BUILT_IN = "starforge.app:app"


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("up")(up)
    app.command("worker")(worker)
    app.command("server")(server)
    app.command("doctor")(doctor)
    app.command("settings")(settings)


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


def worker(
    app: AppOption = BUILT_IN,
    queue: Annotated[
        list[str] | None, typer.Option("--queue", help="Queue to serve; may be repeated.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Jobs at once (WORKER_CONCURRENCY).")] = None,
    log_level: LevelOption = "info",
) -> None:
    """Run jobs until told to stop (SIGTERM or Ctrl-C; a second one hurries)."""
    from starforge.db.server import database
    from starforge.worker.child import load_app
    from starforge.worker.registry import Registration, WorkerSettings
    from starforge.worker.supervise import WorkerOrders, supervise

    log_at(log_level)
    if os.environ.pop("STARFORGE_PARENT_PIPE", ""):
        _end_with_parent()
    types = load_app(app).job_types()
    registration = Registration(
        queues=tuple(queue or types.queues()),
        types=types.names(),
        concurrency=concurrency or WorkerSettings.read().concurrency,
    )

    async def run() -> None:
        async with database() as db:
            await supervise(WorkerOrders(db.url("engine"), app, registration, log_level))

    asyncio.run(run())


def _end_with_parent() -> None:
    """Stop in order when the starter's end of standard input closes: an `up` that was killed."""
    import signal

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def server(
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
        async with serving(host=host, port=port) as running:
            out.print(f"StarForge serves at [bold]{running.url}[/] — token in {running.token_file}")
            await running.until(stop)

    asyncio.run(run())


def doctor(as_json: JsonOption = False) -> None:
    """Check whether this deployment is fit to run, and say how to mend what is not."""
    from starforge.db.server import database
    from starforge.ops.doctor import Finding, examine

    async def run() -> list[Finding]:
        async with database(migrated=False) as db:
            return [finding async for finding in examine(db.url("owner"))]

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


def settings(as_json: JsonOption = False) -> None:
    """Show every setting with its value, where that comes from, its default, unit and meaning."""
    import starforge.dev.up  # noqa: F401 - every room's settings are declared once all rooms are loaded
    import starforge.ops.doctor  # noqa: F401
    from starforge.settings import shown_settings

    lines = shown_settings()
    if as_json:
        print_json([asdict(line) for line in lines])
        return
    as_table(
        ("setting", "value", "source", "default", "unit", "meaning"),
        [(line.env, line.value, line.source, line.default, line.unit, _meaning(line)) for line in lines],
    )


def _meaning(line: object) -> str:
    allowed = getattr(line, "allowed", "")
    return f"{getattr(line, 'meaning', '')}{f' ({allowed})' if allowed else ''}"
