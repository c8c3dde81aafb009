"""The demo, run as a user runs it, also while its worker is killed again and again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from starforge.db.pool import Connection, connect
from tests.covers import covers

pytestmark = pytest.mark.once("its statements are prepared on both versions by tests/db/test_statement.py")

WAIT_S = 120
DOCUMENTS = ["PARSE_ERROR", "MAPPING_ERROR"]


def environment(database: str, home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": database,
        "STARFORGE_HOME": str(home),
        "STARFORGE_HTTP_PORT": "0",
        "STARFORGE_GRACE_S": "5",
    }


def worker_of(up: int) -> int | None:
    """Return the process group of the worker that an `up` or `demo` runs now."""
    for child in psutil.Process(up).children():
        if "worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
            return child.pid
    return None


async def kill_worker_when(conn: Connection, up: int, ended: int) -> None:
    """Kill -9 the worker's whole group once so many snapshots have ended."""
    query = "SELECT count(*) FROM hero_snapshots WHERE status <> 'received'"
    async with asyncio.timeout(WAIT_S):
        while await conn.fetchval(query) < ended or (group := worker_of(up)) is None:
            await asyncio.sleep(0.02)
    os.killpg(group, signal.SIGKILL)


@covers("X-17")
async def test_killing_the_workers_group_three_times_in_the_demo_loses_nothing(
    database: str, tmp_path: Path
) -> None:
    demo = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge", "demo", "--once", "--json", "--seed", "3",
        env=environment(database, tmp_path), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    conn = await connect(database)
    for ended in (20, 70, 120):
        await kill_worker_when(conn, demo.pid, ended)
    out, _ = await asyncio.wait_for(demo.communicate(), WAIT_S)
    figures = json.loads(out)
    assert demo.returncode == 0
    assert figures["offered"] == 200
    assert figures["processed"] + figures["failed"] + figures["quarantined"] == figures["ingested"]
    assert figures["ingested"] + figures["duplicates"] == 200
    assert figures["processed"] > 150

    stored = await conn.fetch("SELECT status, count(*) AS n FROM hero_snapshots GROUP BY status")
    by_status = {row["status"]: row["n"] for row in stored}
    kept = await conn.fetchval("SELECT count(*) FROM snapshot_quarantine WHERE bytes IS NOT NULL")
    assert sum(by_status.values()) + kept == figures["ingested"]
    assert "received" not in by_status
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs WHERE status IN ('pending', 'running')") == 0
    states = await conn.fetch("SELECT state, count(*) AS n FROM workers GROUP BY state ORDER BY state")
    assert {row["state"]: row["n"] for row in states} == {"dead": 3, "stopped": 1}
    # Nothing but what is wrong with the documents themselves failed: a kill is told of, and burns no attempt.
    others = await conn.fetch(
        "SELECT message, details FROM etl_errors WHERE NOT error_type = ANY ($1) AND NOT details ? 'verdict'",
        DOCUMENTS,
    )
    assert [tuple(row) for row in others] == []
    assert await conn.fetchval("SELECT max(attempts) FROM job_history") == 0
    await conn.close()


async def test_ctrl_c_ends_the_whole_tree_in_order(database: str, tmp_path: Path) -> None:
    up = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge", "up", "--log-level", "error",
        env=environment(database, tmp_path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    conn = await connect(database)
    async with asyncio.timeout(30):
        while not await conn.fetchval("SELECT count(*) FROM workers WHERE state = 'running'"):
            await asyncio.sleep(0.02)
        # The worker is recorded before its child is there.
        while len(tree := psutil.Process(up.pid).children(recursive=True)) < 2:
            await asyncio.sleep(0.02)
    up.send_signal(signal.SIGINT)
    _, told = await asyncio.wait_for(up.communicate(), 30)
    assert up.returncode == 0
    assert b"Traceback" not in told
    assert not [process for process in tree if process.is_running()]
    assert await conn.fetchval("SELECT state FROM workers") == "stopped"
    await conn.close()


async def test_a_worker_does_not_outlive_an_up_that_was_killed(database: str, tmp_path: Path) -> None:
    up = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge", "up", "--log-level", "error",
        env=environment(database, tmp_path), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    conn = await connect(database)
    async with asyncio.timeout(30):
        while not await conn.fetchval("SELECT count(*) FROM workers WHERE state = 'running'"):
            await asyncio.sleep(0.02)
    tree = psutil.Process(up.pid).children(recursive=True)
    up.kill()
    await up.wait()
    async with asyncio.timeout(30):
        while [process for process in tree if process.is_running() and process.status() != "zombie"]:
            await asyncio.sleep(0.02)
    assert await conn.fetchval("SELECT state FROM workers") == "stopped"
    await conn.close()


async def test_up_with_an_app_that_does_not_exist_ends_and_says_so(database: str, tmp_path: Path) -> None:
    up = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge", "up", "--app", "no.such:app",
        env=environment(database, tmp_path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, told = await asyncio.wait_for(up.communicate(), 30)
    assert up.returncode == 2
    assert b"SF301" in told
    assert b"Traceback" not in told
