"""The operations' doors on the command line: each command is made from the operation's declaration.

They need no HTTP server: they run the operation in this process, directly on the database (X-13). The
actor is the operating system's user. Whoever holds the database's URL may change its rows anyway, so
the role is admin; what binds the caller is the database role of that URL.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
import typer

from starforge.cli.difference import difference
from starforge.cli.render import as_table, fail, print_json, say, working
from starforge.clock import new_id
from starforge.db.pool import Pool
from starforge.errors import StarForgeError
from starforge.operation import BadArgumentError, Operation, Parameter, bare_type
from starforge.ops import registry
from starforge.ops.audit import Result
from starforge.ops.perform import perform
from starforge.ops.plan import Plan, plan
from starforge.ops.request import local_actor
from starforge.settings import HomeSettings

T = TypeVar("T")
Run = Callable[[Callable[[Pool], Awaitable[T]]], T]
"""Opens the pool, runs the coroutine function with it, closes it, and returns what it returned."""

ROLE = "admin"
DIRECT_TYPES = (str, int, float, bool, UUID)
"""What the command line converts itself; anything else is given as text, or as JSON text."""

SAMPLE_MAX = 10
"""So many names a change shows; there may be more where there are so many."""

SAMPLE_COLUMNS = 60

NOUNS = {
    "queue": "Queues: what waits and who works; pause, resume, probe, history.",
    "task": "Jobs, one by one: list, look into, follow.",
    "worker": "Workers: start one, see who lives, what they wrote and how they ended.",
    "source": "Sources of snapshots: how they are read, what they send, how they fail.",
    "catalog": "Catalogues that snapshots refer to: what lacks, new entries, what waits for them.",
    "etl": "Failures of snapshots: what fails alike, and the snapshots behind it.",
    "backfill": "Backfills of assets: list, look into, follow, verify; create, pause, resume, cancel.",
    "retention": "How long snapshots, captures, quarantine and errors are kept.",
    "ingest": "Taking snapshots in: pause and resume it for every server and command.",
    "subject": "One subject of a source: erase what is kept of it.",
    "schedule": "Jobs by the clock: what comes when; pause, resume, run now.",
    "breaker": "Circuit breakers of job types that failed too often.",
    "job": "Jobs: cancel, hold and release them.",
    "retries": "Retries: pause and resume them.",
    "tag": "Jobs that share a tag.",
    "tenant": "One tenant's jobs: pause and resume.",
    "type": "One type of jobs: pause, resume, limits.",
    "ops": "Every operation: role, inverse, and its doors.",
}
"""What the help says of a group; one of a noun that is not here is named after it."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def add_doors(app: typer.Typer, run: Run[Any]) -> None:
    """Add a command for every operation that has none yet, in a group for every noun, and `ops list`."""
    for operation in registry.operations():
        noun, verb = registry.command(operation)
        found = group(app, noun)
        if verb not in [known.name for known in found.registered_commands]:  # it has a door of its own
            found.command(verb, help=operation.help)(door(operation, run))
    group(app, "ops").command("list")(list_operations)


def group(app: typer.Typer, noun: str) -> typer.Typer:
    """Return the group of commands of a noun; it is made where it lacks."""
    for known in app.registered_groups:
        if known.name == noun and known.typer_instance is not None:
            return known.typer_instance
    made = typer.Typer(no_args_is_help=True, help=NOUNS.get(noun, f"Commands on: {noun}."))
    app.add_typer(made, name=noun)
    return made


def list_operations(*, json: AsJson = False) -> None:
    """List every operation: what it takes, who may ask for it, what undoes it, and its doors."""
    found = [registry.document(operation) for operation in registry.operations()]
    if json:
        print_json(found)
        return
    as_table(
        ("operation", "role", "undone by", "risk", "command"),
        [(op["name"], op["role"], op["inverse"], op["risk"], op["doors"]["cli"]) for op in found],
    )


