"""starforge_enqueue(): jobs from triggers and other languages, by the rules of the Python client."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import asyncpg
import pytest

from starforge.clock import new_id
from starforge.db.pool import Connection, Pool, connect, set_tenant
from starforge.queue.complete import complete
from starforge.queue.enqueue import enqueue
from starforge.queue.hint import CHANNEL
from starforge.queue.job import Accepted, Key, NewJob
from tests.conftest import Travel
from tests.covers import covers
from tests.postgres import TestServer
from tests.queue.jobs import a_worker, claimed


@covers("J-39")
async def test_a_plain_connection_enqueues_by_one_call(conn: Connection) -> None:
    job_id = await conn.fetchval(
        "SELECT starforge_enqueue('mail.send', '{\"to\": 7}', queue => 'mail', priority => 3,"
        " delay => '1 minute', tags => '{a,b}', max_attempts => 2, limit_key => 'k', tenant => 'acme')"
    )
    row = await conn.fetchrow(
        "SELECT *, run_after - created_at AS ahead FROM queue_jobs WHERE id = $1", job_id
    )
    assert row is not None
    told = (
        "type",
        "payload",
        "queue",
        "priority",
        "tags",
        "max_attempts",
        "limit_key",
        "tenant_id",
        "status",
    )
    assert tuple(row[name] for name in told) == (
        "mail.send", {"to": 7}, "mail", 3, ["a", "b"], 2, "k", "acme", "pending",
    )  # fmt: skip
    assert row["ahead"] == timedelta(minutes=1)


async def test_a_job_that_says_only_its_type_has_the_defaults_of_the_python_client(conn: Connection) -> None:
    ours = NewJob("t")
    await enqueue(conn, ours)
    theirs = await conn.fetchval("SELECT starforge_enqueue('t')")
    own = "{id,run_after,created_at,updated_at}"
    query = f"SELECT to_jsonb(j) - '{own}'::text[] FROM queue_jobs j WHERE id = $1"
    assert await conn.fetchval(query, theirs) == await conn.fetchval(query, ours.id)
    assert await conn.fetchval("SELECT run_after = created_at FROM queue_jobs WHERE id = $1", theirs)


async def test_its_ids_rise_with_time_as_the_clients_do(conn: Connection) -> None:
    """By whole milliseconds: one that is rounded up would be ahead of its time."""
    for _ in range(50):
        before = new_id()
        made = await conn.fetchval("SELECT starforge_enqueue('t')")
        assert made.version == 7
        assert before.int >> 80 <= made.int >> 80 <= new_id().int >> 80


@pytest.mark.parametrize("user", ["tester", "starforge_engine", "starforge_app", "starforge_operator"])
async def test_a_trigger_on_a_users_table_enqueues_in_the_rows_transaction(
    server: TestServer, database: str, user: str
) -> None:
    owner = await connect(database)
    await owner.execute(f"""
        CREATE TABLE orders (id int PRIMARY KEY, total int);
        GRANT INSERT ON orders TO {user};
        CREATE FUNCTION order_placed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM starforge_enqueue('order.confirm', jsonb_build_object('order_id', NEW.id),
                                      key => 'order ' || NEW.id, tenant => 'acme');
            RETURN NEW;
        END $$;
        CREATE TRIGGER placed AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION order_placed();
    """)
    conn = await connect(database.replace("tester@", f"{user}@"))
    with pytest.raises(asyncpg.UniqueViolationError):
        async with conn.transaction():
            await set_tenant(conn, "acme")
            await conn.execute("INSERT INTO orders VALUES (1, 10)")
            await conn.execute("INSERT INTO orders VALUES (1, 10)")
    assert await owner.fetchval("SELECT count(*) FROM queue_jobs") == 0
    async with conn.transaction():
        await set_tenant(conn, "acme")
        await conn.execute("INSERT INTO orders SELECT n, 10 FROM generate_series(1, 3) AS n")
    rows = await owner.fetch("SELECT payload, tenant_id FROM queue_jobs ORDER BY payload")
    assert [tuple(row) for row in rows] == [({"order_id": n}, "acme") for n in (1, 2, 3)]
    await conn.close()
    await owner.close()


@covers("X-12")
async def test_the_app_role_enqueues_for_its_own_tenant_only(server: TestServer, database: str) -> None:
    conn = await connect(database.replace("tester@", "starforge_app@"))
    async with conn.transaction():
        await set_tenant(conn, "acme")
        await conn.fetchval("SELECT starforge_enqueue('t', key => 'k')")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with conn.transaction():
                await conn.fetchval("SELECT starforge_enqueue('t', tenant => 'bolt')")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with conn.transaction():
                await conn.fetchval("SELECT starforge_enqueue('t', key => 'k', tenant => 'bolt')")
    await conn.close()


@covers("Q-67")
async def test_a_key_is_the_same_to_the_function_and_to_the_client(conn: Connection, travel: Travel) -> None:
    call = "SELECT starforge_enqueue('t', key => 'k', key_period => '1 hour')"
    first = await conn.fetchval(call)
    assert await conn.fetchval(call) == first
    assert await enqueue(conn, NewJob("t", unique=Key("k"))) == Accepted(first, False)
    worker_id = await a_worker(conn)
    (leased,) = await claimed(conn, worker_id)
    await complete(conn, [leased], [1.0], worker_id=worker_id)
    assert await conn.fetchval(call) == first
    await travel(conn, minutes=61)
    second = await conn.fetchval(call)
    assert second != first
    assert await conn.fetchval("SELECT array_agg(id) FROM queue_jobs") == [second]


@covers("Q-67")
async def test_of_20_connections_that_call_with_one_key_at_once_one_makes_the_job(database: str) -> None:
    conns = [await connect(database) for _ in range(20)]
    worker_id = await a_worker(conns[0])
    for turn in range(10):
        made = await asyncio.gather(
            *(c.fetchval("SELECT starforge_enqueue('t', key => 'k')") for c in conns[: turn + 11])
        )
        assert len(Counter(made)) == 1
        (leased,) = await claimed(conns[0], worker_id)
        await complete(conns[0], [leased], [1.0], worker_id=worker_id)
    await asyncio.gather(*(c.close() for c in conns))


async def test_the_call_tells_the_workers_at_commit(pool: Pool, listener: Connection) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await listener.add_listener(CHANNEL, lambda *said: heard.put_nowait(str(said[-1])))
    async with pool.transaction() as conn:
        await conn.fetchval("SELECT starforge_enqueue('t', delay => '1 hour')")
        await conn.fetchval("SELECT starforge_enqueue('t', queue => 'mail', priority => 2)")
    assert await asyncio.wait_for(heard.get(), 5) == '["mail", "t", 2, "default", ""]'


@covers("J-40")
@pytest.mark.parametrize(
    ("arguments", "message", "advice"),
    [
        ("''", "type is empty", "nothing was accepted"),
        ("NULL", "type is empty", "nothing was accepted"),
        ("'mail', '[1]'", "payload of a mail job is of type array", "jsonb_build_object"),
        (
            "'mail', jsonb_build_object('x', repeat('y', 300000))",
            "has 300009 bytes; at most 262144",
            "reference",
        ),
        ("'mail', queue => ''", "of a mail job the queue is empty", "nothing"),
        ("'mail', priority => 1001", "the priority is 1001; give -1000 to 1000", "nothing"),
        ("'mail', max_attempts => 0", "the max_attempts is 0; give 1 to 1000", "nothing"),
        ("'mail', delay => '-1 s'", "the delay is -00:00:01; give 0", "nothing"),
        ("'mail', delay => '1 s', run_after => now()", "one of the two", "nothing"),
        ("'mail', run_after => 'infinity'", "run_after is infinite", "nothing"),
        ("'mail', tags => array_fill('x'::text, '{21}')", "tags are 21; at most 20", "nothing"),
        ("'mail', tags => ARRAY['a', NULL]", "one that is null", "nothing"),
        ("'mail', key => ''", "key is empty", "nothing"),
        ("'mail', key => repeat('k', 513)", "use a hash", "nothing"),
        ("'mail', key_period => '1 h'", "without a key", "nothing"),
        ("'mail', key => 'k', key_period => '0'", "key_period is not above 0", "nothing"),
        ("'mail', limit_key => repeat('k', 201)", "limit_key is longer than 200", "nothing"),
    ],
)
async def test_wrong_input_is_refused_with_what_to_do(
    conn: Connection, arguments: str, message: str, advice: str
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match=message) as refused:
        await conn.fetchval(f"SELECT starforge_enqueue({arguments})")
    assert advice in str(refused.value.hint)


async def test_the_payload_limit_can_be_set_for_the_database(conn: Connection) -> None:
    await conn.execute("SET LOCAL starforge.payload_bytes_max = '10'")
    with pytest.raises(asyncpg.InvalidParameterValueError, match="at most 10 are accepted"):
        await conn.fetchval("SELECT starforge_enqueue('t', '{\"long\": 12345}')")
