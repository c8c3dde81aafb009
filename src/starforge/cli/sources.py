"""Commands on sources and their catalogues: source show, catalog check, catalog seed, etl offenders."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from starforge.cli.doors import ROLE, group
from starforge.cli.render import as_table, print_json, run, say
from starforge.cli.work import BUILT_IN, AppOption, JsonOption
from starforge.errors import MisusedError

if TYPE_CHECKING:
    from starforge.db.pool import Connection, Pool
    from starforge.etl.mapping import Mapping
    from starforge.ops.audit import Result

T = TypeVar("T")
SAMPLE = 20
OFFENDERS_MAX = 1000
ALIKE_MAX = 50
PATHS_SHOWN = 5


class EntriesUnreadableError(MisusedError):
    """A file holds no entries of a catalogue."""

    code = "SF833"
    remedy = (
        "Give a JSON array of objects, one object per line, or CSV with the columns' names in its first line."
    )


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    group(app, "source").command("show")(show)
    group(app, "catalog").command("check")(check)
    group(app, "catalog").command("seed")(seed)
    group(app, "etl").command("offenders")(offenders)


def show(
    source: Annotated[str, typer.Argument(help="Name of the source.")], as_json: JsonOption = False
) -> None:
    """Show whether a source is taken, how it is read, how what it sends has changed, and how it failed."""
    from starforge.etl.ingest.control import ingest_control
    from starforge.etl.snapshot.hold import held_for
    from starforge.etl.source.drift import drift, shape_changes, source_errors
    from starforge.etl.source.mode import modes
    from starforge.settings import HomeSettings

    tenant = HomeSettings.read().tenant

    async def read(conn: Connection) -> dict[str, Any]:
        mode = (await modes(conn, source)).of(tenant, source)
        control = await ingest_control(conn)
        paused = control.whole or control.sources.get(source)
        suspects = [each for each in await drift(conn, tenant) if each.source == source]
        return {
            "source": source,
            "paused": None
            if paused is None
            else {**paused.document(), "told": paused.told, "all_sources": paused is control.whole},
            "mode": None if mode is None else mode.document(),
            "shapes": [asdict(each) for each in await shape_changes(conn, tenant, source)],
            "errors": [asdict(each) for each in await source_errors(conn, source)],
            "drift": asdict(suspects[0]) if suspects else None,
            "held": [asdict(each) for each in await held_for(conn, source=source)],
        }

    found = _read(read)
    if as_json:
        print_json(found)
        return
    if found["paused"]:
        _say_paused(source, found["paused"])
    mode = found["mode"]
    if not (mode or found["errors"] or found["shapes"] or found["held"]):
        say(f"Nothing is known of source {source!r}: no snapshot of it was processed for tenant {tenant!r}.")
        return
    say(
        f"Source {source!r} is read "
        + (
            "as its mapping says."
            if mode is None
            else f"{mode['mode']} until {mode['until']:%Y-%m-%d %H:%M} UTC by {mode['owner']}:"
            f" {mode['reason']}"
        )
    )
    for error in found["errors"]:
        at = f", first at {error['path']}" if error["path"] else ""
        say(f"{error['failures']} × {error['error_type']} in the last hour{at}", style="red")
    if found["drift"] and found["drift"]["field"]:
        since = found["drift"]["since"]
        told = f", new since {since:%Y-%m-%d %H:%M} UTC" if since else ""
        say(f"The first new field: {found['drift']['field']}{told}", style="bold")
    if found["errors"]:
        say("→ starforge etl offenders: what failed alike, and the snapshots behind it")
    if found["held"]:
        say(f"{len(found['held'])} snapshots wait for entries of catalogues: starforge catalog check")
    if not found["shapes"]:
        return
    as_table(
        ("first seen (UTC)", "shape", "snapshots, at least", "new paths"),
        [
            (f"{s['first_seen']:%Y-%m-%d %H:%M}", s["fingerprint"], s["snapshots"], _paths(s))
            for s in found["shapes"]
        ],
    )


def _say_paused(source: str, paused: dict[str, Any]) -> None:
    what, resume = f"Ingestion of source {source!r}", f"starforge source resume {shlex.quote(source)}"
    if paused["all_sources"]:
        what, resume = "Ingestion", "starforge ingest resume"
    until = f"until {paused['until']:%Y-%m-%d %H:%M} UTC" if paused["until"] else "with no end"
    told = f"; told to {paused['told']}" if paused["told"] else ""
    say(
        f"{what} is paused {until} by {paused['owner'] or 'hand'}:"
        f" {paused['reason'] or 'no reason given'}{told}. {resume}",
        style="red",
    )


def check(
    source: Annotated[str | None, typer.Option(help="Only this source.")] = None,
    sample: Annotated[int, typer.Option(min=0, max=1000, help="Newest snapshots to look into.")] = SAMPLE,
    app: AppOption = BUILT_IN,
    as_json: JsonOption = False,
) -> None:
    """Report what catalogues lack: placeholders unresolved, snapshots that wait, references without entry.

    The references are those of the newest stored snapshots, processed or not. Exit code 1 where one lacks.
    """
    from starforge.app import load
    from starforge.etl.snapshot.hold import held_for
    from starforge.etl.source.catalogue import placeholders

    known = load(app).mappings
    chosen = [known.get(source)] if source else list(known)

    async def read(conn: Connection) -> dict[str, Any]:
        open_, more = await placeholders(conn, source=source)
        lacking: dict[str, dict[str, list[str]]] = {}
        looked = 0
        for mapping in chosen:
            count, found = await _lacking(conn, mapping, sample)
            looked += count
            if found:
                lacking[mapping.name] = {name: sorted(ids) for name, ids in found.items()}
        return {
            "placeholders": [asdict(each) for each in open_],
            "placeholders_more": more,
            "held": [asdict(each) for each in await held_for(conn, source=source)],
            "snapshots_looked_into": looked,
            "missing": lacking,
        }

    found = _read(read)
    if as_json:
        print_json(found)
    else:
        _show_check(found)
    if found["placeholders"] or found["held"] or found["missing"]:
        raise typer.Exit(1)


def seed(
    catalog: Annotated[str, typer.Argument(help="Table of the catalogue.")],
    file: Annotated[Path, typer.Argument(help="JSON, NDJSON or CSV with the entries.")],
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")],
    as_json: JsonOption = False,
) -> None:
    """Make or change entries of a catalogue from a file; placeholders become entries, what waited goes on.

    Then says what is still unresolved. Each thousand entries are one operation, with its own audit row.
    """
    from starforge.clock import new_id
    from starforge.etl.source.catalogue import ENTRIES_MAX, placeholders
    from starforge.ops.perform import perform
    from starforge.ops.request import local_actor
    from starforge.settings import HomeSettings

    entries = _entries(file)
    tenant = HomeSettings.read().tenant

    async def work(pool: Pool) -> tuple[list[Result], list[Any], int]:
        results = []
        for start in range(0, len(entries), ENTRIES_MAX):
            arguments = {
                "catalog": catalog,
                "entries": entries[start : start + ENTRIES_MAX],
                "reason": reason,
            }
            results.append(
                await perform(
                    pool,
                    "catalog seed",
                    arguments,
                    actor=local_actor(),
                    role=ROLE,
                    tenant=tenant,
                    request_id=new_id(),
                )
            )
        async with pool.transaction(tenant=tenant) as conn:
            return results, *await placeholders(conn, catalog)

    results, left, more = run(work)
    if as_json:
        print_json(
            {
                "operations": [result.document() for result in results],
                "unresolved": [asdict(each) for each in left],
                "unresolved_more": more,
            }
        )
        return
    for result in results:
        say(result.summary, style="bold")
    say(f"{len(left) + more} placeholders of {catalog} are still unresolved" + (":" if left else "."))
    as_table(
        ("id", "since", "source", "owner"),
        [(each.id, f"{each.created_at:%Y-%m-%d %H:%M}", each.source, each.owner) for each in left[:SAMPLE]],
    )


def offenders(
    constraint: Annotated[str | None, typer.Option(help="Name of the constraint that was violated.")] = None,
    fingerprint: Annotated[str | None, typer.Option(help="Fingerprint of the failure.")] = None,
    within: Annotated[int, typer.Option(min=1, help="Failures of so many minutes back.")] = 24 * 60,
    as_json: JsonOption = False,
) -> None:
    """List the snapshots behind a constraint's failures, or behind failures of one fingerprint.

    Without either: what failed alike, with the constraint or fingerprint to ask for.
    """
    from starforge.etl.snapshot.hold import offenders as offending

    if constraint is None and fingerprint is None:
        _show_alike(within, as_json)
        return

    async def read(conn: Connection) -> Any:
        return await offending(
            conn,
            constraint=constraint,
            fingerprint=fingerprint,
            within_s=within * 60.0,
            most=OFFENDERS_MAX,
        )

    found, more = _read(read)
    if as_json:
        print_json({"offenders": [asdict(each) for each in found], "more": more})
        return
    if not found:
        say(f"No snapshot that is stored failed by {constraint or fingerprint} within {within} minutes.")
        return
    as_table(
        ("snapshot", "source", "failures", "last (UTC)", "status", "held"),
        [
            (
                e.snapshot_id,
                e.source,
                e.failures,
                f"{e.last_at:%Y-%m-%d %H:%M}",
                e.status,
                "yes" if e.held else "no",
            )
            for e in found
        ],
    )
    say(f"{len(found)} snapshots" + (f" and {more} more" if more else ""))
    how = f"--constraint {constraint}" if constraint else f"--fingerprint {fingerprint}"
    say(f"Hold them together: starforge snapshot hold-batch {how} --reason …")


def _show_alike(within: int, as_json: bool) -> None:
    from starforge.etl.source.drift import failures_alike

    async def read(conn: Connection) -> Any:
        return await failures_alike(conn, within * 60.0, ALIKE_MAX)

    found = _read(read)
    if as_json:
        print_json({"alike": [asdict(each) for each in found]})
        return
    if not found:
        say(f"No snapshot that is stored failed within {within} minutes.")
        return
    as_table(
        ("fingerprint", "constraint", "source", "class", "failures", "snapshots", "last (UTC)", "message"),
        [
            (
                each.fingerprint,
                each.constraint_name,
                each.source,
                each.error_type,
                each.failures,
                each.snapshots,
                f"{each.last_at:%m-%d %H:%M}",
                each.message,
            )
            for each in found
        ],
        reason_last=True,
    )
    if len(found) == ALIKE_MAX:
        say(f"These are the {ALIKE_MAX} most frequent.")
    say("→ starforge etl offenders --fingerprint …, or --constraint …: the snapshots behind one")


def _read(work: Callable[[Connection], Awaitable[T]]) -> T:
    from starforge.settings import HomeSettings

    async def read(pool: Pool) -> T:
        async with pool.transaction(tenant=HomeSettings.read().tenant) as conn:
            return await work(conn)

    return run(read)


async def _lacking(conn: Connection, mapping: Mapping, most: int) -> tuple[int, dict[str, set[str]]]:
    """Return how many stored snapshots were looked into, and the entries to which they refer in vain."""
    from starforge.db.statement import sql
    from starforge.etl.document.parse import read_document
    from starforge.etl.errors import MalformedError, MappingError
    from starforge.etl.source.catalogue import catalogues, missing

    found: dict[str, set[str]] = {}
    if not most or not catalogues(mapping):
        return 0, found
    rows = await conn.fetch(sql("etl", "newest"), mapping.name, most)
    for row in rows:
        try:
            mapped = mapping.treating_unknown("extra").read(read_document(row["raw"].encode()))
        except (MalformedError, MappingError):
            continue  # it fails by itself, with its reason
        for name, ids in (await missing(conn, mapping, mapped.tables.values())).items():
            found.setdefault(name, set()).update(ids)
    return len(rows), found


def _show_check(found: dict[str, Any]) -> None:
    total = len(found["placeholders"]) + found["placeholders_more"]
    say(f"{total} placeholders are unresolved, {len(found['held'])} snapshots wait for an entry.")
    if found["placeholders"]:
        as_table(
            ("catalogue", "id", "since (UTC)", "source", "owner"),
            [
                (p["catalogue"], p["id"], f"{p['created_at']:%Y-%m-%d %H:%M}", p["source"], p["owner"])
                for p in found["placeholders"][:SAMPLE]
            ],
        )
        if total > SAMPLE:
            say(f"… and {total - SAMPLE} more; --json lists the first thousand")
    for each in found["held"][:SAMPLE]:
        say(f"{each['snapshot_id']} waits for {each['catalogue']}: {', '.join(each['missing'][:10])}")
    for source, lacking in found["missing"].items():
        for name, ids in lacking.items():
            say(f"source {source}: {name} lacks {len(ids)} entries: {', '.join(ids[:10])}")
    say(f"{found['snapshots_looked_into']} stored snapshots were looked into.")


def _entries(file: Path) -> list[dict[str, Any]]:
    """Read the entries of a file; raise EntriesUnreadableError."""
    import msgspec

    try:
        text = file.read_text("utf-8-sig")
        if file.suffix.lower() == ".csv":
            return [
                {k: v for k, v in row.items() if v not in (None, "")}
                for row in csv.DictReader(io.StringIO(text))
            ]
        if file.suffix.lower() in (".ndjson", ".jsonl"):
            return [msgspec.json.decode(line, type=dict[str, Any]) for line in _lines(text)]
        return msgspec.json.decode(text, type=list[dict[str, Any]])
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError, csv.Error) as error:
        raise EntriesUnreadableError(f"{file}: {error}") from None


def _lines(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line.strip())


def _paths(shape: dict[str, Any]) -> str:
    paths = shape["new_paths"]
    more = f" and {len(paths) - PATHS_SHOWN} more" if len(paths) > PATHS_SHOWN else ""
    return "; ".join(paths[:PATHS_SHOWN]) + more
