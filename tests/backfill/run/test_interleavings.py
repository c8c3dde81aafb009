"""Row 31 for backfills: whatever people and processes do to one, in any order, it stays what it says."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest

from starforge.backfill.errors import BackfillStateError, NothingFailedError
from starforge.backfill.partition.partition import Partition
from starforge.backfill.run import known
from starforge.backfill.scheme.scheme import Window
from starforge.clock import SEED_ENV
from starforge.db.pool import Connection, Pool
from starforge.queue.declare import Retry
from tests.backfill.engine import Engine, daily, engine
from tests.backfill.run.test_coordinate import act, ask
from tests.backfill.sound import SKIPPED, UNSOUND
from tests.covers import covers

pytestmark = pytest.mark.usefixtures("sound")

DAYS = 120
ACTS = 25
ROUNDS = 3

BY_HAND = (
    "UPDATE backfill_jobs SET heartbeat_at = now() - interval '5 minutes', version = version + 1"
    " WHERE state = 'running'",
    "UPDATE backfill_jobs SET state = 'paused', paused_at = now(), version = version + 1"
    " WHERE state = 'running'",
    "UPDATE backfill_jobs SET version = version + 1",
    "DELETE FROM queue_jobs WHERE status = 'pending'",
    "DELETE FROM queue_jobs WHERE id IN (SELECT id FROM queue_jobs WHERE status = 'running' LIMIT 1)",
)
OPERATIONS = ("pause", "resume", "resume", "reclaim", "retry-failed")

WATCHED = "SELECT state, checkpoint_ordinal, lease_epoch FROM backfill_jobs WHERE id = $1"


class Chaos:
    """Acts on one backfill, as a seed has them, and what must hold after each."""

    def __init__(self, running: Engine, backfill_id: UUID, chance: random.Random) -> None:
        self.running, self.id, self.chance = running, backfill_id, chance
        self.checkpoint, self.epoch = -1, 0
        self.done: Counter[str] = Counter()

    async def act(self) -> None:
        """Do one thing; one that its state does not allow is refused, and nothing is done."""
        what = self.chance.choice([*OPERATIONS, *BY_HAND, "crash"])
        try:
            if what == "crash":
                await self._crash()
            elif what in OPERATIONS:
                await act(self.running.pool, what, self.id)
            else:
                await ask(self.running.pool, what)
        except (BackfillStateError, NothingFailedError):
            self.done["refused"] += 1
        else:
            self.done[" ".join(what.split()[:3])] += 1

    async def _crash(self) -> None:
        """End the coordinators where they are, without a word, and let others come in their place."""
        ending = self.running.coordinating.copy()
        self.running.coordinating.clear()
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        dead = (
            "UPDATE workers SET state = 'dead' WHERE id IN (SELECT worker_id FROM backfill_jobs) AND id <> $1"
        )
        await ask(self.running.pool, dead, self.running.worker_id)
        for _ in range(2):
            self.running.coordinate(await self.running.enter())

    async def watch(self) -> None:
        """See that checkpoint and epoch only rise, and that no open partition is passed over."""
        async with self.running.pool.transaction() as conn:
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            row = await conn.fetchrow(WATCHED, self.id)
            assert row is not None
            assert [dict(each) for each in await conn.fetch(SKIPPED)] == []
            assert [dict(each) for each in await conn.fetch(UNSOUND)] == []
        assert (row["checkpoint_ordinal"] or -1) >= self.checkpoint
        assert row["lease_epoch"] >= self.epoch
        self.checkpoint, self.epoch = row["checkpoint_ordinal"] or -1, row["lease_epoch"]


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The seeded source of all that happens; STARFORGE_SEED replays it."""
    given = os.environ.get(SEED_ENV, "")
    seed = int(given) if given.isdigit() else random.SystemRandom().randrange(2**32)
    print(f"replay with {SEED_ENV}={seed}")
    return random.Random(seed)


@pytest.mark.parametrize("ends", ["completed", "cancelled"] * (ROUNDS // 2) + ["completed"])
@covers("D-12", "D-14", "B-24", "B-18", "G7", "G3")
async def test_whatever_is_done_to_a_backfill_each_partition_is_accepted_once_and_all_is_counted(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, chance: random.Random, ends: str
) -> None:
    monkeypatch.setattr(known, "SILENT_S", 0.3)
    monkeypatch.setenv("STARFORGE_BACKFILL_BREAKER_MIN", "100000")
    await ask(pool, "CREATE TABLE made (day text PRIMARY KEY)")

    async def make(part: Partition[Window], conn: Connection) -> None:
        await conn.execute("INSERT INTO made VALUES ($1)", part.key)
        await asyncio.sleep(chance.random() * 0.05)
        if chance.random() < 0.1:
            raise ValueError("now and then")

    quick: dict[str, Any] = {"retries": Retry(attempts=3, base_s=0.01, max_s=0.02), "concurrency": 5}
    async with engine(pool, [daily("days", make, **quick)], concurrency=5, coordinators=2) as running:
        backfill_id = await running.create("days", DAYS, failed_max=DAYS)
        chaos = Chaos(running, backfill_id, chance)
        for _ in range(ACTS):
            await chaos.act()
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0.02)
                await chaos.watch()
        print(dict(chaos.done))
        if ends == "cancelled":
            with suppress(BackfillStateError):
                await act(pool, "cancel", backfill_id, reason="enough")
        else:
            with suppress(BackfillStateError):
                await act(pool, "resume", backfill_id)
        row = await running.over(backfill_id, within_s=40)
        await chaos.watch()
        async with pool.connection() as conn:
            made = await conn.fetch("SELECT day FROM made")
            accepted = await conn.fetch(
                "SELECT partition_key FROM backfill_partitions WHERE state = 'completed'"
            )
    assert row["state"] in (ends, "completed")
    assert {each["day"] for each in made} == {each["partition_key"] for each in accepted}
    assert len(made) == row["completed_partitions"]
