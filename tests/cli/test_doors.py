"""Every operation answers on the command line, made from its declaration and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any, TypeVar
from uuid import UUID, uuid4

import pytest
import typer
from typer.testing import CliRunner, Result

from starforge.cli.doors import add_doors, group
from starforge.db.pool import Pool
from starforge.operation import OPERATIONS, BadArgumentError, Caller, Change, operation
from starforge.ops import registry
from starforge.ops.request import local_actor
from tests.covers import covers

T = TypeVar("T")
Invoke = Callable[..., Awaitable[Result]]


@pytest.fixture(autouse=True)
def declared() -> Iterator[None]:
    """Take the operations away again that a test declares."""
    registry.load()
    before = dict(OPERATIONS)
    yield
    OPERATIONS.clear()
    OPERATIONS.update(before)


@pytest.fixture
def invoke(database: str) -> Invoke:
    """Run a command line against the test's database, as the shipped one is built."""

    def run(work: Callable[[Pool], Awaitable[T]]) -> T:
        async def opened() -> T:
            pool = await Pool.open(database, size=2)
            try:
                return await work(pool)
            finally:
                await pool.close()

        return asyncio.run(opened())

    async def call(*words: str) -> Result:
        app = typer.Typer()
        add_doors(app, run)
        return await asyncio.to_thread(CliRunner().invoke, app, list(words))

    return call


@covers("X-01", "X-13")
async def test_pause_and_resume_work_directly_on_the_database(invoke: Invoke, pool: Pool) -> None:
    done = await invoke("queue", "pause", "mail", "--reason", "provider down", "--minutes", "5")
    assert done.exit_code == 0, done.output
    assert "queue 'mail' is paused until" in done.output
    assert "undone by: starforge queue resume mail\n" in done.output
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT owner FROM gates WHERE name = 'mail'") == local_actor()
        row = await conn.fetchrow("SELECT * FROM audit_logs")
    assert row is not None
    assert (row["actor"], row["role"], row["reason"]) == (local_actor(), "admin", "provider down")
    resumed = await invoke("queue", "resume", "mail")
    assert resumed.exit_code == 0, resumed.output


@covers("X-17")
async def test_json_output_is_one_document_also_for_a_refusal(invoke: Invoke) -> None:
    done = await invoke("queue", "pause", "mail", "--reason", "x", "--json")
    document = json.loads(done.stdout)
    assert (document["operation"], document["changed"]) == ("queue pause", 1)
    refused = await invoke("queue", "resume", "sms", "--json")
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["code"] == "SF205"
    assert refused.stderr == ""


@covers("X-17")
@pytest.mark.parametrize(
    ("words", "exit_code", "told"),
    [
        (("queue", "resume", "sms"), 1, "SF205: queue 'sms' is not paused"),
        (("queue", "pause", "mail", "--reason", " "), 2, "SF603"),
        (("queue", "pause", "mail"), 2, "--reason"),
        (("queue", "pause", "mail", "--reason", "x", "--minutes", "0"), 2, "Expected `int` >= 1"),
        (("queue", "pause", "mail", "--reason", "x", "--minutes", "soon"), 2, "--minutes"),
        (("queue", "pause", "mail", "--reason", "x", "--plan", "--plan-id", str(uuid4())), 2, "one of them"),
        (("queue", "pause", "mail", "--reason", "x", "--plan-id", str(uuid4())), 1, "SF604"),
    ],
)
async def test_refused_is_1_and_misused_is_2(
    invoke: Invoke, words: tuple[str, ...], exit_code: int, told: str
) -> None:
    done = await invoke(*words)
    assert done.exit_code == exit_code
    assert told in done.output


async def test_an_unreachable_database_is_3() -> None:
    def run(work: Callable[[Pool], Awaitable[T]]) -> T:
        async def opened() -> T:
            return await work(await Pool.open("postgresql://nobody@127.0.0.1:1/x"))

        return asyncio.run(opened())

    app = typer.Typer()
    add_doors(app, run)
    done = await asyncio.to_thread(CliRunner().invoke, app, ["queue", "resume", "mail"])
    assert done.exit_code == 3
    assert "SF101" in done.stderr


@covers("X-02")
async def test_a_plan_prints_the_line_that_applies_it_and_that_line_does(invoke: Invoke, pool: Pool) -> None:
    planned = await invoke("queue", "pause", "mail", "--reason", "provider's down", "--plan")
    assert planned.exit_code == 0, planned.output
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM gates") == 0
        plan_id = await conn.fetchval("SELECT id FROM operation_plans")
    line = planned.output.splitlines()[-1].strip()
    assert line == f"starforge queue pause mail --reason 'provider'\"'\"'s down' --plan-id {plan_id}"
    assert "paused: no → yes\n" in planned.output, "as a person reads it"
    assert "undone by: starforge queue resume mail\n" in planned.output
    applied = await invoke("queue", "pause", "mail", "--reason", "provider's down", "--plan-id", str(plan_id))
    assert applied.exit_code == 0, applied.output


async def test_what_undoes_it_is_said_as_a_command_that_exists(invoke: Invoke) -> None:
    done = await invoke("source", "mode", "hero", "strict", "--reason", "a change upstream")
    assert "undone by: starforge source mode-reset hero\n" in done.output, done.output
    undone = await invoke("source", "mode-reset", "hero")
    assert undone.exit_code == 0, undone.output
    assert "undone by: starforge source mode hero strict --reason 'a change upstream'\n" in undone.output


