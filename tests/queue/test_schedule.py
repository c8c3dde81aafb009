"""Schedules: one job per tick, across time zones, restarts, absences, two leaders and kills."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starforge.app import StarForge
from starforge.clock import FAILPOINTS_ENV
from starforge.db.leader import Lease, take
from starforge.db.pool import Connection, Pool, connect
from starforge.ops.perform import perform
from starforge.ops.plan import plan
from starforge.queue.errors import ScheduleError, SchedulePausedError, UnknownScheduleError
from starforge.queue.schedule import Schedule, declare, schedules
from starforge.queue.tick import tick
from tests.covers import covers
from tests.queue.clockwork import ZONES, Reckoning, changes
from tests.queue.test_cron import CRONS

TICKS = "SELECT payload ->> 'scheduled_at' FROM queue_jobs ORDER BY payload ->> 'scheduled_at'"
NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
OPERATOR: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}


async def freeze(conn: Connection, at: datetime) -> None:
    """Stop the database's clock at a moment."""
    await conn.execute(
        "CREATE OR REPLACE FUNCTION sf_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE"
        f" AS $$ SELECT timestamptz '{at.isoformat()}' $$"
    )


async def a_lease(conn: Connection, *, seconds: float = 60) -> Lease:
    """Lead, whoever led before."""
    await conn.execute("UPDATE leases SET expires_at = '-infinity'")
    lease = await take(conn, "upkeep", uuid4(), lease_s=seconds)
    assert lease is not None
    return lease


def a_schedule(cron: str = "* * * * *", **told: Any) -> Schedule:
    return Schedule(**{"name": "s", "cron": cron, "type": "t", "passes_time": True, **told})


async def declared(conn: Connection, *found: Schedule, by: str = "shop") -> int:
    return await declare(conn, found, by=by)


async def ticks(conn: Connection) -> list[datetime]:
    """Return the ticks that became jobs."""
    return [datetime.fromisoformat(row[0]) for row in await conn.fetch(TICKS)]


async def ticked(conn: Connection, moments: Iterable[datetime]) -> list[datetime]:
    """Let one leader after the other tick at these moments."""
    for moment in moments:
        await freeze(conn, moment)
        await tick(conn, await a_lease(conn))
    return await ticks(conn)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=CRONS,
    zone=st.sampled_from(ZONES),
    which=st.integers(0, 30),
    steps=st.lists(st.sampled_from([1, 20, 61, 600, 3599, 7200, 30_000]), min_size=1, max_size=25),
)
async def test_every_tick_becomes_one_job_whenever_leaders_come_and_go(
    conn: Connection, text: str, zone: str, which: int, steps: list[int]
) -> None:
    """FAULTS 24: clocks that change, the leap day, restarts and absences, on a frozen clock."""
    days = changes(zone)
    start = days[which % len(days)] - timedelta(hours=6)
    await conn.execute("TRUNCATE schedules, queue_jobs, job_keys")
    await freeze(conn, start)
    await declared(conn, a_schedule(text, timezone=zone, missed="all"))
    moments = [start + timedelta(seconds=sum(steps[:n])) for n in range(1, len(steps) + 1)]
    for moment in moments:
        await freeze(conn, moment)
        # A worker that starts declares it again; that moves nothing.
        await declared(conn, a_schedule(text, timezone=zone, missed="all"))
        while await tick(conn, await a_lease(conn)):
            pass
    wanted = Reckoning(text, zone).ticks(start, moments[-1])
    # What is missed for longer than the catch-up allows is left out, the oldest first.
    assert await ticks(conn) == wanted or len(wanted) > 100


async def test_a_tick_that_nobody_came_to_is_skipped_run_once_or_run_in_full(conn: Connection) -> None:
    for missed, wanted in (("skip", []), ("latest", [5]), ("all", [1, 2, 3, 4, 5])):
        await conn.execute("TRUNCATE schedules, queue_jobs, job_keys")
        await freeze(conn, NOON)
        await declared(conn, a_schedule("0 * * * *", missed=missed))
        later = NOON + timedelta(hours=5, minutes=30)
        assert await ticked(conn, [later]) == [NOON + timedelta(hours=hour) for hour in wanted], missed


