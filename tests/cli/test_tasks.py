"""Jobs on the command line: enqueue one, list them, look at one, follow it to its end."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from starforge.app import StarForge
from starforge.db.pool import Connection, Pool, connect
from starforge.queue.complete import complete
from starforge.queue.enqueue import enqueue
from starforge.queue.fail import fail
from starforge.queue.job import Key, NewJob
from starforge.queue.jobs import STATES, job_by_id, list_jobs
from starforge.queue.known import declare_types
from starforge.queue.retry import retry
from tests.cli.test_main import Starforge, invoke, running, starforge
from tests.covers import covers
from tests.queue.jobs import a_worker, claimed

__all__ = ["invoke", "starforge"]

app = StarForge("shop")


@app.job("mail.send", queue="mail", priority=4, retry=4)
async def send(user_id: int) -> None:
    """Send a mail."""


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    """A connection to the test's own database that commits."""
    opened = await connect(database)
    yield opened
    await opened.close()


async def test_a_job_is_enqueued_with_what_the_options_say(invoke: Starforge, db: Connection) -> None:
    done = await invoke(
        "enqueue", "t", '{"n": 7}', "--queue", "mail", "--priority", "3", "--delay", "60",
        "--tag", "a", "--tag", "b", "--json",
    )  # fmt: skip
    assert done.code == 0
    row = await db.fetchrow("SELECT *, run_after - created_at AS ahead FROM queue_jobs")
    assert row is not None
    assert done.document == {"id": str(row["id"]), "new": True}
    assert (row["type"], row["payload"], row["queue"], row["priority"], row["tags"]) == (
        "t", {"n": 7}, "mail", 3, ["a", "b"],
    )  # fmt: skip
    assert row["ahead"].total_seconds() == 60


async def test_without_an_app_a_job_has_what_the_workers_declared_of_its_type(
    invoke: Starforge, db: Connection
) -> None:
    await declare_types(db, app.job_types())
    done = await invoke("enqueue", "mail.send", '{"user_id": 7}')
    assert "No worker" not in done.out
    row = await db.fetchrow("DELETE FROM queue_jobs RETURNING queue, max_attempts")
    assert row is not None
    assert tuple(row) == ("mail", 4)
    await invoke("enqueue", "mail.send", '{"user_id": 7}', "--queue", "urgent")
    assert await db.fetchval("SELECT queue FROM queue_jobs") == "urgent"
    typo = await invoke("enqueue", "mail.sned", '{"user_id": 7}')
    assert (typo.code, "No worker has declared the type 'mail.sned' yet" in typo.out) == (0, True)


@covers("Q-67")
async def test_a_key_that_holds_is_told_with_its_job(invoke: Starforge, db: Connection) -> None:
    first = await invoke("enqueue", "t", "--key", "k", "--within", "60")
    again = await invoke("enqueue", "t", "--key", "k")
    job_id = await db.fetchval("SELECT id FROM queue_jobs")
    assert (first.code, again.code) == (0, 0)
    assert f"enqueued {job_id}" in first.out
    assert f"the key 'k' belongs to job {job_id}" in again.out


@covers("J-40")
async def test_with_an_app_a_job_has_its_types_defaults_and_must_be_of_one_of_its_types(
    invoke: Starforge, starforge: Starforge, db: Connection
) -> None:
    known = await invoke("enqueue", "mail.send", '{"user_id": 7}', "--app", "tests.cli.test_tasks:app")
    assert known.code == 0
    assert await db.fetchval("SELECT (queue, priority)::text FROM queue_jobs") == "(mail,4)"
    unknown = await starforge("enqueue", "mail.sned", "--app", "tests.cli.test_tasks:app", "--json")
    assert (unknown.code, unknown.document["code"]) == (2, "SF245")
    assert "mail.send" in unknown.document["error"]


@covers("J-40")
@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("t", "{"), "SF203", "is not JSON"),
        (("t", "[1]"), "SF203", "not a JSON object"),
        (("t", "{}", "--priority", "5000"), "SF241", "priority of a t job"),
        (("t", "{}", "--delay", "-1"), "SF241", "delay_s of a t job"),
        (("t", "{}", "--within", "5"), "SF001", "--key"),
    ],
)
async def test_wrong_input_enqueues_nothing_and_says_what_is_wrong(
    starforge: Starforge, db: Connection, words: tuple[str, ...], code: str, told: str
) -> None:
    done = await starforge("enqueue", *words, "--json")
    assert (done.code, done.document["code"]) == (2, code)
    assert told in done.document["error"]
    assert await db.fetchval("SELECT count(*) FROM queue_jobs") == 0


