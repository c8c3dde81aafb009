"""Row 1: a worker is killed at every statement of a job's path, and of its supervisor's.

A step is a statement, told apart by what came before it on its connection and by whether a claim had been
made. There is one life, and one kill, for each: before the server hears of it and, where it commits, once
more before the client hears of the answer. The loop ends with a life that has no step left to be killed at.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from starforge.queue.job import NewJob
from tests.covers import covers
from tests.faults.scene import DRAINED, Scene, Worker, a_scene
from tests.postgres import TestServer
from tests.proxy import Fault, Session, Statement, When, kill, kill_group
from tests.wire import COMMENT

LANES = 2
"""Scenes side by side: most of a life is spent starting Python."""

STEPS_MAX = 200
CLAIM = "SET status = 'running'"

EXTENDED = (
    "SELECT EXISTS (SELECT 1 FROM workers JOIN queue_jobs ON worker_id = workers.id"
    " WHERE heartbeat_at > started_at)"
)

Step = tuple[bool, str, str, bool, When]


@dataclass
class Killer:
    """A rule that kills at the first step that nobody was killed at before."""

    role: str
    do: Callable[[Session], None]
    killed_at: set[Step]
    commits_only: bool = False
    fired: bool = False
    claimed: bool = False

    def __call__(self, statement: Statement) -> Fault | None:
        if self.fired or not statement.application.startswith(self.role):
            return None
        ends: list[When] = ["before", "after"] if statement.commits else ["before"]
        for when in ends:
            step = (self.claimed, statement.previous, statement.text, statement.runs, when)
            if step not in self.killed_at and (statement.commits or not self.commits_only):
                self.killed_at.add(step)
                self.fired = True
                what = "run" if statement.runs else "parsed"
                print(f"killed {when} it is {what}: {COMMENT.sub('', statement.text).split()[:12]}")
                return Fault(when, self.do)
        self.claimed = self.claimed or (statement.runs and CLAIM in statement.text)
        return None


Life = Callable[[Scene, set[Step]], Awaitable[bool]]


async def lived(server: TestServer, folder: Path, life: Life) -> set[Step]:
    """Live one life after the other, in scenes side by side, until one ends with nobody killed."""
    killed_at: set[Step] = set()

    async def lane(number: int) -> None:
        (folder / str(number)).mkdir()
        async with a_scene(server, folder / str(number)) as scene:
            while await life(scene, killed_at):
                assert len(killed_at) < STEPS_MAX
            verdict = await scene.check()
            verdict.assert_sound()
            assert set(verdict.statuses) == {"completed"}
            assert set(verdict.attempts) == {0}, "a kill burnt an attempt"

    async with asyncio.TaskGroup() as lanes:
        for number in range(LANES):
            lanes.create_task(lane(number))
    print(f"{len(killed_at)} steps")
    return killed_at


def texts(steps: set[Step]) -> str:
    return "\n".join(step[2] for step in steps)


@covers("D-12", "D-19")
async def test_a_child_killed_at_any_statement_of_a_jobs_path_loses_nothing_and_burns_no_attempt(
    server: TestServer, tmp_path: Path, seed: int
) -> None:
    async def life(scene: Scene, killed_at: set[Step]) -> bool:
        scene.proxy.rule = killer = Killer("starforge worker", kill, killed_at)
        await scene.history.enqueue(scene.conn, NewJob("faults.effect"), NewJob("faults.once"))
        async with scene.worker(WORKER_CONCURRENCY="1"):
            await scene.drained()
        return killer.fired

    steps = await lived(server, tmp_path, life)
    for part in (CLAIM, "INSERT INTO effects", "INSERT INTO job_history"):
        assert part in texts(steps)


async def rescued(scene: Scene) -> None:
    """Let another worker of the machine finish what a dead one held."""
    scene.proxy.rule = lambda _statement: None
    async with scene.worker(WORKER_CONCURRENCY="1"):
        await scene.drained()


async def test_a_group_killed_at_any_commit_of_a_jobs_path_loses_nothing_and_burns_no_attempt(
    server: TestServer, tmp_path: Path, seed: int
) -> None:
    async def life(scene: Scene, killed_at: set[Step]) -> bool:
        scene.proxy.rule = killer = Killer("starforge worker", kill_group, killed_at, commits_only=True)
        await scene.history.enqueue(scene.conn, NewJob("faults.effect"), NewJob("faults.once"))
        async with scene.worker(WORKER_CONCURRENCY="1") as worker:
            await over(scene, worker, DRAINED)
        await rescued(scene)
        return killer.fired

    steps = await lived(server, tmp_path, life)
    assert CLAIM in texts(steps)


@covers("D-12")
async def test_a_supervisor_killed_at_any_of_its_own_statements_loses_nothing_and_burns_no_attempt(
    server: TestServer, tmp_path: Path, seed: int
) -> None:
    """From its start to the end of its stop: the job is still running when it is told to stop."""

    async def life(scene: Scene, killed_at: set[Step]) -> bool:
        scene.proxy.rule = killer = Killer("starforge supervisor", kill, killed_at)
        await scene.history.enqueue(scene.conn, NewJob("faults.effect"), NewJob("faults.once"))
        async with scene.worker(
            WORKER_CONCURRENCY="1", STARFORGE_LEASE_S="1", STARFORGE_GRACE_S="0.1", FAULTS_EFFECT_S="30"
        ) as worker:
            await over(scene, worker, EXTENDED)
            if worker.process.returncode is None:
                worker.signal(signal.SIGTERM)
            await worker.ended()
        await rescued(scene)
        return killer.fired

    steps = await lived(server, tmp_path, life)
    assert "INSERT INTO workers" in texts(steps)
    assert "SET heartbeat_at" in texts(steps)
    assert "SET state = $2" in texts(steps)


async def over(scene: Scene, worker: Worker, query: str) -> None:
    """Wait for the query to hold or for the worker to end."""
    ended = asyncio.create_task(worker.process.wait())
    held = asyncio.create_task(scene.until(query))
    await asyncio.wait({ended, held}, return_when=asyncio.FIRST_COMPLETED)
    for task in (ended, held):
        task.cancel()
    await asyncio.gather(ended, held, return_exceptions=True)
