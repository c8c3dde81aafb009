"""`starforge up` keeps one worker running, and ends in order whenever it is told to."""

from __future__ import annotations

import asyncio

from starforge.dev.up import WorkerProcess


async def test_a_worker_that_is_told_to_stop_while_it_is_being_started_ends(database: str) -> None:
    worker = WorkerProcess(database, "tests.worker.marks:app", "error")
    keeper = asyncio.create_task(worker.run())
    await asyncio.sleep(0)  # the process is asked for and not there yet
    await worker.stop()
    await asyncio.wait_for(keeper, 10)
    assert worker.pid is None
