"""Follow: every snapshot is counted in one state, and what became no rows says why."""

from __future__ import annotations

from uuid import UUID

from starforge.db.pool import Connection
from starforge.etl.snapshot.tally import Reason, Tally, reasons, tally

SNAPSHOT = """
INSERT INTO hero_snapshots (tenant_id, source, raw, size_bytes, sha256, status, rows_written, last_error)
VALUES ('default', 'hero', '{}', 2, gen_random_uuid()::text::bytea, $1, $2, $3) RETURNING id
"""


async def stored(conn: Connection, status: str, rows: int | None = None, error: object = None) -> UUID:
    """A snapshot in a state."""
    return UUID(str(await conn.fetchval(SNAPSHOT, status, rows, error)))


async def held(conn: Connection, snapshot_id: UUID, reason: str, *, released: bool = False) -> None:
    """Hold a snapshot back by hand, as the runbook does."""
    await conn.execute(
        "INSERT INTO snapshot_quarantine (snapshot_id, reason, released_at)"
        " VALUES ($1, $2, CASE WHEN $3 THEN sf_now() END)",
        snapshot_id,
        reason,
        released,
    )


async def test_each_snapshot_is_counted_once_and_a_superseded_one_was_processed(conn: Connection) -> None:
    ids = [
        await stored(conn, "processed", 12),
        await stored(conn, "superseded", 0),
        await stored(conn, "failed"),
        await stored(conn, "quarantined"),
        await stored(conn, "received"),
        await stored(conn, "received"),
    ]
    await stored(conn, "processed", 99)
    found = await tally(conn, ids)
    assert found == Tally(processed=2, failed=1, quarantined=1, waiting=2, rows_written=12)
    assert found.ended + found.waiting == len(ids)
    assert await tally(conn, []) == Tally(0, 0, 0, 0, 0)


async def test_like_reasons_are_told_together_most_first(conn: Connection) -> None:
    ids = [await stored(conn, "failed", error={"reason": "Level: is text"}) for _ in range(2)]
    ids.append(await stored(conn, "failed", error={"reason": "Id: is text"}))
    ids.append(await stored(conn, "processed", 1, {"reason": "an attempt before the last"}))
    found = await reasons(conn, ids)
    assert [(why.status, why.reason, why.snapshots) for why in found] == [
        ("failed", "Level: is text", 2),
        ("failed", "Id: is text", 1),
    ]
    assert found[0].sample_id == min(str(ids[0]), str(ids[1]))


async def test_an_open_hold_is_the_reason_and_an_error_set_by_hand_is_read(conn: Connection) -> None:
    held_now = await stored(conn, "quarantined", error="Quarantined due to OOM")
    let_go = await stored(conn, "quarantined", error="Quarantined due to OOM")
    silent = await stored(conn, "failed")
    await held(conn, held_now, "first")
    await held(conn, let_go, "second", released=True)
    found = await reasons(conn, [held_now, let_go, silent])
    assert {(why.status, why.reason) for why in found} == {
        ("quarantined", "first"),
        ("quarantined", "Quarantined due to OOM"),
        ("failed", "?"),
    }
    assert all(isinstance(why, Reason) for why in found)
