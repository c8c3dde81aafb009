"""`starforge backfill create`: the operation's own command, and with --dry-run a look at what it would do."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starforge.cli.doors import door, group
from starforge.cli.history import duration
from starforge.cli.render import as_table, fail, print_json, run, say
from starforge.cli.snapshot_looks import read
from starforge.errors import StarForgeError
from starforge.ops.registry import find

if TYPE_CHECKING:
    from starforge.backfill.create.ask import Rehearsal
    from starforge.backfill.select.selection import AnyPart
    from starforge.db.pool import Connection

NAME = "backfill create"
REFUSED = 1
UNSEEN = ("key", "reason", "override_preflight")
"""What makes no difference to what would be created."""


def add(app: typer.Typer) -> None:
    """Add this module's command."""
    operation = find(NAME)
    group(app, "backfill").command("create", help=operation.help)(_with_dry_run(door(operation, run)))


def _dry_run_option(
    *,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only show what it would come to, and all that speaks against it."),
    ] = False,
) -> None:
    """What this command takes beside those of every operation."""


def _with_dry_run(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with one option more."""

    @functools.wraps(command)
    def create(**given: Any) -> None:
        if given.pop("dry_run"):
            _dry_run(**given)
        else:
            command(**given)

    own = inspect.signature(_dry_run_option, eval_str=True).parameters
    parameters = [*inspect.signature(command).parameters.values(), *own.values()]
    vars(create)["__signature__"] = inspect.Signature(parameters)
    create.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return create


def _dry_run(*, plan: bool, plan_id: object, json: bool, override_preflight: bool, **given: Any) -> None:
    """Show what a backfill would come to; exits with 1 where it would be refused."""
    from starforge.backfill.act.create_operations import asked_for
    from starforge.backfill.asset.declared import declared_assets
    from starforge.backfill.create.ask import rehearse
    from starforge.operation import BadArgumentError

    if plan or plan_id is not None:
        both = BadArgumentError("--dry-run only looks: leave --plan and --plan-id out")
        raise typer.Exit(fail(both, as_json=json))
    said = {name.removesuffix("_"): value for name, value in given.items() if name not in UNSEEN}
    try:
        bound = {name: value for name, value in find(NAME).bind(said).items() if name not in UNSEEN}
        request, options = asked_for(from_=bound.pop("from"), **bound)

        async def look(conn: Connection, tenant: str) -> Rehearsal:
            return await rehearse(conn, await declared_assets(conn), request, options, tenant=tenant)

        found = read(look)
    except StarForgeError as error:
        raise typer.Exit(fail(error, as_json=json)) from None
    refused = found.refused(override=override_preflight)
    if json:
        print_json({**found.document(), "refused": refused})
    else:
        _show(found, overridden=override_preflight, refused=refused)
    if refused:
        raise typer.Exit(REFUSED)


def _show(found: Rehearsal, *, overridden: bool, refused: bool) -> None:
    if found.selection is not None:
        columns = ("asset", "partitions", "first", "last", "at once", "canary", "takes")
        as_table(columns, [_row(found, part) for part in found.selection.parts])
        for note in found.selection.notes:
            say(f"note: {note}")
    for error in found.errors:
        say(f"refused: {error.code}: {error}", style="bold")
        say(f"  {error.remedy}")
    for one in found.findings:
        word = "refused" if one.refuses else "warning"
        if one.refuses and overridden and one.check != "overlap":
            word = "overridden"
        say(
            f"{word}: {one.check}: asset {one.asset}: {one.text.removeprefix(f'asset {one.asset}: ')}",
            style="bold" if word == "refused" else "",
        )
    if refused:
        say("It would be refused; nothing was written.")
    else:
        say("It would be created; nothing was written. The same without --dry-run creates it.")


def _row(found: Rehearsal, part: AnyPart) -> tuple[object, ...]:
    estimate = found.looked.estimates.get(part.asset.name) if found.looked else None
    return (
        part.asset.name,
        part.total,
        part.first_key,
        part.last_key,
        found.concurrency[part.asset.name],
        None if part.canary is None else part.canary.count,
        None if estimate is None else f"{_time(estimate.low_s)} to {_time(estimate.high_s)}",
    )


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else "under 1 s"
