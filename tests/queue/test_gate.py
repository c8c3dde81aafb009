"""A pause withholds a queue's jobs with an owner, a reason and an end, and changes no job."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from starforge.clock import new_id
from starforge.db.pool import Connection, Pool
from starforge.machine import Machine
from starforge.operation import Caller, Change
from starforge.queue import gate
from starforge.queue.claim import claim
from starforge.queue.enqueue import enqueue_many
from starforge.queue.errors import OtherTenantError, UnknownGateError
from starforge.queue.gate import GATE, Scope, closed_gates
from starforge.queue.gate_operations import (
    PAUSES,
    SCOPES,
    pause_noncritical,
    release,
    resume_noncritical,
    suspend,
)
from starforge.queue.hint import parse_hint
from starforge.queue.job import NewJob
from starforge.queue.plan import Plan
from starforge.queue.retry import retry
from tests.conftest import Travel
from tests.covers import covers
from tests.queue.jobs import TYPES, a_worker

pause, resume = PAUSES["queue"]


def _caller(conn: Connection, actor: str = "ann") -> Caller:
    return Caller(actor, "admin", "default", conn)


async def _pause(
    conn: Connection, name: str = "mail", *, by: str = "ann", minutes: int | None = None
) -> Change:
    return await pause(_caller(conn, by), name, reason="the provider is down", minutes=minutes)


@covers("X-11")
async def test_a_pause_carries_its_owner_reason_and_expiry(conn: Connection) -> None:
    await _pause(conn)
    (closed,) = await closed_gates(conn)
    assert (closed.scope, closed.name, closed.cause) == ("queue", "mail", "pause")
    assert (closed.owner, closed.reason) == ("ann", "the provider is down")
    assert (closed.expires_at - closed.created_at).total_seconds() == 3600


@covers("X-11")
async def test_a_pause_that_nobody_ends_ends_by_itself(conn: Connection, travel: Travel) -> None:
    await _pause(conn, minutes=10)
    await travel(conn, minutes=9)
    assert len(await closed_gates(conn)) == 1
    await travel(conn, minutes=2)
    assert await closed_gates(conn) == []
    with pytest.raises(UnknownGateError):
        await resume(_caller(conn), "mail")


async def test_pausing_again_renews_the_pause_and_keeps_its_beginning(
    conn: Connection, travel: Travel
) -> None:
    await _pause(conn, minutes=10)
    (first,) = await closed_gates(conn)
    await travel(conn, minutes=5)
    change = await _pause(conn, by="bob", minutes=10)
    (second,) = await closed_gates(conn)
    assert (change.changed, second.owner) == (1, "bob")
    assert second.created_at == first.created_at
    assert (second.expires_at - first.expires_at).total_seconds() == pytest.approx(300, abs=5)


async def test_an_identical_pause_within_a_minute_changes_nothing(conn: Connection, travel: Travel) -> None:
    await _pause(conn)
    before = await closed_gates(conn)
    await travel(conn, seconds=30)
    change = await _pause(conn)
    assert (change.matched, change.changed) == (1, 0)
    assert await closed_gates(conn) == before


async def test_a_pause_after_an_expired_one_is_a_new_pause(conn: Connection, travel: Travel) -> None:
    await _pause(conn, minutes=10)
    (first,) = await closed_gates(conn)
    await travel(conn, minutes=20)
    change = await _pause(conn, minutes=10)
    (second,) = await closed_gates(conn)
    assert change.before == {"paused": False}
    assert second.created_at > first.created_at


@covers("Q-30")
async def test_resume_ends_the_pause_and_says_whose_it_was(conn: Connection) -> None:
    await _pause(conn)
    change = await resume(_caller(conn, "bob"), "mail")
    assert (change.changed, change.before["owner"]) == (1, "ann")
    assert await closed_gates(conn) == []


async def test_resuming_a_queue_that_is_not_paused_is_refused(conn: Connection) -> None:
    await _pause(conn, "sms")
    with pytest.raises(UnknownGateError, match="'mail' is not paused"):
        await resume(_caller(conn), "mail")
    assert len(await closed_gates(conn)) == 1


async def test_a_pause_counts_what_it_withholds_and_changes_no_job(conn: Connection) -> None:
    await conn.execute(
        "INSERT INTO queue_jobs (queue, type) SELECT 'mail', 'send' FROM generate_series(1, 3)"
    )
    before = await conn.fetch("SELECT * FROM queue_jobs WHERE queue = 'mail' ORDER BY id")
    change = await _pause(conn)
    assert change.after["waiting"] == 3
    assert "3 waiting jobs" in change.summary
    assert await conn.fetch("SELECT * FROM queue_jobs WHERE queue = 'mail' ORDER BY id") == before


async def test_a_mistyped_queue_is_told_to_be_unknown(conn: Connection) -> None:
    change = await _pause(conn, "mial")
    assert "no job and no live worker names this queue" in change.summary


async def test_the_default_length_of_a_pause_is_a_setting(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_PAUSE_MINUTES", "5")
    await _pause(conn)
    (closed,) = await closed_gates(conn)
    assert (closed.expires_at - closed.created_at).total_seconds() == 300


def test_the_gate_machine_leaves_no_state_without_a_way_out() -> None:
    assert isinstance(GATE, Machine)
    assert GATE.terminal == ()
    assert gate.GATE.target("resume", "closed") == "open"


NAMES = {"queue": "mail", "type": "t", "tenant": "acme", "tag": "bulk"}


async def _gated_jobs(conn: Connection) -> None:
    """Enqueue two jobs that every one of NAMES holds back, and one that none does."""
    held = NewJob("t", queue="mail", tenant="acme", tags=["bulk", "x"])
    await enqueue_many(conn, [held, replace(held, id=new_id()), NewJob("process_snapshot", tags=["x"])])


async def _claimed_of(conn: Connection, plan: Plan, worker_id: UUID) -> list[tuple[str, str]]:
    plan.announce(None)
    return sorted((job.queue, job.type) for job in await claim(conn, plan, n=10, worker_id=worker_id))


@pytest.mark.parametrize("scope", SCOPES)
@covers("Q-47", "J-31")
async def test_a_pause_of_a_queue_type_tenant_or_tag_holds_what_it_names_and_nothing_else(
    pool: Pool, scope: Scope
) -> None:
    close_it, open_it = PAUSES[scope]
    async with pool.connection() as conn:
        worker_id, plan = await a_worker(conn), Plan(["default", "mail"], TYPES)
        change = await close_it(_caller(conn), NAMES[scope], reason="storm")
        await _gated_jobs(conn)  # enqueueing stays possible
        assert await _claimed_of(conn, plan, worker_id) == [("default", "process_snapshot")]
        again = await close_it(_caller(conn, "bob"), NAMES[scope], reason="storm")
        assert (change.after["waiting"], again.after["waiting"]) == (0, 2)
        assert "with 2 waiting jobs" in again.summary
        await open_it(_caller(conn), NAMES[scope])
        assert await _claimed_of(conn, plan, worker_id) == [("mail", "t")] * 2


@covers("G11")
async def test_another_tenants_jobs_are_held_back_by_an_administrator_only(conn: Connection) -> None:
    close_it, open_it = PAUSES["tenant"]
    operator = Caller("ann", "operator", "acme", conn)
    with pytest.raises(OtherTenantError):
        await close_it(operator, "globex", reason="storm")
    with pytest.raises(OtherTenantError):
        await suspend(operator, "tenant", "globex", reason="storm")
    assert await closed_gates(conn) == []
    await close_it(operator, "acme", reason="storm")
    await close_it(replace(operator, role="admin"), "globex", reason="storm")
    with pytest.raises(OtherTenantError):
        await open_it(operator, "globex")
    assert [closed.name for closed in await closed_gates(conn)] == ["acme", "globex"]


@pytest.mark.parametrize("scope", ["queue", "type", "tenant"])
@covers("F-31", "Q-37")
async def test_suspended_retries_wait_while_first_attempts_go_on(
    pool: Pool, scope: str, travel: Travel
) -> None:
    async with pool.connection() as conn:
        worker_id, plan = await a_worker(conn), Plan(["mail"], TYPES)
        await enqueue_many(conn, [NewJob("t", {"n": n}, queue="mail", tenant="acme") for n in range(40)])
        jobs = await claim(conn, plan, n=30, worker_id=worker_id)
        await retry(conn, jobs, [{"reason": "r"}] * 30, [0.0] * 30, worker_id=worker_id)
        admin = Caller("ann", "admin", "default", conn)
        change = await suspend(admin, scope, NAMES[scope], reason="storm")
        assert "with 30 jobs that failed before" in change.summary
        plan.announce(None)
        first = [job.payload["n"] for job in await claim(conn, plan, n=50, worker_id=worker_id)]
        assert sorted(first) == list(range(30, 40))
        await travel(conn, seconds=5)  # a sweep, and the retries' own time
        plan.announce(None)
        assert await claim(conn, plan, n=50, worker_id=worker_id) == []
        assert await conn.fetchval("SELECT count(*) FROM queue_jobs WHERE status = 'pending'") == 30
        await release(admin, scope, NAMES[scope])
        plan.announce(None)
        again = await claim(conn, plan, n=50, worker_id=worker_id)
        assert sorted(job.payload["n"] for job in again) == list(range(30))


async def test_retries_of_another_name_are_not_suspended(conn: Connection) -> None:
    worker_id, plan = await a_worker(conn), Plan(["default"], TYPES)
    await enqueue_many(conn, [NewJob("t"), NewJob("process_snapshot")])
    jobs = await claim(conn, plan, n=10, worker_id=worker_id)
    await retry(conn, jobs, [{"reason": "r"}] * 2, [0.0] * 2, worker_id=worker_id)
    await suspend(_caller(conn), "type", "t", reason="storm")
    assert await _claimed_of(conn, plan, worker_id) == [("default", "process_snapshot")]
    with pytest.raises(UnknownGateError, match="type 'process_snapshot' has no suspended retries"):
        await release(_caller(conn), "type", "process_snapshot")


@covers("Q-45", "Q-46")
async def test_pausing_what_is_not_critical_spares_critical_queues_and_the_pauses_of_others(
    conn: Connection,
) -> None:
    await conn.execute(
        "INSERT INTO job_types (name, queue, critical) VALUES ('pay', 'money', true),"
        " ('report', 'money', false), ('mail', 'post', false), ('tidy', 'idle', false)"
    )
    jobs = [("pay", "rush"), ("mail", "rush"), ("mail", "post"), ("by_hand", "odd")]
    await enqueue_many(conn, [NewJob(name, queue=queue) for name, queue in jobs])
    await pause(_caller(conn, "bob"), "odd", reason="mine")
    change = await pause_noncritical(_caller(conn), reason="storm")
    # money has a critical type, and rush holds a job of one.
    assert change.after["paused"] == ["idle", "post"]
    assert "1 waiting job; 1 queue somebody had paused before" in change.summary
    assert (await pause_noncritical(_caller(conn), reason="storm")).changed == 0
    assert (await resume_noncritical(_caller(conn))).changed == 2
    assert [(closed.name, closed.owner) for closed in await closed_gates(conn)] == [("odd", "bob")]


@covers("G8", "Q-47")
async def test_a_pause_is_announced_to_every_worker_when_it_commits(pool: Pool, listener: Connection) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await listener.add_listener("starforge_jobs", lambda *told: heard.put_nowait(str(told[-1])))
    async with pool.connection() as conn:
        await pause(_caller(conn), "default", reason="storm")
    assert parse_hint(await asyncio.wait_for(heard.get(), 5)) is None  # look everywhere
