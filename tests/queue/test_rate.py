"""Rates: over all workers no time sees more starts than burst + rate · time, and a busy rate loses none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from starforge.clock import monotonic_s, randomness
from starforge.db.pool import Connection, Pool
from starforge.queue import rate as rates
from starforge.queue.claim import claim
from starforge.queue.declare import Rate
from starforge.queue.enqueue import enqueue_many
from starforge.queue.flow import Flow
from starforge.queue.gate import close
from starforge.queue.handler import Context, JobType, JobTypes
from starforge.queue.job import NewJob
from starforge.queue.limit import Limited
from starforge.queue.override import override
from starforge.queue.plan import Plan
from starforge.queue.rate import Permits
from tests.covers import covers
from tests.queue.jobs import a_worker

MAIL = Limited("type", "mail")
Clock = Callable[[float], Awaitable[None]]


@pytest.fixture
async def at(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the worker's and the database's clock to so many seconds since 1970."""
    await conn.execute(
        "CREATE OR REPLACE FUNCTION sf_now() RETURNS timestamptz LANGUAGE sql STABLE"
        " AS $$ SELECT to_timestamp(current_setting('test.now_s')::float8) $$"
    )

    async def set_to(now_s: float) -> None:
        monkeypatch.setattr(rates, "monotonic_s", lambda: now_s)
        await conn.execute("SELECT set_config('test.now_s', $1, true)", repr(now_s))

    await set_to(0.0)
    return set_to


@pytest.mark.parametrize(
    ("rate", "batch"),
    [(Rate(50.0), 8), (Rate(50.0, 20), 100), (Rate(3.0, 3), 1), (Rate(0.5, 2), 8), (Rate(2000.0, 100), 500)],
    ids=["one at a time", "burst", "slow", "slower", "fast"],
)
@covers("J-34")
async def test_busy_workers_start_as_many_jobs_as_the_rate_allows_and_in_no_span_more(
    conn: Connection, at: Clock, rate: Rate, batch: int
) -> None:
    workers = [Permits() for _ in range(4)]
    wakes_s = [0.0] * 4
    starts: list[tuple[float, int]] = []
    end_s = 60.0 if rate.per_s < 100 else 5.0
    while (now_s := min(wakes_s)) < end_s:
        await at(now_s)
        turn = wakes_s.index(now_s)
        permits = workers[turn]
        if permits.worth_asking(MAIL, rate) and permits.good(MAIL, rate) < batch:
            await permits.take(conn, {MAIL: (rate, batch - permits.good(MAIL, rate))})
        if jobs := min(batch, permits.good(MAIL, rate)):
            permits.spend(MAIL, jobs)
            starts.append((now_s, jobs))
        # As late as a loop is: what it could have started meanwhile it starts then.
        wakes_s[turn] = now_s + max(1e-4, permits.next_s(MAIL)) + 1e-6 * randomness.random()
    total = sum(jobs for _, jobs in starts)
    allowed = rate.burst + rate.per_s * end_s
    assert 0.95 * allowed - 1 <= total <= allowed + 1e-6
    _require_no_span_with_more(starts, rate)


def _require_no_span_with_more(starts: list[tuple[float, int]], rate: Rate) -> None:
    """Follow a bucket of the test's own: it may never be below empty."""
    level, before_s = float(rate.burst), 0.0
    for at_s, jobs in starts:
        level = min(rate.burst, level + rate.per_s * (at_s - before_s)) - jobs
        before_s = at_s
        assert level > -1e-3, f"{-level} starts too many at {at_s}"


async def test_what_a_quiet_time_saves_up_is_the_burst_and_no_more(conn: Connection, at: Clock) -> None:
    one, rate = Permits(), Rate(10.0, 4)
    await one.take(conn, {MAIL: (rate, 100)})
    assert one.good(MAIL, rate) == 4
    one.spend(MAIL, 4)
    await one.give_back(conn)
    await at(3600.0)
    await one.take(conn, {MAIL: (rate, 100)})
    assert one.good(MAIL, rate) == 4


async def test_permits_without_a_job_go_back_and_others_may_use_them(conn: Connection, at: Clock) -> None:
    one, two, rate = Permits(), Permits(), Rate(10.0, 5)
    await one.take(conn, {MAIL: (rate, 15)})
    await two.take(conn, {MAIL: (rate, 5)})
    assert two.good(MAIL, rate) == 0
    await at(0.5)
    assert one.good(MAIL, rate) == 10
    one.spend(MAIL, 2)
    await one.give_back(conn)
    await at(1.0)
    await two.take(conn, {MAIL: (rate, 100)})
    assert two.good(MAIL, rate) == 5, "the bucket holds no more than its burst"


async def test_unused_permits_go_back_after_a_second(conn: Connection, at: Clock) -> None:
    one, rate = Permits(), Rate(10.0, 5)
    await one.take(conn, {MAIL: (rate, 5)})
    await at(0.9)
    await one.tidy(conn)
    assert one.good(MAIL, rate) == 5
    await at(1.1)
    await one.tidy(conn)
    assert one.good(MAIL, rate) == 0
    assert await conn.fetchval("SELECT tokens FROM rate_buckets") == 5.0


