"""Walk: every row once, however an attempt ends; and what becomes of rows that no batch gets through."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from starforge.backfill.errors import PartitionOverError, WalkError
from starforge.backfill.partition.partition import Cursor
from starforge.backfill.partition.poison import poison_of
from starforge.backfill.partition.walk import Walked, cut
from starforge.backfill.scheme.keyed import KeyRange
from starforge.backfill.scheme.scheme import KeySpan, Named
from starforge.db.pool import DATABASE_AWAY, Connection, Pool
from starforge.errors import UnreachableError
from starforge.queue.outcome import PermanentError
from tests.backfill.walking import a_backfill, a_table, add_one, an_attempt, times, walked
from tests.covers import covers
from tests.postgres import TestServer
from tests.proxy import Statement, When, once, proxied
from tests.proxy import cut as cut_off

Change = Callable[[Connection, KeySpan], Awaitable[None]]


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 50 ms, so that what takes too long takes half a second."""
    monkeypatch.setenv("STARFORGE_BACKFILL_BATCH_S", "0.05")


def commit(number: int) -> Callable[[Statement], bool]:
    """Return what tells whether a statement is the nth commit of its role."""
    return lambda statement: statement.commit_number == number


def recording(seen: list[KeySpan]) -> Change:
    async def change(conn: Connection, keys: KeySpan) -> None:
        seen.append(keys)
        await add_one(conn, keys)

    return change


def failing_at(*bad: int, error: Exception | None = None) -> Change:
    """Changes rows, but no batch that holds one of these keys."""

    async def change(conn: Connection, keys: KeySpan) -> None:
        await add_one(conn, keys)
        for key in bad:
            if keys.first <= key < keys.end:
                if error is not None:
                    raise error
                await conn.execute("SELECT 1 / ($1::int - $2::int)", key, key)

    return change


@covers("B-24")
async def test_every_row_is_changed_once_in_batches_that_touch(pool: Pool) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 2_000, apart=7)
        backfill_id = await a_backfill(conn, "1..14000")
    seen: list[KeySpan] = []
    assert await walked(pool, backfill_id, recording(seen)) == Walked(rows=2_000, poison=0)
    assert await times(pool) == {1: 2_000}
    assert (seen[0].first, seen[-1].end) == (1, 14_001)
    assert all(one.end == after.first for one, after in pairwise(seen))


async def test_gaps_between_keys_cost_no_batch(pool: Pool) -> None:
    """Three rows a billion keys apart are one batch, and an empty range is none."""
    async with pool.connection() as conn:
        await a_table(conn, 3, apart=1_000_000_000)
        backfill_id = await a_backfill(conn, "1..3000000000")
        empty = await a_backfill(conn, "4000000000..5000000000", asset="empty")
    seen: list[KeySpan] = []
    await walked(pool, backfill_id, recording(seen))
    assert len(seen) == 1
    assert await walked(pool, empty, recording(seen)) == Walked(0, 0)
    assert len(seen) == 1


async def test_what_keeps_a_walk_from_passing_an_empty_stretch_poisons_no_row(pool: Pool) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 0)
        backfill_id = await a_backfill(conn, "1..100")
    ctx, partition = await an_attempt(pool, backfill_id, KeyRange("t").bounds)

    kept: list[Any] = []

    async def locked(value: Any, _conn: Connection | None = None) -> None:
        kept.append(value)
        if len(kept) == 1:
            raise asyncpg.DeadlockDetectedError("deadlock detected")

    with pytest.raises(asyncpg.DeadlockDetectedError):
        await replace(partition, resume=Cursor(None, locked)).walk(ctx, add_one)
    async with pool.connection() as conn:
        assert await poison_of(conn, backfill_id) == []


async def test_a_row_that_comes_into_a_gap_ahead_is_changed_too(pool: Pool) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 300, apart=10)
        backfill_id = await a_backfill(conn, "1..3000")
    added: list[int] = []

    async def change(conn: Connection, keys: KeySpan) -> None:
        await add_one(conn, keys)
        if not added and keys.end < 3_000:
            added.append(keys.end + 5)
            async with pool.connection() as other:
                await other.execute("INSERT INTO t (id) VALUES ($1)", added[0])

    await walked(pool, backfill_id, change)
    assert added
    assert await times(pool) == {1: 301}


@covers("B-24")
async def test_an_attempt_that_fails_leaves_whole_batches_and_the_next_goes_on_behind_them(
    pool: Pool,
) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 3_000)
        backfill_id = await a_backfill(conn, "1..3000")
    begun: list[KeySpan] = []

    async def away(conn: Connection, keys: KeySpan) -> None:
        begun.append(keys)
        await add_one(conn, keys)
        if len(begun) == 4:
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await walked(pool, backfill_id, away)
    done = (await times(pool))[1]
    assert 0 < done == begun[3].first - 1
    resumed: list[KeySpan] = []
    assert await walked(pool, backfill_id, recording(resumed)) == Walked(rows=3_000, poison=0)
    assert resumed[0].first == begun[3].first
    assert await times(pool) == {1: 3_000}


