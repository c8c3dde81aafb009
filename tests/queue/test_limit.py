"""Limits: a slot has one holder, whoever asks, whoever dies, and whenever the limit is changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from starforge.clock import randomness
from starforge.db.pool import Connection, Pool, connect
from starforge.queue import flow
from starforge.queue import limit as limits
from starforge.queue.claim import claim
from starforge.queue.declare import Limit
from starforge.queue.enqueue import enqueue_many
from starforge.queue.flow import Flow
from starforge.queue.handler import Context, JobType, JobTypes
from starforge.queue.job import LeasedJob, NewJob
from starforge.queue.limit import Limited, Tokens
from starforge.queue.override import override
from starforge.queue.plan import Plan
from starforge.queue.prune import prune_tokens
from starforge.worker.registry import bury, expire, extend, stop
from tests.conftest import Travel
from tests.covers import covers
from tests.postgres import TestServer
from tests.proxy import Proxy, cut, once, proxied
from tests.queue.jobs import a_worker

MAIL = Limited("type", "mail")
HELD = "SELECT count(*) FROM limit_tokens"


async def _run(_ctx: Context, _payload: Mapping[str, Any]) -> None:
    return None


@dataclass
class Worker:
    """A worker that claims and holds jobs for as long as the test likes."""

    id: UUID
    hands: list[LeasedJob] = field(default_factory=list)
    plan: Plan = field(init=False)

    @classmethod
    async def of(cls, conn: Connection, *types: JobType, queues: tuple[str, ...] = ("default",)) -> Worker:
        made = cls(await a_worker(conn))
        known = JobTypes(types)
        made.plan = Plan(queues, known.names(), Flow(made.id, known, lambda: made.hands))
        return made

    async def claim(self, conn: Connection, n: int = 100) -> int:
        """Claim and return how many more it holds."""
        self.plan.announce(None)
        self.plan.flow.expire()
        jobs = await claim(conn, self.plan, n=n, worker_id=self.id)
        self.hands += jobs
        return len(jobs)


def a_type(**said: Any) -> JobType:
    return JobType("t", _run, limit=Limit(**said))


@pytest.fixture(autouse=True)
def ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was denied tokens asks again with its next claim."""
    monkeypatch.setattr(limits, "ASK_AGAIN_S", 0.0)
    monkeypatch.setattr(limits, "COST_MAX", 1e9)


async def _tokens(conn: Connection) -> Tokens:
    return Tokens(await a_worker(conn))


async def test_a_worker_gets_as_many_tokens_as_it_asks_for_and_are_free(conn: Connection) -> None:
    one, two = await _tokens(conn), await _tokens(conn)
    await one.take(conn, {MAIL: (5, 3)})
    await two.take(conn, {MAIL: (5, 3)})
    assert (one.held(MAIL, 5), two.held(MAIL, 5)) == (3, 2)
    assert await conn.fetchval("SELECT array_agg(slot ORDER BY slot) FROM limit_tokens") == [1, 2, 3, 4, 5]


async def test_limits_of_other_names_and_keys_have_slots_of_their_own(conn: Connection) -> None:
    one, two = await _tokens(conn), await _tokens(conn)
    wanted = {MAIL: (1, 1), Limited("type", "mail", "a"): (2, 2), Limited("queue", "mail"): (1, 1)}
    await one.take(conn, wanted)
    await two.take(conn, {**wanted, Limited("type", "sms"): (1, 1)})
    assert [one.held(limited, limit) for limited, (limit, _) in wanted.items()] == [1, 2, 1]
    assert two.held(Limited("type", "sms"), 1) == 1
    assert await conn.fetchval(HELD) == 5


@pytest.mark.parametrize("how", ["buried", "stopped", "expired", "forgotten"])
@covers("Q-47")
async def test_tokens_of_a_worker_that_is_recorded_as_ended_are_taken_over(
    conn: Connection, travel: Travel, how: str
) -> None:
    dead, heir = await a_worker(conn), await _tokens(conn)
    await Tokens(dead).take(conn, {MAIL: (3, 3)})
    assert await conn.fetchval(HELD) == 3
    if how == "buried":
        await bury(conn, dead, "killed")
    elif how == "stopped":
        await stop(conn, dead, ended=True, reason="told")
    elif how == "expired":
        await travel(conn, minutes=1)
        assert await expire(conn) == 2
    else:
        await conn.execute("DELETE FROM workers WHERE id = $1", dead)
    await travel(conn, seconds=1 if how == "expired" else 0.001)
    heir = await _tokens(conn)
    await heir.take(conn, {MAIL: (3, 3)})
    assert heir.held(MAIL, 3) == 3


