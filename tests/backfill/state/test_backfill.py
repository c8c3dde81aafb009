"""A backfill's states: what the database allows is what the table of moves says."""

from __future__ import annotations

import re

import asyncpg
import pytest

from starforge.backfill.partition.partition import PARTITION
from starforge.backfill.state.backfill import BACKFILL
from starforge.db.pool import Connection
from starforge.machine import Machine
from tests.covers import covers

PAIRS = [(source, target) for source in BACKFILL.states for target in BACKFILL.states if source != target]
MOVES = {(move.source, move.target) for move in BACKFILL.moves}


@pytest.mark.parametrize(
    ("machine", "constraint"), [(BACKFILL, "backfill_jobs_state"), (PARTITION, "backfill_partitions_state")]
)
@covers("B-01")
async def test_the_database_allows_exactly_the_states_of_the_table(
    conn: Connection, machine: Machine, constraint: str
) -> None:
    text = await conn.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1", constraint
    )
    assert set(re.findall(r"'(\w+)'", text)) == set(machine.states)


@covers("B-02", "B-03", "D-03", "D-04")
async def test_the_database_allows_exactly_the_moves_of_the_table(conn: Connection) -> None:
    for source, target in PAIRS:
        job_id = await conn.fetchval(
            "INSERT INTO backfill_jobs (asset_name, state) VALUES ('a', $1) RETURNING id", source
        )
        savepoint = conn.transaction()
        await savepoint.start()
        told = ""
        try:
            await conn.execute("UPDATE backfill_jobs SET state = $2 WHERE id = $1", job_id, target)
        except asyncpg.CheckViolationError as error:
            told = str(error)
        await savepoint.rollback()
        assert not told or f"{source} cannot become {target}" in told
        assert (not told) == ((source, target) in MOVES), f"{source} → {target}"


@covers("B-03")
def test_completed_failed_and_cancelled_are_final() -> None:
    assert set(BACKFILL.terminal) == {"completed", "failed", "cancelled"}
