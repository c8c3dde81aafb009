"""Commands for snapshots: ingest."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from starforge.cli.render import err, out, print_json
from starforge.cli.work import BUILT_IN, AppOption, JsonOption

if TYPE_CHECKING:
    from starforge.etl.receive import Receipt

snapshot = typer.Typer(help="Raw snapshots: take them in.", no_args_is_help=True)

BAD_SHOWN_MAX = 20
FATES = ("accepted", "recaptured", "duplicate", "oversized", "malformed", "unreadable")


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(snapshot, name="snapshot")


def progress_bar(*, hidden: bool = False) -> Progress:
    """Make the progress display of long work: on a terminal's standard error only."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=False,
        disable=hidden or not sys.stderr.isatty(),
    )


@snapshot.command("ingest")
def ingest(
    paths: Annotated[
        list[str], typer.Argument(help="Files, folders, or - for standard input.", metavar="PATH…")
    ],
    source: Annotated[str, typer.Option(help="Source whose mapping applies.")] = "hero",
    ndjson: Annotated[
        bool, typer.Option("--ndjson", help="One document per line, whatever the suffix.")
    ] = False,
    captured_at: Annotated[
        datetime | None, typer.Option(help="When the snapshots were taken (UTC); else they say so, else now.")
    ] = None,
    app: AppOption = BUILT_IN,
    as_json: JsonOption = False,
) -> None:
    """Take snapshots in: JSON, gzip or NDJSON (.ndjson, .jsonl, also .gz). The same content twice is one.

    What is no JSON is kept as bytes in quarantine and reported with its position. Exit code 1 when
    anything was malformed or could not be read; everything else was taken all the same.
    """
    from starforge.app import load
    from starforge.db.pool import Pool
    from starforge.db.server import database
    from starforge.etl.receive import batches, receive
    from starforge.etl.source import snapshots
    from starforge.settings import HomeSettings

    mapping = load(app).mappings.get(source)
    when = captured_at.replace(tzinfo=UTC) if captured_at and captured_at.tzinfo is None else captured_at
    tenant = HomeSettings.read().tenant
    receipts: list[Receipt] = []

    async def run() -> None:
        async with database() as db:
            pool = await Pool.open(db.url("engine"), size=2, application="starforge ingest")
            offers = (offer for path in paths for offer in snapshots(path, ndjson or None))
            with progress_bar(hidden=as_json) as bar:
                task = bar.add_task("ingesting", total=_files(paths))
                try:
                    for batch in batches(offers):
                        receipts.extend(
                            await receive(pool, batch, mapping=mapping, tenant=tenant, captured_at=when)
                        )
                        bar.update(task, completed=len(receipts))
                finally:
                    await pool.close()

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        err.print(
            "interrupted: what is counted below was taken and stays; run the same command again for the rest"
        )
        _report(receipts, as_json)
        raise
    _report(receipts, as_json)
    if any(receipt.fate in ("malformed", "unreadable") for receipt in receipts):
        raise typer.Exit(1)


def _files(paths: list[str]) -> int | None:
    """Return how many offers the paths will give where that can be known beforehand: plain files."""
    if any(path == "-" or Path(path).is_dir() or ".ndjson" in path or ".jsonl" in path for path in paths):
        return None
    return len(paths)


def _report(receipts: list[Receipt], as_json: bool) -> None:
    counts: Counter[str] = Counter(receipt.fate for receipt in receipts)
    bad = [receipt for receipt in receipts if receipt.error is not None]
    if as_json:
        print_json(
            {
                "offered": len(receipts),
                **{fate: counts.get(fate, 0) for fate in FATES},
                "bytes": sum(receipt.size_bytes for receipt in receipts),
                "rejects": [_reject(receipt) for receipt in bad],
            }
        )
        return
    out.print(
        f"{len(receipts)} offered: " + ", ".join(f"{counts[fate]} {fate}" for fate in FATES if counts[fate]),
        highlight=False,
    )
    for receipt in bad[:BAD_SHOWN_MAX]:
        kept = "kept in quarantine" if receipt.fate == "malformed" else "nothing to keep"
        out.print(f"  {receipt.name}: {receipt.error} ({kept})", highlight=False, markup=False)
    if len(bad) > BAD_SHOWN_MAX:
        out.print(f"  … and {len(bad) - BAD_SHOWN_MAX} more; --json lists all of them")
    if counts["oversized"]:
        out.print("oversized snapshots are stored and held back until they are released")


def _reject(receipt: Receipt) -> dict[str, Any]:
    error = receipt.error
    return {
        "name": receipt.name,
        "fate": receipt.fate,
        "size_bytes": receipt.size_bytes,
        "error": str(error),
        **{
            key: getattr(error, key)
            for key in ("position", "line", "column", "reason")
            if hasattr(error, key)
        },
    }
