"""The plan: lanes, watermarks, sweeps, turns and ageing."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from starforge.db.pool import Connection, Pool, connect
from starforge.queue import plan as plans
from starforge.queue import sweep as sweeps
from starforge.queue.claim import claim
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.hint import Hint
from starforge.queue.job import NewJob
from starforge.queue.plan import Lane, LaneKey, Plan, in_turn
from tests.conftest import Travel
from tests.covers import covers
from tests.queue.jobs import TYPES, a_worker

LANE = LaneKey("default", "t", 0, "default")


def a_plan(*queues: str) -> Plan:
    return Plan(queues or ["default"], TYPES)


async def test_the_plan_finds_each_lane_once_however_many_jobs_wait_the_most_urgent_first(
    conn: Connection,
) -> None:
    await enqueue_many(conn, [NewJob("t", priority=n % 3, tenant=f"t{n % 2}") for n in range(300)])
    plan = a_plan("default", "mail")
    await plan.refresh(conn)
    keys = [scan.lane.key for scan in plan.scans(10)]
    assert [key.priority for key in keys] == [2, 2, 1, 1, 0, 0]
    assert set(keys) == {LaneKey("default", "t", p, f"t{t}") for p in range(3) for t in range(2)}


async def test_a_lane_between_known_ones_and_one_at_the_ends_are_found_by_the_next_look(
    conn: Connection,
) -> None:
    await enqueue_many(conn, [NewJob("t", priority=p) for p in (-5, 5)])
    plan = a_plan()
    await plan.refresh(conn)
    extremes = (-(2**31), -6, 0, 6, 2**31 - 1)
    for priority in extremes:  # by hand even what no enqueue accepts
        await conn.execute("INSERT INTO queue_jobs (type, priority) VALUES ('t', $1)", priority)
    await enqueue_many(conn, [NewJob("t", priority=5, tenant="zz", limit_key=key) for key in ("a", "ä", "Z")])
    plan.expire()
    await plan.refresh(conn)
    found = [scan.lane.key for scan in plan.scans(10)]
    assert {key.priority for key in found} == {-5, 5, *extremes}
    assert {key.limit_key for key in found if key.tenant == "zz"} == {"a", "ä", "Z"}
    assert len(found) == 10


async def test_jobs_of_other_queues_and_types_and_jobs_that_are_not_due_are_not_planned(
    conn: Connection,
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    await enqueue_many(conn, [NewJob("other"), NewJob("t", queue="mail"), NewJob("t", run_after=later)])
    plan = a_plan()
    await plan.refresh(conn)
    assert plan.scans(10) == []
    assert await claim(conn, plan, n=5, worker_id=await a_worker(conn)) == []


def lane(name: str, priority: int) -> Lane:
    return Lane(LaneKey("q", name, priority, "default"))


def test_lanes_of_one_priority_take_turns_and_never_pass_a_higher_one() -> None:
    lanes = [lane("b", 1), lane("a", 9), lane("c", 1)]
    heads = [[found.key.type for found in in_turn(lanes, turn)] for turn in range(2)]
    assert heads == [["a", "b", "c"], ["a", "c", "b"]]


async def test_a_scan_starts_behind_what_was_claimed(conn: Connection) -> None:
    await enqueue_many(conn, [NewJob("t", {"n": n}) for n in range(30)])
    worker_id, plan = await a_worker(conn), a_plan()
    for start in (0, 10, 20):
        jobs = await claim(conn, plan, n=10, worker_id=worker_id)
        assert [job.payload["n"] for job in jobs] == list(range(start, start + 10))
    [scan] = plan.scans(10)
    last_s = await conn.fetchval("SELECT extract(epoch FROM max(run_after))::float8 FROM queue_jobs")
    assert scan.since_s == pytest.approx(last_s - plans.MARGIN_S, abs=1e-5)


async def test_where_jobs_are_dense_a_scan_starts_few_jobs_back_until_the_lane_is_dry(
    conn: Connection,
) -> None:
    """A bulk's jobs are a microsecond apart: the usual margin would be twenty thousand of them."""
    await enqueue_many(conn, [NewJob("t", {"n": n}) for n in range(250)])
    worker_id, plan = await a_worker(conn), a_plan()
    margins = []
    for _ in range(2):
        jobs = await claim(conn, plan, n=200, worker_id=worker_id)
        [known] = plan._lanes.values()
        margins.append(known.margin_s)
    assert len(jobs) == 50
    assert 0 < margins[0] < 2e-6 * plans.MARGIN_JOBS
    assert margins[1] == plans.MARGIN_S


