"""The command that takes snapshots in."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from starforge.cli.render import err, fail, print_json, say
from starforge.cli.work import BUILT_IN, AppOption, JsonOption
from starforge.db.pool import explained
from starforge.errors import StarForgeError

if TYPE_CHECKING:
    from starforge.db.pool import Pool
    from starforge.etl.receive import Receipt

snapshot = typer.Typer(
    help="Snapshots: take them in, look at them, hold and release them, take them apart.",
    no_args_is_help=True,
)

BAD_SHOWN_MAX = 20
FATES = ("accepted", "recaptured", "retried", "duplicate", "oversized", "malformed", "unreadable")


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

    What is no JSON is kept as bytes in quarantine and reported with its position. A known snapshot that had
    failed is tried anew. Exit code 1 when anything was malformed or could not be read; everything else was
    taken all the same.
    """
    from starforge.app import load
    from starforge.etl.receive import batches, receive
    from starforge.etl.source import snapshots
    from starforge.settings import HomeSettings

    mapping = load(app).mappings.get(source)
    when = captured_at.replace(tzinfo=UTC) if captured_at and captured_at.tzinfo is None else captured_at
    tenant = HomeSettings.read().tenant
    receipts: list[Receipt] = []
    offers = (offer for path in paths for offer in snapshots(path, ndjson or None))
    try:
        # Files are read between two runs of the loop, so that Ctrl-C ends also a wait for standard input.
        with asyncio.Runner() as loop, _pool(loop) as pool, progress_bar(hidden=as_json) as bar:
            task = bar.add_task("ingesting", total=_offers(paths, ndjson))
            for batch in batches(offers):
                receipts += loop.run(receive(pool, batch, mapping=mapping, tenant=tenant, captured_at=when))
                bar.update(task, completed=len(receipts))
    except KeyboardInterrupt:
        _report(receipts, as_json, cut_short=True)
        raise
    except (StarForgeError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        told = error if isinstance(error, StarForgeError) else explained(error)
        if not receipts:
            raise told from error
        _report(receipts, as_json, cut_short=True, error=told)
        raise typer.Exit(told.exit_code if as_json else fail(told)) from None
    _report(receipts, as_json)
    if any(receipt.fate in ("malformed", "unreadable") for receipt in receipts):
        raise typer.Exit(1)


@contextmanager
def _pool(loop: asyncio.Runner) -> Iterator[Pool]:
    """Lend a pool to this process's database whose connections live in `loop`."""
    from starforge.db.migrate import check_version
    from starforge.db.pool import Pool, require_bound_role
    from starforge.db.server import database

    async def opened() -> Pool:
        db = await stack.enter_async_context(database())
        pool = await Pool.open(db.url("engine"), size=2, application="starforge ingest")
        stack.push_async_callback(pool.close)
        async with pool.connection() as conn:
            await require_bound_role(conn, "snapshot ingest")
            await check_version(conn, what="this command")
        return pool

    stack = AsyncExitStack()
    try:
        yield loop.run(opened())
    finally:
        loop.run(stack.aclose())


def _offers(paths: list[str], ndjson: bool) -> int | None:
    """Return how many offers the paths will give where that can be known beforehand: one per plain file."""
    by_line = ndjson or any(".ndjson" in path.lower() or ".jsonl" in path.lower() for path in paths)
    return None if by_line or any(path == "-" or os.path.isdir(path) for path in paths) else len(paths)


def _report(
    receipts: list[Receipt], as_json: bool, *, cut_short: bool = False, error: StarForgeError | None = None
) -> None:
    """Say what became of the offers, also of an ingest that was cut short, by an error or by hand."""
    counts: Counter[str] = Counter(receipt.fate for receipt in receipts)
    bad = [receipt for receipt in receipts if receipt.error is not None]
    if as_json:
        print_json(
            {
                "offered": len(receipts),
                **{fate: counts.get(fate, 0) for fate in FATES},
                "bytes": sum(receipt.size_bytes for receipt in receipts),
                "rejects": [_reject(receipt) for receipt in bad],
                "complete": not cut_short,
                **(error.document() if error else {}),
            }
        )
        return
    if cut_short:
        say(
            "ended early: what is counted here is taken; run the same command again for the rest", console=err
        )
    told = ", ".join(f"{counts[fate]} {fate}" for fate in FATES if counts[fate])
    say(f"{len(receipts)} offered" + (f": {told}" if told else ""))
    for receipt in bad[:BAD_SHOWN_MAX]:
        kept = "kept in quarantine" if receipt.fate == "malformed" else "nothing to keep"
        name = "" if hasattr(receipt.error, "name") else f"{receipt.name}: "
        say(f"  {name}{receipt.error} ({kept})")
    if len(bad) > BAD_SHOWN_MAX:
        say(f"  … and {len(bad) - BAD_SHOWN_MAX} more; --json lists all of them")
    if counts["oversized"]:
        say("oversized snapshots are stored and held back until they are released")
    if counts["retried"]:
        say("retried snapshots were known and had failed; they have a new job")


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
