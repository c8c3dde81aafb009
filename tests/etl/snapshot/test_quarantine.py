"""Quarantine: a snapshot is held back, with who and why, and release leaves one job of the right lane."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog
from structlog.testing import capture_logs

from starforge.app import StarForge
from starforge.db.pool import Pool
from starforge.errors import IllegalMoveError
from starforge.etl.errors import SnapshotBytesError, UnknownSnapshotError
from starforge.etl.ingest.offers import Offer
from starforge.etl.ingest.receive import Receipt, receive
from starforge.etl.load.job import process_snapshot_highmem_type, process_snapshot_type
from starforge.etl.mapping import Mapping, Mappings, Table
from starforge.etl.snapshot.quarantine import resume_released
from starforge.heroes.mapping import HERO
from starforge.ops.perform import perform
from starforge.ops.plan import plan
from starforge.queue.handler import JobTypes
from starforge.telemetry.metrics import SNAPSHOTS_QUARANTINED
from tests.covers import covers
from tests.etl.load.test_job import NAMECODE, again, offer, one, profile
from tests.stories.test_path_of_a_job import run_until

ANN: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}
ORDINARY = JobTypes([process_snapshot_type(Mappings([HERO]))])
HIGH = JobTypes([process_snapshot_highmem_type(Mappings([HERO]))])
JOBS = "SELECT id, type, status, priority FROM queue_jobs ORDER BY created_at"
HELD = "SELECT count(*) FROM queue_jobs WHERE status = 'quarantined'"
DONE = "SELECT count(*) FROM job_history"


async def quarantine(pool: Pool, snapshot_id: UUID, reason: str = "it kills workers") -> Any:
    return await perform(
        pool, "snapshot quarantine", {"snapshot_id": str(snapshot_id), "reason": reason}, **ANN
    )


async def release(pool: Pool, snapshot_id: UUID, to: str = "normal") -> Any:
    arguments = {"snapshot_id": str(snapshot_id), "to": to, "reason": "the patch is in"}
    return await perform(pool, "snapshot release", arguments, **ANN)


async def jobs(pool: Pool) -> list[tuple[str, str, int]]:
    async with pool.connection() as conn:
        rows = await conn.fetch(JOBS)
    return [(row["type"], row["status"], row["priority"]) for row in rows]


async def status(pool: Pool, snapshot_id: UUID) -> str:
    return str((await one(pool, "SELECT status FROM hero_snapshots WHERE id = $1", snapshot_id))["status"])


async def oversized(pool: Pool, mapping: Mapping = HERO) -> Receipt:
    data = json.dumps(profile("BIG_1", Log="x" * 5_000_000)).encode()
    [receipt] = await receive(pool, [Offer("big.json", data)], mapping=mapping, tenant="default")
    assert receipt.fate == "oversized"
    return receipt


# ---- by hand


@covers("O-25", "O-26", "O-27", "F-35")
async def test_a_snapshot_is_held_with_who_and_why_in_one_transaction(pool: Pool) -> None:
    snapshot_id = await offer(pool)
    result = await quarantine(pool, snapshot_id)
    assert result.before["status"] == "received"
    assert result.after["status"] == "quarantined"
    row = await one(
        pool,
        "SELECT s.status, s.processing, s.error_count, s.last_error ->> 'reason' AS why,"
        " q.reason, q.created_by, q.cause, q.source, q.released_at, q.sha256 = s.sha256 AS same"
        " FROM hero_snapshots s JOIN snapshot_quarantine q ON q.snapshot_id = s.id",
    )
    assert row == {
        "status": "quarantined", "processing": False, "error_count": 1,
        "why": "quarantined: it kills workers", "reason": "it kills workers",
        "created_by": "ann", "cause": "hand", "source": "hero",
        "released_at": None, "same": True,
    }  # fmt: skip
    audit = await one(pool, "SELECT actor, operation, reason, changed FROM audit_logs")
    assert audit == {
        "actor": "ann", "operation": "snapshot quarantine", "reason": "it kills workers", "changed": 1,
    }  # fmt: skip
    repeated = await quarantine(pool, snapshot_id, "again")
    assert (repeated.matched, repeated.changed) == (1, 0)
    assert "is quarantined already by ann: it kills workers" in repeated.summary
    assert (await one(pool, "SELECT count(*) FROM snapshot_quarantine"))["count"] == 1


async def test_a_plan_says_what_it_would_do_and_holds_nothing(pool: Pool) -> None:
    snapshot_id = await offer(pool)
    made = await plan(pool, "snapshot quarantine", {"snapshot_id": str(snapshot_id), "reason": "r"}, **ANN)
    assert made.after["quarantined"] == "r"
    assert await status(pool, snapshot_id) == "received"


async def test_a_snapshot_of_another_tenant_is_not_there(pool: Pool) -> None:
    theirs = await offer(pool, tenant="them")
    for act in (quarantine, release):
        with pytest.raises(UnknownSnapshotError):
            await act(pool, theirs)
    assert await status(pool, theirs) == "received"


# ---- release


@covers("O-25", "O-44")
async def test_the_job_that_was_held_is_pending_again_on_release_and_there_is_no_second(pool: Pool) -> None:
    snapshot_id = await offer(pool)
    await quarantine(pool, snapshot_id)
    await run_until(pool, ORDINARY, HELD, 1)
    assert (await one(pool, "SELECT count(*) FROM users"))["count"] == 0
    result = await release(pool, snapshot_id)
    assert await jobs(pool) == [("process_snapshot", "pending", 0)]
    assert "is pending again" in result.summary
    await run_until(pool, ORDINARY, DONE, 1)
    assert await status(pool, snapshot_id) == "processed"
    row = await one(pool, "SELECT released_by, released_to, release_reason FROM snapshot_quarantine")
    assert row == {"released_by": "ann", "released_to": "normal", "release_reason": "the patch is in"}


@covers("O-44", "O-45")
async def test_released_to_the_high_memory_lane_its_job_is_of_that_type_and_ordinary_workers_leave_it(
    pool: Pool,
) -> None:
    snapshot_id = await offer(pool)
    await quarantine(pool, snapshot_id)
    await run_until(pool, ORDINARY, HELD, 1)
    await release(pool, snapshot_id, "highmem")
    assert await jobs(pool) == [("process_snapshot_highmem", "pending", 10)]
    # Whoever comes with another job of it meets what held it before.
    await again(pool, snapshot_id)
    await run_until(pool, ORDINARY, HELD, 1)
    await run_until(pool, HIGH, DONE, 1)
    assert await status(pool, snapshot_id) == "processed"
    async with pool.connection() as conn:
        assert await resume_released(conn) == 0
    await release(pool, snapshot_id)
    assert await jobs(pool) == [("process_snapshot", "pending", 0)]


@pytest.mark.parametrize("waiting", [0, 1, 3])
@pytest.mark.parametrize("lane", ["normal", "highmem"])
async def test_whatever_waited_before_one_job_waits_after_a_release(
    pool: Pool, waiting: int, lane: str
) -> None:
    snapshot_id = await offer(pool)
    async with pool.connection() as conn:
        await conn.execute("DELETE FROM queue_jobs")
    for _ in range(waiting):
        await again(pool, snapshot_id)
    await quarantine(pool, snapshot_id)
    await release(pool, snapshot_id, lane)
    [(job_type, is_now, priority)] = await jobs(pool)
    assert (job_type.endswith("highmem"), is_now, priority) == (
        lane == "highmem",
        "pending",
        10 if lane == "highmem" else 0,
    )


@covers("O-44")
async def test_releasing_twice_is_refused_also_when_two_do_it_at_once(pool: Pool) -> None:
    snapshot_id = await offer(pool)
    await quarantine(pool, snapshot_id)
    ends = await asyncio.gather(*(release(pool, snapshot_id) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(end, IllegalMoveError) for end in ends) == 3
    with pytest.raises(IllegalMoveError, match="cannot release a snapshot that is 'received'"):
        await release(pool, snapshot_id)
    assert len(await jobs(pool)) == 1
    assert (await one(pool, "SELECT count(*) FROM audit_logs WHERE operation = 'snapshot release'"))[
        "count"
    ] == 1


async def test_the_job_of_a_snapshot_that_was_released_by_hand_is_pending_again(pool: Pool) -> None:
    snapshot_id = await offer(pool)
    await quarantine(pool, snapshot_id)
    await run_until(pool, ORDINARY, HELD, 1)
    async with pool.connection() as conn:
        assert await resume_released(conn) == 0
        await conn.execute("UPDATE snapshot_quarantine SET released_at = now()")
        assert await resume_released(conn) == 1
        assert await resume_released(conn) == 0
    assert await jobs(pool) == [("process_snapshot", "pending", 0)]


async def test_a_job_that_was_quarantined_for_reasons_of_its_own_stays_so(pool: Pool) -> None:
    """Also where its payload names what is no snapshot."""
    snapshot_id = await offer(pool)
    await again(pool, uuid4())
    async with pool.connection() as conn:
        await conn.execute("UPDATE queue_jobs SET status = 'quarantined', last_error = '{\"kills\": 3}'")
        await conn.execute(
            "INSERT INTO queue_jobs (type, payload, status) VALUES"
            " ('process_snapshot', '{\"snapshot_id\": \"x\"}', 'quarantined')"
        )
        assert await resume_released(conn) == 0
    # Its snapshot is held too, by the time that somebody releases it.
    await quarantine(pool, snapshot_id)
    async with pool.connection() as conn:
        await conn.execute("UPDATE snapshot_quarantine SET released_at = now()")
        assert await resume_released(conn) == 1


def test_a_leader_looks_for_released_snapshots() -> None:
    assert "released" in [task.name for task in StarForge().upkeep()]


@covers("O-26")
async def test_bytes_that_are_no_snapshot_cannot_be_released_and_it_is_said_what_to_do(pool: Pool) -> None:
    await receive(pool, [Offer("bad.json", b"{bad")], mapping=HERO, tenant="default")
    kept = (await one(pool, "SELECT id FROM snapshot_quarantine"))["id"]
    with pytest.raises(SnapshotBytesError, match=r"is bytes of bad\.json from source 'hero'") as refused:
        await release(pool, kept)
    assert "offer the file again" in refused.value.remedy
    [receipt] = await receive(pool, [Offer("bad.json", b"{bad")], mapping=HERO, tenant="default")
    assert receipt.fate == "malformed"


# ---- retry


async def test_a_failed_snapshot_is_tried_anew_with_one_job(pool: Pool) -> None:
    snapshot_id = await offer(pool, Level="abc")
    await run_until(pool, ORDINARY, "SELECT count(*) FROM queue_jobs WHERE status = 'failed'", 1)
    assert await status(pool, snapshot_id) == "failed"
    await perform(pool, "snapshot retry", {"snapshot_id": str(snapshot_id)}, **ANN)
    assert await status(pool, snapshot_id) == "received"
    assert sorted(is_now for _, is_now, _ in await jobs(pool)) == ["failed", "pending"]
    with pytest.raises(IllegalMoveError, match="cannot retry a snapshot that is 'received'"):
        await perform(pool, "snapshot retry", {"snapshot_id": str(snapshot_id)}, **ANN)


# ---- by size, and the alert


OWNED = Mapping(
    "owned",
    subject="users",
    tables=[Table("users", key=("tenant_id", "namecode"), columns=[NAMECODE])],
    owner="data team",
)


@covers("O-34", "F-46")
async def test_what_the_size_guard_holds_is_told_to_the_owner_with_cause_and_source(
    pool: Pool,
) -> None:
    counted = SNAPSHOTS_QUARANTINED.labels(source="owned", cause="size")
    before = counted._value.get()
    structlog.configure()
    try:
        with capture_logs() as lines:
            receipt = await oversized(pool, OWNED)
    finally:
        structlog.reset_defaults()
    assert counted._value.get() == before + 1
    [line] = [line for line in lines if line["event"] == "snapshot.quarantined"]
    assert (line["owner"], line["cause"], line["source"]) == ("data team", "size", "owned")
    assert line["snapshot_id"] == str(receipt.snapshot_id)
    row = await one(pool, "SELECT cause, reason, released_at FROM snapshot_quarantine")
    assert (row["cause"], row["released_at"]) == ("size", None)
    assert "above the size guard of 5 MB" in row["reason"]


@covers("O-44", "F-46")
async def test_an_oversized_snapshot_has_no_job_until_it_is_released_to_a_lane(pool: Pool) -> None:
    receipt = await oversized(pool)
    assert await jobs(pool) == []
    assert receipt.snapshot_id is not None
    result = await release(pool, receipt.snapshot_id, "highmem")
    assert "was made" in result.summary
    await run_until(pool, HIGH, DONE, 1)
    assert await status(pool, receipt.snapshot_id) == "processed"