@covers("B-24")
@pytest.mark.parametrize("place", ["walk_before_commit", "walk_after_commit"])
async def test_a_killed_attempt_is_followed_without_a_row_changed_twice(
    pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 2_000)
        backfill_id = await a_backfill(conn, "1..2000")
    for at in (1, 2, 3):
        monkeypatch.setenv("STARFORGE_FAILPOINTS", f"{place}:kill@{at}")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.backfill.walking", database
        )
        assert await process.wait() == -signal.SIGKILL
    assert set(await times(pool)) <= {0, 1}
    monkeypatch.delenv("STARFORGE_FAILPOINTS")
    assert await walked(pool, backfill_id) == Walked(rows=2_000, poison=0)
    assert await times(pool) == {1: 2_000}


@covers("B-28")
async def test_a_cancelled_attempt_undoes_the_batch_that_it_is_in(pool: Pool) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 1_000)
        backfill_id = await a_backfill(conn, "1..1000")
    begun: list[KeySpan] = []
    third = asyncio.Event()

    async def change(conn: Connection, keys: KeySpan) -> None:
        begun.append(keys)
        await add_one(conn, keys)
        if len(begun) == 3:
            third.set()
            await asyncio.Event().wait()  # until it is cancelled

    walking = asyncio.create_task(walked(pool, backfill_id, change))
    await third.wait()
    walking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await walking
    assert (await times(pool))[1] == begun[2].first - 1
    assert await walked(pool, backfill_id) == Walked(rows=1_000, poison=0)
    assert await times(pool) == {1: 1_000}


@covers("B-24")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_whichever_commit_loses_its_reply_each_row_is_changed_once(
    pool: Pool, database: str, server: TestServer, monkeypatch: pytest.MonkeyPatch, when: When
) -> None:
    """The server never heard of it, or has done it and nobody was told; row 20 is poison all along."""
    monkeypatch.setenv("STARFORGE_BACKFILL_BATCH_ROWS_FIRST", "40")
    monkeypatch.setenv("STARFORGE_BACKFILL_BATCH_ROWS_MAX", "60")
    async with pool.connection() as conn:
        await a_table(conn, 200)
    lost = 0
    async with proxied(server.port) as proxy:
        for number in range(1, 40):
            async with pool.connection() as conn:
                await conn.execute("UPDATE t SET n = 0")
                backfill_id = await a_backfill(conn, "1..200", asset=f"rows{number}")
            away = await Pool.open(proxy.url(database), size=3, application=f"walk{number}")
            proxy.rule = once(commit(number), when, cut_off)
            try:
                await walked(away, backfill_id, failing_at(20))
                break
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, UnreachableError):
                lost += 1
            finally:
                await away.close()
            assert await walked(pool, backfill_id, failing_at(20)) == Walked(rows=199, poison=1), number
            assert await times(pool) == {0: 1, 1: 199}, number
    assert lost > 8


@covers("B-24")
async def test_an_attempt_that_another_has_followed_changes_no_row(pool: Pool) -> None:
    """The one that was frozen wakes up in the middle of a batch, and that batch is undone."""
    async with pool.connection() as conn:
        await a_table(conn, 1_000)
        backfill_id = await a_backfill(conn, "1..1000")
    slept = asyncio.Event()
    wake = asyncio.Event()

    async def frozen(conn: Connection, keys: KeySpan) -> None:
        slept.set()
        await wake.wait()
        await add_one(conn, keys)

    first = asyncio.create_task(walked(pool, backfill_id, frozen))
    await slept.wait()
    await walked(pool, backfill_id)
    wake.set()
    with pytest.raises(PartitionOverError):
        await first
    assert await times(pool) == {1: 1_000}


async def test_rows_at_fault_are_found_by_halving_and_kept_and_all_others_are_changed(pool: Pool) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 3_000)
        backfill_id = await a_backfill(conn, "1..3000")
    assert await walked(pool, backfill_id, failing_at(17, 18, 2_999)) == Walked(rows=2_997, poison=3)
    assert await times(pool) == {0: 3, 1: 2_997}
    async with pool.connection() as conn:
        found = await poison_of(conn, backfill_id)
        assert [one.row_key for one in found] == [17, 18, 2_999]
        assert found[0].error_type == "DivisionByZeroError (22012)"
        assert (found[0].error_message, found[0].partition_key) == ("division by zero", "1..3000")
        assert found[0].fingerprint == found[2].fingerprint
        assert [one.row_key for one in await poison_of(conn, backfill_id, after=17, most=1)] == [18]


