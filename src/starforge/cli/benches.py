"""The benchmarks' commands: `starforge bench …`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starforge.cli.render import as_table, err, print_json, say
from starforge.cli.work import JsonOption, log_at
from starforge.errors import InvalidInputError
from starforge.loop import loop_factory

if TYPE_CHECKING:
    from starforge.db.server import Database

Measure = Callable[["Database"], Awaitable[dict[str, Any]]]

bench = typer.Typer(help="Measure; every figure says under which conditions.", no_args_is_help=True)

Processes = Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")]
Concurrency = Annotated[int, typer.Option(min=1, max=1000, help="Jobs at once per worker.")]
Role = Annotated[str, typer.Option(help="engine (bound by row security) or admin.")]
Rounds = Annotated[int, typer.Option(min=1, max=100, help="How often each variant is measured, in turn.")]
Postgres = Annotated[
    int | None,
    typer.Option(min=15, max=99, help="Run on a throw-away server of this version of Debian's Postgres."),
]

Write = Annotated[Path | None, typer.Option(help="Write the table for the docs to this file.")]


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(bench, name="bench")


@bench.callback(invoke_without_command=True)
def _bench(
    context: typer.Context,
    side_by_side: Annotated[bool, typer.Option("--peers", help="The same as `bench peers`.")] = False,
    write: Write = None,
    as_json: JsonOption = False,
) -> None:
    """Measure; every figure says under which conditions."""
    if context.invoked_subcommand is None and side_by_side:
        peers(write=write, as_json=as_json)


@bench.command("queue")
def queue(
    jobs: Annotated[int, typer.Option(min=1000, help="No-op jobs to enqueue and drain.")] = 50_000,
    processes: Annotated[
        list[int] | None, typer.Option(min=1, max=16, help="Worker processes; may be repeated.")
    ] = None,
    features: Annotated[
        list[str] | None, typer.Option(help="all, none, or the name of a feature; may be repeated.")
    ] = None,
    sync: Annotated[bool, typer.Option("--sync", help="Measure sync handlers, in threads, too.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Measure memory over 1 M jobs too.")] = False,
    pgbouncer: Annotated[
        bool, typer.Option("--pgbouncer", help="Through a PgBouncer in transaction mode.")
    ] = False,
    concurrency: Concurrency = 32,
    rounds: Rounds = 1,
    role: Role = "engine",
    postgres: Postgres = None,
    as_json: JsonOption = False,
) -> None:
    """Measure enqueue, drain and pick-up of no-op jobs, on a database of its own."""
    from starforge.dev.bench.features import chosen
    from starforge.dev.bench.memory import JOBS
    from starforge.dev.bench.queue import bench_queue
    from starforge.dev.bench.setup import Setup

    setup = Setup(concurrency=concurrency, role=role, features=chosen(features or []))

    def measure(server: Database) -> Awaitable[dict[str, Any]]:
        return bench_queue(
            server, setup, jobs=jobs, processes=processes or [1], rounds=rounds, report=progress,
            sync=sync, pooled=pgbouncer, memory_jobs=JOBS if memory else 0,
        )  # fmt: skip

    _run(measure, role=role, postgres=postgres, as_json=as_json)


@bench.command("etl")
def etl(
    heroes: Annotated[int, typer.Option(min=1, help="Profiles of 2.8 MB in each round.")] = 20,
    small: Annotated[int, typer.Option(min=100, help="Snapshots of 50 kB in each drain.")] = 600,
    huge_mb: Annotated[
        int, typer.Option(min=0, max=2000, help="MB of the document for the high-memory lane; 0: none.")
    ] = 500,
    processes: Annotated[
        list[int] | None, typer.Option(min=1, max=16, help="Worker processes; may be repeated.")
    ] = None,
    rounds: Rounds = 1,
    role: Role = "engine",
    postgres: Postgres = None,
    as_json: JsonOption = False,
) -> None:
    """Measure snapshots from stored bytes to rows: times, memory, write-ahead log."""
    from starforge.dev.bench.etl import bench_etl

    def measure(server: Database) -> Awaitable[dict[str, Any]]:
        return bench_etl(
            server, heroes=heroes, small=small, processes=processes or [1, 2], rounds=rounds, role=role,
            huge_mb=huge_mb, report=progress,
        )  # fmt: skip

    _run(measure, role=role, postgres=postgres, as_json=as_json)


@bench.command("backfill")
def backfill(
    partitions: Annotated[int, typer.Option(min=100, help="Partitions of the small backfill.")] = 10_000,
    large: Annotated[
        int, typer.Option(min=0, max=500_000, help="Partitions of the large backfill; 0: none.")
    ] = 500_000,
    rounds: Rounds = 1,
    live_rounds: Annotated[
        int, typer.Option(min=1, max=100, help="How often live traffic is measured, alone and beside one.")
    ] = 5,
    role: Role = "engine",
    postgres: Postgres = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what backfills cost beside their work, how soon they obey, and what live jobs notice."""
    from starforge.dev.bench.backfill import bench_backfill

    def measure(server: Database) -> Awaitable[dict[str, Any]]:
        return bench_backfill(
            server, small=partitions, large=large, rounds=rounds, live_rounds=live_rounds, role=role,
            report=progress,
        )  # fmt: skip

    _run(measure, role=role, postgres=postgres, as_json=as_json)


