"""The server as the programs around it see it: a real browser, and Prometheus' own reader."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from starforge.db.pool import Pool
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob
from starforge.web.serve import bind, serve
from tests.covers import covers

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0",
)  # fmt: skip
JOBS = 3


@pytest.fixture
async def address(pool: Pool) -> AsyncIterator[str]:
    """The address of a real server, whose queue holds three jobs."""
    async with pool.connection() as conn:
        for _ in range(JOBS):
            await enqueue(conn, NewJob("mail.send", queue="mail"))
    listener: socket.socket = bind("127.0.0.1", 0)
    stop = asyncio.Event()
    running = asyncio.create_task(serve(pool, listener, stop))
    yield "http://{}:{}".format(*listener.getsockname()[:2])
    stop.set()
    await running


async def _run(*command: str, given: bytes = b"") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(given), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.system("chromium")
async def test_a_browser_shows_the_first_page_and_its_policy_blocks_nothing_of_ours(
    address: str, tmp_path: Path
) -> None:
    _, page, log = await _run(
        "chromium", *QUIET, f"--user-data-dir={tmp_path}", "--virtual-time-budget=6000", "--dump-dom", address
    )
    assert "StarForge" in page
    assert "mail.send" in page
    assert "Content Security Policy" not in log
    assert "Uncaught" not in log


@pytest.mark.system("prometheus")
@covers("D-08", "J-15")
async def test_prometheus_own_reader_takes_the_page_of_metrics(address: str) -> None:
    reader, writer = await asyncio.open_connection(*address.removeprefix("http://").split(":"))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    page = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    assert b'starforge_queue_jobs_waiting_total{queue="mail",type="mail.send"} 3.0' in page
    status, _, told = await _run("promtool", "check", "metrics", given=page)
    # Its one complaint is the name that the runbooks' dashboards ask for (D-08): a gauge called _total.
    complaints = [line for line in told.splitlines() if line and "_total" not in line]
    assert complaints == []
    assert status in (0, 3)