async def test_a_tick_within_the_grace_is_no_missed_one(conn: Connection) -> None:
    for missed in ("skip", "latest", "all"):
        await conn.execute("TRUNCATE schedules, queue_jobs, job_keys")
        await freeze(conn, NOON)
        await declared(conn, a_schedule("*/1 * * * *", missed=missed))
        made = await ticked(conn, [NOON + timedelta(seconds=115)])
        assert made == [NOON + timedelta(minutes=1)], missed


async def test_catching_up_has_its_bound_and_keeps_the_newest(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_SCHEDULE_CATCH_UP_MAX", "7")
    await freeze(conn, NOON)
    await declared(conn, a_schedule(missed="all"))
    now = NOON + timedelta(days=400)
    made = await ticked(conn, [now])
    assert made == [now - timedelta(minutes=back) for back in range(6, -1, -1)]


@covers("D-12")
async def test_a_leader_whose_lease_is_over_makes_no_job(conn: Connection) -> None:
    await freeze(conn, NOON)
    await declared(conn, a_schedule())
    old = await a_lease(conn)
    await freeze(conn, NOON + timedelta(minutes=1))
    new = await a_lease(conn)
    await tick(conn, old)
    assert await ticks(conn) == []
    await tick(conn, new)
    assert await ticks(conn) == [NOON + timedelta(minutes=1)]


async def test_of_two_that_think_they_lead_one_makes_the_job(pool: Pool) -> None:
    """Both hold what they take for the lease: the step of next_at is a compare-and-set."""
    async with pool.connection() as one, pool.connection() as two:
        await declared(one, a_schedule())
        lease = await a_lease(one)
        for _ in range(20):
            await one.execute("UPDATE schedules SET next_at = date_trunc('minute', sf_now())")
            await one.execute("DELETE FROM job_keys")
            await one.execute("DELETE FROM queue_jobs")
            await asyncio.gather(tick(one, lease), tick(two, lease))
            assert await one.fetchval("SELECT count(*) FROM queue_jobs") == 1


async def test_a_tick_whose_key_is_there_already_makes_no_second_job(conn: Connection) -> None:
    """The row was set back by hand, or restored: the key still knows the tick."""
    await freeze(conn, NOON)
    await declared(conn, a_schedule())
    at = NOON + timedelta(minutes=1)
    await ticked(conn, [at])
    await conn.execute("UPDATE schedules SET next_at = $1", at)
    assert await ticked(conn, [at]) == [at]
    assert await conn.fetchval("SELECT key FROM job_keys") == "schedule:s:2026-06-01T12:01:00Z"


KILLED = """
import asyncio, sys
from uuid import uuid4
from starforge.db.leader import take
from starforge.db.pool import connect
from starforge.queue.tick import tick

async def main():
    conn = await connect(sys.argv[1])
    await conn.execute("UPDATE leases SET expires_at = '-infinity'")
    await tick(conn, await take(conn, "upkeep", uuid4(), lease_s=60))

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("failpoint", "made"),
    [
        ("schedules_fetched", 0),
        ("schedule_advanced", 0),
        ("schedule_before_commit", 0),
        ("schedule_after_commit", 1),
    ],
)
async def test_a_leader_killed_between_fetch_and_insert_neither_loses_nor_doubles_a_tick(
    database: str, failpoint: str, made: int
) -> None:
    """FAULTS 37."""
    conn = await connect(database)
    await declared(conn, a_schedule())
    await conn.execute("UPDATE schedules SET next_at = date_trunc('minute', sf_now())")

    def leader(**environment: str) -> int:
        told = {**os.environ, **environment}
        return subprocess.run([sys.executable, "-c", KILLED, database], env=told, check=False).returncode

    assert await asyncio.to_thread(leader, **{FAILPOINTS_ENV: f"{failpoint}:kill"}) == -9
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == made
    assert await asyncio.to_thread(leader) == 0
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == 1
    assert await conn.fetchval("SELECT count(*) FROM job_keys") == 1
    await conn.close()


async def test_the_job_has_what_the_schedule_says_and_a_tag_to_find_it_by(conn: Connection) -> None:
    await freeze(conn, NOON)
    await declared(
        conn,
        a_schedule(
            type="report",
            payload={"to": "ann"},
            queue="mail",
            priority=7,
            max_attempts=2,
            tenant="acme",
            passes_time=False,
        ),
    )
    await freeze(conn, NOON + timedelta(minutes=1))
    await tick(conn, await a_lease(conn))
    row = await conn.fetchrow(
        "SELECT type, payload, queue, priority, max_attempts, tenant_id, tags FROM queue_jobs"
    )
    assert row is not None
    assert tuple(row) == ("report", {"to": "ann"}, "mail", 7, 2, "acme", ["schedule:s"])
    (shown,) = await schedules(conn)
    assert shown.last_at == NOON + timedelta(minutes=1)
    assert shown.next_at == NOON + timedelta(minutes=2)
    assert shown.last_job_id == await conn.fetchval("SELECT id FROM queue_jobs")


async def test_declaring_again_moves_nothing_and_a_changed_cron_starts_from_now(conn: Connection) -> None:
    await freeze(conn, NOON)
    assert await declared(conn, a_schedule("0 3 * * *")) == 1
    await freeze(conn, NOON + timedelta(hours=20))
    assert await declared(conn, a_schedule("0 3 * * *")) == 0
    (shown,) = await schedules(conn)
    assert shown.next_at == NOON + timedelta(hours=15)
    assert await declared(conn, a_schedule("0 4 * * *")) == 1
    (shown,) = await schedules(conn)
    assert shown.next_at == NOON + timedelta(hours=40)
    assert await declared(conn, a_schedule("0 4 * * *", payload={"a": 1})) == 1
    assert shown.declared_by == "shop"


async def test_a_schedule_that_nobody_declares_any_more_goes_on(conn: Connection) -> None:
    await freeze(conn, NOON)
    await declared(conn, a_schedule())
    await declared(conn, a_schedule(name="another"))
    made = await ticked(conn, [NOON + timedelta(minutes=1), NOON + timedelta(minutes=2)])
    assert len(made) == 4


async def test_a_schedule_that_cannot_tick_says_why_and_keeps_none_of_the_others(conn: Connection) -> None:
    await freeze(conn, NOON)
    await declared(conn, a_schedule(name="a"), a_schedule(name="b"), a_schedule(name="d"))
    await declared(conn, a_schedule(name="c"))
    await conn.execute("UPDATE schedules SET timezone = 'Mars/Olympus' WHERE name = 'a'")
    big = '{"x": "' + "x" * 300_000 + '"}'
    await conn.execute(f"UPDATE schedules SET payload = '{big}' WHERE name = 'b'")
    await conn.execute("UPDATE schedules SET type = 'forbidden' WHERE name = 'd'")
    await conn.execute("ALTER TABLE queue_jobs ADD CHECK (type <> 'forbidden')")
    made = await ticked(conn, [NOON + timedelta(minutes=1)])
    assert made == [NOON + timedelta(minutes=1)]
    faults = {shown.name: shown.fault for shown in await schedules(conn)}
    assert "Mars/Olympus" in str(faults["a"])
    assert "300" in str(faults["b"])
    assert "violates check constraint" in str(faults["d"])
    assert faults["c"] is None
    # It is tried again a minute later, and its tick is not lost.
    await conn.execute("UPDATE schedules SET payload = '{}' WHERE name = 'b'")
    await ticked(conn, [NOON + timedelta(minutes=1, seconds=30)])
    assert len(await ticks(conn)) == 1
    await ticked(conn, [NOON + timedelta(minutes=2, seconds=1)])
    assert {shown.name: shown.fault for shown in await schedules(conn)}["b"] is None
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs WHERE tags = '{schedule:b}'") >= 1


@covers("X-11")
async def test_the_ticks_of_a_pause_become_no_jobs_then_or_later(database: str, pool: Pool) -> None:
    conn = await connect(database)
    await freeze(conn, NOON)
    await declared(conn, a_schedule(missed="all"))
    told = {"name": "s", "reason": "the report is wrong", "minutes": 10}
    done = await perform(pool, "schedule pause", told, **OPERATOR)
    assert done.changed == 1
    # Nobody leads for the whole pause and a while after it.
    made = await ticked(conn, [NOON + timedelta(minutes=12)])
    assert made == [NOON + timedelta(minutes=minute) for minute in (10, 11, 12)]
    with pytest.raises(SchedulePausedError):
        await perform(pool, "schedule resume", {"name": "s"}, **OPERATOR)
    await conn.close()


@covers("X-10", "X-11")
async def test_a_resumed_schedule_goes_on_and_does_not_catch_its_pause_up(database: str, pool: Pool) -> None:
    conn = await connect(database)
    await freeze(conn, NOON)
    await declared(conn, a_schedule(missed="all"))
    await perform(pool, "schedule pause", {"name": "s", "reason": "why not", "minutes": 60}, **OPERATOR)
    await freeze(conn, NOON + timedelta(minutes=5))
    (shown,) = await schedules(conn)
    assert shown.paused
    assert (shown.document()["owner"], shown.document()["reason"]) == ("ann", "why not")
    await perform(pool, "schedule resume", {"name": "s"}, **OPERATOR)
    made = await ticked(conn, [NOON + timedelta(minutes=7)])
    assert made == [NOON + timedelta(minutes=minute) for minute in (5, 6, 7)]
    await conn.close()


async def test_a_schedule_runs_now_beside_its_ticks_also_when_paused(database: str, pool: Pool) -> None:
    conn = await connect(database)
    await freeze(conn, NOON)
    await declared(conn, a_schedule("0 3 * * *"))
    await perform(pool, "schedule pause", {"name": "s", "reason": "why not"}, **OPERATOR)
    planned = await plan(pool, "schedule run-now", {"name": "s"}, **OPERATOR)
    assert planned.summary.startswith("a job of type"), "the act will make another one"
    assert await ticks(conn) == []
    await perform(pool, "schedule run-now", {"name": "s"}, **OPERATOR, plan_id=planned.id)
    assert await ticks(conn) == [NOON]
    (shown,) = await schedules(conn)
    assert shown.next_at == NOON + timedelta(hours=15)
    await conn.close()


async def test_a_removed_schedule_ticks_no_more_and_its_jobs_stay(database: str, pool: Pool) -> None:
    conn = await connect(database)
    await freeze(conn, NOON)
    await declared(conn, a_schedule())
    await ticked(conn, [NOON + timedelta(minutes=1)])
    told = {"name": "s", "reason": "nobody reads it"}
    planned = await plan(pool, "schedule remove", told, **OPERATOR)
    await ticked(conn, [NOON + timedelta(minutes=2)])
    # A tick in between does not spoil the plan.
    await perform(pool, "schedule remove", told, **OPERATOR, plan_id=planned.id)
    assert len(await ticked(conn, [NOON + timedelta(minutes=3)])) == 2
    for name in ("pause", "resume", "run-now", "remove"):
        with pytest.raises(UnknownScheduleError):
            await perform(pool, f"schedule {name}", told, **OPERATOR)
    await conn.close()


@covers("X-12")
async def test_another_tenants_schedule_is_not_there(conn: Connection, database: str, pool: Pool) -> None:
    own = await connect(database)
    await declared(own, a_schedule(tenant="acme"), a_schedule(tenant="bolt"))
    with pytest.raises(UnknownScheduleError):
        await perform(pool, "schedule remove", {"name": "s", "reason": "mine"}, **OPERATOR)
    await perform(pool, "schedule remove", {"name": "s", "reason": "mine"}, **{**OPERATOR, "tenant": "acme"})
    assert [shown.tenant_id for shown in await schedules(own)] == ["bolt"]
    await own.close()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"cron": "* * * *"}, "schedule 's': cron '\\* \\* \\* \\*' has 4 of the five fields"),
        ({"timezone": "Berlin"}, "schedule 's': time zone 'Berlin' is not known"),
        ({"missed": "none"}, "missed='none' is none of skip, latest, all"),
        ({"name": ""}, "a name has 1 to 200 characters"),
        ({"payload": {"a": object()}}, "its payload is not JSON"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_where_it_is_declared(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ScheduleError, match=told):
        a_schedule(**changed)


def test_an_app_declares_crons_above_its_jobs_with_what_the_job_says() -> None:
    app = StarForge("shop")

    @app.cron("@daily", tz="Europe/Berlin", missed="all")
    @app.cron("@weekly", name="weekly", payload={"what": "week"}, queue="slow")
    @app.job("report", queue="mail", priority=3, retry=2)
    async def report(scheduled_at: str, what: str = "day") -> None: ...

    app.schedule("plain", "0 5 * * 1-5", "somebody_elses", {"n": 1}, tz="UTC")
    found = {schedule.name: schedule for schedule in app.schedules()}
    assert set(found) == {"report", "weekly", "plain"}
    daily, weekly, plain = found["report"], found["weekly"], found["plain"]
    assert (daily.type, daily.queue, daily.priority, daily.max_attempts) == ("report", "mail", 3, 2)
    assert (daily.passes_time, daily.timezone, daily.missed) == (True, "Europe/Berlin", "all")
    assert (weekly.payload, weekly.queue) == ({"what": "week"}, "slow")
    assert (plain.type, plain.passes_time, plain.payload) == ("somebody_elses", False, {"n": 1})
    with pytest.raises(ScheduleError, match="two schedules 'plain'"):
        app.schedule("plain", "@daily", "report")

    async def upside_down() -> None: ...

    no_job_yet: Any = upside_down
    with pytest.raises(ScheduleError, match=r"put @app\.cron above @app\.job"):
        app.job()(app.cron("@daily")(no_job_yet))


async def test_while_the_types_unique_key_holds_ticks_become_no_jobs_of_their_own(conn: Connection) -> None:
    """The report of the hour before is not done: a second one would only stand in its way."""
    app = StarForge("shop")

    @app.cron("0 * * * *", missed="all")
    @app.job("report", unique=True)
    async def report(scheduled_at: datetime) -> None: ...

    await freeze(conn, NOON)
    await declared(conn, *app.schedules())
    hours = [NOON + timedelta(hours=hour) for hour in (1, 2, 3)]
    assert await ticked(conn, hours) == hours[:1]
    await conn.execute("DELETE FROM queue_jobs")
    assert await ticked(conn, [NOON + timedelta(hours=6)]) == [NOON + timedelta(hours=4)]


def test_a_payload_that_does_not_fit_the_handler_is_refused_before_the_worker_starts() -> None:
    app = StarForge("shop")

    @app.cron("@daily", payload={"to": 7})
    @app.job("report")
    async def report(scheduled_at: datetime, to: str) -> None: ...

    with pytest.raises(ScheduleError, match=r"schedule 'report': .*to"):
        app.schedules()


async def test_the_engine_may_declare_and_tick_and_reads_every_tenant(database: str) -> None:
    conn = await connect(database)
    await conn.execute("SET ROLE starforge_engine")
    await declared(conn, a_schedule(tenant="acme"), a_schedule(tenant="bolt"))
    await conn.execute("UPDATE schedules SET next_at = date_trunc('minute', sf_now())")
    await tick(conn, await a_lease(conn))
    tenants = await conn.fetch("SELECT DISTINCT tenant_id FROM queue_jobs ORDER BY 1")
    assert [row[0] for row in tenants] == ["acme", "bolt"]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.execute("DROP TABLE schedules")
    await conn.close()
