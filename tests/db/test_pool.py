"""The pool: bounded, honest about what stands in the way, and the same behind a pooler."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from starforge.db.errors import DatabaseUnreachableError, PoolExhaustedError
from starforge.db.pool import Connection, Pool, connect
from starforge.db.probing import PROBING
from starforge.db.url import shown, with_user
from starforge.queue.claim import claim
from starforge.queue.complete import complete
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.job import Key, NewJob
from starforge.queue.plan import Plan
from tests.covers import covers
from tests.pgbouncer import pgbouncer
from tests.postgres import TestServer
from tests.proxy import proxied
from tests.queue.jobs import TYPES, a_worker

PASSWORD = "hunter2"


async def test_a_pool_refuses_one_connection_more_than_its_size_after_the_stated_wait(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_PG_ACQUIRE_S", "0.05")
    pool = await Pool.open(database, size=2, application="bounded")
    async with pool.connection() as one, pool.connection():
        with pytest.raises(PoolExhaustedError, match=r"all 2 connections were busy for 0\.05 s") as refused:
            async with pool.connection():
                pass
        held = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bounded'"
        assert await one.fetchval(held) == 2
    assert refused.value.exit_code == 3
    async with pool.connection() as again:
        assert await again.fetchval("SELECT 1") == 1
    await pool.close()


@covers("O-28")
async def test_the_size_of_a_pool_is_pg_pool_max_where_nothing_else_is_said(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_POOL_MAX", "3")
    pool = await Pool.open(database)
    assert pool.size == 3
    await pool.close()


async def test_a_pool_serves_again_after_the_server_cut_its_connections(pool: Pool, database: str) -> None:
    async with pool.connection() as conn:
        pid = conn.get_server_pid()
    other = await connect(database)
    await other.execute("SELECT pg_terminate_backend($1, 5000)", pid)
    await other.close()
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT 1") == 1


async def test_a_transaction_that_was_left_open_does_not_reach_the_next_borrower(database: str) -> None:
    pool = await Pool.open(database, size=1)
    async with pool.connection() as conn:
        await conn.execute("BEGIN")
        await conn.execute("CREATE TABLE half_done (id integer)")
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT to_regclass('half_done')") is None
        assert not conn.is_in_transaction()
    await pool.close()


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{PASSWORD}@127.0.0.1:1/x",
        f"postgresql://ann:{PASSWORD}@no-such-host.invalid/x",
        f"postgresql://ann@127.0.0.1:1/x?password={PASSWORD}",
        f"postgresql://ann:{PASSWORD}@127.0.0.1:port/x",
        f"postgresql://ann:{PASSWORD}@127.0.0.1:1/x?sslmode=perhaps",
        f"postgresql://ann:{PASSWORD}@[::1/x",
        f"postgres:ann:{PASSWORD}@127.0.0.1:1/x",
        f"postgresql://ann:{PASSWORD}/with-a-slash@127.0.0.1:1/x",
        f"postgresql://ann:{PASSWORD}#with-a-hash@127.0.0.1:1/x",
    ],
)
async def test_what_stands_in_the_way_is_told_without_the_password(url: str) -> None:
    openings: list[Callable[[str], Awaitable[object]]] = [connect, Pool.open]
    for opening in openings:
        with pytest.raises(DatabaseUnreachableError) as refused:
            await opening(url)
        error = refused.value
        assert PASSWORD not in f"{error} {error.document()}"
        assert error.__suppress_context__, "a traceback would print what asyncpg said"
        assert "\n" not in str(error)


async def test_a_login_that_the_server_refuses_is_told_with_the_user_and_without_the_password(
    server: TestServer,
) -> None:
    url = with_user(server.url(), "nobody-here", PASSWORD)
    with pytest.raises(DatabaseUnreachableError, match=r"refused the login.*nobody-here") as refused:
        await connect(url)
    assert PASSWORD not in str(refused.value)


async def test_a_database_that_does_not_exist_is_told_by_its_name(server: TestServer) -> None:
    with pytest.raises(DatabaseUnreachableError, match='database "not_there" does not exist'):
        await connect(server.url("not_there"))


async def test_a_server_that_never_answers_is_given_up_after_the_stated_time(
    mute: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_PG_CONNECT_S", "0.1")
    async with asyncio.timeout(5):
        with pytest.raises(DatabaseUnreachableError, match="no answer in time"):
            await connect(f"postgresql://ann:{PASSWORD}@127.0.0.1:{mute}/x")


async def test_a_server_that_falls_silent_after_the_login_is_given_up_after_the_stated_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So a pooler behaves that has no server behind it."""
    monkeypatch.setenv("STARFORGE_PG_CONNECT_S", "0.1")
    version = b"server_version\x0018.0\x00"
    greeting = b"R" + struct.pack("!ii", 8, 0) + b"S" + struct.pack("!i", 4 + len(version)) + version
    greeting += b"K" + struct.pack("!iii", 12, 1, 1) + b"Z\x00\x00\x00\x05I"

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(greeting)

    listener = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with asyncio.timeout(5), listener:
        with pytest.raises(DatabaseUnreachableError, match="no answer in time"):
            await connect(f"postgresql://ann@127.0.0.1:{port}/x?sslmode=disable")


