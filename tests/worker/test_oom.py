"""Out of memory, for real: a control group that is too small, and the kernel that kills in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from starforge.db.pool import Connection
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.job import NewJob
from starforge.worker.cgroup import memory_folder, oom_kills
from tests.covers import covers
from tests.worker.marks import APP
from tests.worker.processes import HISTORY, a_worker, until

pytestmark = pytest.mark.once(
    "it is about processes; its statements are prepared on both versions by tests/db/test_statement.py"
)

LIMIT_BYTES = 400 * 1024 * 1024


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory control group of the test's own, under that of this process."""
    above = memory_folder()
    if above is None:
        pytest.skip("no memory control group is visible here")
    folder = above / f"starforge-test-{os.getpid()}"
    try:
        folder.mkdir()
        version_1 = folder / "memory.limit_in_bytes"
        (version_1 if version_1.exists() else folder / "memory.max").write_text(str(LIMIT_BYTES))
    except OSError as error:
        if folder.exists():
            folder.rmdir()
        pytest.skip(f"no memory control group can be made in {above}: {error.strerror}")
    yield folder
    folder.rmdir()


@covers("O-01", "O-29", "O-48")
async def test_a_job_that_fills_the_control_group_is_named_and_quarantined_and_the_others_end(
    db: Connection, database: str, group: Path
) -> None:
    await enqueue_many(db, [NewJob("marks.wait", {"seconds": 2.0}, max_attempts=1) for _ in range(2)])
    glutton = (await enqueue(db, NewJob("marks.fill", max_attempts=1))).id
    async with a_worker(database, app=APP, within=str(group), STARFORGE_BACKOFF_BASE_S="0.02"):
        await until(db, "SELECT status FROM queue_jobs WHERE id = $1", "quarantined", glutton)
        await until(db, HISTORY, 2)
        await until(db, "SELECT count(*) FROM job_kills WHERE told_at IS NULL", 0)
        assert oom_kills(group) == 4
    kills = await db.fetch(
        "SELECT job_id = $1 AS glutton, verdict, cause FROM job_kills ORDER BY 1, 2", glutton
    )
    assert [tuple(row) for row in kills] == [
        (False, "suspect", "oom"),
        (False, "suspect", "oom"),
        (True, "guilty", "oom"),
        (True, "guilty", "oom"),
        (True, "guilty", "oom"),
        (True, "suspect", "oom"),
    ]
    evidence = await db.fetchval("SELECT evidence FROM job_kills WHERE verdict = 'guilty' LIMIT 1")
    assert evidence["exit_status"] == -9
    assert evidence["exit"] == "was killed by signal 9 (SIGKILL), out of memory by the kernel's count"
    assert all(rss_bytes > 0 for _, rss_bytes in evidence["memory"])
    reason = await db.fetchval("SELECT stop_reason FROM workers WHERE state = 'dead'")
    assert reason == f"its process {evidence['exit']}"
    assert await db.fetchval("SELECT count(*) FROM marks WHERE what = 'lost: oom, guilty'") == 3
    assert await db.fetchval("SELECT count(*) FROM job_history WHERE attempts > 0 OR kills > 0") == 0
