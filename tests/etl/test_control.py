"""Ingestion is paused in one place, by an operation or by hand, and both are honoured."""

from __future__ import annotations

import pytest

from starforge.db.pool import Connection
from starforge.etl import ingest_operations as operations
from starforge.etl.control import IngestPause, ingest_pause, require_open
from starforge.etl.errors import IngestNotPausedError, IngestPausedError
from starforge.operation import Caller, Change
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