async def test_a_lease_that_ran_out_frees_no_token_until_that_is_recorded(
    conn: Connection, travel: Travel
) -> None:
    """A heartbeat that is under way may still extend it; what is recorded it cannot."""
    late = await a_worker(conn)
    await Tokens(late).take(conn, {MAIL: (1, 1)})
    await travel(conn, minutes=1)
    heir = await _tokens(conn)
    await heir.take(conn, {MAIL: (1, 1)})
    assert heir.held(MAIL, 1) == 0
    assert await expire(conn) == 1
    assert not await extend(conn, late, lease_s=30)
    await heir.take(conn, {MAIL: (1, 1)})
    assert heir.held(MAIL, 1) == 1


async def test_a_worker_whose_own_lease_is_over_gets_none(conn: Connection, travel: Travel) -> None:
    tokens = await _tokens(conn)
    await travel(conn, minutes=1)
    await tokens.take(conn, {MAIL: (1, 1)})
    assert await conn.fetchval(HELD) == 0


async def test_what_was_given_back_or_is_anothers_by_now_is_not_taken_from_it(conn: Connection) -> None:
    dead, heir = await a_worker(conn), await _tokens(conn)
    old = Tokens(dead)
    await old.take(conn, {MAIL: (2, 2)})
    await bury(conn, dead, "killed")
    await heir.take(conn, {MAIL: (2, 2)})
    await old.give_back(conn)
    assert await conn.fetchval(HELD) == heir.held(MAIL, 2) == 2


@pytest.fixture
async def lossy(
    server: TestServer, database: str
) -> AsyncIterator[tuple[Proxy, Callable[[], Awaitable[Connection]]]]:
    """A proxy before the database, and what opens a connection through it."""
    opened: list[Connection] = []

    async def through() -> Connection:
        opened.append(await connect(proxy.url(server.url(database.rpartition("/")[2]))))
        return opened[-1]

    async with proxied(server.port) as proxy:
        yield proxy, through
        for conn in opened:
            await conn.close()


def _loses(proxy: Proxy, words: str) -> None:
    """Have the next answer to such a statement be lost, which the server has carried out."""
    proxy.rule = once(lambda statement: statement.runs and words in statement.text, "after", cut)


