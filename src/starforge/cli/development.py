"""Commands for trying things out: demo and generate."""

from __future__ import annotations

import asyncio
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starforge.cli.render import as_table, err, out, print_json
from starforge.cli.snapshots import progress_bar
from starforge.cli.work import BUILT_IN, JsonOption, counted_together, log_at

if TYPE_CHECKING:
    from starforge.dev.demo import Result

SEED_MAX = 1_000_000
REASON_CHARS_MAX = 100

generate = typer.Typer(help="Write realistic test data.", no_args_is_help=True)


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("demo")(demo)
    app.add_typer(generate, name="generate")


def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit when the work is done.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the generated snapshots.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the server.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Start everything, process 200 generated snapshots and show what became of them.

    The server goes on running until Ctrl-C, unless --once is given or standard output is no terminal.
    """
    with counted_together():
        from starforge.dev.demo import demo as run_demo
        from starforge.dev.up import on_signals, running

        log_at("error")
        chosen = secrets.randbelow(SEED_MAX) if seed is None else seed

        async def run() -> bool:
            stop = asyncio.Event()
            async with running(host=None, port=port, app=BUILT_IN, log_level="error") as (served, worker):
                on_signals(stop, [worker])
                if not as_json:
                    out.print(f"StarForge runs at [bold]{served.url}[/]")
                with progress_bar(hidden=as_json) as bar:
                    tasks: dict[str, Any] = {}

                    def show(phase: str, done: int, total: int) -> None:
                        if phase not in tasks:
                            tasks[phase] = bar.add_task(phase, total=total)
                        bar.update(tasks[phase], completed=done, total=total)

                    working = asyncio.create_task(run_demo(served.pool, seed=chosen, show=show, stop=stop))
                    await asyncio.wait({working, *served.tasks}, return_when=asyncio.FIRST_COMPLETED)
                    if not working.done():
                        await served.until(stop)
                    result = await working
                interrupted = stop.is_set()
                if as_json:
                    print_json(result.document())
                else:
                    _show(result)
                if interrupted:
                    err.print(f"interrupted: {result.waiting} snapshots wait; the next worker processes them")
                elif not as_json:
                    _show_where(result, served.url, str(served.token_file))
                if not (interrupted or once or as_json) and sys.stdout.isatty():
                    await served.until(stop)
                    err.print("stopping …")
                return interrupted

        if asyncio.run(run()):
            raise typer.Exit(130)


def _show(result: Result) -> None:
    as_table(
        ("ingested", "processed", "failed", "quarantined", "rows written", "seconds"),
        [
            (
                str(result.ingested),
                str(result.processed),
                str(result.failed),
                str(result.quarantined),
                f"{result.rows_written:,}".replace(",", " "),
                f"{result.seconds:.1f}",
            )
        ],
    )
    if result.duplicates:
        out.print(f"{result.duplicates} of {result.offered} offers were known content and count once")
    if result.why:
        out.print("Why some became no rows:")
    for why in result.why:
        reason = (
            why.reason if len(why.reason) <= REASON_CHARS_MAX else why.reason[: REASON_CHARS_MAX - 1] + "…"
        )
        out.print(f"  {why.snapshots:>3} {why.status}: {reason}", highlight=False, markup=False)


def _show_where(result: Result, url: str, token_file: str) -> None:
    out.print(f"Look at [bold]{url}[/] — queue, throughput, snapshots; {url}/metrics for Prometheus.")
    out.print(f"API token: {token_file}", highlight=False)
    out.print(f"The same snapshots again: starforge demo --seed {result.seed}", highlight=False)


@generate.command("heroes")
def heroes(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")] = Path("heroes"),
    count: Annotated[int, typer.Option(min=1, help="How many snapshots.")] = 100,
    size_mb: Annotated[str, typer.Option(help="Megabytes of each, or MIN-MAX.")] = "2.5",
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same bytes.")] = 1,
    faults: Annotated[
        bool,
        typer.Option("--faults", help="Mix in unknown fields, missing ids, malformed and oversized ones."),
    ] = False,
    ndjson: Annotated[bool, typer.Option("--ndjson", help="One file, one snapshot per line.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that holds other files.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write realistic hero snapshots in the true shape."""
    from starforge.dev.seed import write_heroes

    with progress_bar(hidden=as_json) as bar:
        task = bar.add_task("writing", total=count)
        summary = write_heroes(
            folder,
            count=count,
            size_mb=_sizes(size_mb),
            seed=seed,
            faults=faults,
            ndjson=ndjson,
            force=force,
            progress=lambda _generated: bar.advance(task),
        )
    if as_json:
        print_json(
            {
                "folder": str(summary.folder),
                "documents": summary.documents,
                "bytes": summary.bytes,
                "seconds": round(summary.seconds, 3),
                "faults": dict(summary.faults),
                "expected": dict(summary.expected),
            }
        )
        return
    out.print(
        f"{summary.documents} snapshots, {summary.bytes / 1e6:.1f} MB in {summary.folder}", highlight=False
    )
    for fault, number in summary.faults.most_common():
        out.print(f"  {number} with fault {fault}", highlight=False)


def _sizes(text: str) -> float | tuple[float, float]:
    from starforge.errors import InvalidInputError

    try:
        least, dash, most = text.partition("-")
        return (float(least), float(most)) if dash else float(least)
    except ValueError:
        raise InvalidInputError(f"--size-mb {text}: write a number, or two as 0.05-3") from None
