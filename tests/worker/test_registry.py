"""The registry of workers: who ended long ago is forgotten, who is gone is buried, who lives never is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable

import psutil
import pytest

from starforge.db.pool import Connection
from starforge.worker.burial import bury_the_gone
from starforge.worker.registry import prune, stop
from tests.queue.jobs import a_worker

STATE = "SELECT state FROM workers"
URL = "postgresql://nobody@127.0.0.1:1/none"


async def test_a_worker_that_ended_is_kept_a_week_and_then_forgotten(
    conn: Connection, travel: Callable[..., Awaitable[None]]
) -> None:
    ended = await a_worker(conn)
    await stop(conn, ended, ended=True, reason="told to")
    assert await prune(conn) == 0
    await travel(conn, days=8)
    living = await a_worker(conn)
    assert await prune(conn) == 1
    assert [row["id"] for row in await conn.fetch("SELECT id FROM workers")] == [living]


async def _registered(conn: Connection, **changed: object) -> None:
    await a_worker(conn, lease_s=60)
    for column, value in changed.items():
        await conn.execute(f"UPDATE workers SET {column} = $1", value)


async def test_a_worker_whose_process_lives_is_not_buried(conn: Connection) -> None:
    await _registered(conn)
    assert await bury_the_gone(conn, URL) == 0


@pytest.mark.parametrize("step_s", [7200, -7200])
async def test_setting_the_machines_clock_buries_nobody(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    """Linux tells when it was booted by the wall clock of now: a step of the clock moves that time."""
    await _registered(conn)
    boot_s = psutil.boot_time()
    monkeypatch.setattr("psutil.boot_time", lambda: boot_s + step_s)
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot_s + step_s)
    assert await bury_the_gone(conn, URL) == 0


async def test_a_worker_whose_process_ended_is_buried(conn: Connection) -> None:
    ended = _ended()
    ended.wait()
    await _registered(conn, pid=ended.pid)
    assert await bury_the_gone(conn, URL) == 1
    assert await conn.fetchval(STATE) == "dead"


async def test_a_worker_whose_process_waits_to_be_reaped_is_buried(conn: Connection) -> None:
    zombie = _ended()
    await _registered(conn, pid=zombie.pid, pid_started_s=_started_s(zombie.pid))
    assert await bury_the_gone(conn, URL) == 1
    zombie.wait()


async def test_another_process_with_the_number_of_a_worker_is_not_the_worker(conn: Connection) -> None:
    await _registered(conn, pid=1)
    assert await bury_the_gone(conn, URL) == 1


async def test_a_worker_of_another_machine_or_container_is_not_judged_by_its_number(conn: Connection) -> None:
    await _registered(conn, pid=2**22 + 1, machine="another boot:4026531836")
    assert await bury_the_gone(conn, URL) == 0


def _started_s(pid: int) -> float:
    return psutil.Process(pid).create_time() - psutil.boot_time()


def _ended() -> subprocess.Popen[bytes]:
    """A process that has ended and that nobody has asked for its status yet."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process
