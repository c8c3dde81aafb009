"""Rows 5 and 7: a worker that was thought dead wakes up; a worker is told to stop, and told again."""

from __future__ import annotations

from signal import SIGCONT, SIGSTOP, SIGTERM

from starforge.queue.job import NewJob
from tests.covers import covers
from tests.faults.scene import Scene

DEAD = "SELECT count(*) FROM workers WHERE state = 'dead' AND pid = $1"


@covers("D-12", "X-03", "G3")
async def test_the_result_of_a_zombie_comes_too_late_is_refused_and_is_counted(scene: Scene) -> None:
    """It is frozen in a job for longer than its lease; its child wakes before its supervisor."""
    [job_id] = await scene.history.enqueue(scene.conn, NewJob("faults.effect"))
    short = {"STARFORGE_LEASE_S": "1", "WORKER_CONCURRENCY": "1"}
    async with scene.worker("--log-level", "warning", FAULTS_EFFECT_S="1", **short) as zombie:
        await scene.until("SELECT count(*) FROM effects", 1)
        zombie.signal_group(SIGSTOP)
        async with scene.worker(**short):
            await scene.drained()
        assert await scene.conn.fetchval(DEAD, zombie.pid) == 1
        said = len(scene.proxy.statements)
        for child in zombie.children():
            child.send_signal(SIGCONT)
        await scene.asked("DELETE FROM queue_jobs", after=said)
        zombie.signal_group(SIGCONT)
        refused = await zombie.logged("job.lease_lost")
        assert refused["job_id"] == str(job_id)
        # The supervisor finds its lease lost, ends that child, and goes on as another worker.
        await scene.until("SELECT count(*) FROM workers WHERE state = 'running' AND pid = $1", 1, zombie.pid)
        await scene.history.enqueue(scene.conn, NewJob("faults.effect"))
        await scene.drained()
    verdict = await scene.check()
    verdict.assert_sound()
    assert (verdict.statuses, verdict.attempts) == ({"completed": 2}, {0: 2})
    assert verdict.ran_again == {job_id}
    [first, second] = [start for start in scene.history.starts() if start.job == job_id]
    assert first.epoch < second.epoch
    finisher = await scene.conn.fetchval("SELECT worker_id FROM job_history WHERE id = $1", job_id)
    assert finisher == second.worker


async def test_a_worker_frozen_for_less_than_its_lease_goes_on_as_if_nothing_had_been(scene: Scene) -> None:
    [job_id] = await scene.history.enqueue(scene.conn, NewJob("faults.effect"))
    async with scene.worker(FAULTS_EFFECT_S="0.5", STARFORGE_LEASE_S="30") as worker:
        await scene.until("SELECT count(*) FROM effects", 1)
        worker.signal_group(SIGSTOP)
        async with scene.worker(STARFORGE_LEASE_S="30"):
            await scene.history.enqueue(scene.conn, NewJob("faults.nothing"))
            await scene.until("SELECT count(*) FROM job_history", 1)
            worker.signal_group(SIGCONT)
            await scene.drained()
    verdict = await scene.check()
    verdict.assert_sound()
    assert verdict.ran_again == set()
    assert await scene.conn.fetchval("SELECT count(*) FROM workers WHERE state = 'dead'") == 0
    assert await scene.conn.fetchval("SELECT lease_epoch FROM job_history WHERE id = $1", job_id) == 1


@covers("G2")
async def test_a_worker_told_twice_to_stop_gives_its_jobs_back_and_another_runs_them_at_once(
    scene: Scene,
) -> None:
    """The lease is an hour long: nobody waited for its end."""
    await scene.history.enqueue(scene.conn, *(NewJob("faults.effect") for _ in range(6)))
    long = {"STARFORGE_LEASE_S": "3600", "STARFORGE_GRACE_S": "600", "WORKER_CONCURRENCY": "2"}
    async with scene.worker(FAULTS_EFFECT_S="600", **long) as stopped:
        await scene.until("SELECT count(*) FROM effects", 2)
        stopped.signal(SIGTERM)
        await scene.until("SELECT state FROM workers", "stopping")
        stopped.signal(SIGTERM)
        assert await stopped.ended() == 0
        assert await scene.conn.fetchval("SELECT count(*) FROM queue_jobs WHERE status = 'pending'") == 6
        async with scene.worker(**long):
            await scene.drained()
    verdict = await scene.check()
    verdict.assert_sound()
    assert (verdict.statuses, verdict.attempts) == ({"completed": 6}, {0: 6})
    assert len(verdict.ran_again) == 2