async def test_a_borrower_that_is_cancelled_on_a_silent_connection_is_cancelled_and_leaks_nothing(
    server: TestServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_PG_ACQUIRE_S", "0.2")
    async with proxied(server.port) as proxy, asyncio.timeout(10):
        pool = await Pool.open(proxy.url(database), size=1)
        asked = asyncio.Event()

        async def borrow() -> None:
            async with pool.connection() as conn:
                proxy.mute()
                asked.set()
                await conn.fetchval("SELECT 1")

        borrower = asyncio.create_task(borrow())
        await asked.wait()
        borrower.cancel()
        with pytest.raises(asyncio.CancelledError):
            await borrower
        async with pool.connection() as conn:
            assert await conn.fetchval("SELECT 1") == 1
        await pool.close()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://ann:hunter2@db:5433/shop?sslmode=require", "postgresql://ann@db:5433/shop"),
        ("postgresql://db/shop?user=ann&password=hunter2", "postgresql://db/shop"),
        ("postgresql:///shop", "postgresql://localhost/shop"),
        ("postgresql://ann:hunter2@db:x/shop", "the database of DATABASE_URL"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, told: str) -> None:
    assert shown(url) == told


def test_a_url_for_another_user_keeps_its_options_and_has_only_the_password_that_is_given() -> None:
    given_url = f"postgresql://ann:{PASSWORD}@db:5433/shop?sslmode=require"
    assert with_user(given_url, "starforge_app") == "postgresql://starforge_app@db:5433/shop?sslmode=require"
    assert (
        with_user(given_url, "a b", "p@ss/word")
        == "postgresql://a%20b:p%40ss%2Fword@db:5433/shop?sslmode=require"
    )


def test_a_url_for_another_user_loses_a_password_that_was_among_its_options() -> None:
    """`starforge db url` says that the password is not in what it prints."""
    assert PASSWORD not in with_user(f"postgresql://db/shop?user=ann&password={PASSWORD}", "starforge_app")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
DOCUMENTS = st.recursive(
    # jsonb keeps numbers as decimals: a float beyond 2**53 comes back as the integer that it is not quite.
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(-(2.0**53), 2.0**53, allow_subnormal=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(DOCUMENTS)
@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_a_json_value_comes_back_as_it_went(conn: Connection, document: Any) -> None:
    both = await conn.fetchrow(
        "SELECT $1::jsonb AS b, $1::jsonb::text::json AS j, $2::json AS plain", document, document
    )
    assert both is not None
    assert (both["b"], both["j"], both["plain"]) == (document, document, document)


async def test_json_keeps_its_bytes_and_jsonb_travels_by_copy(conn: Connection) -> None:
    text = '{"b": 1,  "a": "\\u00e9", "a": 1.0}'
    assert await conn.fetchval("SELECT ($1::text::json)::text", text) == text
    await conn.execute("CREATE TEMPORARY TABLE copied (value jsonb, plain json)")
    value = {"ключ": ["🂡", "\u2028", "e\u0301", None, {"": -1.5}]}
    await conn.copy_records_to_table("copied", records=[(value, value), (None, None)])
    rows = await conn.fetch("SELECT value, plain FROM copied")
    assert [tuple(row) for row in rows] == [(value, value), (None, None)]


async def test_a_transaction_speaks_for_its_tenant_and_the_next_borrower_does_not(database: str) -> None:
    pool = await Pool.open(database, size=1)
    async with pool.transaction(tenant="acme") as conn:
        assert await conn.fetchval("SELECT sf_tenant()") == "acme"
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT sf_tenant()") == "default"
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with pool.transaction(tenant="acme") as conn:
            await conn.execute("SELECT 1 / 0")
    async with pool.transaction() as conn:
        assert await conn.fetchval("SELECT sf_tenant()") == "default"
    await pool.close()


@pytest.mark.parametrize("tenant", ["o'brien", 'a"b', "тенант", "x; DROP TABLE users"])
async def test_a_tenants_name_is_taken_as_it_is(pool: Pool, tenant: str) -> None:
    async with pool.transaction(tenant=tenant) as conn:
        assert await conn.fetchval("SELECT sf_tenant()") == tenant


async def test_a_transaction_that_fails_leaves_nothing(pool: Pool) -> None:
    with pytest.raises(ZeroDivisionError):
        async with pool.transaction() as conn:
            await enqueue(conn, NewJob("t"))
            raise ZeroDivisionError
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == 0


async def _planned(conn: Connection) -> set[str]:
    """Return what the planner may not do, or must, on this connection."""
    asked = await conn.fetch(
        "SELECT name FROM pg_settings WHERE name = ANY ($1) AND source = 'session'", [*PROBING]
    )
    return {row["name"] for row in asked}


async def test_statements_are_planned_by_probes_where_that_is_asked_for(
    database: str,
) -> None:
    pool = await Pool.open(database, size=1)
    for probing in (False, True, True, False, True):
        async with pool.connection(probing=probing) as conn:
            assert await _planned(conn) == (set(PROBING) if probing else set())
    async with pool.transaction() as conn:
        assert await _planned(conn) == set()
    await pool.close()


async def test_a_new_connection_is_planned_by_probes_also_after_others_were_lost(database: str) -> None:
    pool = await Pool.open(database, size=1)
    async with pool.connection(probing=True):
        pass
    await pool.reopen()
    async with pool.connection() as conn:
        assert await _planned(conn) == set()
    async with pool.connection(probing=True) as conn:
        assert await _planned(conn) == set(PROBING)
        await conn.close()
    async with pool.connection(probing=True) as conn:
        assert await _planned(conn) == set(PROBING)
    await pool.close()


async def test_a_borrower_that_is_cancelled_while_its_connection_is_set_leaves_none_that_is(
    database: str, server: TestServer
) -> None:
    async with proxied(server.port) as proxy:
        pool = await Pool.open(proxy.url(database), size=1)
        async with pool.connection() as conn:
            pid = conn.get_server_pid()
        proxy.mute()

        async def borrow() -> None:
            async with pool.connection(probing=True):
                pass

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(borrow(), 0.2)
        async with pool.connection() as conn:
            assert await _planned(conn) == set()
            assert conn.get_server_pid() != pid
        await pool.close()


@pytest.mark.system("pgbouncer")
async def test_behind_a_pooler_no_connection_is_set_for_others(database: str, bouncer: int) -> None:
    pool = await Pool.open(_through(bouncer, database, "tester"), size=2)
    async with pool.connection(probing=True) as conn:
        assert await _planned(conn) == set()
    await pool.close()


@pytest.fixture(scope="module")
def bouncer(server: TestServer) -> Iterator[int]:
    """The port of a PgBouncer in transaction mode."""
    with pgbouncer(server) as port:
        yield port


def _through(bouncer: int, database: str, user: str) -> str:
    return f"postgresql://{user}@127.0.0.1:{bouncer}/{database.rpartition('/')[2]}"


@pytest.mark.system("pgbouncer")
async def test_a_pool_notices_a_pooler_and_none_where_there_is_none(
    pool: Pool, database: str, bouncer: int
) -> None:
    pooled = await Pool.open(_through(bouncer, database, "tester"), size=4)
    assert (pooled.pooled, pool.pooled) == (True, False)
    await pooled.close()


@pytest.mark.system("pgbouncer")
async def test_one_process_after_another_logs_in_through_a_pooler(database: str, bouncer: int) -> None:
    """What the first prepared on the pooler's connection to the server is not in the second one's way."""
    url = _through(bouncer, database, "tester")
    program = (
        "import asyncio\nfrom starforge.db.pool import connect\nasync def main():\n"
        f"    await (await connect({url!r})).close()\nasyncio.run(main())"
    )
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()


@pytest.mark.system("pgbouncer")
async def test_behind_a_pooler_statements_and_tenants_stay_with_their_transaction(
    database: str, bouncer: int
) -> None:
    """Four clients on two server connections: a statement or a tenant that outlived its transaction shows."""
    pool = await Pool.open(_through(bouncer, database, "starforge_app"), size=4)

    async def ask(number: int) -> None:
        for round_number in range(10):
            async with pool.transaction(tenant=f"tenant-{number}") as conn:
                row = await conn.fetchrow(
                    "SELECT sf_tenant() AS tenant, $1::jsonb AS value", {"n": round_number}
                )
                assert row is not None
                assert (row["tenant"], row["value"]) == (f"tenant-{number}", {"n": round_number})
            async with pool.connection() as conn:
                assert await conn.fetchval("SELECT sf_tenant()") == "default"

    await asyncio.gather(*(ask(number) for number in range(4)))
    await pool.close()


@pytest.mark.system("pgbouncer")
async def test_behind_a_pooler_jobs_are_enqueued_claimed_and_completed(database: str, bouncer: int) -> None:
    pool = await Pool.open(_through(bouncer, database, "starforge_engine"), size=4)
    async with pool.connection() as conn:
        worker_id = await a_worker(conn)
        await enqueue(conn, NewJob("t", {"n": 0}, unique=Key("k")))
        assert not (await enqueue(conn, NewJob("t", {"n": 0}, unique=Key("k")))).new
        await enqueue_many(conn, [NewJob("t", {"n": n}) for n in range(1, 10)])
        await enqueue_many(conn, [NewJob("t", {"n": n}) for n in range(10, 1200)])
    seen: list[int] = []

    async def work() -> None:
        plan = Plan(["default"], TYPES)
        while True:
            async with pool.connection() as conn:
                jobs = await claim(conn, plan, n=100, worker_id=worker_id)
                if not jobs:
                    return
                done = await complete(conn, jobs, [1.0] * len(jobs), worker_id=worker_id)
            assert done == {job.id for job in jobs}
            seen.extend(job.payload["n"] for job in jobs)

    await asyncio.gather(*(work() for _ in range(3)))
    assert sorted(seen) == list(range(1200))
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM job_history") == 1200
    await pool.close()


async def test_a_connection_that_is_lent_out_is_not_opened_here_meanwhile(database: str) -> None:
    """The other process opens one in its stead: together they hold no more than the pool's size."""
    pool = await Pool.open(database, size=2, application="lender")
    admin = await connect(database)
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lender'"
    async with pool.connection(), pool.connection():
        assert await admin.fetchval(count) == 2
    await pool.lend()
    async with asyncio.timeout(5):
        while await admin.fetchval(count) > 1:
            await asyncio.sleep(0.01)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT 1") == 1
        assert await admin.fetchval(count) == 1
    await pool.lend()
    async with asyncio.timeout(5):
        while await admin.fetchval(count):
            await asyncio.sleep(0.01)
    pool.take_back()
    pool.take_back()
    async with pool.connection(), pool.connection():
        assert await admin.fetchval(count) == 2
    await admin.close()
    await pool.close()


async def test_what_cannot_be_lent_is_refused_and_what_is_lent_is_missed(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_PG_ACQUIRE_S", "0.05")
    pool = await Pool.open(database, size=1)
    async with pool.connection():
        with pytest.raises(PoolExhaustedError):
            await pool.lend()
    await pool.lend()
    with pytest.raises(PoolExhaustedError):
        async with pool.connection():
            pass
    pool.take_back()
    async with pool.connection():
        pass
    await pool.close()
