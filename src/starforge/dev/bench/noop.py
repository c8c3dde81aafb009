"""The app that the benchmarks' workers run: jobs that do nothing, and jobs that tell the time."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from starforge.app import StarForge
from starforge.db.pool import Connection
from starforge.dev.bench.marks import CLAIM, PICKUP, counter, note, now_s
from starforge.queue.claim import claim
from starforge.queue.job import LeasedJob
from starforge.queue.plan import Plan
from starforge.worker import run

app = StarForge("bench")
count = counter()


@app.job("bench.noop")
async def noop(n: int, text: str = "") -> None:
    """Do nothing but be counted: what is left is the queue's own cost."""
    count[0] += 1


@app.job("bench.noop_paused")
async def noop_paused(n: int, text: str = "") -> None:
    """Do nothing: its type is paused where it is used."""
    count[0] += 1


@app.job("bench.pickup")
async def pickup(n: int) -> None:
    """Write down (number, wall-clock seconds) at the handler's first instruction."""
    note("pickups", PICKUP.pack(n, time.time()))


async def _timed_claim(conn: Connection, plan: Plan, *, n: int, worker_id: UUID) -> list[LeasedJob]:
    """Claim as ever and write down how long it took."""
    started_s = now_s()
    jobs = await claim(conn, plan, n=n, worker_id=worker_id)
    ended_s = now_s()
    note("claims", CLAIM.pack(ended_s, (ended_s - started_s) * 1000, len(jobs)))
    return jobs


def _time_claims(module: Any) -> None:
    """Put the clock around the claim of this process; workers that run another app know nothing of it."""
    assert module.claim is claim
    module.claim = _timed_claim


_time_claims(run)
