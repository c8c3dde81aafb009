"""Commands for mappings: check one against snapshots and the database, draft one, print its tables."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from starforge.cli.render import as_table, print_json, run, say, working
from starforge.cli.work import JsonOption
from starforge.errors import MisusedError, NotFoundError, StarForgeError

if TYPE_CHECKING:
    from starforge.db.pool import Pool
    from starforge.etl.authoring.survey import Survey
    from starforge.etl.mapping import Mapping
    from starforge.etl.source.fit import Misfit

mapping = typer.Typer(help="Mappings: how snapshots become rows.", no_args_is_help=True)

LEFT_SHOWN_MAX = 40
DRAFT_DOCUMENTS_MAX = 200
WHOLE_BYTES_MAX = 256_000_000
"""A larger stored document would need some gigabytes of memory."""

ReferenceArgument = Annotated[str, typer.Argument(metavar="FILE|MODULE:ATTR", help="Where the mapping is.")]
SourceOption = Annotated[str | None, typer.Option(help="Which mapping, where there are several.")]


class NoMappingError(NotFoundError):
    """A file or module declares no mapping, or none of that source."""

    code = "SF830"
    remedy = "Name a Python file, or module:attribute, that declares a Mapping or an app with one."


class UnimportableError(MisusedError):
    """A file or module cannot be imported."""

    code = "SF831"
    remedy = "Correct the file that the message names, then run the command again."


class NoDocumentError(MisusedError):
    """A snapshot that was named cannot be looked at."""

    code = "SF832"
    remedy = "Name files with JSON, or the ids of stored snapshots (`starforge snapshot ingest` stores them)."


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(mapping, name="mapping")


@mapping.command("check")
def check(
    reference: ReferenceArgument,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[SNAPSHOT]…", help="Further snapshots to check against.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="SNAPSHOT…", help="Files, folders, or ids of stored snapshots."),
    ] = None,
    source: SourceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a mapping, and show what it would make of snapshots; nothing is written.

    The declaration is always checked. Where DATABASE_URL names a database, or StarForge's own runs, the
    mapping is compared with its tables as well. Of snapshots it shows rows per table, fields left over,
    columns that got no value, and what does not fit, with its path. Exit code 1 where something does not fit.
    """
    from starforge.etl.authoring.survey import survey

    found = _mapping(reference, source)
    names = [*(against or []), *(more or [])]
    documents = _documents(names)
    misfits = _misfits(found)
    with working("reading snapshots"):
        told = survey(found, documents) if names else None
    if as_json:
        print_json(
            {
                "source": found.name,
                "tables": list(found.tables),
                "database": None if misfits is None else [asdict(each) for each in misfits],
                "survey": None if told is None else asdict(told),
            }
        )
    else:
        _show(found, misfits, told)
    faults = [each for each in misfits or [] if each.level == "fault"]
    if faults or (told is not None and told.failed):
        raise typer.Exit(1)


