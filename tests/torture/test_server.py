"""Rows 13 and 14: Postgres is killed and frozen under load."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import psutil
import pytest

from starforge.clock import monotonic_s
from starforge.db.errors import DatabaseUnreachableError
from starforge.db.pool import connect
from starforge.queue.job import NewJob
from tests.conftest import _make_template
from tests.covers import covers
from tests.faults.scene import DRAINED, Scene, a_scene
from tests.postgres import TestServer

FROZEN_S = 60.0


@pytest.fixture
def durable() -> Iterator[TestServer]:
    """A server of the test's own that keeps what it acknowledged: fsync, on a disk."""
    options = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    version = os.environ.get("STARFORGE_TEST_POSTGRES", "18")
    server = TestServer(version, options=options, on_disk=True)
    asyncio.run(_make_template(server))
    yield server
    server.stop()


@pytest.fixture
async def scene(durable: TestServer, tmp_path: Path, seed: int) -> AsyncIterator[Scene]:
    """A scene on that server."""
    async with a_scene(durable, tmp_path) as made:
        yield made


async def _produce(scene: Scene, until_s: float, draw: random.Random) -> None:
    """Enqueue, alone and in bulk, whatever happens to the server."""
    while monotonic_s() < until_s:
        try:
            conn = await connect(scene.database)
        except DatabaseUnreachableError:
            await asyncio.sleep(0.05)
            continue
        while monotonic_s() < until_s and not conn.is_closed():
            kind = draw.choice(["faults.nothing", "faults.once"])
            await scene.history.enqueue(conn, *(NewJob(kind) for _ in range(draw.choice([1, 1, 1, 20]))))
            await asyncio.sleep(draw.uniform(0, 0.05))
        conn.terminate()


async def _again(scene: Scene) -> None:
    """Take the scene's connection to the server up again."""
    async with asyncio.timeout(60):
        while True:
            try:
                scene.conn = await connect(scene.database)
                return
            except DatabaseUnreachableError:
                await asyncio.sleep(0.05)


async def _drained(scene: Scene) -> None:
    async with asyncio.timeout(180):
        while not await scene.conn.fetchval(DRAINED):
            await asyncio.sleep(0.05)


@covers("G1", "G2")
async def test_every_acknowledged_job_outlives_crashes_of_the_server(
    scene: Scene, durable: TestServer, seed: int, minutes: float
) -> None:
    draw = random.Random(seed)
    until_s = monotonic_s() + minutes * 60
    producers = [asyncio.create_task(_produce(scene, until_s, draw)) for _ in range(6)]
    crashes = 0
    environment = {"STARFORGE_LEASE_S": "10", "STARFORGE_BACKOFF_BASE_S": "0.1"}
    async with scene.worker(**environment), scene.worker(**environment):
        while monotonic_s() < until_s:
            await asyncio.sleep(draw.uniform(1, 8))
            scene.conn.terminate()
            if draw.random() < 0.5:
                await asyncio.to_thread(durable.halt)
            else:
                await asyncio.to_thread(_kill_postmaster, durable)
            crashes += 1
            await asyncio.sleep(draw.uniform(0, 1))
            await asyncio.to_thread(durable.start)
            await _again(scene)
        await asyncio.gather(*producers)
        await _drained(scene)
    print(
        f"{crashes} crashes; {len(scene.history.acknowledged)} acknowledged, "
        f"{len(scene.history.unknown)} unknown, {len(scene.history.refused)} refused"
    )
    verdict = await scene.check()
    verdict.assert_sound()
    assert scene.history.acknowledged


def _kill_postmaster(server: TestServer) -> None:
    """Kill the postmaster, and wait until its orphans have noticed."""
    family = psutil.Process(server.pid)
    everyone = [family, *family.children(recursive=True)]
    family.send_signal(SIGKILL)
    _, alive = psutil.wait_procs(everyone[1:], timeout=10)
    for process in alive:
        process.kill()
    psutil.wait_procs(everyone, timeout=10)


@covers("G3", "G4", "G8")
async def test_a_server_that_was_frozen_for_longer_than_a_lease_has_no_effect_twice(
    scene: Scene, durable: TestServer, minutes: float
) -> None:
    """Everybody's statements hang, and go on all at once after the thaw, late ones among them."""
    environment = {"STARFORGE_LEASE_S": "10", "STARFORGE_BACKOFF_BASE_S": "0.1", "FAULTS_EFFECT_S": "0.2"}
    async with scene.worker("--log-level", "warning", **environment) as worker, scene.worker(**environment):
        await scene.history.enqueue(scene.conn, *(NewJob("faults.once") for _ in range(300)))
        await scene.until("SELECT count(*) > 20 FROM job_history")
        family = psutil.Process(durable.pid)
        frozen = [family, *family.children(recursive=True)]
        for process in frozen:
            process.send_signal(SIGSTOP)
        thaw_s = monotonic_s() + min(FROZEN_S, minutes * 60)
        await worker.logged("heartbeat.failed")
        while monotonic_s() < thaw_s:
            await asyncio.sleep(0.05)
        for process in frozen:
            process.send_signal(SIGCONT)
        await _drained(scene)
    verdict = await scene.check()
    verdict.assert_sound()
    assert (verdict.statuses, verdict.attempts) == ({"completed": 300}, {0: 300})
