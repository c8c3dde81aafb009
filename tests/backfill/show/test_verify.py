"""What a backfill says of itself, held against its partitions and against its own rule."""

from __future__ import annotations

import pytest

from starforge.backfill.errors import UnknownBackfillError
from starforge.backfill.show.verify import accounts, verify
from starforge.db.pool import Connection, set_tenant
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob
from tests.backfill.rows import a_backfill, now, parts
from tests.covers import covers


@covers("B-35")
async def test_a_backfill_whose_rows_fit_has_nothing_to_say(conn: Connection) -> None:
    backfill_id = await a_backfill(conn, state="running")
    await parts(conn, backfill_id, completed=3, pending=2)
    found = await verify(conn, backfill_id, "default")
    assert (found.findings, found.blocks, found.checkpoint) == ([], False, "k002")
    assert (found.total, found.completed, found.failed, found.open) == (5, 3, 0, 2)


@covers("B-35", "D-14")
async def test_a_checkpoint_over_a_gap_blocks_and_an_end_not_yet_counted_does_not(conn: Connection) -> None:
    backfill_id = await a_backfill(conn, state="paused")
    await parts(conn, backfill_id, completed=3, pending=2)
    await conn.execute("UPDATE backfill_jobs SET completed_partitions = 2, checkpoint_partition_key = 'k001'")
    behind = await verify(conn, backfill_id, "default")
    assert (len(behind.findings), behind.blocks) == (2, False)
    await conn.execute("UPDATE backfill_jobs SET checkpoint_partition_key = 'k004'")
    ahead = await verify(conn, backfill_id, "default")
    assert ahead.blocks
    assert (
        "is ahead of 2 partitions that did not end: k003 (pending), k004 (pending)" in ahead.findings[0].text
    )


@covers("B-35")
async def test_a_partition_that_runs_by_no_job_is_told(conn: Connection) -> None:
    backfill_id = await a_backfill(conn, state="running")
    await parts(conn, backfill_id, running=2, pending=1)
    job_id = (await enqueue(conn, NewJob("asset:orders", queue="backfill"))).id
    await conn.execute("UPDATE backfill_partitions SET queue_job_id = $1 WHERE ordinal = 0", job_id)
    [finding] = (await verify(conn, backfill_id, "default")).findings
    assert finding.text.startswith("by their rows 1 partition runs, and by no job of the queue: k001")
    assert not finding.blocks


@pytest.mark.parametrize(
    ("state", "states", "change", "offence"),
    [
        ("completed", {"completed": 2, "pending": 1}, "", "completed with 2 of 3 partitions ended"),
        (
            "completed",
            {"completed": 2, "failed": 2},
            "",
            "completed with 2 partitions failed, and tolerates 1",
        ),
        ("cancelled", {"completed": 1, "running": 1}, "", "closed with 1 partitions open"),
        ("failed", {"failed": 3}, "total_partitions = 4", "closed with 3 partitions, and says 4"),
        (
            "completed",
            {"completed": 3},
            "completed_partitions = 2",
            "says 2 completed, 0 failed and 0 cancelled",
        ),
    ],
)
@covers("B-35", "D-14")
async def test_an_end_against_its_own_rule_is_an_offence(
    conn: Connection, state: str, states: dict[str, int], change: str, offence: str
) -> None:
    backfill_id = await a_backfill(conn, state=state, failed_max=1, closed_at=await now(conn))
    await parts(conn, backfill_id, **states)
    if change:
        await conn.execute(f"UPDATE backfill_jobs SET {change}")
    found = await accounts(conn)
    assert {one.id for one in found} == {backfill_id}
    assert any(offence in one.offence for one in found)
    assert (await verify(conn, backfill_id, "default")).blocks


@covers("B-35")
async def test_ends_that_nobody_counted_are_an_offence_of_a_closed_one(conn: Connection) -> None:
    backfill_id = await a_backfill(conn, state="completed", closed_at=await now(conn))
    await parts(conn, backfill_id, completed=1)
    assert await accounts(conn) == []
    await conn.execute(
        "INSERT INTO backfill_ended (backfill_job_id, ordinal, tenant_id, outcome, attempt_count)"
        " VALUES ($1, 0, 'default', 'completed', 1)",
        backfill_id,
    )
    assert [one.offence for one in await accounts(conn)] == ["it is closed with ends that nobody counted"]


async def test_what_lives_is_no_offence(conn: Connection) -> None:
    for state in ("pending", "running", "paused", "resuming", "cancelled"):
        await parts(conn, await a_backfill(conn, state, state=state), completed=1, running=1)
    assert await accounts(conn) == []


@covers("B-70")
async def test_another_tenants_backfill_is_not_verified(conn: Connection) -> None:
    await set_tenant(conn, "theirs")
    backfill_id = await a_backfill(conn, state="completed", total_partitions=1)
    await set_tenant(conn, "ours")
    with pytest.raises(UnknownBackfillError):
        await verify(conn, backfill_id, "ours")
    assert await accounts(conn, tenant="ours") == []
    assert [one.id for one in await accounts(conn)] == [backfill_id]
