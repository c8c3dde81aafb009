"""What the database finds unfit at once is what the comparison in words says must not go on."""

from __future__ import annotations

import random
from typing import Any

import pytest

from starforge.backfill.state.integrity import blocking, integrity, unfit
from starforge.db.pool import Connection
from tests.backfill.backfills import a_backfill
from tests.covers import covers

REOPENED = """
UPDATE backfill_partitions SET reopened_at = sf_now() WHERE backfill_job_id = $1 AND ordinal = $2
"""
STATES = ("pending", "running", "completed", "completed", "failed", "cancelled")


@covers("B-35", "D-14")
@pytest.mark.parametrize("seed", range(8))
async def test_what_is_unfit_is_what_blocks_a_resume(conn: Connection, seed: int) -> None:
    dice, ids, blocked = random.Random(seed), [], set()
    for _ in range(15):
        parts = dice.choices(STATES, k=dice.randrange(6))
        changed: dict[str, Any] = {
            "checkpoint_partition_key": dice.choice([None, "p1", "p3", f"p{len(parts)}", "gone"]),
            "completed_partitions": max(0, parts.count("completed") + dice.choice([0, 0, -1, 1])),
            "failed_partitions": parts.count("failed") + dice.choice([0, 1]),
            "total_partitions": len(parts) + dice.choice([0, 0, 0, 1]),
        }
        ids.append(await a_backfill(conn, "paused", *parts, **(changed if dice.random() < 0.8 else {})))
        await conn.execute(REOPENED, ids[-1], dice.randrange(1, 5))
        if (await integrity(conn, ids[-1], "default")).blocks:
            blocked.add(ids[-1])
    assert await unfit(conn, ids, "default") == blocked
    assert blocked
    assert blocked != set(ids)
    assert {one for one in ids if await blocking(conn, one, "default")} == blocked
    assert await unfit(conn, ids, "theirs") == set()
