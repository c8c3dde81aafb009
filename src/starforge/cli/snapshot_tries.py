"""Commands with which developers take a snapshot apart: export, try, reproduce. None changes it."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from starforge.cli.doors import ROLE, group
from starforge.cli.render import as_table, err, print_json, run, say, working
from starforge.cli.snapshot_looks import IdArgument, size
from starforge.cli.work import BUILT_IN, AppOption, JsonOption
from starforge.errors import InvalidInputError

if TYPE_CHECKING:
    from starforge.db.pool import Pool
    from starforge.dev.reproduce import Measured
    from starforge.etl.load.trial import Trial

Which = Annotated[str, typer.Argument(metavar="ID|FILE", help="A stored snapshot, or a file.")]
SourceOption = Annotated[str | None, typer.Option(help="Source whose mapping applies to a file.")]
BUILT_IN_SOURCE = "hero"


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    snapshot = group(app, "snapshot")
    snapshot.command("export")(export)
    snapshot.command("try")(try_)
    snapshot.command("reproduce")(reproduce)


def export(
    snapshot_id: IdArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to make; else standard output.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="As it came, with nothing hidden.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit log.")] = None,
) -> None:
    """Write the content of snapshot ID, redacted unless --raw; also the bytes that quarantine keeps.

    The read is in the audit log. What is hidden: STARFORGE_REDACT_PATHS, STARFORGE_REDACT_KEYS and
    STARFORGE_REDACT_VALUES. A file is readable by its owner only, and is there whole or not at all.
    """
    from starforge.etl.snapshot.export import export as chunks_of
    from starforge.ops.request import local_actor
    from starforge.ops.sensitive import sensitive_read
    from starforge.settings import HomeSettings

    async def work(pool: Pool) -> int:
        tenant = HomeSettings.read().tenant
        await sensitive_read(
            pool,
            "snapshot export",
            {"snapshot_id": str(snapshot_id), "raw": raw, "to": "file" if output else "standard output"},
            needs="admin" if raw else "operator",
            actor=local_actor(),
            role=ROLE,
            tenant=tenant,
            reason=reason,
        )
        written = 0
        with _whole_file(output) as write:
            async for chunk in chunks_of(pool, snapshot_id, tenant=tenant, raw=raw):
                written += write(chunk)
        return written

    written = run(work)
    if output is not None:
        say(f"{size(written)} in {output}{'' if raw else ', redacted'}", console=err)


@contextmanager
def _whole_file(output: Path | None) -> Iterator[Any]:
    """Give the function that writes; a file comes into being under its name when all of it is there."""
    if output is None:
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    try:
        if output.is_dir():
            raise InvalidInputError(f"-o {output}: it is a folder; name a file")
        handle, name = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)  # mode 0600
    except OSError as error:
        raise InvalidInputError(
            f"-o {output}: no file can be made in {output.parent}: {error.strerror}"
        ) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file.write
        os.replace(name, output)
    except BaseException:
        os.unlink(name)
        raise


@dataclass(frozen=True, slots=True)
class _Document:
    """What a command was given, as a file of this machine, and what is known of it."""

    path: Path
    source: str
    captured_at: datetime | None


def try_(
    which: Which,
    source: SourceOption = None,
    app: AppOption = BUILT_IN,
    as_json: JsonOption = False,
) -> None:
    """Do all that a worker would do with a snapshot or file, and take it back: nothing is written.

    Says what each table would get and which fields nothing takes; on failure the stage, the path in the
    document and the stack. Exit code 1 where it fails.
    """
    from starforge.app import load
    from starforge.dev.reproduce import over_idle
    from starforge.etl.gears.by_name import opened
    from starforge.etl.load.trial import attempt
    from starforge.settings import HomeSettings

    async def work(pool: Pool) -> tuple[Trial, int]:
        tenant = HomeSettings.read().tenant
        with tempfile.TemporaryDirectory(prefix="starforge-try-") as folder:
            found = await _document(pool, which, source, tenant, Path(folder))
            mapping, size_bytes = load(app).mappings.get(found.source), found.path.stat().st_size
            with over_idle() as peak:
                trial = await attempt(
                    pool,
                    opened(found.path),
                    size_bytes,
                    mapping,
                    tenant=tenant,
                    captured_at=found.captured_at,
                )
            return trial, peak()

    with working(f"trying {which}"):
        trial, peak = run(work)
    if as_json:
        print_json({**asdict(trial), "peak_bytes": peak})
    else:
        _show_trial(trial, peak)
    if trial.failure is not None:
        raise typer.Exit(1)


def _show_trial(trial: Trial, peak: int) -> None:
    took = ", ".join(f"{stage} {1000 * took_s:.1f} ms" for stage, took_s in trial.took_s.items())
    say(f"{size(trial.size_bytes)} of {trial.source}, subject {trial.subject or 'not known'}", style="bold")
    if trial.tables:
        as_table(
            ("table", "holds", "would insert", "update", "delete"),
            [(one.table, one.rows, one.inserted, one.updated, one.deleted) for one in trial.tables],
        )
    if trial.superseded:
        say(f"a later capture is written already of: {', '.join(trial.superseded)}; nothing changes there")
    for catalogue, count in trial.placeholders.items():
        say(f"{catalogue}: {count} rows would be made up")
    if trial.unknown:
        say("fields that no column takes:")
        as_table(
            ("table", "field", "times", "first"),
            [(one.table, one.field, one.count, one.first) for one in trial.unknown],
        )
    say(f"{took} · {size(peak)} of memory over idle · nothing was written")
    if trial.failure is not None:
        failure = trial.failure
        where = f" at {failure.path}" if failure.path else ""
        say(f"it fails in {failure.stage}{where}: {failure.error_type}: {failure.message}", style="bold red")
        say(failure.trace)


def reproduce(
    which: Which,
    source: SourceOption = None,
    app: AppOption = BUILT_IN,
    as_json: JsonOption = False,
) -> None:
    """Measure what a snapshot or file costs in memory, by every way of reading it, side by side.

    Each runs in a process of its own, without a database: once for its peak of resident memory, once under
    an allocation profile. Nothing of the content is shown.
    """
    from starforge.app import load
    from starforge.dev.reproduce import reproduce as measured
    from starforge.settings import HomeSettings

    async def work(pool: Pool | None) -> list[Measured]:
        with tempfile.TemporaryDirectory(prefix="starforge-reproduce-") as folder:
            found = await _document(pool, which, source, HomeSettings.read().tenant, Path(folder))
            load(app).mappings.get(found.source)
            return await measured(found.path, found.source, app)

    with working(f"measuring {which}, in every way of reading it"):
        gears = asyncio.run(work(None)) if _id(which) is None else run(work)
    if as_json:
        print_json([asdict(one) for one in gears])
        return
    as_table(
        ("read", "peak over idle", "of it Python's", "took", "rows", "error"),
        [
            (
                one.gear,
                size(one.peak_bytes),
                size(one.traced_peak_bytes),
                None if one.took_s is None else f"{one.took_s:.3f} s",
                one.rows,
                one.error,
            )
            for one in gears
        ],
    )
    for one in gears:
        if one.lines:
            say(f"where the memory of {one.gear!r} came from at its highest point:")
            as_table(
                ("line", "holds", "blocks"),
                [(at["line"], size(at["bytes"]), at["blocks"]) for at in one.lines],
            )


def _id(which: str) -> UUID | None:
    try:
        return UUID(which)
    except ValueError:
        return None


async def _document(
    pool: Pool | None, which: str, source: str | None, tenant: str, folder: Path
) -> _Document:
    """Lay a stored snapshot, where `which` is an id, or a file into a folder; raise what is wrong with it.

    A file needs no pool.
    """
    from starforge.etl.ingest.offers import snapshots
    from starforge.etl.snapshot.listing import whole
    from starforge.etl.store.raw import open_raw

    path = folder / "document.json"
    snapshot_id = _id(which)
    if snapshot_id is None or pool is None:
        offers = list(snapshots(which, ndjson=False))
        if len(offers) != 1:
            raise InvalidInputError(f"{which}: it holds {len(offers)} documents; name one file")
        if offers[0].error is not None:
            raise offers[0].error
        path.write_bytes(offers[0].data)
        return _Document(path, source or BUILT_IN_SOURCE, None)
    async with pool.transaction(tenant=tenant) as conn:
        found = await whole(conn, snapshot_id, tenant)
    with path.open("wb") as file:
        async for chunk in open_raw(pool, snapshot_id, tenant=tenant):
            file.write(chunk)
    latest = found.captures[0]["captured_at"] if found.captures else found.snapshot.captured_at
    return _Document(path, source or found.snapshot.source, latest)
