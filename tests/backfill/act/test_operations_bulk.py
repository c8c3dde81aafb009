"""Many backfills at once: those that are meant, of one tenant, counted and named, and a bound."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from starforge.backfill.act import bulk_operations
from starforge.db.pool import Pool
from starforge.ops.audit import Result
from starforge.ops.errors import ReasonMissingError
from starforge.ops.perform import perform
from starforge.ops.plan import plan
from starforge.queue.override import override
from tests.backfill.backfills import ANN, LIVE, TERMINAL, WHY, made, row_of
from tests.covers import covers

BULK = ("pause-all", "resume-all", "cancel-pending", "reclaim-stale", "cancel-resuming")


async def bulk(pool: Pool, verb: str, /, **arguments: Any) -> Result:
    return await perform(pool, f"backfill {verb}", {"reason": WHY, **arguments}, **ANN)


async def states(pool: Pool) -> dict[UUID, str]:
    async with pool.connection() as conn:
        return {row["id"]: row["state"] for row in await conn.fetch("SELECT id, state FROM backfill_jobs")}


async def one_each(pool: Pool, **columns: Any) -> dict[str, UUID]:
    return {state: await made(pool, state, "pending", **columns) for state in (*LIVE, *TERMINAL)}


@covers("F-24", "F-25", "B-70")
async def test_pause_all_pauses_what_is_live_of_this_tenant_and_resume_all_only_what_it_paused(
    pool: Pool,
) -> None:
    ours, theirs = await one_each(pool), await one_each(pool, tenant="bolt")
    done = await bulk(pool, "pause-all")
    assert (done.matched, done.changed) == (3, 3)
    meant = {ours[state] for state in ("pending", "running", "resuming")}
    assert set(done.sample) == {str(one) for one in meant}
    found = await states(pool)
    assert {one for one, state in found.items() if state == "paused"} == {
        *meant,
        ours["paused"],
        theirs["paused"],
    }
    assert all(found[theirs[state]] == state for state in theirs)
    assert (await bulk(pool, "pause-all")).matched == 0, "asked twice, there is nothing left to pause"
    back = await bulk(pool, "resume-all")
    assert set(back.sample) == {str(one) for one in meant}
    found = await states(pool)
    assert {found[one] for one in meant} == {"resuming"}
    assert found[ours["paused"]] == "paused", "somebody had paused it before, and it stays theirs"
    assert (await bulk(pool, "resume-all", everyone=True)).sample == (str(ours["paused"]),)
    assert found[theirs["paused"]] == "paused"


@covers("F-25")
async def test_pause_all_takes_one_asset_or_state_where_it_is_named(pool: Pool) -> None:
    ours, other = await one_each(pool), await one_each(pool, asset="hourly")
    assert (await bulk(pool, "pause-all", state="pending", asset="hourly")).sample == (str(other["pending"]),)
    assert (await bulk(pool, "pause-all", asset="daily")).changed == 3
    found = await states(pool)
    assert found[other["running"]] == "running"
    assert found[ours["pending"]] == "paused"
    assert (await bulk(pool, "resume-all", asset="hourly")).sample == (str(other["pending"]),)


@covers("B-35")
async def test_resume_all_leaves_paused_what_would_skip_partitions_and_tells_it(pool: Pool) -> None:
    good = await made(pool, "running", "completed", "pending")
    bad = await made(pool, "running", "pending", "pending", checkpoint_partition_key="p2")
    await bulk(pool, "pause-all")
    done = await bulk(pool, "resume-all")
    assert (done.matched, done.changed, done.sample) == (2, 1, (str(good),))
    assert f"{bad} stays paused: checkpoint 'p2' is ahead of 2 partitions" in done.summary
    assert (await states(pool))[bad] == "paused"


async def test_resume_all_holds_no_more_than_it_compares_in_a_moment(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_operations, "COMPARED_MAX", 3)
    ids = {await made(pool, "running", *["pending"] * size) for size in (2, 2, 9)}
    await bulk(pool, "pause-all")
    resumed, left = set(), 3
    while left:
        done = await bulk(pool, "resume-all")
        resumed |= set(done.sample)
        assert 1 <= len(done.sample) <= left
        left -= len(done.sample)
        assert (f"; {left} more are as they were" in done.summary) == (left > 0)
    assert resumed == {str(one) for one in ids}


@covers("F-25", "B-27", "B-70")
async def test_cancel_pending_cancels_what_has_not_started_with_what_waits_for_it(pool: Pool) -> None:
    ours, theirs = await one_each(pool), await one_each(pool, tenant="bolt")
    waits = await made(pool, "paused", "pending", asset="report", waits_for=[ours["pending"]])
    done = await bulk(pool, "cancel-pending")
    assert (done.matched, done.changed, done.sample) == (2, 2, (str(ours["pending"]),))
    assert done.after["cancelled_too"] == [str(waits)]
    found = await states(pool)
    assert (found[ours["pending"]], found[waits]) == ("cancelled", "cancelled")
    assert all(found[theirs[state]] == state for state in theirs)
    assert all(found[ours[state]] == state for state in ours if state != "pending")


async def _aged(pool: Pool, minutes: float | None, state: str, **columns: Any) -> UUID:
    """Make one whose heartbeat is so old; None: that never had one, and was changed 20 minutes ago."""
    backfill_id = await made(pool, state, "pending", **columns)
    async with pool.connection() as conn:
        await conn.execute(
            "UPDATE backfill_jobs SET heartbeat_at = sf_now() - make_interval(secs => $2 * 60),"
            " updated_at = sf_now() - interval '20 minutes', lease_epoch = 3 WHERE id = $1",
            backfill_id,
            minutes,
        )
    return backfill_id


@covers("B-51", "D-11", "D-12", "B-70")
async def test_reclaim_stale_takes_what_no_heartbeat_came_of_and_names_it(pool: Pool) -> None:
    old, never = await _aged(pool, 11, "running"), await _aged(pool, None, "running")
    fresh, theirs = await _aged(pool, 9, "running"), await _aged(pool, 11, "running", tenant="bolt")
    resuming = await _aged(pool, 11, "resuming")
    done = await bulk(pool, "reclaim-stale")
    assert set(done.sample) == {str(old), str(never)}
    assert {key: one["asset"] for key, one in done.after.items()} == dict.fromkeys(done.sample, "daily")
    for one in (old, never):
        row = await row_of(pool, one)
        assert (row["lease_epoch"], row["version"], row["state"]) == (4, 6, "running")
        assert 121 <= row["age_s"] < 130
    for one in (fresh, theirs, resuming):
        row = await row_of(pool, one)
        assert (row["lease_epoch"], row["version"]) == (3, 5)
    assert (await bulk(pool, "reclaim-stale")).matched == 0
    assert (await bulk(pool, "reclaim-stale", minutes=5)).sample == (str(fresh),)


@covers("B-52", "D-11", "D-13", "B-70")
async def test_cancel_resuming_ends_what_nobody_took_and_what_waits_for_it(pool: Pool) -> None:
    old, never = await _aged(pool, 11, "resuming"), await _aged(pool, None, "resuming")
    others = [
        await _aged(pool, 9, "resuming"),
        await _aged(pool, 11, "resuming", tenant="bolt"),
        await _aged(pool, 11, "running"),
    ]
    waits = await made(pool, "pending", "pending", asset="report", waits_for=[old])
    async with pool.transaction() as conn:
        await override(conn, "key", str(old), "limit", 8, owner="ann", reason="faster", minutes=60)
    done = await bulk(pool, "cancel-resuming")
    assert set(done.sample) == {str(old), str(never)}
    for one in (old, never):
        row = await row_of(pool, one)
        assert (row["state"], row["version"]) == ("cancelled", 6)
        assert row["error_message"] == "Bulk cancelled: stuck in resuming state"
        assert row["completed_at"] is not None
    assert (await states(pool))[waits] == "cancelled"
    for one in others:
        assert (await row_of(pool, one))["version"] == 5
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM setting_overrides") == 0


@pytest.mark.parametrize(
    ("verb", "state"),
    [
        ("pause-all", "running"),
        ("cancel-pending", "pending"),
        ("resume-all", "paused"),
        ("reclaim-stale", "running"),
        ("cancel-resuming", "resuming"),
    ],
)
async def test_an_act_on_many_is_bounded_and_says_that_there_are_more(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, verb: str, state: str
) -> None:
    for room in ("lease", "bulk"):
        monkeypatch.setattr(f"starforge.backfill.act.{room}_operations.BULK_MAX", 2)
    for _ in range(3):
        await _aged(pool, 11, state)
    more = {"everyone": True} if verb == "resume-all" else {}
    first = await bulk(pool, verb, **more)
    assert (first.changed, "ask again" in first.summary) == (2, True)
    rest = await bulk(pool, verb, **more)
    assert (rest.changed, "ask again" in rest.summary) == (1, False)
    assert not set(first.sample) & set(rest.sample)


@pytest.mark.parametrize("verb", ["pause-all", "cancel-pending", "cancel-resuming"])
async def test_what_holds_many_back_or_ends_them_needs_a_reason(pool: Pool, verb: str) -> None:
    with pytest.raises(ReasonMissingError):
        await bulk(pool, verb, reason=" ")


@pytest.mark.parametrize("verb", BULK)
async def test_a_plan_says_how_many_and_which_and_changes_nothing(pool: Pool, verb: str) -> None:
    ours = await one_each(pool)
    for state in ("running", "resuming"):
        await _aged(pool, 11, state)
    before = await states(pool)
    planned = await plan(pool, f"backfill {verb}", {"reason": WHY}, **ANN)
    assert planned.changed == len(planned.sample)
    assert await states(pool) == before
    assert len(before) == len(ours) + 2


async def test_acts_on_many_at_the_same_time_neither_wait_in_a_circle_nor_change_one_twice(
    pool: Pool,
) -> None:
    ids = [await made(pool, "running", "pending") for _ in range(20)]
    done = await asyncio.gather(*(bulk(pool, "pause-all") for _ in range(5)))
    assert sum(one.changed for one in done) == 20
    assert {(await row_of(pool, one))["version"] for one in ids} == {6}
