"""Row 16: a slow, slicing network that resets connections in the middle of a row."""

from __future__ import annotations

import asyncio
import random

from starforge.queue.job import NewJob
from tests.covers import covers
from tests.faults.scene import DRAINED, Scene
from tests.proxy import Fault, Statement, reset

LATENCY_S = 0.2
RESETS = 0.03


@covers("G2", "G3", "G4")
async def test_work_over_a_bad_network_is_slower_and_right(scene: Scene, seed: int) -> None:
    draw = random.Random(seed)
    count = 0

    def rule(statement: Statement) -> Fault | None:
        nonlocal count
        if draw.random() > RESETS:
            return None
        count += 1
        return Fault(draw.choice(["before", "after", "mid_row"]), reset)

    jobs = [NewJob(kind) for kind in ("faults.nothing", "faults.once") for _ in range(60)]
    await scene.history.enqueue(scene.conn, *jobs)
    scene.proxy.latency_s, scene.proxy.slice_bytes, scene.proxy.rule = LATENCY_S, 7, rule
    async with scene.worker(WORKER_CONCURRENCY="8", STARFORGE_BACKOFF_BASE_S="0.1"):
        async with asyncio.timeout(600):
            while not await scene.conn.fetchval(DRAINED):
                await asyncio.sleep(0.05)
    print(f"{count} resets in {len(scene.proxy.statements)} statements")
    verdict = await scene.check()
    verdict.assert_sound()
    assert verdict.statuses == {"completed": 120}