@pytest.mark.parametrize("rate", [Rate(50.0), Rate(3.0, 3), Rate(0.5, 2), Rate(2000.0, 100)])
async def test_permits_of_which_the_answer_was_lost_are_there_again_once_the_bucket_has_filled(
    conn: Connection, at: Clock, rate: Rate
) -> None:
    """Nobody gives them back: who knows of none claims nothing, and no other worker is told of them."""
    await Permits().take(conn, {MAIL: (rate, 10_000)})
    worker = Permits()
    await at(rates.AHEAD_S + rate.burst / rate.per_s)
    await worker.take(conn, {MAIL: (rate, rate.burst)})
    assert worker.good(MAIL, rate) == rate.burst


async def test_a_lowered_rate_is_not_made_to_pay_for_what_the_old_one_gave_ahead(
    conn: Connection, at: Clock
) -> None:
    one, fast, slow = Permits(), Rate(100.0), Rate(1.0)
    await one.take(conn, {MAIL: (fast, 500)})
    assert one.good(MAIL, fast) == 1
    await at(0.1)
    assert one.worth_asking(MAIL, slow)
    await one.take(conn, {MAIL: (slow, 5)})
    assert one.next_s(MAIL) <= 1.0
    await at(2.5)
    assert 1 <= one.good(MAIL, slow) <= 2


async def test_a_bucket_that_was_pruned_meanwhile_is_made_again(conn: Connection, at: Clock) -> None:
    one, rate = Permits(), Rate(10.0, 5)
    await one.take(conn, {MAIL: (rate, 5)})
    one.spend(MAIL, 5)
    await conn.execute("DELETE FROM rate_buckets")
    await at(1.0)
    for _ in range(2):
        await one.take(conn, {MAIL: (rate, 5)})
    assert one.good(MAIL, rate) == 5


async def _run(_ctx: Context, _payload: Mapping[str, Any]) -> None:
    return None


async def _plan(conn: Connection, *types: JobType) -> tuple[Any, Plan]:
    worker_id, known = await a_worker(conn), JobTypes(types)
    return worker_id, Plan(["default"], known.names(), Flow(worker_id, known))


@covers("J-34")
async def test_a_claim_takes_what_the_rate_allows_of_a_type_and_all_of_others(pool: Pool) -> None:
    async with pool.connection() as conn:
        worker_id, plan = await _plan(conn, JobType("t", _run, rate=Rate(0.001, 3)), JobType("free", _run))
        await enqueue_many(conn, [NewJob(name, priority=n) for n in range(3) for name in ["t", "free"] * 5])
        types = [job.type for job in await claim(conn, plan, n=100, worker_id=worker_id)]
        assert (types.count("t"), types.count("free")) == (3, 15)
        assert await claim(conn, plan, n=100, worker_id=worker_id) == []
        assert plan.flow.wake_s is not None
        assert plan.flow.wake_s > 100, "that is when there is a permit again, for all that is known"


@covers("J-34")
async def test_a_rate_set_at_run_time_wins_over_the_declared_one_and_ends_with_its_override(
    pool: Pool,
) -> None:
    async with pool.connection() as conn:
        worker_id, plan = await _plan(conn, JobType("t", _run))
        await enqueue_many(conn, [NewJob("t") for _ in range(20)])
        slow = {"per_s": 0.001, "burst": 2}
        await override(conn, "type", "t", "rate", slow, owner="ann", reason="storm", minutes=5)
        assert len(await claim(conn, plan, n=10, worker_id=worker_id)) == 2
        await conn.execute("UPDATE setting_overrides SET expires_at = sf_now()")
        plan.announce(None)
        assert len(await claim(conn, plan, n=10, worker_id=worker_id)) == 10


@pytest.mark.parametrize("scope", ["queue", "type", "tenant"])
async def test_a_gate_with_a_rate_lets_so_many_through(pool: Pool, scope: Any) -> None:
    name = {"queue": "default", "type": "t", "tenant": "default"}[scope]
    async with pool.connection() as conn:
        worker_id, plan = await _plan(conn, JobType("t", _run))
        await enqueue_many(conn, [NewJob("t") for _ in range(20)])
        await close(conn, scope, name, "throttle", owner="ann", reason="storm", minutes=5, rate_per_s=0.001)
        assert len(await claim(conn, plan, n=10, worker_id=worker_id)) == 1
        assert await claim(conn, plan, n=10, worker_id=worker_id) == []


async def test_four_workers_on_the_servers_own_clock_start_no_more_than_allowed_by_any_time(
    pool: Pool,
) -> None:
    """Two seconds of real time, from the first question on."""
    rate, started_s, total = Rate(60.0, 6), monotonic_s(), 0
    workers = [Permits() for _ in range(4)]
    async with pool.connection() as conn:
        while (spent_s := monotonic_s() - started_s) < 2.0:
            for permits in workers:
                if permits.worth_asking(MAIL, rate):
                    await permits.take(conn, {MAIL: (rate, 8)})
                good = permits.good(MAIL, rate)
                permits.spend(MAIL, good)
                total += good
                assert total <= rate.burst + rate.per_s * (monotonic_s() - started_s)
    assert total >= 0.9 * (rate.burst + rate.per_s * spent_s) - 2