@covers("Q-47", "J-34")
async def test_a_token_of_which_the_answer_was_lost_is_found_with_the_next_claim(
    pool: Pool, lossy: tuple[Proxy, Callable[[], Awaitable[Connection]]]
) -> None:
    """Else it stands empty, and under a limit of one nothing starts for as long as the worker lives."""
    proxy, through = lossy
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("t", {}) for _ in range(3)])
        worker, other = await Worker.of(conn, a_type(total=1)), await Worker.of(conn, a_type(total=1))
        _loses(proxy, "INSERT INTO limit_tokens")
        with pytest.raises((OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
            await worker.claim(await through())
        assert await conn.fetchval(HELD) == 1
        assert await other.claim(conn) == 0, "whose it is lives"
        assert await worker.claim(await through()) == 1
        assert await other.claim(conn) == 0


@covers("Q-47", "J-34")
async def test_a_token_that_went_back_without_an_answer_is_used_no_more(
    pool: Pool,
    lossy: tuple[Proxy, Callable[[], Awaitable[Connection]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be another's by then: two would run under a limit of one."""
    monkeypatch.setattr(limits, "IDLE_S", 0.0)
    proxy, through = lossy
    async with pool.connection() as conn:
        tokens, other = await _tokens(conn), await _tokens(conn)
        await tokens.take(conn, {MAIL: (1, 1)})
        _loses(proxy, "DELETE FROM limit_tokens")
        with pytest.raises((OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
            await tokens.tidy(await through(), dict)
        assert tokens.held(MAIL, 1) == 0
        await other.take(conn, {MAIL: (1, 1)})
        await tokens.tidy(conn, dict)
        assert (tokens.held(MAIL, 1), other.held(MAIL, 1)) == (0, 1)


async def test_a_token_that_was_to_go_back_and_never_did_goes_back_later(
    pool: Pool,
    lossy: tuple[Proxy, Callable[[], Awaitable[Connection]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "IDLE_S", 0.0)
    proxy, through = lossy
    async with pool.connection() as conn:
        tokens = await _tokens(conn)
        await tokens.take(conn, {MAIL: (1, 1)})
        proxy.rule = once(lambda said: said.runs and "DELETE FROM limit_tokens" in said.text, "before", cut)
        with pytest.raises((OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
            await tokens.tidy(await through(), dict)
        assert (tokens.held(MAIL, 1), await conn.fetchval(HELD)) == (0, 1)
        await tokens.tidy(conn, dict)
        assert await conn.fetchval(HELD) == 0


async def test_unneeded_tokens_go_back_after_a_second_and_needed_ones_stay(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = await _tokens(conn)
    await tokens.take(conn, {MAIL: (5, 5)})
    await tokens.tidy(conn, lambda: {MAIL: 2})
    assert tokens.held(MAIL, 5) == 5, "too early"
    monkeypatch.setattr(limits, "IDLE_S", 0.0)
    tokens.need(MAIL, 4)
    await tokens.tidy(conn, lambda: {MAIL: 2})
    assert tokens.held(MAIL, 5) == 4, "so many were in use at once since the last time"
    await tokens.tidy(conn, lambda: {MAIL: 2})
    await tokens.tidy(conn, dict)
    await tokens.tidy(conn, dict)
    assert await conn.fetchval(HELD) == tokens.held(MAIL, 5) == 0


@covers("Q-47")
async def test_many_workers_that_take_give_back_and_die_at_random_never_hold_a_slot_twice(
    pool: Pool,
) -> None:
    """Each checks, on the database's word, that what it believes to hold nobody else believes to hold."""
    limit, believed = 4, dict[UUID, int]()
    worst = 0

    async def live(seed: int) -> None:
        nonlocal worst
        for _ in range(25):
            async with pool.connection() as conn:
                worker_id = await a_worker(conn)
                tokens = Tokens(worker_id)
                for _ in range(randomness.randrange(1, 4)):
                    await tokens.take(conn, {MAIL: (limit, randomness.randrange(1, limit + 1))})
                    believed[worker_id] = tokens.held(MAIL, limit)
                    worst = max(worst, sum(believed.values()))
                    await asyncio.sleep(0)
                # Believed less before it is so: the other way round a check would see both.
                believed[worker_id] = 0
                if (seed + randomness.randrange(2)) % 2:
                    await tokens.give_back(conn)
                else:
                    await bury(conn, worker_id, "killed")

    await asyncio.gather(*(live(seed) for seed in range(6)))
    assert 1 <= worst <= limit


@covers("Q-47")
async def test_a_global_limit_holds_over_workers_lanes_and_priorities(pool: Pool) -> None:
    async with pool.connection() as conn:
        one, two = [await Worker.of(conn, a_type(total=5)) for _ in range(2)]
        jobs = [NewJob("t", {"n": n}, priority=n % 3, tenant=f"t{n % 2}") for n in range(60)]
        await enqueue_many(conn, jobs)
        assert await one.claim(conn, 3) == 3
        assert (await two.claim(conn), await one.claim(conn), await two.claim(conn)) == (2, 0, 0)
        one.hands.pop()
        assert await two.claim(conn) == 0, "the token stays with the worker that has such work"
        assert await one.claim(conn) == 1
        assert {job.payload["n"] % 3 for job in [*one.hands, *two.hands]} == {2}, "the most urgent first"


async def test_what_is_not_limited_passes_what_is(pool: Pool) -> None:
    async with pool.connection() as conn:
        worker = await Worker.of(conn, a_type(total=1), JobType("free", _run))
        await enqueue_many(conn, [NewJob("t", priority=9) for _ in range(50)])
        await enqueue_many(conn, [NewJob("free") for _ in range(5)])
        assert await worker.claim(conn) == 6
        assert await worker.claim(conn) == 0


async def test_a_limit_per_worker_counts_what_is_in_its_hands(pool: Pool) -> None:
    async with pool.connection() as conn:
        one, two = [await Worker.of(conn, a_type(per_worker=2)) for _ in range(2)]
        await enqueue_many(conn, [NewJob("t") for _ in range(10)])
        assert (await one.claim(conn), await one.claim(conn), await two.claim(conn)) == (2, 0, 2)
        one.hands.clear()
        assert await one.claim(conn) == 2
        assert await conn.fetchval(HELD) == 0, "it needs no token"


async def test_a_limit_per_key_holds_for_each_key_of_its_own(pool: Pool) -> None:
    keyed = a_type(per_key=2, key="user")
    async with pool.connection() as conn:
        one, two = [await Worker.of(conn, keyed) for _ in range(2)]
        jobs = [NewJob("t", limit_key=f"k{n % 150}") for n in range(600)]
        await enqueue_many(conn, [*jobs, *(NewJob("t") for _ in range(7))])
        total = 0
        while got := await one.claim(conn) + await two.claim(conn):
            total += got
        keys = [job.limit_key for job in [*one.hands, *two.hands]]
        assert {keys.count(f"k{n}") for n in range(150)} == {2}
        assert keys.count("") == 7, "a job without a key is under no limit per key"
        assert total == 307


@covers("J-34", "F-26")
async def test_under_a_limit_that_comes_or_is_lowered_nothing_starts_until_enough_has_ended(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what was started before there was a limit counts, wherever it runs."""
    monkeypatch.setattr(limits, "IDLE_S", 0.0)
    async with pool.connection() as conn:
        workers = [await Worker.of(conn, JobType("t", _run)) for _ in range(3)]
        await enqueue_many(conn, [NewJob("t") for _ in range(200)])
        assert [await worker.claim(conn, 4) for worker in workers] == [4, 4, 4]

        async def limited_to(jobs: int) -> None:
            await override(conn, "type", "t", "limit", jobs, owner="ann", reason="storm", minutes=5)
            with monkeypatch.context() as at_first:
                at_first.setattr(flow, "SETTLE_S", 3600.0)
                # Each takes tokens for what it runs, before anybody starts more.
                assert [await worker.claim(conn) for worker in workers] == [0, 0, 0]

        monkeypatch.setattr(flow, "SETTLE_S", 0.0)
        for limit in (7, 5, 2, 0):
            await limited_to(limit)
            for _ in range(40):
                worker = randomness.choice(workers)
                running = sum(len(worker.hands) for worker in workers)
                started = await worker.claim(conn)
                assert not started or running + started <= limit
                if worker.hands and randomness.random() < 0.5:
                    worker.hands.pop()
        for worker in workers:
            worker.hands.clear()
        await override(conn, "type", "t", "limit", 9, owner="ann", reason="storm", minutes=5)
        assert sum([await worker.claim(conn) for worker in [*workers, *workers]]) == 9


@covers("Q-47")
async def test_a_limit_over_all_workers_is_used_up_by_whoever_has_work_for_it(pool: Pool) -> None:
    async with pool.connection() as conn:
        workers = [await Worker.of(conn, a_type(total=8)) for _ in range(3)]
        await enqueue_many(conn, [NewJob("t") for _ in range(100)])
        assert [await worker.claim(conn, 3) for worker in workers] == [3, 3, 2]
        assert [await worker.claim(conn, 3) for worker in workers] == [0, 0, 0]


async def test_a_queue_can_be_limited_over_all_its_types(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool.connection() as conn:
        worker = await Worker.of(conn, JobType("a", _run), JobType("b", _run))
        monkeypatch.setattr(flow, "SETTLE_S", 0.0)
        await override(conn, "queue", "default", "limit", 3, owner="ann", reason="storm", minutes=5)
        await enqueue_many(conn, [NewJob(name) for name in "ab" * 10])
        assert (await worker.claim(conn), await worker.claim(conn)) == (3, 0)


async def test_jobs_behind_the_watermark_of_a_lane_that_is_at_its_limit_are_not_forgotten(
    pool: Pool,
) -> None:
    """Sweeps cannot look into it while it is full; the next scan that may starts at its beginning."""
    async with pool.connection() as conn:
        worker = await Worker.of(conn, a_type(total=2))
        await enqueue_many(conn, [NewJob("t", {"n": n}) for n in range(10)])
        assert await worker.claim(conn) == 2
        await conn.execute(
            "INSERT INTO queue_jobs (type, payload, run_after)"
            " VALUES ('t', '{\"n\": -1}', sf_now() - interval '1 hour')"
        )
        for _ in range(3):
            assert await worker.claim(conn) == 0
        worker.hands.clear()
        assert await worker.claim(conn) == 2
        assert -1 in {job.payload["n"] for job in worker.hands}


async def test_tokens_of_ended_workers_are_pruned_and_those_of_living_ones_stay(
    conn: Connection, travel: Travel
) -> None:
    gone, lives = await _tokens(conn), await a_worker(conn, lease_s=86_400)
    await gone.take(conn, {MAIL: (1, 1)})
    await Tokens(lives).take(conn, {Limited("type", "t"): (1, 1)})
    await travel(conn, hours=2)
    await expire(conn)
    await conn.execute("INSERT INTO rate_buckets (scope, name, tokens) VALUES ('type', 'new', 1)")
    await conn.execute("INSERT INTO rate_buckets VALUES ('type', 'old', '', 1, sf_now() - interval '2 days')")
    assert await prune_tokens(conn) == 2
    assert await conn.fetchval("SELECT name FROM limit_tokens") == "t"
    assert await conn.fetchval("SELECT name FROM rate_buckets") == "new"
