"""The runbooks' statements on the queue, word for word, by the operator, while workers drain it (X-14)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from starforge.db.pool import Connection, connect
from starforge.queue.job import NewJob
from tests.contracts.contract import filled, statements
from tests.covers import covers
from tests.faults.scene import Scene

pytestmark = pytest.mark.shared

ENTRIES = {
    entry["id"]: entry["sql"]
    for entry in statements()
    if entry["id"].startswith("Q-SQL-") or entry["id"] in ("F-SQL-3", "O-SQL-6")
}
JOBS, BATCH = 20_000, 2_000
OURS = "FROM queue_jobs WHERE type = 'faults.quiet'"
LEFT = f"SELECT NOT EXISTS (SELECT 1 {OURS} AND status IN ('pending', 'running'))"


@dataclass
class Hand:
    """A person at psql who does one thing after the other; what it did to which job."""

    conn: Connection
    draw: random.Random
    done: Counter[str] = field(default_factory=Counter)
    failed: dict[UUID, tuple[str, int]] = field(default_factory=dict)
    """Job → the statement that failed it last, and its epoch then."""

    buried: int = 0
    made: int = 0

    async def work(self, stop: asyncio.Event) -> None:
        """Run every statement, again and again, until told to stop: between two rounds."""
        while not stop.is_set():
            for name in self.draw.sample(sorted(ENTRIES), len(ENTRIES)):
                await self.run(name)

    async def run(self, name: str) -> None:
        """Run one statement, on some job that waits or runs."""
        status = self.draw.choice(["running", "pending"])
        rows = await self.conn.fetch(f"SELECT id {OURS} AND status = $1 LIMIT 20", status)
        job: Any = self.draw.choice(rows)["id"] if rows else UUID(int=0)
        values = {"job_id": str(job), "snapshot_id": "none", "type": "faults.quiet", "payload": "{}"}
        changes = name in ("Q-SQL-4", "Q-SQL-8")
        async with self.conn.transaction():
            said = await self.conn.execute(filled(ENTRIES[name], values))
            if changes and said == "UPDATE 1":
                epoch = await self.conn.fetchval("SELECT lease_epoch FROM queue_jobs WHERE id = $1", job)
        if changes and said == "UPDATE 1":
            self.failed[job] = (name, epoch)
        self.done[name] += 1
        self.buried += said == "INSERT 0 1" and name in ("Q-SQL-5", "Q-SQL-7")
        self.made += said == "INSERT 0 1" and name == "O-SQL-6"


@covers("X-14", "Q-23", "Q-49")
async def test_what_hands_do_under_load_raises_nothing_loses_nothing_and_is_honoured(
    scene: Scene, seed: int
) -> None:
    operators = [await connect(scene.database.replace("tester@", "starforge_operator@")) for _ in range(2)]
    hands = [Hand(conn, random.Random(seed + number)) for number, conn in enumerate(operators)]
    for _ in range(JOBS // BATCH):
        await scene.history.enqueue(scene.conn, *(NewJob("faults.quiet") for _ in range(BATCH)))
    async with scene.worker(), scene.worker():
        # Hands are not cancelled: one that was in the middle of its COMMIT would not know what it did.
        stop = asyncio.Event()
        working = [asyncio.create_task(hand.work(stop)) for hand in hands]
        drained = asyncio.create_task(scene.until(LEFT))
        await asyncio.wait({drained, *working}, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await asyncio.gather(drained, *working)
    done = sum((hand.done for hand in hands), Counter[str]())
    print(done)
    assert set(done) == set(ENTRIES)
    await _honoured(scene, hands)
    for conn in operators:
        await conn.close()


async def _honoured(scene: Scene, hands: list[Hand]) -> None:
    """Check the effects, and that every other job was completed once."""
    failed = {job: how for hand in hands for job, how in hand.failed.items()}
    assert failed, "no job was in reach"
    rows = await scene.conn.fetch(f"SELECT id, status, last_error, lease_epoch {OURS}")
    assert {row["id"] for row in rows} == set(failed), "one that was failed by hand did not stay so"
    for row in rows:
        name, epoch = failed[row["id"]]
        assert (row["status"], row["lease_epoch"]) == ("failed", epoch), name
        if name == "Q-SQL-4":
            assert row["last_error"]["reason"] == "quarantined for manual review"
    done = await scene.conn.fetch("SELECT id FROM job_history WHERE status = 'completed'")
    assert len(done) == JOBS - len(failed)
    assert {row["id"] for row in done} | set(failed) == scene.history.acknowledged
    letters = await scene.conn.fetchval("SELECT count(*) FROM queue_jobs_dlq")
    assert letters == sum(hand.buried for hand in hands)
    made = await scene.conn.fetchval(
        "SELECT count(*) FROM queue_jobs WHERE type = 'process_snapshot_highmem' AND status = 'pending'"
    )
    assert made == sum(hand.made for hand in hands)
