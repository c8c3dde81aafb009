"""`starforge bench queue`: enqueue, drain and pick-up rates of the real path, on a database of its own.

Workers are real ones: supervisor, child, claim, attempt, finish, history kept, fsync as the server has it.
The drain is taken from the database's clock: from the first claim to the last completion.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from starforge.clock import monotonic_s, new_id
from starforge.db.migrate import migrate
from starforge.db.pool import Connection, connect
from starforge.db.server import Database
from starforge.dev.bench.noop import PICKUP_FILE_ENV, RECORD
from starforge.dev.errors import BenchStalledError
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.job import NewJob

BULK = 10_000
PICKUPS = 300
PICKUP_EVERY_S = 0.02
PICKUP_HELD_S = 0.3
STALL_S = 30.0
PAYLOAD = {"n": 0}
APP = "starforge.dev.bench.noop:app"

Report = Callable[[str], None]


async def bench_queue(
    database: Database, *, jobs: int, processes: int, concurrency: int, role: str, report: Report
) -> dict[str, Any]:
    """Measure and return the figures.

    Args:
        database: Where to make the benchmark's own database; it is dropped again.
        jobs: No-op jobs to enqueue and drain.
        processes: Worker processes.
        concurrency: Jobs that each worker runs at once.
        role: Database role of producer and workers: engine (bound by row security) or admin.
        report: Called with a line about each phase.
    """
    async with (
        _own_database(database, role) as (admin_url, url),
        _workers(url, processes, concurrency) as pids,
    ):
        admin, conn = await connect(admin_url), await connect(url)
        try:
            await _until(admin, "SELECT count(*) FROM workers WHERE state = 'running'", processes)
            await _warm(conn, admin)
            await _hold(admin, held=True)
            report(f"enqueueing {jobs} jobs")
            enqueue_per_s = await _enqueue_all(conn, jobs)
            report(f"draining them with {processes} worker process(es)")
            await _hold(admin, held=False)
            await _until(admin, "SELECT count(*) FROM job_history WHERE type = 'bench.noop'", jobs + 1000)
            drain = await admin.fetchrow(_DRAIN, jobs)
            report("measuring pick-up while idle")
            pickup_ms = await _pickups(conn, Path(os.environ[PICKUP_FILE_ENV]))
            rss_mb = _rss_mb(pids)
            assert drain is not None
            return {
                "jobs": jobs,
                "processes": processes,
                "concurrency": concurrency,
                "role": role,
                "postgres": await admin.fetchval("SHOW server_version"),
                "fsync": await admin.fetchval("SHOW fsync"),
                "synchronous_commit": await admin.fetchval("SHOW synchronous_commit"),
                "enqueue_per_s": round(enqueue_per_s),
                "drain_per_s": round(jobs / drain["seconds"]),
                "pickup_ms": pickup_ms,
                "worker_rss_mb": rss_mb,
            }
        finally:
            await conn.close()
            await admin.close()


_DRAIN = """
SELECT extract(epoch FROM max(completed_at) - min(started_at))::float8 AS seconds
FROM (SELECT started_at, completed_at FROM job_history WHERE type = 'bench.noop'
      ORDER BY completed_at DESC LIMIT $1) AS run
