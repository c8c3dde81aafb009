"""Row 1: a worker is killed at every statement of a job's path, and of its supervisor's.

A step is a statement, told apart by the process's role, and the begin and end of a transaction by what came
before them. At each step somebody is killed once: before the server hears of it and, where it commits, once
more before the client hears of the answer. The loop ends with a job on whose way nobody was left to kill.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from zlib import crc32

import pytest

from starforge.queue.job import NewJob
from tests.covers import covers
from tests.faults.app import EFFECT
from tests.faults.scene import DRAINED, Scene, Worker, a_scene
from tests.postgres import TestServer
from tests.proxy import Fault, Session, Statement, When, kill, kill_group, nothing
from tests.wire import COMMENT

pytestmark = pytest.mark.once("its statements are prepared on both versions by tests/db/test_statement.py")

LANES = 2
"""Scenes side by side: most of a life is spent starting Python."""

STEPS_MAX = 200
KILLS_PER_WORKER = 3
"""With each quick death a supervisor waits longer before it starts the next child."""

RESCUE_EVERY = 3
"""So many workers are killed before one may finish what they left."""

CLAIM = "SET status = 'running'"

EXTENDED = (
    "SELECT EXISTS (SELECT 1 FROM workers JOIN queue_jobs ON worker_id = workers.id"
    " WHERE heartbeat_at > started_at)"
)

TORTURED = os.environ.get("STARFORGE_TORTURE") == "1"

Step = tuple[str, str, bool, When]


@dataclass
class Killer:
    """A rule that kills at the first step that nobody came to before, or at one of so many of them."""

    role: str
    do: Callable[[Session], None]
    met: set[Step]
    """Steps that some killer came to."""

    commits_only: bool = False
    from_claim: bool = False
    every: int = 1
    """Of so many steps that are new one is killed at: which, the seed says."""

    seed: int = 0
    fired: bool = False

    def __call__(self, statement: Statement) -> Fault | None:
        if self.fired or not statement.application.startswith(self.role):
            return None
        if CLAIM in statement.text:
            self.from_claim = False
        if self.from_claim or (self.commits_only and not statement.commits):
            return None
        edge = statement.text.startswith(("BEGIN", "COMMIT"))
        ends: list[When] = ["before", "after"] if statement.commits else ["before"]
        for when in ends:
            step = (statement.previous if edge else "", statement.text, statement.runs, when)
            if step not in self.met:
                self.met.add(step)
                if crc32(repr(step).encode()) % self.every != self.seed % self.every:
                    continue
                self.fired = True
                what = "run" if statement.runs else "parsed"
                print(f"killed {when} it is {what}: {COMMENT.sub('', statement.text).split()[:12]}")
                return Fault(when, self.do)
        return None


Life = Callable[[Scene, set[Step]], Awaitable[bool]]


async def lived(server: TestServer, folder: Path, life: Life) -> set[Step]:
    """Live one life after the other, in scenes side by side, until one ends with nobody killed."""
    met: set[Step] = set()

    async def lane(number: int) -> None:
        (folder / str(number)).mkdir()
        async with a_scene(server, folder / str(number)) as scene:
            while await life(scene, met):
                assert len(met) < STEPS_MAX
            verdict = await scene.check()
            verdict.assert_sound()
            assert set(verdict.statuses) == {"completed"}
            assert set(verdict.attempts) == {0}, "a kill burnt an attempt"

    async with asyncio.TaskGroup() as lanes:
        for number in range(LANES):
            lanes.create_task(lane(number))
    print(f"{len(met)} steps")
    return met


def texts(steps: set[Step]) -> str:
    return "\n".join(step[1] for step in steps)


@covers("D-12", "D-19")
async def test_a_child_killed_at_any_statement_of_a_jobs_path_loses_nothing_and_burns_no_attempt(
    server: TestServer, tmp_path: Path, seed: int
) -> None:
    async def life(scene: Scene, met: set[Step]) -> bool:
        async with scene.worker(WORKER_CONCURRENCY="1"):
            for _ in range(KILLS_PER_WORKER):
                scene.proxy.rule = killer = Killer("starforge worker", kill, met, from_claim=True)
                await scene.history.enqueue(scene.conn, *some_jobs())
                await scene.drained()
                if not killer.fired:
                    return False
        return True

    steps = texts(await lived(server, tmp_path, life))
    for part in (CLAIM, EFFECT, "INSERT INTO job_history"):
        assert part in steps


async def test_a_group_killed_at_any_commit_of_a_jobs_path_loses_nothing_and_burns_no_attempt(
    server: TestServer, tmp_path: Path, seed: int
) -> None:
    async def life(scene: Scene, met: set[Step]) -> bool:
        for _ in range(RESCUE_EVERY):
            killer = Killer("starforge worker", kill_group, met, commits_only=True, from_claim=True)
            scene.proxy.rule = killer
            await scene.history.enqueue(scene.conn, *some_jobs())
            async with scene.worker(WORKER_CONCURRENCY="1") as worker:
                await over(scene, worker, DRAINED)
            if not killer.fired:
                return False
        await rescued(scene)
        return True

    assert CLAIM in texts(await lived(server, tmp_path, life))


@covers("D-12")
async def test_a_supervisor_killed_at_any_of_its_own_statements_loses_nothing_and_burns_no_attempt(
    server: TestServer, tmp_path: Path, seed: int
) -> None:
    """From its start to the end of its stop: a job is still running when it is told to stop."""

    async def life(scene: Scene, met: set[Step]) -> bool:
        fired = False
        for _ in range(RESCUE_EVERY):
            scene.proxy.rule = killer = Killer("starforge supervisor", kill, met)
            await scene.history.enqueue(scene.conn, *some_jobs())
            async with scene.worker(
                WORKER_CONCURRENCY="2", STARFORGE_LEASE_S="1", STARFORGE_GRACE_S="0.1", FAULTS_EFFECT_S="30"
            ) as worker:
                await over(scene, worker, EXTENDED)
                if worker.process.returncode is None:
                    worker.signal(SIGTERM)
                await worker.ended()
            fired = killer.fired
            if not fired:
                break
        await rescued(scene)
        return fired

    steps = texts(await lived(server, tmp_path, life))
    for part in ("INSERT INTO workers", "SET heartbeat_at", "SET state = $2", "INSERT INTO leases"):
        assert part in steps


def some_jobs() -> list[NewJob]:
    """Make a job whose effect is a transaction of its own, and one whose effect is its completion's."""
    return [NewJob("faults.effect"), NewJob("faults.once")]


async def rescued(scene: Scene) -> None:
    """Let another worker of the machine finish what the dead ones held."""
    scene.proxy.rule = nothing
    async with scene.worker(WORKER_CONCURRENCY="1"):
        await scene.drained()


async def over(scene: Scene, worker: Worker, query: str) -> None:
    """Wait for the query to hold or for the worker to end."""
    ended = asyncio.create_task(worker.process.wait())
    held = asyncio.create_task(scene.until(query))
    await asyncio.wait({ended, held}, return_when=asyncio.FIRST_COMPLETED)
    for task in (ended, held):
        task.cancel()
    await asyncio.gather(ended, held, return_exceptions=True)
