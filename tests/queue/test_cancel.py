"""Cancel and release: what waits ends at once, what runs is asked to, and nobody runs it again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from starforge.db.pool import Connection, Pool
from starforge.errors import IllegalMoveError
from starforge.ops.audit import Result
from starforge.ops.errors import ReasonMissingError
from starforge.ops.perform import perform
from starforge.queue.cancel import cancel, cancel_running, cancel_tagged, cancelling, release
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.errors import UnknownJobError
from starforge.queue.fail import fail, quarantine
from starforge.queue.job import JOB, NewJob
from starforge.queue.progress import save_checkpoint
from starforge.queue.reclaim import reclaim
from starforge.queue.retry import give_back, give_back_unknown, retry
from starforge.worker.registry import bury
from tests.covers import covers
from tests.postgres import TestServer
from tests.queue.jobs import a_worker, claimed

ERROR = {"reason": "it broke"}


async def history(conn: Connection) -> list[tuple[Any, ...]]:
    rows = await conn.fetch("SELECT status, reason, attempts FROM job_history ORDER BY created_at, id")
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("status", [state for state in JOB.sources("cancel") if state != "running"])
@covers("D-19")
async def test_a_job_that_no_worker_holds_leaves_for_history_at_once(conn: Connection, status: str) -> None:
    job = NewJob("t", tags=["x"])
    await enqueue(conn, job)
    await conn.execute("UPDATE queue_jobs SET status = $1", status)
    assert await cancel(conn, [job.id], reason="not wanted") == {job.id: status}
    assert await history(conn) == [("cancelled", "not wanted", 0)]
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == 0
    assert await cancel(conn, [job.id], reason="again") == {}


async def test_a_running_job_is_asked_to_end_and_stays_its_workers(conn: Connection) -> None:
    job = NewJob("t")
    await enqueue(conn, job)
    worker_id = await a_worker(conn)
    [leased] = await claimed(conn, worker_id)
    assert await cancel(conn, [job.id], reason="not wanted") == {job.id: "running"}
    assert await cancel(conn, [job.id], reason="another reason") == {job.id: "cancelling"}
    assert await cancelling(conn, worker_id) == {job.id: "not wanted"}
    assert await cancelling(conn, await a_worker(conn)) == {}
    assert await save_checkpoint(conn, leased, "1", worker_id=worker_id)
    assert await cancel_running(conn, [leased], ["said by the handler"], [5.0], worker_id=worker_id) == {
        job.id
    }
    assert await history(conn) == [("cancelled", "not wanted", 0)]
    assert await conn.fetchval("SELECT count(*) FROM job_progress") == 0


@pytest.mark.parametrize("verb", ["retry", "fail", "quarantine", "give_back", "give_back_unknown", "reclaim"])
async def test_whichever_way_a_worker_lets_go_of_a_job_that_was_asked_to_end_it_is_cancelled(
    conn: Connection, verb: str
) -> None:
    """It is not run again, and makes no dead letter; the jobs beside it go their way."""
    asked, other = NewJob("t"), NewJob("t")
    await enqueue_many(conn, [asked, other])
    worker_id = await a_worker(conn)
    jobs = await claimed(conn, worker_id)
    await cancel(conn, [asked.id], reason="not wanted")
    match verb:
        case "retry":
            done: Any = await retry(conn, jobs, [ERROR] * 2, [0.0] * 2, worker_id=worker_id)
        case "fail":
            done = await fail(conn, jobs, [ERROR] * 2, worker_id=worker_id)
        case "quarantine":
            done = await quarantine(conn, jobs, [ERROR] * 2, worker_id=worker_id)
        case "give_back":
            done = await give_back(conn, jobs, worker_id=worker_id)
        case "give_back_unknown":
            done = await give_back_unknown(conn, [], worker_id=worker_id)
        case _:
            await bury(conn, worker_id, "killed")
            done = await reclaim(conn)
    assert done in ({asked.id, other.id}, 2)
    assert [row[:2] for row in await history(conn)] == [("cancelled", "not wanted")]
    assert await conn.fetchval("SELECT id FROM queue_jobs") == other.id
    assert (
        await conn.fetchval("SELECT count(*) FROM queue_jobs_dlq WHERE original_job_id = $1", asked.id) == 0
    )


@covers("D-12")
async def test_a_zombie_cannot_cancel_what_another_worker_runs(conn: Connection) -> None:
    await enqueue(conn, NewJob("t"))
    old = await a_worker(conn)
    stale = await claimed(conn, old)
    await bury(conn, old, "killed")
    await reclaim(conn)
    new = await a_worker(conn)
    await claimed(conn, new)
    for me in (old, new):
        assert await cancel_running(conn, stale, ["x"], [1.0], worker_id=me) == set()
    assert await conn.fetchval("SELECT status FROM queue_jobs") == "running"


async def test_jobs_are_cancelled_by_their_tag_and_no_others(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starforge.queue.cancel.BATCH_MAX", 7)
    tagged = [NewJob("t", tags=["campaign", str(n)]) for n in range(20)]
    await enqueue_many(conn, [*tagged, NewJob("t", tags=["other"]), NewJob("t")])
    worker_id = await a_worker(conn)
    await claimed(conn, worker_id, 3)
    before, more = await cancel_tagged(conn, "campaign", reason="stopped")
    assert set(before) == {job.id for job in tagged}
    assert not more
    running = [job_id for job_id, status in before.items() if status == "running"]
    assert set(await cancelling(conn, worker_id)) == set(running)
    assert len(await history(conn)) == 20 - len(running)
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs WHERE cancel_reason IS NULL") == 2
    assert await cancel_tagged(conn, "campaign", reason="stopped") == ({}, False)


async def test_a_cancel_of_a_tag_has_a_bound_and_says_when_some_are_left(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starforge.queue.cancel.BATCH_MAX", 2)
    monkeypatch.setattr("starforge.queue.cancel.TAGGED_MAX", 4)
    await enqueue_many(conn, [NewJob("t", tags=["campaign"]) for _ in range(5)])
    first, more = await cancel_tagged(conn, "campaign", reason="stopped")
    assert (len(first), more) == (4, True)
    second, more = await cancel_tagged(conn, "campaign", reason="stopped")
    assert (len(second), more) == (1, False)


async def test_a_released_job_forgets_the_workers_that_died_and_runs_alone(conn: Connection) -> None:
    job = NewJob("t")
    await enqueue(conn, job)
    await conn.execute(
        "UPDATE queue_jobs SET status = 'quarantined', kills = 3, last_error = '{\"reason\": \"poison\"}'"
    )
    assert await release(conn, job.id) == {"reason": "poison"}
    [leased] = await claimed(conn, await a_worker(conn))
    assert (leased.kills, leased.alone) == (0, True)


# The operations.


async def ask(pool: Pool, name: str, **arguments: Any) -> Result:
    return await perform(pool, name, arguments, actor="ada", role="operator", tenant="default")


async def test_cancelling_by_operation_is_audited_and_harmless_to_repeat(pool: Pool) -> None:
    job = NewJob("t")
    async with pool.connection() as conn:
        await enqueue(conn, job)
    first = await ask(pool, "job cancel", job_id=str(job.id), reason="not wanted")
    assert (first.changed, first.after["status"]) == (1, "cancelled")
    second = await ask(pool, "job cancel", job_id=str(job.id), reason="not wanted")
    assert second.changed == 0
    async with pool.connection() as conn:
        rows = await conn.fetch("SELECT operation, reason FROM audit_logs ORDER BY id")
    assert [tuple(row) for row in rows] == [("job cancel", "not wanted")] * 2


async def test_what_has_completed_is_not_cancelled_and_what_is_not_held_not_released(pool: Pool) -> None:
    job, done = NewJob("t"), NewJob("t")
    async with pool.connection() as conn:
        await enqueue(conn, job)
        await enqueue(conn, done)
        await conn.execute(
            "WITH gone AS (DELETE FROM queue_jobs WHERE id = $1 RETURNING *)"
            " INSERT INTO job_history (id, tenant_id, queue, type, payload, priority, status, attempts,"
            " max_attempts, run_after, lease_epoch, created_at, completed_at)"
            " SELECT id, tenant_id, queue, type, payload, priority, 'completed', attempts, max_attempts,"
            " run_after, lease_epoch, created_at, sf_now() FROM gone",
            done.id,
        )
    with pytest.raises(IllegalMoveError, match="cannot cancel a job that is 'completed'"):
        await ask(pool, "job cancel", job_id=str(done.id), reason="x")
    with pytest.raises(IllegalMoveError, match="cannot release a job that is 'pending'"):
        await ask(pool, "job release", job_id=str(job.id))
    with pytest.raises(UnknownJobError):
        await ask(pool, "job cancel", job_id=str(UUID(int=1)), reason="x")
    with pytest.raises(ReasonMissingError):
        await ask(pool, "job cancel", job_id=str(job.id), reason=" ")


async def test_a_tag_and_a_held_job_have_their_operations(pool: Pool) -> None:
    held = NewJob("t")
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("t", tags=["campaign"]) for _ in range(3)])
        await enqueue(conn, held)
        await conn.execute("UPDATE queue_jobs SET status = 'quarantined' WHERE id = $1", held.id)
    tagged = await ask(pool, "job cancel-tagged", tag="campaign", reason="stopped")
    assert tagged.summary == "3 jobs with tag 'campaign' are cancelled (3 pending)"
    released = await ask(pool, "job release", job_id=str(held.id))
    assert released.after == {"status": "pending"}


@pytest.mark.parametrize("role", ["starforge_operator", "starforge_app", "starforge_engine"])
async def test_every_role_that_may_ask_for_it_has_the_rights(
    pool: Pool, database: str, server: TestServer, role: str
) -> None:
    waiting, running, held = NewJob("t", tags=["x"]), NewJob("t"), NewJob("t")
    async with pool.connection() as conn:
        await enqueue_many(conn, [waiting, running, held])
        await conn.execute("UPDATE queue_jobs SET status = 'quarantined' WHERE id = $1", held.id)
        await conn.execute(
            "UPDATE queue_jobs SET status = 'running', worker_id = $2 WHERE id = $1", running.id, UUID(int=1)
        )
    own = await Pool.open(server.url(database.rpartition("/")[2], role), size=2)
    assert (await ask(own, "job cancel", job_id=str(running.id), reason="x")).after["status"] == "cancelling"
    assert (await ask(own, "job cancel-tagged", tag="x", reason="x")).changed == 1
    assert (await ask(own, "job release", job_id=str(held.id))).changed == 1
    await own.close()
