"""New backfills of old ones: of what failed, of what is not finished, or of all, with a parent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from starforge.backfill.asset.asset import Asset, Assets, asset
from starforge.backfill.asset.declared import declare
from starforge.backfill.create.create import create
from starforge.backfill.create.options import Options
from starforge.backfill.errors import (
    NothingFailedError,
    NothingSelectedError,
    OverlapError,
    PartitionsRunError,
    StaleVersionError,
    UnknownAssetError,
    UnknownBackfillError,
)
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.window import Daily
from starforge.backfill.select.select import Request
from starforge.db.pool import Pool
from starforge.errors import InvalidInputError
from starforge.ops.audit import Result
from starforge.ops.errors import ReasonMissingError
from starforge.ops.perform import perform
from starforge.ops.plan import plan
from tests.backfill.backfills import ANN, LIVE, TERMINAL, WHY, made, row_of
from tests.covers import covers

STATES = ("completed", "failed", "failed", "cancelled", "pending")
"""What becomes of the five days of a backfill."""


async def fill(partition: Partition[Any]) -> None:
    """Do nothing."""


def day(name: str, **options: Any) -> Asset:
    return asset(name, fill, partitions=Daily("2024-01-01"), version="1", **options)


SHOP = Assets([day("orders", concurrency=3, retries=4), day("totals", upstream=["orders"])])


@pytest.fixture
async def shop(pool: Pool) -> Pool:
    """A pool to a database for which workers have declared assets."""
    async with pool.transaction() as conn:
        await declare(conn, SHOP)
    return pool


async def created(pool: Pool, state: str, *parts: str, tenant: str = "default", **columns: Any) -> UUID:
    """Create a backfill as the engine does, and leave it in a state, with its partitions in theirs."""
    last = datetime(2024, 1, len(parts), tzinfo=UTC).date().isoformat()
    request = Request(asset="orders", first="2024-01-01", last=last)
    async with pool.transaction() as conn:
        found = await create(
            conn, SHOP, request, Options(concurrency=5, failed_max=4), tenant=tenant, actor="ann"
        )
        await conn.execute("ALTER TABLE backfill_jobs DISABLE TRIGGER backfill_jobs_move")
        await conn.execute(
            "UPDATE backfill_jobs SET state = $2, completed_at = CASE WHEN $2 = ANY ($3) THEN sf_now() END,"
            " failed_partitions = $4 WHERE id = $1",
            found.id,
            state,
            list(TERMINAL),
            parts.count("failed"),
        )
        await conn.execute("ALTER TABLE backfill_jobs ENABLE TRIGGER backfill_jobs_move")
        await conn.execute(
            "UPDATE backfill_partitions SET state = given.state,"
            " fingerprint = CASE given.state WHEN 'failed' THEN 'f' || n END"
            " FROM (SELECT n, state FROM unnest($2::text[]) WITH ORDINALITY AS u (state, n)) AS given"
            " WHERE backfill_job_id = $1 AND partition_key = '2024-01-0' || given.n",
            found.id,
            list(parts),
        )
        for name, value in columns.items():
            await conn.execute(f"UPDATE backfill_jobs SET {name} = $2 WHERE id = $1", found.id, value)
    return found.id


async def ask(pool: Pool, verb: str, backfill_id: UUID, /, **arguments: Any) -> Result:
    given = {"job_id": str(backfill_id), "reason": WHY, **arguments}
    return await perform(pool, f"backfill {verb}", given, **ANN)


async def keys_of(pool: Pool, backfill_id: str) -> list[tuple[str, str]]:
    async with pool.connection() as conn:
        rows = await conn.fetch(
            "SELECT right(partition_key, 1) AS day, state FROM backfill_partitions WHERE backfill_job_id = $1"
            " ORDER BY ordinal",
            UUID(backfill_id),
        )
    return [(row["day"], row["state"]) for row in rows]


@pytest.mark.parametrize("state", TERMINAL)
@covers("B-43")
async def test_what_failed_in_one_that_is_over_becomes_a_backfill_with_a_parent(
    shop: Pool, state: str
) -> None:
    parent = await created(shop, state, *STATES[:4], priority=7)
    done = await ask(shop, "retry-failed", parent)
    assert (done.matched, done.changed, done.sample) == (2, 2, ("2024-01-02", "2024-01-03"))
    child = done.after["backfill"]
    assert await keys_of(shop, child) == [("2", "pending"), ("3", "pending")]
    row = await row_of(shop, UUID(child))
    assert (row["state"], row["parent_id"], row["created_by"]) == ("pending", parent, "ann")
    assert (row["concurrency"], row["priority"], row["attempts_max"], row["failed_max"]) == (5, 7, 5, 0)
    assert (await row_of(shop, parent))["state"] == state
    with pytest.raises(OverlapError):
        await ask(shop, "retry-failed", parent)
    with pytest.raises(NothingFailedError, match="no failed partition with fingerprint 'other'"):
        await ask(shop, "retry-failed", parent, fingerprint="other")


@covers("B-43")
async def test_of_one_fingerprint_only_those_become_a_backfill(shop: Pool) -> None:
    parent = await created(shop, "failed", *STATES[:4])
    done = await ask(shop, "retry-failed", parent, fingerprint="f3")
    assert await keys_of(shop, done.after["backfill"]) == [("3", "pending")]


@pytest.mark.parametrize("state", [*LIVE, *TERMINAL])
@covers("B-44")
async def test_a_clone_has_all_partitions_and_the_corrected_parameters_and_ends_a_live_original(
    shop: Pool, state: str
) -> None:
    parent = await created(shop, state, *STATES)
    arguments = {"concurrency": 2, "attempts": 9, "priority": 3, "sla": "6h", "failed_max": 1}
    planned = await plan(shop, "backfill clone", {"job_id": str(parent), "reason": WHY, **arguments}, **ANN)
    assert (await row_of(shop, parent))["state"] == state
    done = await perform(
        shop,
        "backfill clone",
        {"job_id": str(parent), "reason": WHY, **arguments},
        **ANN,
        plan_id=planned.id,
    )
    child = done.after["backfill"]
    assert await keys_of(shop, child) == [(str(day), "pending") for day in range(1, 6)]
    row = await row_of(shop, UUID(child))
    assert (row["state"], row["parent_id"], row["sla_at"] is not None) == ("pending", parent, True)
    assert (row["concurrency"], row["priority"], row["attempts_max"], row["failed_max"]) == (2, 3, 9, 1)
    old = await row_of(shop, parent)
    assert old["state"] == (state if state in TERMINAL else "cancelled")
    if state in LIVE:
        assert old["error_message"] == f"cancelled by ann for a corrected one: {WHY}"
    async with shop.connection() as conn:
        limits = await conn.fetch("SELECT name, value FROM setting_overrides WHERE scope = 'key'")
    kept = {row["name"]: row["value"] for row in limits}
    assert kept[child] == 2
    assert (str(parent) in kept) == (state in TERMINAL), "a live original's goes with it"


@covers("B-44")
async def test_a_clone_of_the_unfinished_leaves_out_what_is_completed_and_keeps_the_rest_as_it_was(
    shop: Pool,
) -> None:
    due = datetime.now(UTC) + timedelta(hours=3)
    parent = await created(shop, "paused", *STATES, sla_at=due)
    done = await ask(shop, "clone", parent, unfinished=True)
    assert [key for key, _ in await keys_of(shop, done.after["backfill"])] == ["2", "3", "4", "5"]
    row = await row_of(shop, UUID(done.after["backfill"]))
    assert (row["concurrency"], row["failed_max"], row["sla_at"]) == (5, 4, due)
    all_done = await created(shop, "completed", "completed", tenant="default")
    with pytest.raises(NothingSelectedError, match="unfinished"):
        await ask(shop, "clone", all_done, unfinished=True)


JOBS = """
WITH jobs AS (
    INSERT INTO queue_jobs (id, queue, type, payload, status)
    SELECT gen_random_uuid(), 'backfill', 'asset:orders', jsonb_build_object('ordinal', ordinal), $2
    FROM backfill_partitions WHERE backfill_job_id = $1 AND state = 'running'
    RETURNING id, payload
)
UPDATE backfill_partitions AS p SET queue_job_id = jobs.id FROM jobs
WHERE p.backfill_job_id = $1 AND p.ordinal = (jobs.payload ->> 'ordinal')::bigint
"""
"""Each partition that runs gets a job, in a state of the queue's."""


