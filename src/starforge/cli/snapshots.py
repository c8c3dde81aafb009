"""The command that takes snapshots in."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from starforge.cli.render import err, fail, print_json, say
from starforge.cli.work import BUILT_IN, AppOption, JsonOption
from starforge.db.pool import explained
from starforge.errors import StarForgeError

if TYPE_CHECKING:
    from starforge.db.pool import Pool
    from starforge.etl.ingest.offers import Offer
    from starforge.etl.ingest.receive import Receipt

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


def bytes_bar(*, hidden: bool = False) -> Progress:
    """Make the progress display of one large file: its bytes."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=err,
        transient=True,
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
    """Take snapshots in: JSON, NDJSON (.ndjson, .jsonl), plain, gzip, zstd. The same content twice is one.

    What is above 64 MB goes to the object store, up to 1 GiB, and is held for the high-memory lane.

    What is no JSON is kept as bytes in quarantine and reported with its position. A known snapshot that had
    failed is tried anew. Exit code 1 when anything was malformed or could not be read; everything else was
    taken all the same.
    """
    from starforge.app import load
    from starforge.etl.ingest.large import take_large
    from starforge.etl.ingest.offers import snapshots
    from starforge.etl.ingest.receive import receive
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
            for batch in _batches(offers):
                if batch[0].large is None:
                    receipts += loop.run(
                        receive(pool, batch, mapping=mapping, tenant=tenant, captured_at=when)
                    )
                else:
                    with _bytes_read(bar, batch[0], hidden=as_json) as read:
                        taking = take_large(
                            pool, batch[0], mapping=mapping, tenant=tenant, captured_at=when, progress=read
                        )
                        receipts.append(loop.run(taking))
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


@snapshot.command("orphans")
def orphans(
    age_s: Annotated[float, typer.Option(help="Only objects older than this many seconds.", min=0)] = 3600,
    as_json: JsonOption = False,
) -> None:
    """Say which objects of the object store no row names; the workers' upkeep deletes them each hour."""
    from starforge.etl.retention.sweep import Swept, sweep_objects
    from starforge.etl.store.store import object_store

    async def found(pool: Pool) -> Swept:
        async with pool.connection() as conn:
            return await sweep_objects(conn, age_s=age_s, dry_run=True)

    with asyncio.Runner() as loop, _pool(loop) as pool:
        swept = loop.run(found(pool))
    store = object_store().name
    if as_json:
        print_json(
            {
                "store": store,
                "objects": swept.objects,
                "bytes": swept.size_bytes,
                "sample": swept.sample,
            }
        )
        return
    say(f"{swept.objects} objects that no row names, {swept.size_bytes / 1e6:.1f} MB, in {store}")
    for key in swept.sample:
        say(f"  {key}")
    if swept.objects:
        say("upkeep deletes them within the hour; nothing refers to them")


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


def _batches(offers: Iterable[Offer]) -> Iterator[list[Offer]]:
    """Group what is held for one transaction; a large document comes by itself."""
    from starforge.etl.ingest.receive import batches

    for large, some in groupby(offers, key=lambda offer: offer.large is not None):
        if not large:
            yield from batches(some)
            continue
        for offer in some:
            yield [offer]


@contextmanager
def _bytes_read(bar: Progress, offer: Offer, *, hidden: bool) -> Iterator[Callable[[int], None]]:
    """Show how much of a large file was read, in place of the bar of all files."""
    assert offer.large is not None
    bar.stop()
    with bytes_bar(hidden=hidden) as shown:
        task = shown.add_task(os.path.basename(offer.name), total=offer.large.size_bytes)
        yield lambda read: shown.update(task, completed=read)
    bar.start()


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