"""


@asynccontextmanager
async def _own_database(database: Database, role: str) -> AsyncIterator[tuple[str, str]]:
    name = f"starforge_bench_{uuid4().hex[:8]}"
    admin = await connect(database.url("admin"))
    await admin.execute(f"CREATE DATABASE {name}")
    try:
        admin_url = _other_database(database.url("admin"), name)
        conn = await connect(admin_url)
        await migrate(conn)
        await conn.close()
        yield admin_url, _other_database(database.url(role), name)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


def _other_database(url: str, name: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{name}"


@asynccontextmanager
async def _workers(url: str, processes: int, concurrency: int) -> AsyncIterator[list[int]]:
    with tempfile.TemporaryDirectory(prefix="starforge-bench-") as folder:
        os.environ[PICKUP_FILE_ENV] = str(Path(folder, "pickups"))
        environment = {**os.environ, "DATABASE_URL": url, "WORKER_CONCURRENCY": str(concurrency)}
        command = [sys.executable, "-m", "starforge", "worker", "--app", APP, "--log-level", "warning"]
        started = [
            await asyncio.create_subprocess_exec(*command, env=environment, start_new_session=True)
            for _ in range(processes)
        ]
        try:
            yield [worker.pid for worker in started]
        finally:
            for worker in started:
                if worker.returncode is None:
                    worker.send_signal(signal.SIGTERM)
            await asyncio.gather(*(worker.wait() for worker in started))


async def _warm(conn: Connection, admin: Connection) -> None:
    """Let caches, plans and the workers' imports settle before anything is measured."""
    jobs = [NewJob("bench.noop", PAYLOAD) for _ in range(1000)]
    await enqueue_many(conn, jobs)
    await _until(admin, "SELECT count(*) FROM job_history WHERE type = 'bench.noop'", 1000)


async def _hold(admin: Connection, *, held: bool) -> None:
    """Close or open the queue by a gate, so that enqueueing and draining are measured apart."""
    if held:
        await admin.execute(
            "INSERT INTO gates (scope, name, cause, owner, reason, expires_at)"
            " VALUES ('queue', 'default', 'pause', 'bench', 'measuring', sf_now() + interval '1 hour')"
        )
        # A worker's plan is at most a second old.
        await asyncio.sleep(1.5)
    else:
        await admin.execute("ANALYZE queue_jobs")
        await admin.execute("CHECKPOINT")
        await admin.execute("DELETE FROM gates")
        await admin.execute("SELECT pg_notify('starforge_jobs', '*')")


async def _enqueue_all(conn: Connection, jobs: int) -> float:
    batches = []
    left = jobs
    while left:
        size = min(BULK, left)
        batches.append([NewJob("bench.noop", PAYLOAD, id=new_id()) for _ in range(size)])
        left -= size
    started_s = monotonic_s()
    for batch in batches:
        await enqueue_many(conn, batch)
    return jobs / (monotonic_s() - started_s)


async def _until(admin: Connection, query: str, wanted: int) -> None:
    """Wait until the count is reached; a count that stands still is an error, not a hang."""
    seen, since_s = -1, monotonic_s()
    while (count := await admin.fetchval(query)) < wanted:
        if count != seen:
            seen, since_s = count, monotonic_s()
        elif monotonic_s() - since_s > STALL_S:
            raise BenchStalledError(f"{count} of {wanted} after {STALL_S:g} s without progress: {query}")
        await asyncio.sleep(0.1)


async def _pickups(conn: Connection, file: Path) -> dict[str, float]:
    """Time from an enqueue's commit to its handler's first instruction, jobs one at a time, in ms."""
    sent: dict[int, float] = {}
    await asyncio.sleep(PICKUP_HELD_S)
    for n in range(PICKUPS):
        await enqueue(conn, NewJob("bench.pickup", {"n": n}))
        sent[n] = time.time()
        await asyncio.sleep(PICKUP_EVERY_S)
    deadline_s = monotonic_s() + STALL_S
    while not file.exists() or file.stat().st_size < PICKUPS * RECORD.size:
        if monotonic_s() > deadline_s:
            raise BenchStalledError(f"not all of {PICKUPS} pick-ups were seen within {STALL_S:g} s")
        await asyncio.sleep(0.05)
    waits = sorted((at - sent[n]) * 1000 for n, at in RECORD.iter_unpack(file.read_bytes()))
    cuts = statistics.quantiles(waits, n=100)
    return {name: round(cuts[at - 1], 2) for name, at in (("p50", 50), ("p95", 95), ("p99", 99))}


def _rss_mb(pids: list[int]) -> list[float]:
    """Memory of each worker's child, in MB."""
    import psutil

    children = [child for pid in pids for child in psutil.Process(pid).children()]
    return [round(child.memory_info().rss / 1e6, 1) for child in children]
