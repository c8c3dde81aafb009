"""`starforge bench ingest`: snapshots of 50 kB over HTTP into a server, alone and beside clients that harm.

The server is a process of its own on a database of its own, the client another; what harms runs here: slow
heads, slow bodies, and bodies of 1 GB, with and without their length said beforehand.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psutil

from starforge.db.server import Database
from starforge.dev.bench.figures import Report, conditions, percentiles, spread
from starforge.dev.bench.ingest_client import Orders, Told
from starforge.dev.bench.place import Place, in_database, place
from starforge.dev.errors import BenchStalledError
from starforge.telemetry.process import forget_peak, memory_of
from starforge.web.auth import FILE_NAME, make_token

SERVES = re.compile(r"http://([0-9.]+):(\d+)")
WARM_S = 3.0
START_S_MAX = 60.0
SLOW_CLIENTS = 60
DRIBBLE_S = 0.5
HUGE_BYTES = 1 << 30
HUGE_PIECE = bytes(1 << 16)
HUGE_EVERY_S = 1.0
MB = 1e6


@dataclass(slots=True)
class _Figures:
    """The rounds of one variant."""

    per_s: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    growth_mb: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    """The most that the server held in memory while it was measured, over what it held before."""

    cpu_ms: list[float] = field(default_factory=list)
    """Processor time of the server for one request: what other programs on the machine change least."""

    statuses: dict[int, int] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        told = percentiles(self.ms)
        return {
            "requests_per_s": spread(self.per_s),
            **{f"{name}_ms": told[name] for name in ("p50", "p95", "p99", "max")},
            "p99_ms_by_round": spread(self.p99_ms),
            "growth_mb": spread(self.growth_mb),
            "peak_mb": spread(self.peak_mb),
            "server_cpu_ms": spread(self.cpu_ms),
            "requests": told["n"],
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
        }


async def bench_ingest(
    server: Database, *, seconds: float, connections: int, rounds: int, report: Report, warm_s: float = WARM_S
) -> dict[str, Any]:
    """Measure and return the figures.

    Args:
        server: Where to make the benchmark's own database; it is dropped again.
        seconds: How long each variant is measured in each round.
        connections: Keep-alive connections of the client; each has one request under way.
        rounds: How often each variant is measured.
        report: Called with a line about each phase.
        warm_s: How long the server is warmed up.
    """
    alone, beside = _Figures(), _Figures()
    async with place(server, "engine") as here, _serving(server, here) as serving:
        report(f"warming up, {warm_s:g} s")
        await _run(serving, connections, warm_s, "warm", _Figures())
        for number in range(1, rounds + 1):
            report(f"round {number} of {rounds}: {connections} connections, {seconds:g} s")
            await _run(serving, connections, seconds, f"alone{number}", alone)
            report(f"  beside {2 * SLOW_CLIENTS} slow clients and bodies of 1 GB")
            async with _harm(serving):
                await _run(serving, connections, seconds, f"beside{number}", beside)
        about = await conditions(here.admin)
        stored = await here.admin.fetchval("SELECT count(*) FROM hero_snapshots")
    return {
        **alone.document(),
        "beside": beside.document(),
        "stored": stored,
        "connections": connections,
        "rounds": rounds,
        "server": about,
    }


@dataclass(frozen=True, slots=True)
class _Serving:
    """A server that runs."""

    pid: int
    host: str
    port: int
    token: str


@asynccontextmanager
async def _serving(server: Database, here: Place) -> AsyncIterator[_Serving]:
    """Run `starforge server` in the application's role for the length of a `with` block."""
    with tempfile.TemporaryDirectory(prefix="starforge-bench-") as home:
        token = await make_token(here.admin, name="bench", role="admin", tenant="default")
        Path(home, FILE_NAME).write_text(token)
        url = in_database(server.url("app"), urlsplit(here.admin_url).path[1:])
        variables = {
            **os.environ,
            "DATABASE_URL": url,
            "STARFORGE_HOME": home,
            "STARFORGE_INGEST_RATE_PER_S": "1000000",
            "STARFORGE_INGEST_BURST": "1000000",
        }
        command = [sys.executable, "-m", "starforge", "server", "--port", "0", "--log-level", "warning"]
        process = await asyncio.create_subprocess_exec(
            *command, env=variables, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(START_S_MAX):
                said = (await process.stdout.readline()).decode()
            found = SERVES.search(said)
            if found is None:
                raise BenchStalledError(f"the server did not start: {said}")
            yield _Serving(process.pid, found[1], int(found[2]), token)
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _run(serving: _Serving, connections: int, seconds: float, run: str, found: _Figures) -> None:
    """Let a client run, and note what it and the server's memory say."""
    orders = Orders(serving.host, serving.port, serving.token, connections, seconds, run)
    forget_peak(serving.pid)
    before, cpu_s = memory_of(serving.pid), _cpu_s(serving.pid)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "starforge.dev.bench.ingest_client",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate(msgspec.json.encode(orders))
    if process.returncode:
        raise BenchStalledError(f"the client ended with status {process.returncode}")
    told = msgspec.json.decode(said, type=Told)
    after = memory_of(serving.pid)
    assert before is not None
    assert after is not None
    found.per_s.append(sum(told.statuses.get(status, 0) for status in (200, 202)) / told.seconds)
    found.ms += told.ms
    found.p99_ms.append(percentiles(told.ms)["p99"])
    found.growth_mb.append((after.rss_bytes - before.rss_bytes) / MB)
    found.peak_mb.append((after.peak_bytes - before.rss_bytes) / MB)
    found.cpu_ms.append((_cpu_s(serving.pid) - cpu_s) * 1000 / max(1, len(told.ms)))
    for status, count in told.statuses.items():
        found.statuses[status] = found.statuses.get(status, 0) + count


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def _harm(serving: _Serving) -> AsyncIterator[None]:
    """Trouble the server for the length of a `with` block."""
    head = (
        f"POST /api/v1/snapshots HTTP/1.1\r\nHost: {serving.host}\r\n"
        f"Authorization: Bearer {serving.token}\r\nContent-Type: application/json\r\n"
    )
    tasks = [asyncio.create_task(_dribble(serving, head.encode())) for _ in range(SLOW_CLIENTS)]
    slow_body = head + "Content-Length: 50000\r\n\r\n["
    tasks += [asyncio.create_task(_dribble(serving, slow_body.encode(), b" ")) for _ in range(SLOW_CLIENTS)]
    tasks.append(asyncio.create_task(_huge(serving, f"{head}Content-Length: {HUGE_BYTES}\r\n\r\n", b"")))
    tasks.append(
        asyncio.create_task(_huge(serving, f"{head}Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n"))
    )
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _dribble(serving: _Serving, first: bytes, then: bytes = b"x") -> None:
    """Send a beginning, and a byte now and then; come again when the server has had enough."""
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(serving.host, serving.port)
            try:
                writer.write(first)
                answered = False
                while not answered:
                    writer.write(then)
                    await writer.drain()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(DRIBBLE_S):
                            await reader.read(1000)  # an answer, or the end
                            answered = True
            finally:
                writer.close()


async def _huge(serving: _Serving, head: str, chunk: bytes) -> None:
    """Send a body of 1 GB, as far as the server takes it, again and again."""
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(serving.host, serving.port)
            try:
                writer.write(head.encode())
                for _ in range(HUGE_BYTES // len(HUGE_PIECE)):
                    writer.write(chunk + HUGE_PIECE + (b"\r\n" if chunk else b""))
                    await writer.drain()
            finally:
                writer.close()
        await asyncio.sleep(HUGE_EVERY_S)
