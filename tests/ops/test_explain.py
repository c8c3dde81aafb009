"""Explain: the first true sentence about a job, a queue or a worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from starforge.db.pool import Connection
from starforge.ops.errors import UnknownThingError
from starforge.ops.explain import explain_job, explain_queue, explain_worker
from starforge.queue.complete import complete
from starforge.queue.enqueue import enqueue
from starforge.queue.fail import fail, quarantine
from starforge.queue.gate import close
from starforge.queue.job import NewJob
from starforge.queue.retry import retry
from tests.conftest import Travel
from tests.covers import covers
from tests.queue.jobs import a_worker, claimed

ERROR = {"reason": "the shop is closed"}


@covers("X-19")
async def test_a_job_whose_type_nobody_knows_waits_and_says_what_it_waits_for(conn: Connection) -> None:
    job_id = (await enqueue(conn, NewJob("new.type"))).id
    assert "no live worker serves queue 'default'" in (await explain_job(conn, job_id)).why
    await a_worker(conn)
    found = await explain_job(conn, job_id)
    assert "no worker knows type 'new.type'" in found.why
    assert "a worker whose app has this job type" in found.moves


@covers("X-19")
async def test_a_queue_of_which_nobody_knows_the_types_does_not_ask_for_time(conn: Connection) -> None:
    await enqueue(conn, NewJob("new.type"))
    await a_worker(conn)
    found = await explain_queue(conn, "default")
    assert "no live worker knows their type: 'new.type'" in found.why
    assert "a worker whose app has this job type" in found.moves
    await enqueue(conn, NewJob("t"))
    assert "2 jobs wait" in (await explain_queue(conn, "default")).why
    assert "knows" not in (await explain_queue(conn, "default")).why


@covers("X-19")
async def test_a_delayed_job_and_one_between_attempts_name_their_time(conn: Connection) -> None:
    later = datetime(2099, 1, 2, 3, 4, 5, tzinfo=UTC)
    delayed = (await enqueue(conn, NewJob("t", run_after=later))).id
    assert (await explain_job(conn, delayed)).why == "it is scheduled for 2099-01-02 03:04:05 UTC"
    retried = (await enqueue(conn, NewJob("t"))).id
    worker_id = await a_worker(conn)
    [job] = await claimed(conn, worker_id)
    await retry(conn, [job], [ERROR], [60.0], worker_id=worker_id)
    why = (await explain_job(conn, retried)).why
    assert why.startswith("attempt 1 of 5 failed: the shop is closed; the next starts at ")


@covers("X-19", "X-11")
async def test_a_job_behind_a_pause_names_who_paused_why_and_the_command_that_resumes(
    conn: Connection,
) -> None:
    await a_worker(conn)
    job_id = (await enqueue(conn, NewJob("t"))).id
    await close(conn, "queue", "default", owner="ann", reason="storm", minutes=10)
    found = await explain_job(conn, job_id)
    assert "queue 'default' is paused until" in found.why
    assert "by ann: storm" in found.why
    assert found.command == "starforge queue resume default"
    queue = await explain_queue(conn, "default")
    assert (queue.state, queue.command) == ("paused", "starforge queue resume default")


@covers("X-19")
async def test_every_status_of_a_job_is_explained(conn: Connection) -> None:
    worker_id = await a_worker(conn)
    ids = [(await enqueue(conn, NewJob("t"))).id for _ in range(4)]
    jobs = {job.id: job for job in await claimed(conn, worker_id)}
    done, failed, held, runs = ids
    assert await complete(conn, [jobs[done]], [1500.0], worker_id=worker_id)
    assert await fail(conn, [jobs[failed]], [ERROR], worker_id=worker_id)
    assert await quarantine(conn, [jobs[held]], [ERROR], worker_id=worker_id)
    paused = (await enqueue(conn, NewJob("t"))).id
    await conn.execute("UPDATE queue_jobs SET status = 'paused' WHERE id = $1", paused)
    waiting = (await enqueue(conn, NewJob("t"))).id
    told = {
        done: ("completed", "it completed at"),
        failed: ("failed", "its last attempt (1 of 5) failed at"),
        held: ("quarantined", "it is held back: the shop is closed"),
        runs: ("running", f"worker {worker_id}"),
        paused: ("paused", "it was paused itself"),
        waiting: ("pending", "it is the next of its kind"),
    }
    for job_id, (state, words) in told.items():
        found = await explain_job(conn, job_id)
        assert found.state == state
        assert words in found.why


@covers("X-19")
async def test_a_job_of_a_worker_whose_lease_ended_waits_for_the_sweep(
    conn: Connection, travel: Travel
) -> None:
    job_id = (await enqueue(conn, NewJob("t"))).id
    worker_id = await a_worker(conn)
    await claimed(conn, worker_id)
    await travel(conn, seconds=31)
    assert (await explain_job(conn, job_id)).why.endswith("held it and its lease is over")
    found = await explain_worker(conn, str(worker_id)[:18])
    assert found.state == "silent"


async def test_a_job_that_only_its_dead_letter_remembers_is_explained_by_it(conn: Connection) -> None:
    job_id = uuid4()
    await conn.execute(
        "INSERT INTO queue_jobs_dlq (original_job_id, type, payload, reason)"
        " VALUES ($1, 't', '{}', 'by hand')",
        job_id,
    )
    found = await explain_job(conn, job_id)
    assert (found.state, found.why.endswith("by hand")) == ("dead letter", True)


async def test_a_queue_is_drained_unserved_or_at_work(conn: Connection) -> None:
    with pytest.raises(UnknownThingError):
        await explain_queue(conn, "default")
    await enqueue(conn, NewJob("t", run_after=datetime.now(UTC) + timedelta(days=1)))
    assert (await explain_queue(conn, "default")).state == "drained"
    await enqueue(conn, NewJob("t"))
    assert (await explain_queue(conn, "default")).state == "unserved"
    worker_id = await a_worker(conn)
    assert (await explain_queue(conn, "default")).state == "waiting"
    await claimed(conn, worker_id)
    await enqueue(conn, NewJob("t"))
    assert (await explain_queue(conn, "default")).state == "working"


async def test_what_does_not_exist_is_said_to_be_unknown(conn: Connection) -> None:
    with pytest.raises(UnknownThingError, match="there is no job"):
        await explain_job(conn, uuid4())
    with pytest.raises(UnknownThingError, match="no worker has an id"):
        await explain_worker(conn, "zzz")