def door(operation: Operation, run: Run[Any]) -> Callable[..., None]:
    """Make the command of an operation: a function of its parameters, by name, and of the doors' own."""

    def command(**given: Any) -> None:
        as_json, key, plan_id = given.pop("json"), given.pop("key"), given.pop("plan_id")
        only_plan = given.pop("plan")
        try:
            arguments = _arguments(operation, given)
            if only_plan and plan_id is not None:
                raise BadArgumentError("--plan makes a plan and --plan-id applies one: give one of them")
            who: dict[str, Any] = {"actor": local_actor(), "role": ROLE, "tenant": HomeSettings.read().tenant}
            if only_plan:
                with working(f"planning {operation.name}"):
                    planned: Plan = run(lambda pool: plan(pool, operation.name, arguments, **who))
                print_json(planned.document()) if as_json else _show_plan(operation, planned)
                return
            with working(operation.name):
                result: Result = run(
                    lambda pool: perform(
                        pool,
                        operation.name,
                        arguments,
                        **who,
                        idempotency_key=key,
                        plan_id=plan_id,
                        request_id=new_id(),
                    )
                )
        except StarForgeError as error:
            raise typer.Exit(fail(error, as_json=as_json)) from None
        print_json(result.document()) if as_json else _show_result(operation, result)

    parameters = [_word_or_option(parameter) for parameter in operation.parameters]
    parameters += list(inspect.signature(_doors_own, eval_str=True).parameters.values())
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__name__ = "_".join(operation.name.split())
    return command


def _doors_own(
    *,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would be done, as a plan to apply.")
    ] = False,
    plan_id: Annotated[UUID | None, typer.Option(help="Apply this plan, if it still holds.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: repeating it returns the first result.")
    ] = None,
    json: AsJson = False,
) -> None:
    """What every operation's command takes beside the operation's own arguments."""


def _word_or_option(parameter: Parameter) -> inspect.Parameter:
    bare = bare_type(parameter.type)
    shown = bare if bare in DIRECT_TYPES or parameter.choices else str
    kind: Any
    if parameter.positional:
        kind = typer.Argument(
            metavar=parameter.name.upper(), help=parameter.help, show_default=parameter.default is not None
        )
    else:
        names = [registry.option_name(parameter)] if shown is not bool or not parameter.default else []
        kind = typer.Option(*names, help=parameter.help, show_default=parameter.default not in (None, ""))
    return inspect.Parameter(
        parameter.called,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[shown if parameter.required else shown | None, kind],
        default=inspect.Parameter.empty if parameter.required else _as_default(parameter, shown),
    )


def _as_default(parameter: Parameter, shown: Any) -> Any:
    """The default as the command line shows it; what is no plain value is left to the signature."""
    if parameter.choices:
        return parameter.default
    return parameter.default if isinstance(parameter.default, shown) else None


def _arguments(operation: Operation, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that were given; text for a list or an object is JSON."""
    arguments: dict[str, Any] = {}
    for parameter in operation.parameters:
        value = given[parameter.called]
        if value is None:
            continue
        if isinstance(value, str) and parameter.type_name not in ("text", "id") and value[:1] in ("[", "{"):
            try:
                value = msgspec.json.decode(value)
            except msgspec.DecodeError as error:
                raise BadArgumentError(f"{operation.name}: {parameter.name} is not JSON: {error}") from None
        arguments[parameter.name] = value
    return arguments


def _show_result(operation: Operation, result: Result) -> None:
    say(result.summary, style="bold")
    if result.repeated:
        say(f"This was done at {result.at:%Y-%m-%d %H:%M:%S} UTC with the same key; nothing changed now.")
        return
    say(f"changed {result.changed} of {result.matched} · audit {result.audit_id}")
    _show_commands(result.undone_by, result.next)


def _show_plan(operation: Operation, planned: Plan) -> None:
    say(f"Plan: {planned.summary}", style="bold")
    for line in difference(planned.before, planned.after):
        say(line)
    say(f"would change {planned.changed} of {planned.matched}{_sample(planned)}")
    if planned.changed and operation.inverse is None:
        say("Nothing undoes it.", style="yellow")
    _show_commands(planned.undone_by, planned.next)
    say(f"Nothing was done. Until {planned.expires_at:%Y-%m-%d %H:%M:%S} UTC this applies it:")
    say(f"  {registry.command_line(operation, planned.arguments)} --plan-id {planned.id}")


def _show_commands(undone_by: str, then: Mapping[str, str]) -> None:
    if undone_by:
        say(f"undone by: {undone_by}")
    for what, command in then.items():
        say(f"{what}: {command}")


def _sample(planned: Plan) -> str:
    """Return what a plan would change, by name: in the same line, or in a line each where that is long."""
    if set(planned.sample) <= set(planned.before):
        return ""  # each has a line of its own already
    told = [*planned.sample, "…"] if planned.matched > len(planned.sample) >= SAMPLE_MAX else planned.sample
    together = ", ".join(told)
    return f": {together}" if len(together) <= SAMPLE_COLUMNS else ":" + "".join(f"\n  {one}" for one in told)
