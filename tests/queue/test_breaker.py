"""The circuit breaker: it trips on figures, holds starts, probes, recovers or trips again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from starforge.db.pool import Connection
from starforge.errors import IllegalMoveError
from starforge.operation import Caller
from starforge.ops.registry import find
from starforge.queue.breaker import BREAKER, BreakerSettings, Moved, cooldown_s, watch_breakers
from starforge.queue.claim import claim
from starforge.queue.enqueue import enqueue_many
from starforge.queue.errors import UnknownGateError
from starforge.queue.flow import Flow
from starforge.queue.gate import closed_gates
from starforge.queue.handler import Context, JobType, JobTypes
from starforge.queue.job import NewJob
from starforge.queue.plan import Plan
from tests.conftest import Travel
from tests.covers import covers
from tests.queue.jobs import a_worker

COUNT = """
INSERT INTO job_minutes (minute, queue, type, worker_id, completed, failed, retried)
VALUES (date_trunc('minute', sf_now()), 'default', $1, gen_random_uuid(), $2, $3, $4)
"""


@pytest.fixture
async def full_minute(conn: Connection, travel: Travel) -> Travel:
    """Travel from the beginning of a minute on: a step falls into the minute that it is thought to."""
    left_s = 60 - await conn.fetchval("SELECT extract(second FROM sf_now())::float8")
    await travel(conn, seconds=left_s + 0.5)
    return travel


async def finished(conn: Connection, ok: int, bad: int = 0, *, type: str = "pay") -> None:
    """Count attempts as the finishing statements do, by a worker of their own."""
    await conn.execute(COUNT, type, ok, bad // 2, bad - bad // 2)


async def watched(conn: Connection) -> list[tuple[str, str]]:
    return [(move.verb, move.state) for move in await watch_breakers(conn)]


async def tripped(conn: Connection) -> None:
    await finished(conn, 5, 20)
    assert await watched(conn) == [("trip", "open")]


@covers("Q-68")
async def test_a_type_of_which_too_much_fails_is_held_and_its_owner_named(conn: Connection) -> None:
    await conn.execute("INSERT INTO job_types (name, queue, owner) VALUES ('pay', 'default', 'team money')")
    await finished(conn, 10, 9)
    assert await watched(conn) == []
    await finished(conn, 0, 2)
    await finished(conn, 100, 5, type="mail")
    with capture_logs() as lines:
        [move] = await watch_breakers(conn)
    assert move == Moved("pay", "team money", "trip", "open", "11 of 21 attempts failed within 60 s")
    assert [(line["event"], line["owner"]) for line in lines] == [("breaker.trip", "team money")]
    [gate] = await closed_gates(conn)
    assert (gate.scope, gate.name, gate.cause, gate.owner) == ("type", "pay", "breaker", "breaker")
    assert "11 of 21" in gate.reason
    assert await watched(conn) == [], "it tripped once"


@pytest.mark.parametrize(
    ("ok", "bad", "trips"),
    [(0, 19, False), (0, 20, True), (10, 10, True), (11, 10, False), (1000, 999, False), (1000, 1000, True)],
)
@covers("Q-68")
async def test_it_takes_enough_attempts_and_enough_failures(
    conn: Connection, ok: int, bad: int, trips: bool
) -> None:
    await finished(conn, ok, bad)
    assert bool(await watched(conn)) is trips


@covers("X-16")
async def test_the_figures_are_settings(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFORGE_BREAKER_RATIO", "0.1")
    monkeypatch.setenv("STARFORGE_BREAKER_MIN", "3")
    await finished(conn, 8, 1)
    assert await watched(conn) == [("trip", "open")]


async def test_failures_before_the_window_do_not_count(conn: Connection, full_minute: Travel) -> None:
    await finished(conn, 0, 50)
    await full_minute(conn, minutes=2)
    await finished(conn, 5, 0)
    assert await watched(conn) == []


@covers("Q-68")
async def test_after_the_cool_down_probes_start_and_enough_successes_let_the_type_run(
    conn: Connection, full_minute: Travel
) -> None:
    await tripped(conn)
    await full_minute(conn, seconds=29)
    assert await watched(conn) == []
    await full_minute(conn, seconds=2)
    assert await watched(conn) == [("probe", "half_open")]
    [gate] = await closed_gates(conn)
    assert gate.rate_per_s == 1.0
    await finished(conn, 4)
    assert await watched(conn) == []
    await finished(conn, 1)
    assert await watched(conn) == [("recover", "closed")]
    assert await closed_gates(conn) == []
    assert await watched(conn) == [], "what failed before it recovered no longer counts"
    await finished(conn, 0, 19)
    assert await watched(conn) == []
    await finished(conn, 0, 1)
    assert await watched(conn) == [("trip", "open")]


@covers("Q-68")
async def test_a_failed_probe_holds_the_type_again_and_for_longer(
    conn: Connection, full_minute: Travel
) -> None:
    await tripped(conn)
    for wait_s in (30, 60, 120):
        await full_minute(conn, seconds=wait_s - 1)
        assert await watched(conn) == []
        await full_minute(conn, seconds=2)
        assert await watched(conn) == [("probe", "half_open")]
        await finished(conn, 3, 1)
        assert await watched(conn) == [("trip", "open")]


def test_the_cool_down_doubles_up_to_its_bound() -> None:
    settings = BreakerSettings()
    assert [cooldown_s(trips, settings) for trips in (1, 2, 3, 6, 1000)] == [30, 60, 120, 600, 600]


async def test_a_breaker_that_nobody_watches_any_more_lets_its_type_run(
    conn: Connection, full_minute: Travel
) -> None:
    await tripped(conn)
    await full_minute(conn, minutes=9)
    assert len(await closed_gates(conn)) == 1
    await full_minute(conn, minutes=2)
    assert await closed_gates(conn) == []


async def test_a_breaker_that_is_watched_holds_on_for_as_long_as_its_probes_do_not_come(
    conn: Connection, full_minute: Travel
) -> None:
    await tripped(conn)
    await full_minute(conn, seconds=31)
    assert await watched(conn) == [("probe", "half_open")]
    for _ in range(6):
        await full_minute(conn, minutes=5)
        assert await watched(conn) == []
    assert len(await closed_gates(conn)) == 1


async def _reset(conn: Connection, name: str) -> Any:
    return await find("breaker reset").act(Caller("ann", "operator", "default", conn), name)


async def test_a_reset_lets_the_type_run_and_forgets_what_failed(conn: Connection) -> None:
    await tripped(conn)
    change = await _reset(conn, "pay")
    assert change.before["owner"] == "breaker"
    assert await closed_gates(conn) == []
    assert await watched(conn) == []
    with pytest.raises(UnknownGateError, match="'pay' does not hold it"):
        await _reset(conn, "pay")


async def test_a_type_whose_breaker_is_turned_off_runs_whatever_fails(conn: Connection) -> None:
    await tripped(conn)
    caller = Caller("ann", "operator", "default", conn)
    await find("breaker disable").act(caller, "pay", reason="known")
    assert await watched(conn) == [("recover", "closed")]
    await finished(conn, 0, 100)
    assert await watched(conn) == []
    await find("breaker enable").act(caller, "pay")
    assert await watched(conn) == [("trip", "open")]


async def test_two_leaders_that_watch_at_once_move_a_breaker_once(conn: Connection) -> None:
    """What was moved since it was seen is not moved again: the row says what it was."""
    await tripped(conn)
    await conn.execute("UPDATE gates SET detail = detail || '{\"moved_s\": 0}'")
    assert await watched(conn) == [("probe", "half_open")]
    assert await watched(conn) == []


async def _run(_ctx: Context, _payload: Mapping[str, Any]) -> None:
    return None


@covers("Q-68")
async def test_while_it_is_open_nothing_starts_half_open_a_trickle_and_enqueueing_goes_on(
    conn: Connection, full_minute: Travel
) -> None:
    types = JobTypes([JobType("pay", _run), JobType("mail", _run)])
    worker_id = await a_worker(conn, lease_s=3600)
    plan = Plan(["default"], types.names(), Flow(worker_id, types))

    async def claimed() -> list[str]:
        plan.announce(None)
        return [job.type for job in await claim(conn, plan, n=100, worker_id=worker_id)]

    await tripped(conn)
    await enqueue_many(conn, [NewJob(name) for name in ["pay", "mail"] * 3])
    assert await claimed() == ["mail"] * 3
    await full_minute(conn, seconds=31)
    await watch_breakers(conn)
    assert await claimed() == ["pay"]
    assert await claimed() == []
    await _reset(conn, "pay")
    assert await claimed() == ["pay"] * 2


def test_no_verb_leads_a_breaker_from_open_to_closed_without_probes_but_a_word_or_its_expiry() -> None:
    ways = {move.verb for move in BREAKER.moves if (move.source, move.target) == ("open", "closed")}
    assert ways == {"recover", "reset", "expire"}
    with pytest.raises(IllegalMoveError):
        BREAKER.target("probe", "closed")
