"""`starforge bench contention`: what eight worker processes lose against two on the same cores."""

from __future__ import annotations

import asyncio
from typing import Any

from starforge.db.pool import Connection, connect
from starforge.db.server import Database
from starforge.dev.bench.figures import Report, conditions, ratios, shown, spread
from starforge.dev.bench.setup import Setup, enqueue_and_drain, running

SAMPLE_S = 0.01

WAIT = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)) * 1000, 0)::float8
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE NOT l.granted AND a.datname = current_database()
"""
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


class LockWaits:
    """The longest wait for a lock that was seen, looked for every 10 ms while jobs drain."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self.samples = 0
        self.waiting = 0

    async def watch(self, conn: Connection, stop: asyncio.Event) -> None:
        """Look until `stop` is set."""
        while not stop.is_set():
            waited_ms = await conn.fetchval(WAIT)
            self.samples += 1
            self.waiting += waited_ms > 0
            self.longest_ms = max(self.longest_ms, waited_ms)
            await asyncio.sleep(SAMPLE_S)


async def bench_contention(
    server: Database,
    *,
    jobs: int,
    few: int,
    many: int,
    rounds: int,
    concurrency: int,
    role: str,
    report: Report,
) -> dict[str, Any]:
    """Drain with few and with many processes in turn, and look for deadlocks and waits for locks.

    Args:
        server: Where to make the databases.
        jobs: Jobs of each drain.
        few: Worker processes that the machine has cores for.
        many: Worker processes that it has not.
        rounds: How often each is measured.
        concurrency: Jobs that each process runs at once.
        role: Database role of producer and workers.
        report: Called with a line about each phase.
    """
    rates: dict[int, list[float]] = {few: [], many: []}
    waits: dict[int, LockWaits] = {few: LockWaits(), many: LockWaits()}
    deadlocks = 0
    about: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        for processes in (few, many):
            setup = Setup(processes=processes, concurrency=concurrency, role=role)
            async with running(server, setup) as (here, workers):
                watcher, stop = (
                    await connect(here.admin_url, application="starforge bench locks"),
                    asyncio.Event(),
                )
                watching = asyncio.create_task(waits[processes].watch(watcher, stop))
                try:
                    _, per_s = await enqueue_and_drain(here, workers, setup, jobs)
                finally:
                    stop.set()
                    await watching
                    await watcher.close()
                rates[processes].append(per_s)
                deadlocks += await here.admin.fetchval(DEADLOCKS)
                about = await conditions(here.admin)
            report(f"round {number} of {rounds}: {processes} worker processes, {shown(per_s):g} jobs/s")
    kept = ratios(rates[many], rates[few])
    return {
        "lost_ratio": shown(1 - kept["median"]),
        "kept_ratio": kept,
        "deadlocks": deadlocks,
        "lock_wait_ms_max": shown(max(wait.longest_ms for wait in waits.values())),
        "by_processes": {
            str(processes): {
                "drain_per_s": spread(rates[processes]),
                "lock_wait_ms_max": shown(waits[processes].longest_ms),
                "samples": waits[processes].samples,
                "samples_with_a_wait": waits[processes].waiting,
            }
            for processes in (few, many)
        },
        "jobs": jobs,
        "rounds": rounds,
        "concurrency": concurrency,
        "role": role,
        "server": about,
    }
