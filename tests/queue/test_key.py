"""Keys: jobs of one key are one job, however many ask at once and whatever becomes of the answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from starforge.db.pool import Connection, Pool, connect
from starforge.queue import key as room
from starforge.queue.complete import complete
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.errors import KeyContestedError, PayloadError
from starforge.queue.fail import fail
from starforge.queue.job import Accepted, Key, LeasedJob, NewJob
from starforge.queue.prune import prune_keys
from tests.conftest import Travel
from tests.covers import covers
from tests.proxy import proxied
from tests.queue.jobs import a_worker, claimed

K = Key("order 7")
OnConflict = Literal["return", "replace", "reschedule"]


def _job(n: int = 0, key: Key = K, **options: Any) -> NewJob:
    return NewJob("t", {"n": n}, unique=key, **options)


async def _payloads(conn: Connection) -> list[int]:
    rows = await conn.fetch("SELECT payload FROM queue_jobs ORDER BY run_after, id")
    return [row["payload"]["n"] for row in rows]


async def _end(conn: Connection, worker_id: UUID, job: LeasedJob) -> None:
    assert await complete(conn, [job], [1.0], worker_id=worker_id)


@covers("Q-67")
async def test_the_second_enqueue_of_a_key_is_told_the_first_job(conn: Connection) -> None:
    first = await enqueue(conn, _job(1))
    assert first.new
    assert await enqueue(conn, _job(2)) == Accepted(first.id, False)
    assert await _payloads(conn) == [1]


@covers("Q-67")
async def test_a_key_is_one_of_its_tenant_and_type_only(conn: Connection) -> None:
    jobs = [_job(), _job(tenant="acme"), replace(_job(), type="other"), _job(key=Key("order 8"))]
    assert all([(await enqueue(conn, job)).new for job in jobs])


async def test_a_key_holds_in_its_states_and_no_longer(conn: Connection) -> None:
    worker_id = await a_worker(conn)
    first = await enqueue(conn, _job())
    for status in ("running", "paused", "quarantined"):
        await conn.execute("UPDATE queue_jobs SET status = $1", status)
        assert await enqueue(conn, _job()) == Accepted(first.id, False)
    await conn.execute("UPDATE queue_jobs SET status = 'pending'")
    (leased,) = await claimed(conn, worker_id)
    await _end(conn, worker_id, leased)
    second = await enqueue(conn, _job())
    assert second.new
    (leased,) = await claimed(conn, worker_id)
    await fail(conn, [leased], [{}], worker_id=worker_id)
    assert (await enqueue(conn, _job())).new
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == 2


async def test_a_key_may_hold_while_its_job_is_failed_or_in_the_history(conn: Connection) -> None:
    worker_id = await a_worker(conn)
    failed = Key("f", states=("pending", "failed"))
    done = Key("d", states=("pending", "completed"))
    first = [await enqueue(conn, _job(key=key)) for key in (failed, done)]
    one, other = await claimed(conn, worker_id)
    for job in (one, other):
        if job.id == first[0].id:
            await fail(conn, [job], [{}], worker_id=worker_id)
        else:
            await _end(conn, worker_id, job)
    assert [await enqueue(conn, _job(key=key)) for key in (failed, done)] == [
        Accepted(answer.id, False) for answer in first
    ]
    assert await prune_keys(conn) == 0


@covers("Q-67")
async def test_a_key_with_a_period_holds_through_it_whatever_became_of_the_job(
    conn: Connection, travel: Travel
) -> None:
    key = Key("request 9", within_s=3600)
    worker_id = await a_worker(conn)
    first = await enqueue(conn, _job(key=key))
    (leased,) = await claimed(conn, worker_id)
    await _end(conn, worker_id, leased)
    await travel(conn, minutes=59)
    assert await enqueue(conn, _job(key=key)) == Accepted(first.id, False)
    await travel(conn, minutes=2)
    second = await enqueue(conn, _job(key=key))
    assert second.new
    await travel(conn, minutes=61)
    assert await enqueue(conn, _job(key=key)) == Accepted(second.id, False)  # it is pending still


@pytest.mark.parametrize("on_conflict", ["replace", "reschedule"])
async def test_a_pending_job_is_replaced_or_rescheduled_in_its_place(
    conn: Connection, on_conflict: OnConflict
) -> None:
    key = replace(K, on_conflict=on_conflict)
    later = datetime.now(UTC) + timedelta(hours=1)
    first = await enqueue(conn, _job(1, tags=["a"]))
    assert await enqueue(conn, _job(2, key, priority=5, tags=["b"], run_after=later)) == Accepted(
        first.id, False, True
    )
    row = await conn.fetchrow("SELECT payload, priority, tags, run_after FROM queue_jobs")
    assert row is not None
    wanted = ({"n": 2}, 5, ["b"]) if on_conflict == "replace" else ({"n": 1}, 0, ["a"])
    assert tuple(row) == (*wanted, later)
    await enqueue(conn, _job(3, key))
    assert await conn.fetchval("SELECT run_after <= sf_now() FROM queue_jobs")


@pytest.mark.parametrize("status", ["running", "paused", "quarantined"])
@pytest.mark.parametrize("on_conflict", ["replace", "reschedule"])
async def test_a_job_that_is_not_pending_is_left_as_it_is(
    conn: Connection, status: str, on_conflict: OnConflict
) -> None:
    first = await enqueue(conn, _job(1))
    await conn.execute("UPDATE queue_jobs SET status = $1", status)
    key = replace(K, on_conflict=on_conflict)
    assert await enqueue(conn, _job(2, key, delay_s=60)) == Accepted(first.id, False, False)
    assert await _payloads(conn) == [1]


async def test_jobs_of_one_bulk_with_one_key_are_one_job(conn: Connection) -> None:
    jobs = [_job(n, Key(str(n % 3))) for n in range(9)] + [NewJob("t", {"n": 100})]
    answers = await enqueue_many(conn, jobs)
    assert [answer.new for answer in answers] == [True] * 3 + [False] * 6 + [True]
    assert [answer.id for answer in answers] == [jobs[n % 3].id for n in range(9)] + [jobs[9].id]
    assert sorted(await _payloads(conn)) == [0, 1, 2, 100]


async def test_a_bulk_acts_as_if_its_jobs_came_one_after_the_other(conn: Connection) -> None:
    """Whatever the keys say on conflict: the answers and the rows are those of single enqueues."""
    words: tuple[OnConflict, ...] = ("return", "replace", "reschedule")
    jobs = [
        _job(n, Key(f"{n % 5}", on_conflict=words[n * 7 % 3]), priority=n, delay_s=100.0 + n)
        for n in range(40)
    ]
    query = "SELECT id, payload, priority, extract(epoch FROM run_after - created_at)::int FROM queue_jobs"
    state = conn.transaction()
    await state.start()
    singly = [await enqueue(conn, job) for job in jobs]
    rows = {tuple(map(str, row)) for row in await conn.fetch(query)}
    await state.rollback()
    assert await enqueue_many(conn, jobs) == singly
    assert {tuple(map(str, row)) for row in await conn.fetch(query)} == rows


async def test_a_keyed_bulk_keeps_its_order_and_is_sent_in_bounded_pieces(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "ASKED_MAX", 7)
    await enqueue_many(conn, [_job(n, Key(str(n))) for n in range(7)])
    assert await _payloads(conn) == list(range(7))
    monkeypatch.setattr(room, "ASKED_BYTES_MAX", 20)
    answers = await enqueue_many(conn, [_job(n, Key(str(n))) for n in range(30)])
    assert [answer.new for answer in answers] == [False] * 7 + [True] * 23


async def test_a_bad_payload_leaves_no_key_behind(conn: Connection) -> None:
    with pytest.raises(PayloadError):
        await enqueue_many(conn, [_job(), NewJob("t", {"n": object()}, unique=Key("other"))])
    assert await conn.fetchval("SELECT count(*) FROM job_keys") == 0


async def test_a_rolled_back_transaction_gives_its_key_back(pool: Pool) -> None:
    with pytest.raises(ZeroDivisionError):
        async with pool.transaction() as conn:
            await enqueue(conn, _job())
            raise ZeroDivisionError
    async with pool.connection() as conn:
        assert (await enqueue(conn, _job())).new


async def _connections(database: str, n: int) -> list[Connection]:
    return [await connect(database) for _ in range(n)]


@covers("Q-67")
async def test_of_50_connections_that_enqueue_one_key_at_once_one_makes_the_job(database: str) -> None:
    conns = await _connections(database, 50)
    for turn in range(5):
        jobs = [_job(n, Key(f"turn {turn}")) for n in range(50)]
        answers = await asyncio.gather(*(enqueue(c, job) for c, job in zip(conns, jobs, strict=True)))
        assert Counter(answer.new for answer in answers) == {True: 1, False: 49}
        assert len({answer.id for answer in answers}) == 1
        assert await conns[0].fetchval("SELECT count(*) FROM queue_jobs") == turn + 1
    await asyncio.gather(*(c.close() for c in conns))


@covers("Q-67")
async def test_while_the_holder_ends_at_most_one_takes_its_place(database: str) -> None:
    """Each answer is the ended job or its one successor; never are two jobs of the key there at once."""
    conns = await _connections(database, 20)
    worker_id = await a_worker(conns[0])
    for turn in range(20):
        key = Key(f"turn {turn}")
        first = await enqueue(conns[0], _job(key=key))
        (leased,) = await claimed(conns[0], worker_id)
        ended = asyncio.create_task(complete(conns[0], [leased], [1.0], worker_id=worker_id))
        answers = await asyncio.gather(*(enqueue(c, _job(key=key)) for c in conns[1:]))
        assert await ended
        made = [answer.id for answer in answers if answer.new]
        assert len(made) <= 1
        assert {answer.id for answer in answers} <= {first.id, *made}
        left = await conns[0].fetch("DELETE FROM queue_jobs RETURNING id")
        assert [row["id"] for row in left] == made
    await asyncio.gather(*(c.close() for c in conns))


async def test_bulks_with_the_same_keys_in_any_order_do_not_stop_each_other(database: str) -> None:
    conns = await _connections(database, 8)
    for turn in range(5):
        keys = [Key(f"{turn} {n}") for n in range(100)]
        bulks = [[_job(n, key) for key in keys[n:] + keys[:n]] for n in range(8)]
        found = await asyncio.gather(*(enqueue_many(c, jobs) for c, jobs in zip(conns, bulks, strict=True)))
        assert sum(answer.new for answers in found for answer in answers) == 100
        assert len({answer.id for answers in found for answer in answers}) == 100
    await asyncio.gather(*(c.close() for c in conns))


async def test_whoever_repeats_a_key_that_holds_waits_for_nobody(database: str) -> None:
    one, other = await _connections(database, 2)
    first = await enqueue(one, _job())
    async with one.transaction():
        await enqueue(one, _job())
        async with asyncio.timeout(5):
            assert await enqueue(other, _job()) == Accepted(first.id, False)
    await asyncio.gather(one.close(), other.close())


async def test_who_comes_second_waits_for_the_firsts_transaction_and_takes_the_key_if_that_fails(
    database: str,
) -> None:
    one, other = await _connections(database, 2)
    for commits in (True, False):
        key = Key(str(commits))
        transaction = one.transaction()
        await transaction.start()
        first = await enqueue(one, _job(key=key))
        second = asyncio.create_task(enqueue(other, _job(key=key)))
        while not await one.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0.005)
        await (transaction.commit() if commits else transaction.rollback())
        answer = await second
        assert answer.new is not commits
        assert (answer.id == first.id) is commits
    await asyncio.gather(one.close(), other.close())


async def test_a_snapshot_that_cannot_see_the_holder_is_an_error_and_not_a_second_job(database: str) -> None:
    one, other = await _connections(database, 2)
    async with other.transaction(isolation="repeatable_read"):
        await other.fetchval("SELECT count(*) FROM job_keys")
        await enqueue(one, _job())
        with pytest.raises(asyncpg.SerializationError):
            await enqueue(other, _job())
    assert await one.fetchval("SELECT count(*) FROM queue_jobs") == 1
    await asyncio.gather(one.close(), other.close())


async def test_a_key_that_never_settles_is_refused_in_the_end(conn: Connection) -> None:
    talk = room.ask([_job()])
    next(talk)
    with pytest.raises(KeyContestedError, match="'order 7' of a t job changed hands 10 times"):
        for _ in range(room.TRIES_MAX):
            talk.send([(1, None, False, False)])


@covers("X-06")
@pytest.mark.parametrize("statement", [b"INSERT", b"COMMIT"])
@pytest.mark.parametrize("done", [True, False])
async def test_after_a_lost_answer_the_key_tells_the_first_job(
    database: str, statement: bytes, done: bool
) -> None:
    """G10: whether the answer to the commit was lost, and whether the job has ended since, one job it is."""
    key = Key("request 1", within_s=3600)
    job = _job(key=key)
    direct = await connect(database)
    port = urlsplit(database).port
    assert port is not None
    async with proxied(port) as proxy:
        through = await connect(proxy.url(database))
        proxy.lose = b"SELECT" if statement == b"INSERT" else statement
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            if statement == b"COMMIT":
                async with through.transaction():
                    await enqueue(through, job)
            else:
                await enqueue(through, job)
        through.terminate()
    while not await direct.fetchval("SELECT count(*) FROM queue_jobs"):
        await asyncio.sleep(0.005)
    if done:
        worker_id = await a_worker(direct)
        (leased,) = await claimed(direct, worker_id)
        await _end(direct, worker_id, leased)
    assert await enqueue(direct, _job(key=key)) == Accepted(job.id, False)
    both = "SELECT (SELECT count(*) FROM queue_jobs) + (SELECT count(*) FROM job_history)"
    assert await direct.fetchval(both) == 1
    await direct.close()


async def test_pruning_deletes_the_keys_that_hold_no_more_and_only_those(
    conn: Connection, travel: Travel
) -> None:
    worker_id = await a_worker(conn)
    for n in range(10):
        await enqueue(conn, _job(key=Key(f"gone {n}")))
    await enqueue(conn, _job(key=Key("for long", within_s=7200)))
    await enqueue(conn, _job(key=Key("for a while", within_s=60)))
    for leased in await claimed(conn, worker_id):
        await _end(conn, worker_id, leased)
    await enqueue(conn, _job(key=Key("waits")))
    await enqueue(conn, _job(key=Key("failed")))
    await conn.execute(
        "UPDATE queue_jobs j SET status = 'failed' FROM job_keys k WHERE k.job_id = j.id AND k.key = 'failed'"
    )
    await travel(conn, minutes=30)
    assert await prune_keys(conn) == 11
    left = await conn.fetch("SELECT key FROM job_keys ORDER BY key")
    assert [row["key"] for row in left] == ["failed", "for long", "waits"]
    assert await prune_keys(conn) == 0


async def test_pruning_beside_enqueues_never_makes_two_jobs_of_one_key(database: str) -> None:
    conns = await _connections(database, 6)
    worker_id = await a_worker(conns[0])
    key = Key("k")
    for _ in range(30):
        await enqueue(conns[0], _job(key=key))
        for leased in await claimed(conns[0], worker_id):
            await _end(conns[0], worker_id, leased)
        pruned = asyncio.create_task(prune_keys(conns[0]))
        answers = await asyncio.gather(*(enqueue(c, _job(key=key)) for c in conns[1:]))
        await pruned
        assert sum(answer.new for answer in answers) == 1
        assert (await enqueue(conns[0], _job(key=key))).new is False
    await asyncio.gather(*(c.close() for c in conns))