@mapping.command("draft")
def draft(
    snapshots: Annotated[list[str], typer.Argument(metavar="SNAPSHOT…", help="Files, folders, or ids.")],
    name: Annotated[str, typer.Option(help="The source.")] = "drafted",
    subject: Annotated[
        str | None, typer.Option(help="The field that says whose state a snapshot is.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Propose a mapping for snapshots, as Python source on standard output; `mapping check` it then."""
    from itertools import islice

    from starforge.etl.authoring import draft as drafts

    with working("reading snapshots"):
        documents = [document for _, document in islice(_documents(snapshots), DRAFT_DOCUMENTS_MAX)]
        text = drafts.draft(documents, name, subject=subject)
    if as_json:
        print_json({"source": name, "documents": len(documents), "python": text})
    else:
        typer.echo(text, nl=False)


@mapping.command("ddl")
def ddl(reference: ReferenceArgument, source: SourceOption = None, as_json: JsonOption = False) -> None:
    """Print the tables of a mapping, with grants and row security, for a migration of your own."""
    from starforge.etl.authoring import ddl as tables

    found = _mapping(reference, source)
    text = tables.ddl(found)
    if as_json:
        print_json({"source": found.name, "tables": list(found.tables), "sql": text})
    else:
        typer.echo(text, nl=False)


def _mapping(reference: str, source: str | None) -> Mapping:
    """Return the mapping that a file or module declares; raise NoMappingError or UnimportableError."""
    known = {each.name: each for each in _declared(reference)}
    if source is not None and source in known:
        return known[source]
    if source is None and len(known) == 1:
        return next(iter(known.values()))
    if not known:
        raise NoMappingError(f"{reference} declares no mapping")
    told = ", ".join(sorted(known))
    raise NoMappingError(
        f"{reference} has mappings of {told}; name one with --source"
        if source is None
        else f"{reference} has no mapping of source {source!r}, but of {told}"
    )


def _declared(reference: str) -> Iterator[Mapping]:
    from starforge.etl.mapping import Mapping

    module, attribute = _imported(reference)
    values = vars(module).values() if attribute is None else [getattr(module, attribute, None)]
    for value in values:
        if isinstance(value, Mapping):
            yield value
    if attribute is not None:
        yield from getattr(next(iter(values)), "mappings", ())


def _imported(reference: str) -> tuple[Any, str | None]:
    sys.path[:0] = [] if "" in sys.path or str(Path.cwd()) in sys.path else [str(Path.cwd())]
    try:
        if not reference.endswith(".py") and Path(reference).exists():
            raise UnimportableError(f"{reference} is no Python file")
        if reference.endswith(".py"):
            if not Path(reference).is_file():
                raise UnimportableError(f"there is no file {reference}")
            spec = importlib.util.spec_from_file_location("starforge_mapping", reference)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module, None
        name, _, attribute = reference.partition(":")
        return importlib.import_module(name), attribute or None
    except StarForgeError:
        raise
    except Exception as error:  # whatever somebody's module raises
        raise UnimportableError(f"{reference}: {type(error).__name__}: {error}") from error


def _documents(names: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the documents of files, and of stored snapshots, each with its name."""
    from starforge.etl.document.parse import read_document
    from starforge.etl.errors import MalformedError
    from starforge.etl.ingest.offers import snapshots

    ids = [(name, snapshot_id) for name in names if (snapshot_id := _id(name)) is not None]
    stored = iter(_stored([snapshot_id for _, snapshot_id in ids])) if ids else iter(())
    for name in names:
        if _id(name) is not None:
            row = next(stored)
            if row["source"] is None:
                raise NoDocumentError(f"{name} is no snapshot of this tenant")
            yield name, read_document(_from_store(row) if row["elsewhere"] else row["raw"].encode())
            continue
        for offer in snapshots(name):
            try:
                if offer.error is not None:
                    raise offer.error
                yield offer.name, read_document(offer.data)
            except MalformedError as error:
                raise NoDocumentError(f"{offer.name}: {error}") from None


def _from_store(row: Any) -> bytes:
    """Read a snapshot that lies in the object store, one at a time: it is looked at as a whole."""
    from starforge.etl.store.raw import open_raw
    from starforge.settings import HomeSettings

    if row["size_bytes"] > WHOLE_BYTES_MAX:
        size, most = row["size_bytes"] / 1e6, WHOLE_BYTES_MAX // 1_000_000
        raise NoDocumentError(
            f"{row['id']} has {size:.0f} MB, and above {most} MB none is looked at as a whole:"
            f" `starforge snapshot try {row['id']}` reads it in pieces"
        )

    async def read(pool: Pool) -> bytes:
        tenant = HomeSettings.read().tenant
        return b"".join([chunk async for chunk in open_raw(pool, row["id"], tenant=tenant)])

    return run(read)


def _id(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


def _stored(ids: list[UUID]) -> list[Any]:
    from starforge.db.statement import sql
    from starforge.settings import HomeSettings

    async def read(pool: Pool) -> list[Any]:
        async with pool.transaction(tenant=HomeSettings.read().tenant) as conn:
            rows: list[Any] = await conn.fetch(sql("etl", "stored"), ids)
            return rows

    return run(read)


def _misfits(found: Mapping) -> list[Misfit] | None:
    """Compare with the database where one is named or StarForge's own runs; else None."""
    from starforge.db.embedded import peek
    from starforge.db.pool import PoolSettings
    from starforge.etl.source.fit import misfits
    from starforge.settings import HomeSettings

    if not PoolSettings.read().url and peek(HomeSettings.read().home) is None:
        return None

    async def compare(pool: Pool) -> list[Misfit]:
        async with pool.connection() as conn:
            return await misfits(conn, found)

    return run(compare)


def _show(found: Mapping, misfits: list[Misfit] | None, told: Survey | None) -> None:
    say(f"The mapping of source {found.name!r} declares {len(found.tables)} tables and agrees with itself.")
    if misfits is None:
        say("It was not compared with a database: set DATABASE_URL, or start StarForge's own.")
    elif not misfits:
        say("It fits the tables of this database.")
    for misfit in misfits or []:
        say(f"{misfit.level}: {misfit}", style="red" if misfit.level == "fault" else "yellow")
    if told is None:
        return
    say(f"\n{told.documents} documents of {told.subjects} subjects; {told.failed} do not fit the mapping.")
    for name, path, reason in told.failures:
        say(f"  {name}: {path or 'the document'}: {reason}", style="red")
    as_table(
        ("table", "rows", "columns that got no value"),
        [(name, table.rows, ", ".join(table.empty) or "–") for name, table in told.tables.items()],
    )
    if told.left:
        say("\nLeft over:")
        as_table(
            ("field", "seen", "kept in extra of", "for example"),
            [(left.path, left.count, left.kept or "–", left.example) for left in told.left[:LEFT_SHOWN_MAX]],
        )
        if len(told.left) > LEFT_SHOWN_MAX:
            say(f"… and {len(told.left) - LEFT_SHOWN_MAX} more fields; --json lists them all")
