"""Failed partitions run again, in place: counted once, whatever the coordinator knew of them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from starforge.backfill.errors import NothingFailedError, StaleVersionError, UnknownBackfillError
from starforge.db.pool import Pool
from starforge.ops.audit import Result
from starforge.ops.perform import perform
from tests.backfill.backfills import ANN, LIVE, made, row_of
from tests.covers import covers


async def again(pool: Pool, backfill_id: UUID, **arguments: Any) -> Result:
    return await perform(pool, "backfill retry-failed", {"job_id": str(backfill_id), **arguments}, **ANN)


async def parts(pool: Pool, backfill_id: UUID) -> dict[str, tuple[str, bool]]:
    """Return each partition's state, and whether it was reopened."""
    async with pool.connection() as conn:
        rows = await conn.fetch(
            "SELECT * FROM backfill_partitions WHERE backfill_job_id = $1 ORDER BY ordinal", backfill_id
        )
    assert all(row["error_message"] == "boom" for row in rows if row["fingerprint"]), "errors stay"
    return {row["partition_key"]: (row["state"], row["reopened_at"] is not None) for row in rows}


@pytest.mark.parametrize("state", LIVE)
@covers("B-43")
async def test_what_failed_in_a_live_backfill_is_pending_again_and_nothing_else_is(
    pool: Pool, state: str
) -> None:
    backfill_id = await made(pool, state, "completed", "failed", "failed", "pending", "running")
    done = await again(pool, backfill_id)
    assert (done.matched, done.changed, done.sample) == (2, 2, ("p2", "p3"))
    assert ("once it is resumed" in done.summary) == (state == "paused")
    assert await parts(pool, backfill_id) == {
        "p1": ("completed", False),
        "p2": ("pending", True),
        "p3": ("pending", True),
        "p4": ("pending", False),
        "p5": ("running", False),
    }
    row = await row_of(pool, backfill_id)
    assert (row["state"], row["version"], row["failed_partitions"]) == (state, 6, 0)
    with pytest.raises(NothingFailedError, match="has no failed partition"):
        await again(pool, backfill_id)


@covers("B-43")
async def test_only_those_of_one_fingerprint_run_again_where_one_is_named(pool: Pool) -> None:
    backfill_id = await made(pool, "running", "failed", "failed", "failed")
    assert (await again(pool, backfill_id, fingerprint="f1")).sample == ("p1", "p3")
    assert (await row_of(pool, backfill_id))["failed_partitions"] == 1
    with pytest.raises(NothingFailedError, match="with fingerprint 'nothing like it'"):
        await again(pool, backfill_id, fingerprint="nothing like it")


@covers("B-43", "G7")
async def test_a_failure_that_was_not_counted_yet_is_not_taken_off_and_not_counted_later(pool: Pool) -> None:
    backfill_id = await made(pool, "running", "failed", "failed", failed_partitions=1)
    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO backfill_ended (backfill_job_id, ordinal, tenant_id, outcome, attempt_count)"
            " VALUES ($1, 2, 'default', 'failed', 3), ($1, 2, 'default', 'retried', 2)",
            backfill_id,
        )
    assert (await again(pool, backfill_id)).changed == 2
    assert (await row_of(pool, backfill_id))["failed_partitions"] == 0
    async with pool.connection() as conn:
        outcomes = await conn.fetch("SELECT outcome FROM backfill_ended")
    assert [row["outcome"] for row in outcomes] == ["retried", "retried"]


@covers("B-47", "B-70")
async def test_a_stale_version_and_another_tenants_backfill_are_refused(pool: Pool) -> None:
    backfill_id = await made(pool, "running", "failed")
    theirs = await made(pool, "running", "failed", tenant="bolt")
    with pytest.raises(StaleVersionError):
        await again(pool, backfill_id, expect_version=4)
    with pytest.raises(UnknownBackfillError):
        await again(pool, theirs)
    for one in (backfill_id, theirs):
        assert await parts(pool, one) == {"p1": ("failed", False)}


async def test_more_than_one_act_may_reopen_is_told(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starforge.backfill.act.retry_operations.REOPENED_MAX", 2)
    backfill_id = await made(pool, "running", "failed", "failed", "failed")
    first = await again(pool, backfill_id)
    assert (first.changed, "ask again" in first.summary) == (2, True)
    assert (await again(pool, backfill_id)).sample == ("p3",)
