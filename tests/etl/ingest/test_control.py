"""Ingestion is paused in one place, by an operation or by hand, and both are honoured."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from starforge.db.pool import Connection, Pool
from starforge.errors import InvalidInputError
from starforge.etl.errors import (
    IngestNotPausedError,
    IngestPausedError,
    SourceNotPausedError,
    SourcePausedError,
)
from starforge.etl.ingest import control, operations
from starforge.etl.ingest.control import IngestPause, ingest_control, ingest_pause, require_open
from starforge.operation import Caller, Change
from starforge.ops.perform import perform
from starforge.ops.plan import plan
from tests.conftest import Travel
from tests.covers import covers

BY_HAND = """
UPDATE feature_flags
SET data = jsonb_set(data, '{ingest_paused}', 'true'::jsonb)
WHERE name = 'ingest_control';
"""


def _caller(conn: Connection, actor: str = "ann") -> Caller:
    return Caller(actor, "operator", "default", conn)


async def _pause(conn: Connection, *, by: str = "ann", minutes: int | None = 10) -> Change:
    return await operations.pause(_caller(conn, by), reason="upstream changed", minutes=minutes)


async def test_a_fresh_schema_accepts_snapshots(conn: Connection) -> None:
    assert await ingest_pause(conn) is None
    await require_open(conn)


@covers("Q-29", "X-11")
async def test_a_pause_stands_beside_the_flag_with_owner_reason_and_until(conn: Connection) -> None:
    change = await _pause(conn)
    data = await conn.fetchval("SELECT data FROM feature_flags WHERE name = 'ingest_control'")
    assert data["ingest_paused"] is True
    assert (data["owner"], data["reason"]) == ("ann", "upstream changed")
    assert set(data) == {"ingest_paused", "owner", "reason", "until"}
    assert (change.before, change.changed) == ({"paused": False}, 1)
    with pytest.raises(IngestPausedError, match=r"upstream changed \(ann, until") as refused:
        await require_open(conn)
    assert refused.value.retry_after_s == 30


@covers("X-11")
async def test_an_expired_pause_accepts_snapshots_again(conn: Connection, travel: Travel) -> None:
    await _pause(conn)
    await travel(conn, minutes=9.9)
    with pytest.raises(IngestPausedError) as refused:
        await require_open(conn)
    assert refused.value.retry_after_s <= 6
    await travel(conn, minutes=0.2)
    await require_open(conn)
    with pytest.raises(IngestNotPausedError):
        await operations.resume(_caller(conn))


@covers("Q-29", "X-14")
async def test_a_flag_set_by_hand_pauses_until_somebody_ends_it(conn: Connection, travel: Travel) -> None:
    await conn.execute(BY_HAND)
    assert await ingest_pause(conn) == IngestPause(None, None, None)
    await travel(conn, days=30)
    with pytest.raises(IngestPausedError, match="set by hand, with no end"):
        await require_open(conn)
    change = await operations.resume(_caller(conn))
    assert change.before == {"paused": True, "owner": None, "reason": None, "until": None}
    await require_open(conn)


@covers("Q-29")
async def test_a_pause_can_be_ended_by_hand(conn: Connection) -> None:
    await _pause(conn)
    await conn.execute(BY_HAND.replace("'true'", "'false'"))
    assert await ingest_pause(conn) is None


@covers("Q-29", "X-14")
async def test_a_flag_set_again_by_hand_after_a_pause_expired_pauses(
    conn: Connection, travel: Travel
) -> None:
    """The old owner and end are still beside the flag; they are not those of the new pause."""
    await _pause(conn)
    await travel(conn, minutes=20)
    await conn.execute(BY_HAND.replace("SET data", "SET updated_at = sf_now(), data"))
    assert await ingest_pause(conn) == IngestPause(None, None, None)


@covers("Q-29", "X-14")
async def test_the_runbooks_own_statement_pauses_after_a_pause_expired(
    conn: Connection, travel: Travel
) -> None:
    await _pause(conn)
    await travel(conn, minutes=20)
    await conn.execute(BY_HAND)
    assert await ingest_pause(conn) == IngestPause(None, None, None)


async def test_pausing_again_renews_and_an_identical_pause_changes_nothing(
    conn: Connection, travel: Travel
) -> None:
    await _pause(conn)
    first = await ingest_pause(conn)
    await travel(conn, seconds=30)
    assert (await _pause(conn)).changed == 0
    assert await ingest_pause(conn) == first
    assert (await _pause(conn, by="bob")).changed == 1
    renewed = await ingest_pause(conn)
    assert renewed is not None
    assert renewed.owner == "bob"


async def test_a_pause_set_by_hand_gets_an_owner_and_an_end_by_the_operation(conn: Connection) -> None:
    await conn.execute(BY_HAND)
    change = await _pause(conn)
    assert change.before["owner"] is None
    assert (change.changed, change.after["owner"]) == (1, "ann")


@pytest.mark.parametrize(
    ("data", "paused"),
    [
        ('{"ingest_paused": "true"}', True),
        ('{"ingest_paused": true, "until": "soon"}', True),
        ('{"ingest_paused": true, "until": 5, "owner": {}, "reason": ""}', True),
        ('{"ingest_paused": true, "until": "2001-01-01T00:00:00"}', True),
        ('{"ingest_paused": null}', False),
        ('{"ingest_paused": 1}', False),
        ("[]", False),
        ("{}", False),
    ],
)
async def test_whatever_is_written_by_hand_is_read_and_in_doubt_it_pauses(
    conn: Connection, data: str, paused: bool
) -> None:
    await conn.execute(
        "UPDATE feature_flags SET data = $1::text::jsonb, updated_at = sf_now()",
        data,
    )
    assert (await ingest_pause(conn) is not None) is paused
    await _pause(conn)
    found = await ingest_pause(conn)
    assert found is not None
    assert found.owner == "ann"


async def test_a_deleted_flag_row_accepts_and_can_be_paused(conn: Connection) -> None:
    await conn.execute("DELETE FROM feature_flags")
    await require_open(conn)
    await _pause(conn)
    with pytest.raises(IngestPausedError):
        await require_open(conn)


# ---- one source


async def _pause_source(conn: Connection, source: str = "shop", **given: Any) -> Change:
    asked = {"reason": "upstream changed", "minutes": 10, **given}
    return await operations.pause_source(_caller(conn), source, **asked)


@covers("F-37", "X-11")
async def test_a_paused_source_stands_in_the_same_place_and_others_are_taken(conn: Connection) -> None:
    change = await _pause_source(conn)
    assert (change.before, change.changed) == ({"paused": False}, 1)
    data = await conn.fetchval("SELECT data FROM feature_flags WHERE name = 'ingest_control'")
    assert data["ingest_paused"] is False
    assert set(data["sources"]) == {"shop"}
    assert (data["sources"]["shop"]["owner"], data["sources"]["shop"]["reason"]) == (
        "ann",
        "upstream changed",
    )
    told = r"ingestion of source 'shop' is paused: upstream changed \(ann, until"
    with pytest.raises(SourcePausedError, match=told) as refused:
        await require_open(conn, "shop")
    assert (refused.value.http_status, refused.value.retry_after_s, refused.value.code) == (503, 30, "SF413")
    await require_open(conn, "hero")
    await require_open(conn)


@covers("F-37", "X-11")
async def test_the_pause_of_a_source_expires_and_is_resumed(conn: Connection, travel: Travel) -> None:
    await _pause_source(conn)
    await travel(conn, minutes=9.9)
    with pytest.raises(SourcePausedError) as refused:
        await require_open(conn, "shop")
    assert refused.value.retry_after_s <= 6
    await travel(conn, minutes=0.2)
    await require_open(conn, "shop")
    with pytest.raises(SourceNotPausedError):
        await operations.resume_source(_caller(conn), "shop")
    await _pause_source(conn)
    change = await operations.resume_source(_caller(conn), "shop")
    assert (change.before["owner"], change.after) == ("ann", {"paused": False})
    await require_open(conn, "shop")


@covers("F-37", "Q-29")
async def test_the_runbooks_flag_wins_over_paused_sources_and_leaves_them(conn: Connection) -> None:
    await _pause_source(conn)
    await conn.execute(BY_HAND)
    with pytest.raises(IngestPausedError, match="ingestion is paused: no reason given") as refused:
        await require_open(conn, "shop")
    assert not isinstance(refused.value, SourcePausedError)
    change = await operations.resume_source(_caller(conn), "shop")
    assert "as a whole is paused still" in change.summary
    await _pause_source(conn)
    assert await ingest_pause(conn) == IngestPause()
    await conn.execute(BY_HAND.replace("'true'", "'false'"))
    await require_open(conn, "hero")
    with pytest.raises(SourcePausedError):
        await require_open(conn, "shop")


@covers("F-37", "Q-29")
async def test_a_pause_of_all_and_its_end_leave_paused_sources_alone(conn: Connection) -> None:
    await _pause_source(conn)
    await _pause(conn)
    await operations.resume(_caller(conn))
    assert set((await ingest_control(conn)).sources) == {"shop"}


@covers("F-37", "Q-29")
async def test_pausing_a_source_does_not_take_up_a_pause_of_all_that_expired(
    conn: Connection, travel: Travel
) -> None:
    """The flag is still set then, and a later change of its row says: set again by hand."""
    await _pause(conn)
    await travel(conn, minutes=20)
    await _pause_source(conn)
    assert await ingest_pause(conn) is None
    await travel(conn, minutes=20)
    await _pause(conn)
    await travel(conn, minutes=20)
    await _pause_source(conn, "other")
    await operations.resume_source(_caller(conn), "other")
    assert await ingest_pause(conn) is None
    data = await conn.fetchval("SELECT data FROM feature_flags WHERE name = 'ingest_control'")
    assert data == {"ingest_paused": False, "sources": {}}, "what has expired is forgotten"


@pytest.mark.parametrize(
    ("given", "paused"),
    [
        ("true", True),
        ('"upstream changed"', True),
        ("{}", True),
        ('{"until": "soon", "owner": 5}', True),
        ('{"until": "2001-01-01T00:00:00"}', False),
        ("false", False),
        ("null", False),
        ('"false"', False),
    ],
)
@covers("F-37", "Q-29")
async def test_a_source_paused_by_hand_is_paused_and_in_doubt_it_is(
    conn: Connection, given: str, paused: bool
) -> None:
    await conn.execute(
        "UPDATE feature_flags SET data = data || jsonb_build_object('sources',"
        " jsonb_build_object('shop', $1::text::jsonb))",
        given,
    )
    assert ("shop" in (await ingest_control(conn)).sources) is paused
    await require_open(conn, "hero")
    await _pause_source(conn)
    assert (await ingest_control(conn)).sources["shop"].owner == "ann"


@pytest.mark.parametrize("data", ["[]", '{"sources": ["shop"]}', '{"sources": 5}', "null"])
async def test_a_source_is_paused_whatever_stands_in_its_place(conn: Connection, data: str) -> None:
    await conn.execute("UPDATE feature_flags SET data = $1::text::jsonb", data)
    await require_open(conn, "shop")
    await _pause_source(conn)
    with pytest.raises(SourcePausedError):
        await require_open(conn, "shop")
    await conn.execute("DELETE FROM feature_flags")
    await _pause_source(conn)
    with pytest.raises(SourcePausedError):
        await require_open(conn, "shop")


async def test_pausing_a_source_again_renews_and_an_identical_pause_changes_nothing(conn: Connection) -> None:
    await _pause_source(conn)
    assert (await _pause_source(conn)).changed == 0
    assert (await _pause_source(conn, minutes=60)).changed == 1


async def test_only_so_many_sources_are_paused_by_themselves(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "SOURCES_MAX", 1)
    await _pause_source(conn)
    with pytest.raises(InvalidInputError, match="pause ingestion as a whole"):
        await _pause_source(conn, "other")


@covers("F-37", "O-34")
async def test_who_answers_for_the_source_is_told_once_and_not_by_a_plan(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("structlog.is_configured", lambda: True)
    who: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}
    asked: dict[str, Any] = {"name": "shop", "reason": "upstream changed"}
    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO mapped_sources (source, owner, subject_table, subject_key, tables)"
            " VALUES ('shop', 'integrations', 'users', 'namecode', '[]')"
        )
    with capture_logs() as logs:
        planned = await plan(pool, "source pause", asked, **who)
        assert planned.after["told"] == "integrations"
        assert not [each for each in logs if each["event"] == "source.paused"]
        done = await perform(pool, "source pause", asked, **who, idempotency_key="k")
        await perform(pool, "source pause", asked, **who, idempotency_key="k")
        await perform(pool, "source pause", asked, **who)
    [event] = [each for each in logs if each["event"] == "source.paused"]
    assert (event["owner"], event["source"], event["paused_by"]) == ("integrations", "shop", "ann")
    assert event["reason"] == "upstream changed"
    assert "told to integrations, who answers for it" in done.summary
    async with pool.connection() as conn:
        audited = await conn.fetch("SELECT operation, changed FROM audit_logs ORDER BY at, id")
    assert [tuple(row) for row in audited] == [("source pause", 1), ("source pause", 0)]


@covers("F-37")
async def test_a_source_that_nobody_has_seen_is_paused_and_its_name_is_asked_about(conn: Connection) -> None:
    assert "is this its name?" in (await _pause_source(conn, "shopp")).summary
