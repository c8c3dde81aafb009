"""What undoes an act is said as a command with its arguments, of every operation that has an inverse."""

from __future__ import annotations

import shlex
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer
from typer.testing import CliRunner

from starforge.cli.doors import add_doors
from starforge.db.pool import Pool
from starforge.operation import OPERATIONS, Change, Operation, Parameter
from starforge.ops import registry
from starforge.ops.perform import perform
from starforge.ops.plan import plan
from starforge.ops.undo import undone_by
from tests.covers import covers

ANN: dict[str, Any] = {"actor": "ann", "role": "admin", "tenant": "default"}
DONE = Change("done", 1, 1)
WORDS = {"scope": "queue", "mode": "strict", "kind": "errors", "state": "pending"}

registry.load()
WITH_INVERSE = [operation for operation in registry.operations() if operation.inverse is not None]


def an_argument(parameter: Parameter) -> Any:
    match parameter.type_name:
        case "number":
            return 7
        case "yes/no":
            return True
        case "id":
            return UUID(int=7)
    return WORDS.get(parameter.name, "it's one")


class _Asked(Exception):  # noqa: N818 - no error: the command got as far as the operation
    pass


def _no_pool(_work: Any) -> Any:
    raise _Asked


@pytest.mark.parametrize("operation", WITH_INVERSE, ids=lambda operation: operation.name)
@covers("X-10")
def test_the_command_names_the_same_thing_and_is_one_that_the_command_line_takes(
    operation: Operation,
) -> None:
    arguments = {p.name: an_argument(p) for p in operation.parameters}
    told = undone_by(operation, arguments, DONE)
    inverse = OPERATIONS[str(operation.inverse)]
    words = shlex.split(told)
    assert words[:3] == ["starforge", *registry.command(inverse)]
    for parameter in inverse.parameters:
        if parameter.positional and parameter.name in arguments:
            assert str(arguments[parameter.name]) in words, parameter.name
    app = typer.Typer()
    add_doors(app, _no_pool)
    numbers = dict.fromkeys(("JOBS", "ROWS", "DAYS", "SECONDS", "ATTEMPTS", "NUMBER", "PER_S"), "7")
    filled = [{**numbers, "MODE": "strict"}.get(word, word) for word in words]
    done = CliRunner().invoke(app, [str(inverse.noun), *filled[2:]])
    assert isinstance(done.exception, _Asked), done.output


def test_what_changed_nothing_or_has_no_inverse_is_undone_by_nothing() -> None:
    pause = OPERATIONS["queue pause"]
    given = {"name": "mail", "reason": "x"}
    assert undone_by(pause, given, DONE) == "starforge queue resume mail"
    assert undone_by(pause, given, Change("as it was", 1, 0)) == ""
    assert undone_by(pause, given, Change("otherwise", 1, 1, undo=None)) == ""
    assert undone_by(OPERATIONS["backfill cancel"], {"job_id": uuid4(), "reason": "x"}, DONE) == ""


@covers("X-10")
async def test_what_was_there_before_is_set_again_by_pasting_the_command(pool: Pool) -> None:
    """An override that is reset, a pause that is resumed: their inverse needs the value and the reason."""
    for name, given, expected in (
        ("type limit", {"name": "mail", "jobs": 3}, "starforge type limit mail 3 --reason 'too many'"),
        (
            "type timeout",
            {"name": "mail", "seconds": 9},
            "starforge type timeout mail 9.0 --reason 'too many'",
        ),
        (
            "type backoff",
            {"name": "mail", "base_s": 1, "max_s": 60},
            "starforge type backoff mail --base-s 1.0 --max-s 60.0 --reason 'too many'",
        ),
        ("worker batch", {"jobs": 5}, "starforge worker batch 5 --reason 'too many'"),
    ):
        done = await perform(pool, name, {**given, "reason": "too many"}, **ANN)
        reset = OPERATIONS[str(OPERATIONS[name].inverse)]
        whose = {"name": "mail"} if "name" in given else {}
        assert done.undone_by == " ".join(["starforge", *registry.command(reset), *whose.values()])
        undone = await perform(pool, reset.name, whose, **ANN)
        assert undone.undone_by == expected
    await perform(pool, "queue pause", {"name": "mail", "reason": "it's down"}, **ANN)
    resumed = await perform(pool, "queue resume", {"name": "mail"}, **ANN)
    assert shlex.split(resumed.undone_by)[2:] == ["pause", "mail", "--reason", "it's down"]


@covers("X-06")
async def test_a_repeated_request_is_told_the_same_and_a_plan_says_it_before(pool: Pool) -> None:
    given = {"name": "mail", "reason": "down"}
    planned = await plan(pool, "queue pause", given, **ANN)
    first = await perform(pool, "queue pause", given, **ANN, idempotency_key="k")
    again = await perform(pool, "queue pause", given, **ANN, idempotency_key="k")
    assert again.repeated
    assert again.undone_by == first.undone_by == planned.undone_by == "starforge queue resume mail"
    assert first.document()["undone_by"] == first.undone_by
