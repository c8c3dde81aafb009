"""Row 23: the wall clock of a worker's machine is wrong and jumps; the database's clock steps."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from starforge.queue.job import NewJob
from tests.conftest import Travel
from tests.covers import covers
from tests.faults.scene import Scene


class WrongClock:
    """A wall clock for the processes that are started with its environment; it can be set while they run."""

    def __init__(self, folder: Path) -> None:
        [library] = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        self._file = folder / "clock"
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, hours: float) -> None:
        self._file.write_text(f"{hours * 3600:+.0f}s")


@pytest.mark.system("faketime")
@covers("D-12", "G5")
async def test_a_worker_whose_clock_is_hours_off_and_jumps_keeps_its_lease_and_its_jobs(
    scene: Scene, tmp_path: Path
) -> None:
    """Another worker, with the right clock, is there to rescue what it takes for dead."""
    clock = WrongClock(tmp_path)
    clock.set(2)
    lease = {"STARFORGE_LEASE_S": "3", "WORKER_CONCURRENCY": "1"}
    [long] = await scene.history.enqueue(scene.conn, NewJob("faults.effect"))
    async with scene.worker(FAULTS_EFFECT_S="5", **lease, **clock.environment) as wrong:
        await scene.until("SELECT count(*) FROM effects", 1)
        async with scene.worker(**lease):
            await scene.until("SELECT count(*) FROM workers WHERE state = 'running'", 2)
            for hours in (-2, 0, 2, -2):
                clock.set(hours)
                await scene.history.enqueue(scene.conn, NewJob("faults.fail", {"times": 1}))
                for _ in range(20):
                    await asyncio.sleep(0.05)
            await scene.drained()
        assert wrong.process.returncode is None
    verdict = await scene.check()
    verdict.assert_sound()
    assert verdict.statuses == {"completed": 5}
    assert long not in verdict.ran_again
    rows = await scene.conn.fetch("SELECT state FROM workers")
    assert "dead" not in {row["state"] for row in rows}
    wide = await scene.conn.fetchval(
        "SELECT max(greatest(abs(extract(epoch FROM completed_at - now())),"
        " abs(extract(epoch FROM run_after - now())), abs(extract(epoch FROM created_at - now()))))"
        " FROM job_history"
    )
    assert wide < 3600, "a worker's clock got into the tables"


@pytest.mark.system("faketime")
async def test_jobs_that_a_worker_with_a_wrong_clock_retries_or_enqueues_wait_by_the_databases_clock(
    scene: Scene, tmp_path: Path
) -> None:
    clock = WrongClock(tmp_path)
    clock.set(-2)
    await scene.history.enqueue(scene.conn, NewJob("faults.fail", {"times": 1}))
    async with scene.worker(STARFORGE_BACKOFF_BASE_S="600", **clock.environment):
        await scene.until("SELECT count(*) FROM queue_jobs WHERE attempts = 1", 1)
    wait_s = await scene.conn.fetchval("SELECT extract(epoch FROM run_after - now())::float8 FROM queue_jobs")
    assert 240 < wait_s <= 600


@covers("G3", "G5")
@pytest.mark.parametrize("by", [timedelta(hours=2), timedelta(hours=-2)], ids=["forth", "back"])
async def test_a_step_of_the_databases_clock_is_noticed_and_loses_no_job(
    scene: Scene, travel: Travel, by: timedelta
) -> None:
    """Forth, every lease is over at once; back, what waits is due later, and the leases of now are longer."""
    await scene.history.enqueue(scene.conn, NewJob("faults.once"), NewJob("faults.once"))
    lease = {"STARFORGE_LEASE_S": "2", "WORKER_CONCURRENCY": "2"}
    async with scene.worker("--log-level", "warning", FAULTS_EFFECT_S="1.5", **lease) as worker:
        await scene.until("SELECT count(*) FROM queue_jobs WHERE status = 'running'", 2)
        await scene.until("SELECT heartbeat_at > started_at FROM workers")
        await travel(scene.conn, seconds=by.total_seconds())
        told = await worker.logged("database.clock_stepped")
        assert abs(told["by_s"] - by.total_seconds()) < 5
        await scene.drained()
        await scene.history.enqueue(scene.conn, NewJob("faults.effect"))
        await scene.drained()
    verdict = await scene.check()
    verdict.assert_sound()
    assert (verdict.statuses, verdict.attempts) == ({"completed": 3}, {0: 3})