async def test_the_row_with_key_0_is_a_row_like_any_other(pool: Pool) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 0)
        await conn.execute("INSERT INTO t (id) SELECT generate_series(-50, 50, 10)")
        backfill_id = await a_backfill(conn, "-100..50")
    assert await walked(pool, backfill_id, failing_at(0)) == Walked(rows=10, poison=1)
    assert await times(pool) == {0: 1, 1: 10}
    async with pool.connection() as conn:
        assert [one.row_key for one in await poison_of(conn, backfill_id)] == [0]


async def test_an_error_of_the_handlers_own_code_is_its_rows_too(pool: Pool) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 200)
        backfill_id = await a_backfill(conn, "1..200")
    bad = failing_at(150, error=ValueError("no number: 'x'"))
    assert await walked(pool, backfill_id, bad) == Walked(rows=199, poison=1)
    async with pool.connection() as conn:
        [found] = await poison_of(conn, backfill_id)
    assert (found.row_key, found.error_type) == (150, "ValueError")


async def test_a_batch_that_takes_too_long_is_halved(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its statement is cancelled by the server, and smaller batches get through."""
    monkeypatch.setenv("STARFORGE_BACKFILL_BATCH_TIMEOUT_FACTOR", "4")
    async with pool.connection() as conn:
        await a_table(conn, 100)
        backfill_id = await a_backfill(conn, "1..100")
    slow = "UPDATE t SET n = n + 1 WHERE id >= $1 AND id < $2 AND pg_sleep(0.004) IS NOT NULL"

    async def change(conn: Connection, keys: KeySpan) -> None:
        await conn.execute(slow, keys.first, keys.end)

    assert await walked(pool, backfill_id, change) == Walked(rows=100, poison=0)
    assert await times(pool) == {1: 100}


async def test_a_row_that_somebody_holds_is_waited_for_and_not_poison(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows before it are not kept locked meanwhile, and rows behind it come after it."""
    monkeypatch.setenv("STARFORGE_BACKFILL_BATCH_S", "0.2")
    async with pool.connection() as conn:
        await a_table(conn, 100)
        backfill_id = await a_backfill(conn, "1..100")
    async with pool.connection() as other, other.transaction():
        await other.execute("SELECT FROM t WHERE id = 40 FOR UPDATE")
        walking = asyncio.create_task(walked(pool, backfill_id))
        async with asyncio.timeout(20), pool.connection() as conn:
            while await conn.fetchval("SELECT count(*) FROM t WHERE n = 1") < 39:
                await asyncio.sleep(0.01)
    assert await walking == Walked(rows=100, poison=0)
    assert await times(pool) == {1: 100}


async def test_a_row_that_is_held_too_long_is_stepped_over(pool: Pool) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 50)
        backfill_id = await a_backfill(conn, "1..50")
    async with pool.connection() as other, other.transaction():
        await other.execute("SELECT FROM t WHERE id = 40 FOR UPDATE")
        assert await walked(pool, backfill_id) == Walked(rows=49, poison=1)
    async with pool.connection() as conn:
        [found] = await poison_of(conn, backfill_id)
    assert found.error_type == "LockNotAvailableError (55P03)"


@pytest.mark.parametrize(
    "statement",
    ["UPDATE nowhere SET n = 1", "UPDATE t SET m = 1", "SELEC 1"],
    ids=["table", "column", "syntax"],
)
async def test_a_wrong_statement_fails_the_attempt_and_poisons_no_row(pool: Pool, statement: str) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 100)
        backfill_id = await a_backfill(conn, "1..100")

    async def change(conn: Connection, keys: KeySpan) -> None:
        await conn.execute(statement)

    with pytest.raises(asyncpg.SyntaxOrAccessError):
        await walked(pool, backfill_id, change)
    async with pool.connection() as conn:
        assert await poison_of(conn, backfill_id) == []


async def test_a_database_that_goes_away_ends_the_attempt_and_poisons_no_row(pool: Pool) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 100)
        backfill_id = await a_backfill(conn, "1..100")

    async def change(conn: Connection, keys: KeySpan) -> None:
        await add_one(conn, keys)
        backend = await conn.fetchval("SELECT pg_backend_pid()")
        async with pool.connection() as other:
            await other.execute("SELECT pg_terminate_backend($1)", backend)
        await add_one(conn, keys)

    with pytest.raises(DATABASE_AWAY):
        await walked(pool, backfill_id, change)
    async with pool.connection() as conn:
        assert await poison_of(conn, backfill_id) == []
    assert await walked(pool, backfill_id) == Walked(rows=100, poison=0)
    assert await times(pool) == {1: 100}


