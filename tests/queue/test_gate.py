"""A pause withholds a queue's jobs with an owner, a reason and an end, and changes no job."""

from __future__ import annotations

import pytest

from starforge.db.pool import Connection
from starforge.machine import Machine
from starforge.operation import Caller, Change
from starforge.queue import gate
from starforge.queue.errors import UnknownGateError
from starforge.queue.gate import GATE, closed_gates
from starforge.queue.gate_operations import PAUSES
from tests.conftest import Travel
from tests.covers import covers

pause, resume = PAUSES["queue"]


def _caller(conn: Connection, actor: str = "ann") -> Caller:
    return Caller(actor, "operator", "default", conn)


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
