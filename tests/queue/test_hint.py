"""Hints name the lane that has new work; what cannot be read of one means look everywhere."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from starforge.db.pool import Connection, Pool
from starforge.queue import enqueue as room
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.hint import (
    CHANNEL,
    EVERYWHERE,
    LANES_AT_ONCE,
    LANES_NAMED_MAX,
    SOMEWHERE,
    Debounce,
    Hint,
    hints_for,
    parse_hint,
)
from starforge.queue.job import NewJob
from tests.covers import covers

LANE = Hint("mail", "mail.send", 3, "acme", "k")


def test_a_hint_says_its_lane_and_is_read_back() -> None:
    assert LANE.text() == '["mail","mail.send",3,"acme","k"]'
    assert parse_hint(LANE.text()) == LANE


@pytest.mark.parametrize("text", ["", "*", "mail", '["mail"]', '["a","b","c","d","e"]', "{}", "[" * 5000])
def test_what_names_no_lane_means_everywhere(text: str) -> None:
    assert parse_hint(text) is None


def test_a_hint_that_notify_would_refuse_says_everywhere() -> None:
    assert Hint("q", "t", 0, "x", "é" * 4000).text() == EVERYWHERE


def test_many_lanes_are_one_hint() -> None:
    lanes = {Hint("q", "t", n, "x", "") for n in range(LANES_NAMED_MAX)}
    assert len(hints_for(lanes)) == LANES_NAMED_MAX
    assert hints_for(lanes | {LANE}) == [EVERYWHERE]


def test_one_lane_is_hinted_once_in_the_window_and_others_are_not_held_up() -> None:
    debounce = Debounce(window_s=3600)
    other = Hint("mail", "mail.send", 4, "acme", "k")
    assert debounce.word(LANE) == LANE.text()
    assert debounce.word(LANE) is None
    assert debounce.word(other) == other.text()
    debounce.unsent(LANE)
    assert debounce.word(LANE) == LANE.text()


def test_after_a_few_lanes_one_hint_stands_for_all_others() -> None:
    debounce = Debounce(window_s=3600)
    few = [Hint("q", "t", n, "x", "") for n in range(LANES_AT_ONCE)]
    assert [debounce.word(lane) for lane in few] == [lane.text() for lane in few]
    assert [debounce.word(Hint("q", "t", n, "y", "")) for n in range(3)] == [SOMEWHERE, None, None]
    debounce.unsent(LANE)
    assert debounce.word(LANE) == SOMEWHERE, "the transaction that carried the word for all may have failed"


@pytest.fixture
async def heard(listener: Connection) -> list[str]:
    """What a listener of the test's database is told, in order."""
    told: list[str] = []
    await listener.add_listener(CHANNEL, lambda *said: told.append(str(said[-1])))
    return told


async def _mark(pool: Pool, heard: list[str]) -> list[str]:
    """Return what was heard before a mark of our own."""
    async with pool.connection() as conn:
        await conn.execute("SELECT pg_notify($1, 'mark')", CHANNEL)
    async with asyncio.timeout(5):
        while "mark" not in heard:
            await asyncio.sleep(0.005)
    before = heard[: heard.index("mark")]
    heard.clear()
    return before


async def test_enqueueing_tells_listeners_the_lane_at_commit(pool: Pool, heard: list[str]) -> None:
    async with pool.transaction() as conn:
        await enqueue(conn, NewJob("t", queue="mail"))
        await enqueue(conn, NewJob("t", queue="mail"))
        assert await _mark(pool, heard) == []
    assert await _mark(pool, heard) == ['["mail","t",0,"default",""]']


async def test_a_bulk_tells_each_lane_once_and_many_lanes_by_one_word(pool: Pool, heard: list[str]) -> None:
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("t", priority=n % 2) for n in range(10)])
        assert sorted(await _mark(pool, heard)) == [
            '["default","t",0,"default",""]',
            '["default","t",1,"default",""]',
        ]
        await enqueue_many(conn, [NewJob("t", limit_key=str(n)) for n in range(LANES_NAMED_MAX + 1)])
        assert await _mark(pool, heard) == [EVERYWHERE]


async def test_a_delayed_job_wakes_nobody(pool: Pool, heard: list[str]) -> None:
    async with pool.transaction() as conn:
        await enqueue(conn, NewJob("t", run_after=datetime.now(UTC) + timedelta(hours=1)))
    assert await _mark(pool, heard) == []


async def test_a_transaction_that_is_open_or_was_rolled_back_silences_no_later_hint(
    pool: Pool, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_debounce", Debounce(window_s=3600))
    async with pool.connection() as open_one, open_one.transaction():
        await enqueue(open_one, NewJob("t"))
        async with pool.connection() as conn:
            await enqueue(conn, NewJob("t"))
            assert await _mark(pool, heard) == ['["default","t",0,"default",""]']
            await enqueue(conn, NewJob("t"))  # within the window: the worker was just woken
            assert await _mark(pool, heard) == []


@covers("G2")
async def test_a_bulk_that_took_long_to_accept_is_announced_as_one_behind_the_watermarks(
    pool: Pool, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs were due when it began; workers may have looked there in vain since."""
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("t")])
        assert await _mark(pool, heard) == [Hint("default", "t", 0, "default", "").text()]
        monkeypatch.setattr(room, "LATE_S", 0.0)
        await enqueue_many(conn, [NewJob("t")])
        assert await _mark(pool, heard) == [EVERYWHERE]
        await enqueue_many(conn, [NewJob("t", delay_s=60)])
    assert await _mark(pool, heard) == []
