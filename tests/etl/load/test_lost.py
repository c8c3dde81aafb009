"""A snapshot whose job died with its process: recorded, counted, and held back in the end."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prometheus_client import Counter

from starforge.db.pool import Pool
from starforge.queue.claim import claim
from starforge.queue.job import LeasedJob
from starforge.queue.kill import Cause, Death, blame, kill
from starforge.queue.plan import Plan
from starforge.telemetry.metrics import LABELS, SNAPSHOTS_FAILED, SNAPSHOTS_PROCESSED
from starforge.worker.registry import Registration, register
from starforge.worker.tell import tell_one
from tests.covers import covers
from tests.etl.load.test_job import offer, one, snapshot_of, types


def counted(counter: Counter, **labels: str) -> float:
    return float(counter.labels(**labels)._value.get())


def failed(error_type: str) -> float:
    return counted(SNAPSHOTS_FAILED, error_type=error_type, env=LABELS.env, service=LABELS.service)


async def taken(pool: Pool) -> tuple[UUID, list[LeasedJob]]:
    """Let a worker claim what waits."""
    async with pool.connection() as conn:
        queues, names = ("default",), types().names()
        worker_id = await register(conn, Registration(queues, names, 1), lease_s=600)
        await conn.execute("UPDATE queue_jobs SET run_after = sf_now()")
        return worker_id, await claim(conn, Plan(queues, names), n=9, worker_id=worker_id)


def death(cause: Cause) -> Death:
    return Death(cause, "was killed by signal 9 (SIGKILL)", {})


@covers("O-48", "F-02", "O-25", "O-29")
async def test_an_attempt_that_was_killed_for_memory_is_a_failure_and_the_third_holds_the_snapshot_back(
    pool: Pool,
) -> None:
    snapshot_id = await offer(pool)
    before = failed("OOM"), counted(SNAPSHOTS_PROCESSED, result="failure")
    for kills in range(1, 4):
        worker_id, [job] = await taken(pool)
        async with pool.connection() as conn:
            await conn.execute("UPDATE hero_snapshots SET processing = true")
            assert await kill(conn, job, death("oom"), worker_id=worker_id)
        assert await tell_one(pool, types())
        assert not await tell_one(pool, types())
        row = await snapshot_of(pool, snapshot_id)
        assert (row["processing"], row["error_count"]) == (False, kills)
        assert row["status"] == ("quarantined" if kills == 3 else "received")
        assert row["last_error"]["error_type"] == "OOM"
    assert (failed("OOM"), counted(SNAPSHOTS_PROCESSED, result="failure")) == (before[0] + 3, before[1] + 3)
    async with pool.connection() as conn:
        errors = await conn.fetch(
            "SELECT error_type, snapshot_id, source, fingerprint, details FROM etl_errors"
        )
    assert [(row["error_type"], row["snapshot_id"], row["source"]) for row in errors] == [
        ("OOM", snapshot_id, "hero")
    ] * 3
    assert len({row["fingerprint"] for row in errors}) == 1
    held = await one(pool, "SELECT snapshot_id, source, reason, released_at FROM snapshot_quarantine")
    assert (held["snapshot_id"], held["source"], held["released_at"]) == (snapshot_id, "hero", None)
    assert held["reason"].startswith(
        "its job has killed 3 worker processes; the last one: its process was killed"
    )


@covers("F-02")
async def test_an_attempt_that_died_beside_others_is_a_failure_that_marks_no_snapshot(pool: Pool) -> None:
    ids = [await offer(pool, NameCode=name) for name in ("A_1", "B_1")]
    worker_id, jobs = await taken(pool)
    before = failed("UNKNOWN"), failed("OOM")
    async with pool.transaction() as conn:
        await blame(conn, worker_id, death("signal"), {job.id: 0.1 for job in jobs})
    while await tell_one(pool, types()):
        pass
    assert (failed("UNKNOWN"), failed("OOM")) == (before[0] + 2, before[1])
    for snapshot_id in ids:
        row: dict[str, Any] = await snapshot_of(pool, snapshot_id)
        assert (row["status"], row["error_count"], row["last_error"]) == ("received", 0, None)