async def test_one_poison_row_too_many_fails_the_partition(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_BACKFILL_POISON_ROWS_MAX", "2")
    async with pool.connection() as conn:
        await a_table(conn, 500)
        backfill_id = await a_backfill(conn, "1..500")
    with pytest.raises(PermanentError, match=r"3 poison rows in partition 1\.\.500"):
        await walked(pool, backfill_id, failing_at(5, 50, 300, 400))
    async with pool.connection() as conn:
        assert [one.row_key for one in await poison_of(conn, backfill_id)] == [5, 50, 300]


async def test_a_reopened_partition_tries_its_poison_rows_first_and_no_other_row_twice(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_BACKFILL_POISON_ROWS_MAX", "2")
    async with pool.connection() as conn:
        await a_table(conn, 500)
        backfill_id = await a_backfill(conn, "1..500")
    with pytest.raises(PermanentError):
        await walked(pool, backfill_id, failing_at(5, 50, 300))
    with pytest.raises(PermanentError):  # as long as nobody has reopened it
        await walked(pool, backfill_id)
    async with pool.connection() as conn:
        await conn.execute("UPDATE backfill_partitions SET reopened_at = sf_now()")
    assert await walked(pool, backfill_id, failing_at(50)) == Walked(rows=499, poison=1)
    assert await times(pool) == {0: 1, 1: 499}
    async with pool.connection() as conn:
        assert [one.row_key for one in await poison_of(conn, backfill_id)] == [50]


async def test_batches_are_shortened_by_the_pace_of_the_backfill(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row takes 2 ms: batches of 25 rows at full pace, of 2 at the slowest."""
    monkeypatch.setattr("starforge.backfill.partition.walk.PACE_S", 0.0)
    monkeypatch.setenv("STARFORGE_BACKFILL_BATCH_ROWS_FIRST", "10")
    async with pool.connection() as conn:
        await a_table(conn, 400)
        backfill_id = await a_backfill(conn, "1..400")
    sizes: list[int] = []

    async def change(conn: Connection, keys: KeySpan) -> None:
        sizes.append(keys.end - keys.first)
        await conn.execute("SELECT pg_sleep(0.002 * ($2::bigint - $1::bigint))", keys.first, keys.end)
        if keys.first > 150:
            await conn.execute("UPDATE backfill_jobs SET pace = 0 WHERE id = $1", backfill_id)

    await walked(pool, backfill_id, change)
    assert max(sizes) >= 10
    assert max(sizes[-5:]) <= 5


async def test_a_handler_that_walks_leaves_the_cursor_to_the_walk(pool: Pool) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 10)
        backfill_id = await a_backfill(conn, "1..10")
    ctx, partition = await an_attempt(pool, backfill_id, KeyRange("t").bounds)
    await partition.advance("mine")
    with pytest.raises(WalkError, match="keeps 'mine', which no walk wrote"):
        await partition.walk(ctx, add_one)


async def test_a_second_walk_is_refused_and_not_left_out(pool: Pool) -> None:
    async with pool.connection() as conn:
        await a_table(conn, 10)
        backfill_id = await a_backfill(conn, "1..10")
    ctx, partition = await an_attempt(pool, backfill_id, KeyRange("t").bounds)
    await partition.walk(ctx, add_one)
    with pytest.raises(WalkError, match="walked twice"):
        await partition.walk(ctx, add_one)


async def test_only_ranges_of_keys_are_walked(pool: Pool) -> None:
    async with pool.connection() as conn:
        backfill_id = await a_backfill(conn, "eu")
    ctx, partition = await an_attempt(pool, backfill_id, Named)
    with pytest.raises(WalkError, match="is no range of a table's keys"):
        await partition.walk(ctx, add_one)


@pytest.mark.parametrize("sql_type", ["smallint", "integer", "bigint", "numeric"])
async def test_a_batch_is_cut_by_an_index_whatever_the_keys_type(conn: Connection, sql_type: str) -> None:
    await conn.execute(f'CREATE TABLE "Odd ""T" ("Key-1" {sql_type} PRIMARY KEY)')
    await conn.execute('INSERT INTO "Odd ""T" SELECT generate_series(1, 5000)')
    found = await cut(conn, KeySpan(101, 4_000, 'Odd "T', "Key-1"), 25)
    assert (found.rows, found.first, found.keys.end) == (25, 101, 126)
    rest = await cut(conn, KeySpan(3_990, 4_000, 'Odd "T', "Key-1"), 25)
    assert (rest.rows, rest.keys.end) == (10, 4_000)