async def test_hints_of_many_lanes_take_a_share_of_the_workers_time_and_no_more(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, now_s, looks = a_plan(), 1000.0, 0

    async def look(_conn: Connection) -> None:
        nonlocal now_s, looks
        now_s, looks = now_s + 0.01, looks + 1
        plan._asked = False

    monkeypatch.setattr(plans, "monotonic_s", lambda: now_s)
    monkeypatch.setattr(plan, "_look", look)
    began_s = now_s
    while now_s < began_s + 10:
        plan.announce_some()
        await plan.refresh(conn)
        assert plan.wake_s == math.inf or 0 <= plan.wake_s <= 0.01 / plans.STORM_COST_MAX
        now_s += 0.001
    assert 0.15 < looks * 0.01 / 10 <= plans.STORM_COST_MAX + 0.01


@pytest.fixture
async def stalled(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> tuple[Pool, UUID, Plan]:
    """A plan whose watermark is at now, and that will not look behind it for an hour."""
    monkeypatch.setattr(sweeps, "SWEEP_S", 3600.0)
    plan = a_plan()
    async with pool.connection() as conn:
        await enqueue(conn, NewJob("t"))
        worker_id = await a_worker(conn)
        assert len(await claim(conn, plan, n=5, worker_id=worker_id)) == 1
    return pool, worker_id, plan


async def _old(pool: Pool, jobs: int, *, seconds: float = 60) -> None:
    async with pool.connection() as conn:
        at = datetime.now(UTC) - timedelta(seconds=seconds)
        await enqueue_many(conn, [NewJob("t", run_after=at) for _ in range(jobs)])


@covers("G2")
async def test_what_a_wide_scan_could_not_take_at_once_is_taken_by_the_scans_after_it(
    stalled: tuple[Pool, UUID, Plan],
) -> None:
    """A bulk that took long to commit lies behind the watermark, which a look has raised meanwhile."""
    pool, worker_id, plan = stalled
    async with pool.connection() as conn:
        at = datetime.now(UTC) - timedelta(seconds=plans.WIDE_S / 2)
        bulk = [NewJob("t", run_after=at + timedelta(microseconds=n)) for n in range(700)]
        await enqueue_many(conn, bulk)
        plan.announce(Hint("default", "t", 0, "default", ""))
        taken = [len(await claim(conn, plan, n=200, worker_id=worker_id)) for _ in range(5)]
    assert taken == [200, 200, 200, 100, 0]


@covers("G2")
async def test_what_commits_late_is_found_by_the_sweep_and_much_of_it_by_the_scans_after_it(
    stalled: tuple[Pool, UUID, Plan],
) -> None:
    pool, worker_id, plan = stalled
    await _old(pool, 25)
    async with pool.connection() as conn:
        plan.expire()
        assert await claim(conn, plan, n=10, worker_id=worker_id) == []
        plan.announce(None)
        taken = [len(await claim(conn, plan, n=10, worker_id=worker_id)) for _ in range(4)]
        assert taken == [10, 10, 5, 0]


async def test_an_announcement_of_a_lane_lets_the_next_scan_start_a_little_earlier(
    stalled: tuple[Pool, UUID, Plan],
) -> None:
    pool, worker_id, plan = stalled
    await _old(pool, 3, seconds=plans.WIDE_S / 2)
    async with pool.connection() as conn:
        plan.announce(Hint("default", "t", 0, "default", ""))
        assert len(await claim(conn, plan, n=10, worker_id=worker_id)) == 3


async def test_an_announced_lane_that_nobody_looked_at_yet_is_claimed_at_once(pool: Pool) -> None:
    plan = a_plan()
    async with pool.connection() as conn:
        worker_id = await a_worker(conn)
        assert await claim(conn, plan, n=5, worker_id=worker_id) == []
        await enqueue(conn, NewJob("t", priority=7, tenant="acme"))
        assert await claim(conn, plan, n=5, worker_id=worker_id) == []
        plan.announce(Hint("default", "t", 7, "acme", ""))
        plan.announce(Hint("mail", "t", 7, "acme", ""))
        assert len(await claim(conn, plan, n=5, worker_id=worker_id)) == 1


@covers("Q-47")
async def test_jobs_with_a_closed_tag_wait_and_start_in_their_order_once_it_opens(pool: Pool) -> None:
    plan = a_plan()
    async with pool.connection() as conn:
        worker_id = await a_worker(conn)
        await conn.execute(
            "INSERT INTO gates (scope, name, cause, owner, reason, expires_at)"
            " VALUES ('tag', 'slow', 'pause', 'ann', 'r', sf_now() + interval '1 hour')"
        )
        await enqueue_many(conn, [NewJob("t", {"n": n}, tags=["slow"] if n % 2 else ["x"]) for n in range(6)])
        jobs = await claim(conn, plan, n=10, worker_id=worker_id)
        assert [job.payload["n"] for job in jobs] == [0, 2, 4]
        await conn.execute("DELETE FROM gates")
        plan.announce(None)
        jobs = await claim(conn, plan, n=10, worker_id=worker_id)
        assert [job.payload["n"] for job in jobs] == [1, 3, 5]


@pytest.mark.parametrize("scope", ["queue", "type", "tenant"])
@covers("Q-47")
async def test_a_closed_gate_holds_its_lanes_and_no_others(conn: Connection, scope: str) -> None:
    await enqueue(conn, NewJob("t"))
    await enqueue(conn, NewJob("process_snapshot", queue="mail", tenant="acme"))
    name = {"queue": "default", "type": "t", "tenant": "default"}[scope]
    await conn.execute(
        "INSERT INTO gates (scope, name, cause, owner, reason, expires_at)"
        " VALUES ($1, $2, 'pause', 'ann', 'r', sf_now() + interval '1 hour')",
        scope,
        name,
    )
    jobs = await claim(conn, a_plan("default", "mail"), n=10, worker_id=await a_worker(conn))
    assert [job.type for job in jobs] == ["process_snapshot"]


async def test_a_job_that_waited_too_long_is_served_beside_any_backlog_of_higher_priority(
    conn: Connection, travel: Travel
) -> None:
    await enqueue(conn, NewJob("t", {"old": True}, priority=-9))
    await travel(conn, seconds=301)
    worker_id = await a_worker(conn)
    await enqueue_many(conn, [NewJob("t", priority=9) for _ in range(50)])
    jobs = await claim(conn, a_plan(), n=8, worker_id=worker_id)
    assert len(jobs) == 8
    assert [job.payload for job in jobs if job.payload] == [{"old": True}]


async def test_a_tenant_with_few_jobs_is_not_kept_waiting_by_one_with_many(conn: Connection) -> None:
    await enqueue_many(conn, [NewJob("t", tenant="big") for _ in range(500)])
    await enqueue_many(conn, [NewJob("t", tenant="small") for _ in range(2)])
    worker_id, plan = await a_worker(conn), a_plan()
    first_two = [await claim(conn, plan, n=5, worker_id=worker_id) for _ in range(2)]
    assert sum(job.tenant == "small" for jobs in first_two for job in jobs) == 2


async def test_a_plan_remembers_no_more_lanes_than_its_bound_and_loses_none_that_has_jobs(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "LANES_MAX", 5)
    plan = a_plan()
    for tenant in range(12):
        plan.announce(Hint("default", "t", 0, f"idle{tenant}", ""))
    await enqueue_many(conn, [NewJob("t", tenant=f"busy{n}") for n in range(4)])
    await plan.refresh(conn)
    assert len(plan._lanes) == 5
    assert {scan.lane.key.tenant for scan in plan.scans(9)} == {f"busy{n}" for n in range(4)}


async def test_a_clock_that_steps_back_hides_nothing(database: str, travel: Travel) -> None:
    conn = await connect(database)
    plan = a_plan()
    await travel(conn, hours=1)
    worker_id = await a_worker(conn, lease_s=7200)
    await enqueue(conn, NewJob("t"))
    assert len(await claim(conn, plan, n=5, worker_id=worker_id)) == 1
    await travel(conn, hours=-1)
    await enqueue(conn, NewJob("t"))
    plan.announce(None)
    assert len(await claim(conn, plan, n=5, worker_id=worker_id)) == 1
    await conn.close()


def test_a_lane_that_was_never_scanned_is_scanned_from_its_beginning() -> None:
    assert Lane(LANE).since_s == -math.inf