@covers("X-02", "X-10")
async def test_a_plan_of_what_nothing_undoes_says_so_and_what_comes_after(invoke: Invoke) -> None:
    @operation("lamp smash", role="operator", inverse=None)
    async def smash(caller: Caller, *, many: int = 12) -> Change:
        """Smash the lamps."""
        named = "them" if caller.planning else "lamp 7"
        then, lamps = {"to sweep": "starforge lamp sweep"}, tuple(f"lamp-of-{n:020}" for n in range(10))
        return Change(f"smashed {named}", many, many, sample=lamps if many else (), next=then)

    planned = await invoke("lamp", "smash", "--plan")
    assert planned.exit_code == 0, planned.output
    lines = planned.output.splitlines()
    assert lines[:2] == ["Plan: smashed them", "would change 12 of 12:"]
    assert lines[2:4] == ["  lamp-of-00000000000000000000", "  lamp-of-00000000000000000001"]
    assert lines[12:15] == ["  …", "Nothing undoes it.", "to sweep: starforge lamp sweep"]
    done = await invoke("lamp", "smash")
    assert "smashed lamp 7" in done.output
    assert "to sweep: starforge lamp sweep" in done.output
    none = (await invoke("lamp", "smash", "--many", "0", "--plan")).output
    assert none.startswith("Plan: smashed them\nwould change 0 of 0\nto sweep"), none


async def test_a_word_of_few_is_refused_with_those_that_are_allowed(invoke: Invoke) -> None:
    done = await invoke("source", "mode", "hero", "lenient", "--reason", "x")
    assert done.exit_code == 2
    assert "'strict'" in done.output
    assert "'tolerant'" in done.output
    with pytest.raises(BadArgumentError, match="it is strict or tolerant"):
        OPERATIONS["source mode"].bind({"name": "hero", "mode": "lenient", "reason": "x"})


@covers("X-06")
async def test_a_repeated_key_says_that_nothing_changed(invoke: Invoke) -> None:
    words = ("queue", "pause", "mail", "--reason", "x", "--key", "k1")
    await invoke(*words)
    again = await invoke(*words)
    assert again.exit_code == 0
    assert "nothing changed now" in again.output


@covers("X-01")
async def test_an_operation_declared_in_a_room_has_its_command_at_once(invoke: Invoke, pool: Pool) -> None:
    @operation("lamp set", role="operator", inverse="lamp set")
    async def set_lamp(
        caller: Caller,
        lamp_id: Annotated[UUID, "Which lamp."],
        level: int,
        *,
        share: float = 0.5,
        blink: bool = False,
        colours: Annotated[list[str] | None, "As JSON."] = None,
        reason: str,
    ) -> Change:
        """Set lamp LAMP_ID to LEVEL."""
        seen.append((caller.actor, lamp_id, level, share, blink, colours, reason))
        return Change("lit", 1, 1, sample=(str(lamp_id),))

    seen: list[Any] = []
    lamp = uuid4()
    done = await invoke(
        "lamp",
        "set",
        str(lamp),
        "3",
        "--share",
        "0.25",
        "--blink",
        "--colours",
        '["red", "blue"]',
        "--reason",
        "dark",
    )
    assert done.exit_code == 0, done.output
    await invoke("lamp", "set", str(lamp), "4", "--reason", "dark")
    assert seen == [
        (local_actor(), lamp, 3, 0.25, True, ["red", "blue"], "dark"),
        (local_actor(), lamp, 4, 0.5, False, None, "dark"),
    ]
    helped = await invoke("lamp", "set", "--help")
    assert "Set lamp LAMP_ID to LEVEL." in helped.output
    assert "Which lamp." in helped.output
    listed = json.loads((await invoke("ops", "list", "--json")).stdout)
    (found,) = [entry for entry in listed if entry["name"] == "lamp set"]
    assert found["doors"]["http"] == "POST /api/v1/lamp/set"


@covers("X-01", "X-17")
async def test_the_list_of_operations_says_what_each_takes_and_where(invoke: Invoke) -> None:
    listed = {entry["name"]: entry for entry in json.loads((await invoke("ops", "list", "--json")).stdout)}
    assert set(listed) == {op.name for op in registry.operations()}
    pause = listed["queue pause"]
    assert (pause["role"], pause["inverse"], pause["risk"]) == ("operator", "queue resume", "reversible")
    assert [(p["name"], p["type"], p["required"]) for p in pause["parameters"]] == [
        ("name", "text", True),
        ("reason", "text", True),
        ("minutes", "number", False),
    ]
    assert pause["doors"] == {
        "cli": "starforge queue pause NAME --reason TEXT [--minutes NUMBER]",
        "http": "POST /api/v1/queue/pause",
        "http_plan": "POST /api/v1/queue/pause/plan",
    }
    assert "queue pause" in (await invoke("ops", "list")).output


async def test_text_from_elsewhere_cannot_steer_the_terminal(invoke: Invoke) -> None:
    done = await invoke("queue", "pause", "[red]mail\x1b[2J", "--reason", "x")
    assert done.exit_code == 0
    assert "\x1b" not in done.output
    assert "[red]mail" in done.output


def test_an_existing_group_of_a_noun_is_extended_and_not_doubled() -> None:
    app, mine = typer.Typer(), typer.Typer()
    app.add_typer(mine, name="queue")
    assert group(app, "queue") is mine
    assert group(app, "ops") is group(app, "ops")