@bench.command("ingest")
def ingest(
    seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="How long each variant is measured.")
    ] = 15.0,
    connections: Annotated[int, typer.Option(min=1, max=200, help="Keep-alive connections.")] = 12,
    rounds: Rounds = 3,
    postgres: Postgres = None,
    as_json: JsonOption = False,
) -> None:
    """Measure snapshots of 50 kB over HTTP, alone and beside slow clients and bodies of 1 GB."""
    from starforge.dev.bench.ingest import bench_ingest

    def measure(server: Database) -> Awaitable[dict[str, Any]]:
        return bench_ingest(server, seconds=seconds, connections=connections, rounds=rounds, report=progress)

    _run(measure, role="engine", postgres=postgres, as_json=as_json)


@bench.command("contention")
def contention(
    jobs: Annotated[int, typer.Option(min=1000, help="Jobs of each drain.")] = 100_000,
    few: Annotated[int, typer.Option(min=1, max=16, help="Processes to compare with.")] = 2,
    many: Annotated[int, typer.Option(min=1, max=16, help="Processes that crowd the cores.")] = 8,
    concurrency: Concurrency = 32,
    rounds: Rounds = 5,
    role: Role = "engine",
    postgres: Postgres = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what eight worker processes lose against two on the same cores, and who waits for locks."""
    from starforge.dev.bench.contention import bench_contention

    def measure(server: Database) -> Awaitable[dict[str, Any]]:
        return bench_contention(
            server, jobs=jobs, few=few, many=many, rounds=rounds, concurrency=concurrency, role=role,
            report=progress,
        )  # fmt: skip

    _run(measure, role=role, postgres=postgres, as_json=as_json)


@bench.command("features")
def features(
    names: Annotated[
        list[str] | None, typer.Argument(help="Features to price; all where none is named.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1000, help="Jobs of each drain.")] = 50_000,
    processes: Processes = 1,
    concurrency: Concurrency = 32,
    rounds: Rounds = 5,
    role: Role = "engine",
    postgres: Postgres = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what each feature costs, switched on alone, against none of them."""
    from starforge.dev.bench.cost import bench_features
    from starforge.dev.bench.features import chosen

    chosen(names or [])

    def measure(server: Database) -> Awaitable[dict[str, Any]]:
        return bench_features(
            server, jobs=jobs, names=names or [], rounds=rounds, processes=processes,
            concurrency=concurrency, role=role, report=progress,
        )  # fmt: skip

    _run(measure, role=role, postgres=postgres, as_json=as_json)


@bench.command("peers")
def peers(
    names: Annotated[
        list[str] | None, typer.Argument(help="Peers to measure; all where none is named.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1000, help="Jobs that each drains.")] = 50_000,
    features: Annotated[
        list[str] | None, typer.Option(help="Our features: all, none, or names; may be repeated.")
    ] = None,
    write: Write = None,
    pickups: Annotated[int, typer.Option(min=10, help="Jobs whose pick-up is timed.")] = 200,
    concurrency: Concurrency = 32,
    rounds: Rounds = 5,
    role: Role = "engine",
    postgres: Postgres = None,
    as_json: JsonOption = False,
) -> None:
    """Install graphile-worker, pg-boss, pgqueuer and procrastinate aside and measure them beside us."""
    from starforge.dev.bench.features import chosen
    from starforge.dev.bench.peers.peer import PEERS
    from starforge.dev.bench.peers.side import bench_peers, table
    from starforge.dev.bench.setup import Setup

    known = [peer.name for peer in PEERS]
    for name in names or []:
        if name not in known:
            raise InvalidInputError(f"there is no peer {name}: use {', '.join(known)}")
    setup = Setup(concurrency=concurrency, role=role, features=chosen(features or ["all"]))

    async def measure(server: Database) -> dict[str, Any]:
        figures = await bench_peers(
            server, setup, jobs=jobs, names=names or [], rounds=rounds, pickups=pickups, report=progress
        )
        if write is not None:
            write.write_text(table(figures), "utf-8")
        return figures

    _run(measure, role=role, postgres=postgres, as_json=as_json)


@bench.command("pinned")
def pinned(
    seconds: Annotated[float, typer.Option(min=4, max=3600, help="How long.")] = 120.0,
    processes: Processes = 1,
    concurrency: Concurrency = 32,
    depth: Annotated[int, typer.Option(min=1000, help="Jobs that wait at any time.")] = 30_000,
    role: Role = "engine",
    control: Annotated[bool, typer.Option("--control", help="Measure it without the snapshot too.")] = False,
    postgres: Postgres = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the drain under another session's REPEATABLE READ snapshot: last 20 s against first 20 s."""
    from starforge.dev.bench.pinned import bench_pinned

    def measure(server: Database) -> Awaitable[dict[str, Any]]:
        return bench_pinned(
            server, seconds=seconds, processes=processes, concurrency=concurrency, depth=depth, role=role,
            control=control, report=progress,
        )  # fmt: skip

    _run(measure, role=role, postgres=postgres, as_json=as_json)


@bench.command("backlog")
def backlog(
    jobs: Annotated[int, typer.Option(min=1000, help="Length of the long queue.")] = 1_000_000,
    small: Annotated[int, typer.Option(min=1000, help="Length of the short one.")] = 50_000,
    delayed: Annotated[int, typer.Option(min=0, help="Delayed jobs of a higher priority.")] = 500_000,
    held: Annotated[
        int, typer.Option(min=0, help="Measure only with so many paused, unknown and high-memory jobs ahead.")
    ] = 0,
    rounds: Rounds = 5,
    processes: Processes = 1,
    concurrency: Concurrency = 32,
    role: Role = "engine",
    postgres: Postgres = None,
    as_json: JsonOption = False,
) -> None:
    """Measure drain and claim of a queue that is long, has many delayed or many held, against a short one."""
    from starforge.dev.bench.backlog import bench_backlog

    def measure(server: Database) -> Awaitable[dict[str, Any]]:
        return bench_backlog(
            server, jobs=jobs, small=small, delayed=delayed, held=held, rounds=rounds, processes=processes,
            concurrency=concurrency, role=role, report=progress,
        )  # fmt: skip

    _run(measure, role=role, postgres=postgres, as_json=as_json)


def progress(line: str) -> None:
    """Say how far it is, on standard error: standard output is the figures'."""
    say(line, console=err)


def _run(measure: Measure, *, role: str, postgres: int | None, as_json: bool) -> None:
    """Measure on the server that is wanted and print the figures; Ctrl-C and SIGTERM clean up first."""
    from starforge.dev.bench.place import serving

    log_at("warning")
    if role not in ("engine", "admin"):
        raise InvalidInputError(f"--role {role}: use engine or admin")

    async def run() -> dict[str, Any]:
        me = asyncio.current_task()
        assert me is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
        async with serving(postgres) as server:
            return await measure(server)

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            figures = runner.run(run())
    except asyncio.CancelledError:
        raise typer.Exit(143) from None
    if as_json:
        print_json(figures)
        return
    as_table(("figure", "value"), _lines(figures))


def _lines(figures: dict[str, Any], under: str = "") -> list[tuple[str, str]]:
    """Return a line per figure; what lies in a figure is named behind it."""
    lines: list[tuple[str, str]] = []
    for name, value in figures.items():
        if isinstance(value, dict) and "median" in value:
            lines.append((under + name, f"{value['median']:g} ({value['least']:g}–{value['most']:g})"))
        elif isinstance(value, dict):
            lines += _lines(value, f"{under}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for at, each in enumerate(value, 1):
                lines += _lines(each, f"{under}{name}.{at}.")
        else:
            lines.append((under + name, str(value)))
    return lines
