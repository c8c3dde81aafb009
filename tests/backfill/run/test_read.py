"""What a coordinator reads of partitions is what their rows say, in whatever pages and gaps they come."""

from __future__ import annotations

import random
from typing import Any, TypeVar

import pytest
from asyncpg import Record

from starforge.backfill.run import read
from starforge.backfill.run.look import PARTS_MAX, PLACES
from starforge.backfill.run.read import read_partitions
from starforge.db.pool import Connection
from starforge.db.statement import sql
from tests.backfill.backfills import a_backfill
from tests.covers import covers

T = TypeVar("T")
STATES = ("pending", "running", "completed", "completed", "completed", "failed", "cancelled")
OVER = ("completed", "failed", "cancelled")


@covers("B-18", "B-24", "D-14")
@pytest.mark.parametrize("seed", range(12))
async def test_frontier_strip_and_what_runs_are_as_the_rows_say(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(read, "PAGE", dice.choice([1, 7, 64, 1000]))
    states = [dice.choice(STATES) for _ in range(dice.choice([1, 59, 60, 61, 200]))]
    for place in range(dice.randrange(len(states))):  # a stretch that is over
        states[place] = "completed"
    backfill_id = await a_backfill(conn, "running", *states)
    step = dice.choice([1, 3])
    await conn.execute("UPDATE backfill_partitions SET ordinal = -ordinal * $1::int", step)
    await conn.execute("UPDATE backfill_partitions SET ordinal = -ordinal")
    ordinals = [step * (place + 1) for place in range(len(states))]
    uncounted = {place for place, state in enumerate(states) if state in OVER and dice.random() < 0.2}
    for place in sorted(uncounted):
        for _ in range(dice.choice([1, 2])):
            await conn.execute(
                "INSERT INTO backfill_ended (backfill_job_id, ordinal, tenant_id, outcome, attempt_count)"
                " VALUES ($1, $2, 'default', $3, 1)", backfill_id, ordinals[place], states[place],
            )  # fmt: skip

    found = await read_partitions(conn, backfill_id, None, None)
    over = [place for place, state in enumerate(states) if state in OVER]
    reached = next((place for place in range(len(states)) if place not in over), len(states))
    assert list(found.ordinals) == ordinals
    assert (found.frontier.reached, found.frontier.terminal) == (reached, len(over))
    assert found.running == [ordinals[place] for place, state in enumerate(states) if state == "running"]
    parts = min(PARTS_MAX, len(states))
    strip = [[0, 0, 0, 0] for _ in range(parts)]
    for place, state in enumerate(states):
        part = strip[place * parts // len(states)]
        part[3] += 1
        if state in OVER and place not in uncounted:
            part[PLACES[state]] += 1
    assert found.look.strip == strip
    again = await read_partitions(conn, backfill_id, found.frontier.ordinal, found.ordinals)
    assert (again.look.strip, again.frontier.reached) == (strip, reached)
    found.frontier.fold(ordinals)
    assert found.frontier.reached == len(states), "what was taken in as stretches goes on one by one"


class Between:
    """A connection on which something happens behind the first of the statements that belong together."""

    def __init__(self, conn: Connection, happens: str, *values: object) -> None:
        self._conn, self._happens, self._values = conn, happens, values
        self._open = {sql("backfill", name) for name in ("states", "uncounted")}

    async def fetch(self, text: str, *values: object) -> list[Record]:
        return await self._then(text, await self._conn.fetch(text, *values))

    async def fetchrow(self, text: str, *values: object) -> Record | None:
        return await self._then(text, await self._conn.fetchrow(text, *values))

    async def _then(self, text: str, found: T) -> T:
        if text in self._open:
            self._open.clear()
            await self._conn.execute(self._happens, *self._values)
        return found


ENDS = """
WITH ended AS (UPDATE backfill_partitions SET state = 'failed' WHERE backfill_job_id = $1 AND ordinal = 2)
INSERT INTO backfill_ended (backfill_job_id, ordinal, tenant_id, outcome, attempt_count)
VALUES ($1, 2, 'default', 'failed', 1)
"""


@covers("B-18")
async def test_what_ends_while_it_is_read_is_left_to_the_next_count(conn: Connection) -> None:
    """It was counted by what was read, and once more by the fold."""
    backfill_id = await a_backfill(conn, "running", "completed", "running", "pending")
    between: Any = Between(conn, ENDS, backfill_id)
    found = await read_partitions(between, backfill_id, None, None)
    assert found.look.counts() == [1, 0, 0]


async def test_partitions_that_were_deleted_by_hand_are_read_anew(conn: Connection) -> None:
    backfill_id = await a_backfill(conn, "running", "completed", "pending", "completed", "running")
    before = await read_partitions(conn, backfill_id, None, None)
    await conn.execute("DELETE FROM backfill_partitions WHERE ordinal = 2")
    found = await read_partitions(conn, backfill_id, 1, before.ordinals)
    assert (list(found.ordinals), found.frontier.ordinal, found.running) == ([1, 3, 4], 3, [4])
    await conn.execute("DELETE FROM backfill_partitions")
    assert (await read_partitions(conn, backfill_id, 1, before.ordinals)).look.strip == []