@pytest.mark.parametrize(
    ("state", "command"), [("running", "pause"), ("paused", "status"), ("cancelled", "status")]
)
@covers("B-44")
async def test_while_partitions_run_there_is_no_clone_that_would_make_them_too(
    shop: Pool, state: str, command: str
) -> None:
    parent = await created(shop, state, "completed", "running", "running")
    async with shop.connection() as conn:
        await conn.execute(JOBS, parent, "running")
    with pytest.raises(
        PartitionsRunError, match=rf"while 2 of its partitions run.*backfill {command} {parent}"
    ):
        await ask(shop, "clone", parent)
    assert (await row_of(shop, parent))["state"] == state


@covers("B-44")
async def test_what_runs_by_its_row_and_waits_in_the_queue_is_in_no_clones_way(shop: Pool) -> None:
    """The worker of it stopped while the backfill was paused: nobody gives that partition back."""
    parent = await created(shop, "paused", "completed", "running")
    async with shop.connection() as conn:
        await conn.execute(JOBS, parent, "pending")
    await ask(shop, "clone", parent)
    assert (await row_of(shop, parent))["state"] == "cancelled"


@covers("B-28")
async def test_what_a_cancelled_backfill_still_makes_is_made_by_no_new_one(shop: Pool) -> None:
    over = await created(shop, "cancelled", "completed", "running")
    theirs = await created(shop, "cancelled", "completed", "running", tenant="theirs")
    async with shop.connection() as conn:
        await conn.execute(JOBS, over, "running")
        await conn.execute(JOBS, theirs, "running")
    arguments = {"asset": "orders", "keys": "2024-01-02", "override_preflight": True, "reason": WHY}
    with pytest.raises(PartitionsRunError, match=f"1 partition .* still run there: .* status {over}"):
        await perform(shop, "backfill create", arguments, **ANN)
    async with shop.connection() as conn:
        await conn.execute(
            "UPDATE queue_jobs SET status = 'pending' WHERE id IN"
            " (SELECT queue_job_id FROM backfill_partitions WHERE backfill_job_id = $1)",
            over,
        )
    await perform(shop, "backfill create", arguments, **ANN)


