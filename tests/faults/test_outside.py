"""Row 22: a worker's temporary disk is full, and nobody reads what it prints."""

from __future__ import annotations

import asyncio
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from starforge.queue.job import NewJob
from tests.faults.scene import WAIT_S_MAX, Scene

DISK_BYTES = 1024 * 1024


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        # Only root may mount, and not in every container: no package would help.
        pytest.skip(f"no disk can be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leave no byte."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


async def test_a_job_that_finds_the_disk_full_fails_with_that_reason_and_the_others_go_on(
    scene: Scene, tiny_disk: Path
) -> None:
    too_much = {"folder": str(tiny_disk), "size_bytes": 2 * DISK_BYTES}
    little = {"folder": str(tiny_disk), "size_bytes": 1000}
    await scene.history.enqueue(scene.conn, NewJob("faults.spill", too_much, max_attempts=1))
    await scene.history.enqueue(scene.conn, *(NewJob("faults.spill", little) for _ in range(5)))
    async with scene.worker(TMPDIR=str(tiny_disk)):
        await scene.drained()
    verdict = await scene.check()
    verdict.assert_sound()
    assert verdict.statuses == {"completed": 5, "failed": 1}
    error = await scene.conn.fetchval("SELECT last_error FROM queue_jobs")
    assert (error["error"], error["reason"].split("]")[0]) == ("OSError", "[Errno 28")


async def test_a_worker_whose_temporary_disk_is_full_runs_jobs_and_shows_its_metrics(
    scene: Scene, tiny_disk: Path, free_tcp_port: int
) -> None:
    """Its processes count in mapped files there: one that finds no room would kill its process."""
    async with scene.worker(TMPDIR=str(tiny_disk), METRICS_PORT=str(free_tcp_port)) as worker:
        await scene.history.enqueue(scene.conn, NewJob("faults.effect"))
        await scene.drained()
        fill(tiny_disk)
        await scene.history.enqueue(scene.conn, *(NewJob("faults.effect") for _ in range(10)))
        await scene.history.enqueue(scene.conn, NewJob("faults.fail", {"times": 9}, max_attempts=1))
        await scene.drained()
        page = await asyncio.to_thread(_page, free_tcp_port)
        assert 'job_processed_total{status="completed",type="faults.effect"} 11.0' in page
        for child in worker.children():
            child.kill()
        # The next child does not count where it cannot.
        await scene.history.enqueue(scene.conn, *(NewJob("faults.effect") for _ in range(10)))
        await scene.drained()
        assert await asyncio.to_thread(_page, free_tcp_port)
        assert worker.process.returncode is None
    told = await scene.conn.fetch("SELECT stop_reason FROM workers WHERE state = 'dead'")
    assert "SIGBUS" not in str(told)
    verdict = await scene.check()
    verdict.assert_sound()
    assert verdict.attempts == {0: 21, 1: 1}
    assert verdict.ran_again == set()


def _page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S_MAX) as answer:
        text: bytes = answer.read()
        return text.decode()


async def test_a_worker_whose_output_nobody_reads_keeps_its_lease_and_runs_its_jobs(scene: Scene) -> None:
    """A pipe holds 64 KiB; these jobs print megabytes, and the worker logs at debug level beside them."""
    unread, scene.output = os.pipe()
    await scene.history.enqueue(scene.conn, *(NewJob("faults.chatter", {"lines": 1000}) for _ in range(6)))
    try:
        async with scene.worker("--log-level", "debug", STARFORGE_LEASE_S="2"):
            await scene.drained()
            await scene.history.enqueue(scene.conn, NewJob("faults.effect"))
            await scene.drained()
            await scene.until("SELECT heartbeat_at - started_at > interval '3 s' FROM workers")
    finally:
        os.close(unread)
        os.close(scene.output)
    verdict = await scene.check()
    verdict.assert_sound()
    assert (verdict.statuses, verdict.ran_again) == ({"completed": 7}, set())
    assert await scene.conn.fetchval("SELECT count(*) FROM workers") == 1