async def test_a_payload_may_come_on_standard_input(database: str, db: Connection) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge", "enqueue", "t", "-",
        env={"DATABASE_URL": database, "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(30):
        await process.communicate('{"text": "é"}'.encode())
    assert process.returncode == 0
    assert await db.fetchval("SELECT payload FROM queue_jobs") == {"text": "é"}


async def _one_of_each_state(db: Connection) -> dict[str, UUID]:
    """Make a job in every state that people see."""
    made: dict[str, UUID] = {}
    worker_id = await a_worker(db)
    for state in ("completed", "retry", "failed", "archived", "running"):
        made[state] = (await enqueue(db, NewJob("t", {"n": state}, max_attempts=3, tags=[state]))).id
        (leased,) = await claimed(db, worker_id)
        error = {"reason": f"the {state} reason", "trace": "Traceback: …"}
        if state == "completed":
            await complete(db, [leased], [1234.5], worker_id=worker_id, results=['{"sent": 3}'])
        elif state == "retry":
            await retry(db, [leased], [error], [60.0], worker_id=worker_id)
        elif state != "running":
            await fail(db, [leased], [error], worker_id=worker_id)
    for state in ("pending", "scheduled", "paused", "quarantined"):
        job = NewJob("t", tags=[state], delay_s=3600.0 if state == "scheduled" else None)
        made[state] = (await enqueue(db, job)).id
    await db.execute("UPDATE queue_jobs SET status = 'paused' WHERE id = $1", made["paused"])
    await db.execute("UPDATE queue_jobs SET status = 'quarantined' WHERE id = $1", made["quarantined"])
    await db.execute(
        "UPDATE queue_jobs_dlq SET archived_at = sf_now() WHERE original_job_id = $1", made["archived"]
    )
    await db.execute("DELETE FROM queue_jobs WHERE id = $1", made["archived"])
    made["cancelled"] = uuid4()
    await db.execute(
        "INSERT INTO job_history (id, tenant_id, queue, type, payload, priority, status, attempts,"
        " max_attempts, run_after, lease_epoch, created_at, completed_at, reason, tags)"
        " VALUES ($1, 'default', 'default', 't', '{}', 0, 'cancelled', 0, 5, sf_now(), 1, sf_now(), sf_now(),"
        " 'not wanted', '{cancelled}')",
        made["cancelled"],
    )
    return made


@covers("D-19")
async def test_each_job_is_in_the_one_state_that_people_see(db: Connection) -> None:
    made = await _one_of_each_state(db)
    assert set(made) == set(STATES)
    for state, job_id in made.items():
        assert (await job_by_id(db, job_id)).state == state
        assert [job.id for job in await list_jobs(db, state=state)] == [job_id]
        assert [
            job.id for job in await list_jobs(db, state=state, tag=state, queue="default", job_type="t")
        ] == [job_id]
        assert await list_jobs(db, state=state, tag="other") == []
        assert await list_jobs(db, state=state, queue="other") == []
        assert await list_jobs(db, state=state, job_type="other") == []
    live = {job.state for job in await list_jobs(db)}
    assert live == set(STATES) - {"completed", "cancelled", "archived"}
    assert len(await list_jobs(db, most=2)) == 2


async def test_a_redriven_job_is_shown_where_it_is_and_not_as_its_old_letter(db: Connection) -> None:
    made = await _one_of_each_state(db)
    await enqueue(db, NewJob("t", id=made["archived"]))
    assert (await job_by_id(db, made["archived"])).state == "pending"
    assert await list_jobs(db, state="archived") == []


@covers("D-19")
async def test_task_ls_lists_and_filters(invoke: Starforge, starforge: Starforge, db: Connection) -> None:
    made = await _one_of_each_state(db)
    asked = await invoke("task", "ls", "--state", "failed", "--json")
    assert [job["id"] for job in asked.document] == [str(made["failed"])]
    assert asked.document[0]["error"] == "the failed reason"
    told = await invoke("task", "ls", "--tag", "retry")
    assert "1 of 3" in told.out
    assert "the retry reason" in told.out
    assert str(made["failed"]) not in told.out
    nothing = await invoke("task", "ls", "--queue", "none")
    assert "No job that fits" in nothing.out
    wrong = await starforge("task", "ls", "--state", "done", "--json")
    assert (wrong.code, wrong.document["code"]) == (2, "SF001")
    assert "quarantined" in wrong.document["error"]


async def test_task_inspect_shows_all_but_the_payload_unless_asked(
    invoke: Starforge, starforge: Starforge, db: Connection
) -> None:
    made = await _one_of_each_state(db)
    job_id = str(made["failed"])
    closed, opened = (
        await invoke("task", "inspect", job_id, "--json"),
        await invoke("task", "inspect", job_id, "--payload", "--json"),
    )
    assert "payload" not in closed.document
    assert closed.document["payload_bytes"] == len('{"n": "failed"}')
    assert opened.document["payload"] == {"n": "failed"}
    assert closed.document["last_error"]["reason"] == "the failed reason"
    told = await invoke("task", "inspect", job_id)
    assert "the failed reason" in told.out
    assert "Traceback: …" in told.out
    assert '{"n"' not in told.out
    done = await invoke("task", "inspect", str(made["completed"]), "--json")
    assert (done.document["result"], done.document["ran_ms"]) == ({"sent": 3}, 1234.5)
    unknown = await starforge("task", "inspect", str(uuid4()), "--json")
    assert (unknown.code, unknown.document["code"]) == (1, "SF244")


async def test_a_document_that_python_cannot_hold_is_shown_as_text(db: Connection) -> None:
    job_id = (await enqueue(db, NewJob("t"))).id
    await db.execute(f"UPDATE queue_jobs SET last_error = '{{\"n\": 1{'0' * 5000}}}' WHERE id = $1", job_id)
    assert str((await job_by_id(db, job_id)).last_error).startswith('{"n": 10')


async def _said(process: asyncio.subprocess.Process, wanted: str, told: list[str]) -> None:
    """Read lines until one holds what is wanted."""
    assert process.stdout is not None
    async with asyncio.timeout(20):
        while not any(wanted in line for line in told):
            line = await process.stdout.readline()
            assert line, told
            told.append(line.decode())


@pytest.mark.parametrize("ending", ["completed", "failed"])
async def test_task_tail_follows_a_job_to_its_end(database: str, db: Connection, ending: str) -> None:
    job_id = (await enqueue(db, NewJob("t"))).id
    worker_id = await a_worker(db)
    told: list[str] = []
    async with running("task", "tail", str(job_id), DATABASE_URL=database) as process:
        await _said(process, "pending", told)
        (leased,) = await claimed(db, worker_id)
        await _said(process, "running on worker", told)
        await db.execute(
            "INSERT INTO job_progress (job_id, tenant_id, lease_epoch, done, total, message)"
            " VALUES ($1, 'default', 1, 3, 4, 'sending')",
            job_id,
        )
        await db.execute(
            "INSERT INTO log_lines (worker_id, job_id, level, line) VALUES ($1, $2, 'info', 'three [sent]')",
            worker_id, job_id,
        )  # fmt: skip
        await _said(process, "three [sent]", told)
        await _said(process, "3 of 4 (75%) sending", told)
        if ending == "completed":
            assert await complete(db, [leased], [10.0], worker_id=worker_id, results=['{"sent": 4}'])
            await _said(process, '{"sent":4}', told)
        else:
            assert await fail(db, [leased], [{"reason": "refused"}], worker_id=worker_id)
            await _said(process, "failed after 1 attempts: refused", told)
        await db.execute(
            "INSERT INTO log_lines (worker_id, job_id, level, line) VALUES ($1, $2, 'info', 'the last word')",
            worker_id, job_id,
        )  # fmt: skip
        await _said(process, "the last word", told)
        async with asyncio.timeout(10):
            assert await process.wait() == (0 if ending == "completed" else 1)
    assert sum("three [sent]" in line for line in told) == 1


async def test_task_tail_writes_a_document_a_line_and_is_left_by_ctrl_c(
    database: str, db: Connection
) -> None:
    job_id = (await enqueue(db, NewJob("t", delay_s=3600))).id
    told: list[str] = []
    async with running("task", "tail", str(job_id), "--json", DATABASE_URL=database) as process:
        await _said(process, "scheduled", told)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(10):
            _, err = await process.communicate()
        assert process.returncode == 130
        assert b"Traceback" not in err
    assert json.loads(told[0])["job"]["id"] == str(job_id)


async def test_task_tail_of_no_job_is_refused(starforge: Starforge) -> None:
    done = await starforge("task", "tail", str(uuid4()))
    assert done.code == 1
    assert "there is no job" in done.err


@covers("X-12")
async def test_another_tenants_job_is_not_shown_under_row_security(db: Connection, database: str) -> None:
    job_id = (await enqueue(db, NewJob("t", tenant="acme", unique=Key("k")))).id
    pool = await Pool.open(database.replace("tester@", "starforge_app@"), size=1)
    async with pool.transaction(tenant="bolt") as conn:
        assert await list_jobs(conn) == []
    async with pool.transaction(tenant="acme") as conn:
        found = await job_by_id(conn, job_id)
        assert found.created_at is not None
        assert found.created_at < datetime.now(UTC)
    await pool.close()