@covers("B-44")
async def test_who_waits_for_the_original_waits_for_the_clone_which_waits_as_the_original_did(
    shop: Pool,
) -> None:
    above = await made(shop, "running", "pending", asset="raw")
    over = await made(shop, "completed", "completed", asset="raw")
    parent = await created(shop, "pending", "pending", waits_for=[over, above])
    below = await made(shop, "pending", "pending", asset="totals", waits_for=[parent])
    done = await ask(shop, "clone", parent)
    child = UUID(done.after["backfill"])
    assert "1 that waited for it wait for the new one" in done.summary
    assert (await row_of(shop, child))["waits_for"] == [above]
    row = await row_of(shop, below)
    assert (row["waits_for"], row["state"]) == ([child], "pending")


async def test_what_stands_against_a_clone_leaves_everything_as_it_was(shop: Pool) -> None:
    parent = await created(shop, "paused", *STATES)
    theirs = await created(shop, "paused", *STATES, tenant="bolt")
    for arguments, error in (
        ({"expect_version": 9}, StaleVersionError),
        ({"reason": ""}, ReasonMissingError),
        ({"sla": "soon"}, InvalidInputError),
    ):
        with pytest.raises(error):
            await ask(shop, "clone", parent, **arguments)
    with pytest.raises(UnknownBackfillError):
        await ask(shop, "clone", theirs)
    async with shop.connection() as conn:
        await conn.execute("DELETE FROM backfill_assets")
    with pytest.raises(UnknownAssetError):
        await ask(shop, "clone", parent)
    async with shop.connection() as conn:
        rows = await conn.fetch("SELECT state FROM backfill_jobs")
    assert [row["state"] for row in rows] == ["paused", "paused"]
