"""State machines: what a table of rows allows, and that nothing else is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starforge.backfill.partition.partition import PARTITION
from starforge.backfill.state.backfill import BACKFILL
from starforge.db.pool import Connection
from starforge.errors import IllegalMoveError
from starforge.etl.snapshot.snapshot import SNAPSHOT
from starforge.machine import Machine, Move
from starforge.queue.breaker import BREAKER
from starforge.queue.gate import GATE
from starforge.queue.job import JOB
from starforge.worker.registry import WORKER
from tests.covers import covers
from tests.foundation.package import modules

SHIPPED = [JOB, SNAPSHOT, WORKER, GATE, BREAKER, BACKFILL, PARTITION]

STATES = st.sampled_from(["", "a", "b", "c", "d"])
ROWS = st.lists(
    st.tuples(st.sampled_from(["go", "stop", "turn"]), STATES, st.sampled_from(["a", "b", "c", "d"])),
    max_size=12,
    unique_by=lambda row: row[:2],
)


@given(ROWS)
def test_a_verb_leads_from_a_state_exactly_where_its_row_says(rows: list[tuple[str, str, str]]) -> None:
    machine = Machine.of("thing", rows)
    told = {(verb, source): target for verb, source, target in rows}
    for verb in ("go", "stop", "turn"):
        for state in ("", "a", "b", "c", "d"):
            if (verb, state) in told:
                assert machine.target(verb, state) == told[verb, state]
                assert verb in machine.allowed(state)
                assert state in machine.sources(verb)
            else:
                with pytest.raises(IllegalMoveError):
                    machine.target(verb, state)
                assert verb not in machine.allowed(state)
                assert state not in machine.sources(verb)


@given(ROWS)
def test_states_and_verbs_are_those_of_the_rows_each_once(rows: list[tuple[str, str, str]]) -> None:
    machine = Machine.of("thing", rows)
    assert sorted(machine.states) == sorted({s for _, a, b in rows for s in (a, b) if s})
    assert sorted(machine.verbs) == sorted({verb for verb, _, _ in rows})
    assert set(machine.terminal) == {state for state in machine.states if not machine.allowed(state)}


@given(ROWS)
def test_the_diagram_has_a_line_for_every_move_and_every_end(rows: list[tuple[str, str, str]]) -> None:
    machine = Machine.of("thing", rows)
    head, *lines = machine.mermaid().splitlines()
    assert head == "stateDiagram-v2"
    drawn = [f"    {source or '[*]'} --> {target}: {verb}" for verb, source, target in rows]
    assert sorted(lines) == sorted(drawn + [f"    {state} --> [*]" for state in machine.terminal])


def test_one_row_may_name_several_states_to_leave() -> None:
    machine = Machine.of("lamp", [("light", "", "on"), ("break", "on off", "broken")])
    assert machine.moves == (
        Move("light", "", "on"),
        Move("break", "on", "broken"),
        Move("break", "off", "broken"),
    )


def test_a_verb_that_leads_to_two_states_from_one_is_refused() -> None:
    with pytest.raises(TypeError, match="lamp: light from 'off' leads to two states"):
        Machine.of("lamp", [("light", "off", "on"), ("light", "off", "dim")])


@pytest.mark.parametrize("machine", SHIPPED, ids=lambda machine: machine.noun)
@covers("X-03", "Q-23")
def test_every_verb_in_every_state_leads_where_its_row_says_or_names_where_it_may(machine: Machine) -> None:
    rows = {(move.verb, move.source): move.target for move in machine.moves}
    for verb in machine.verbs:
        for state in ("", *machine.states):
            if (verb, state) in rows:
                assert machine.target(verb, state) == rows[verb, state]
                continue
            with pytest.raises(IllegalMoveError) as refused:
                machine.target(verb, state)
            error = refused.value
            assert (error.machine, error.verb, error.state) == (machine.noun, verb, state)
            assert error.allowed == tuple(move.source for move in machine.moves if move.verb == verb)
            assert str(error).endswith(f"allowed from: {', '.join(error.allowed)}")


@pytest.mark.parametrize("machine", SHIPPED, ids=lambda machine: machine.noun)
def test_every_state_of_a_shipped_machine_can_be_reached_from_its_creation(machine: Machine) -> None:
    born = {move.target for move in machine.moves if not move.source}
    reached = born or {machine.states[0]}  # a gate is there without being made: open
    while more := {m.target for m in machine.moves if m.source in reached} - reached:
        reached |= more
    assert reached == set(machine.states)


def test_no_machine_of_the_package_escapes_these_tests() -> None:
    found = {id(value): value for m in modules() for value in vars(m).values() if isinstance(value, Machine)}
    assert {machine.noun for machine in found.values()} == {machine.noun for machine in SHIPPED}


@pytest.mark.parametrize(
    ("constraint", "machine"), [("workers_state", WORKER), ("hero_snapshots_status", SNAPSHOT)]
)
async def test_the_database_allows_exactly_the_states_of_the_table(
    conn: Connection, constraint: str, machine: Machine
) -> None:
    text = await conn.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1", constraint
    )
    assert set(re.findall(r"'(\w+)'", text)) == set(machine.states)
