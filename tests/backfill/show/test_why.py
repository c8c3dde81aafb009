"""Why a backfill is in its state: the first true sentence, what would move it, and with which command."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from starforge.backfill.show.status import Status, status, unclaimed
from starforge.db.pool import Connection
from starforge.ops.explain import explain_backfill
from starforge.queue.gate import Scope, close
from tests.backfill.rows import a_backfill, a_backfill_worker, now
from tests.conftest import Travel
from tests.covers import covers


async def one(conn: Connection, **columns: Any) -> Status:
    """Make a backfill with these columns and look at it."""
    return await status(conn, await a_backfill(conn, **columns))


@covers("B-40", "B-41")
async def test_a_pending_one_says_whom_it_waits_for(conn: Connection) -> None:
    above = await a_backfill(
        conn, "raw", state="running", total_partitions=9, completed_partitions=2, heartbeat_at=await now(conn)
    )
    backfill_id = await a_backfill(conn, waits_for=[above])
    found = await status(conn, backfill_id)
    assert found.why == (
        f"it waits for upstream raw (backfill {above}), which is running with 2 of 9 partitions completed"
    )
    assert (found.next, found.claimable) == (f"starforge backfill explain {above}", False)
    assert [(up.asset, up.state) for up in found.waits_for] == [("raw", "running")]
    await conn.execute("UPDATE backfill_jobs SET state = 'failed' WHERE id = $1", above)
    assert "is failed, so it is cancelled next" in (await status(conn, backfill_id)).why
    gone = await one(conn, asset="b", waits_for=[uuid4()])
    assert "there is no more" in gone.why


@covers("B-40", "B-41")
async def test_a_pending_one_says_who_could_make_it(conn: Connection, travel: Travel) -> None:
    backfill_id = await a_backfill(conn)
    nobody = await status(conn, backfill_id)
    assert ("no worker lives" in nobody.why, nobody.claimable) == (True, False)
    await a_backfill_worker(conn, "asset:other")
    other = await status(conn, backfill_id)
    assert ("no live worker knows the job type 'asset:orders'" in other.why, other.claimable) == (True, False)
    assert other.next == "starforge worker --app MODULE:ATTR"
    await a_backfill_worker(conn, "asset:orders", queues=("mail",))
    elsewhere = await status(conn, backfill_id)
    assert ("serves queue 'backfill' knows" in elsewhere.why, elsewhere.claimable) == (True, True)
    await a_backfill_worker(conn)
    ready = await status(conn, backfill_id)
    assert ("3 workers live and may take it" in ready.why, ready.claimable) == (True, True)
    await travel(conn, minutes=5)
    assert "no worker lives" in (await status(conn, backfill_id)).why


@covers("B-41")
@pytest.mark.parametrize(
    ("scope", "name"), [("queue", "backfill"), ("type", "asset:orders"), ("tenant", "default")]
)
async def test_a_gate_before_its_partitions_is_named_with_what_ends_it(
    conn: Connection, scope: Scope, name: str
) -> None:
    await a_backfill_worker(conn)
    await close(conn, scope, name, owner="ann", reason="the disk is full", minutes=5)
    for state in ("pending", "running"):
        found = await one(
            conn, asset=state, state=state, job_type="asset:orders", heartbeat_at=await now(conn)
        )
        if state == "running":
            await conn.execute(
                "UPDATE backfill_jobs SET worker_id = gen_random_uuid() WHERE id = $1", found.id
            )
            found = await status(conn, found.id)
        assert f"{scope} {name!r} is paused" in found.why
        assert "by ann: the disk is full" in found.why
        assert found.next == f"starforge {scope} resume {name}"


@covers("B-36", "B-37", "B-41")
async def test_a_silent_coordinator_is_told_with_its_age_and_when_another_may_follow(
    conn: Connection,
) -> None:
    worker = await a_backfill_worker(conn)
    at = await now(conn)
    backfill_id = await a_backfill(
        conn, state="running", worker_id=worker, heartbeat_at=at - timedelta(seconds=60)
    )
    found = await status(conn, backfill_id)
    assert f"its coordinator, worker {worker}" in found.why
    assert "has given no sign for 60 s: another does after 120 s" in found.why
    assert (found.claimable, found.next) == (False, f"starforge backfill reclaim {backfill_id}")
    await conn.execute("UPDATE backfill_jobs SET heartbeat_at = $1", at - timedelta(seconds=121))
    found = await status(conn, backfill_id)
    assert ("another may take over now" in found.why, found.claimable) == (True, True)
    await conn.execute("UPDATE backfill_jobs SET heartbeat_at = sf_now()")
    await conn.execute("UPDATE workers SET state = 'dead', stopped_at = sf_now(), stop_reason = 'killed'")
    found = await status(conn, backfill_id)
    assert found.executor is not None
    assert ("dead, killed" in found.executor.told, found.claimable) == (True, True)
    await conn.execute("UPDATE backfill_jobs SET worker_id = NULL")
    assert "its last coordinator let go of it" in (await status(conn, backfill_id)).why


async def holding(conn: Connection, worker: UUID, backfill_id: UUID, slots: int) -> None:
    await conn.execute(
        "INSERT INTO limit_tokens (scope, name, key, slot, worker_id)"
        " SELECT 'type', 'asset:orders', $1, n, $2 FROM generate_series(1, $3::int) AS n",
        str(backfill_id), worker, slots,
    )  # fmt: skip


@covers("B-36", "G5")
async def test_slots_of_a_worker_that_is_frozen_are_told_with_the_end_of_its_lease(
    conn: Connection, travel: Travel
) -> None:
    """It does not end what it runs, and nobody else may until its lease is over."""
    frozen = await a_backfill_worker(conn)
    at = await now(conn)
    base = {"state": "running", "progress_at": at, "total_partitions": 9, "started_at": at}
    backfill_id = await a_backfill(conn, **base)
    await holding(conn, frozen, backfill_id, 3)
    await travel(conn, seconds=20)
    living = await a_backfill_worker(conn)
    await conn.execute("UPDATE backfill_jobs SET worker_id = $1, heartbeat_at = sf_now()", living)
    found = await status(conn, backfill_id)
    assert found.why.startswith(f"0 of 9 partitions completed; 3 of its slots are with worker {frozen} (")
    assert "has not been heard of for 20 s; the lease ends at" in found.why
    assert found.why.endswith("what it ran is tried again then")
    assert found.next == f"starforge explain worker {frozen}"
    assert "kill -9" in found.moves
    await conn.execute("UPDATE backfill_jobs SET worker_id = $1", frozen)
    both = await status(conn, backfill_id)
    assert both.why.endswith("it coordinates the backfill too, so nothing more is given out meanwhile")
    assert both.next == f"starforge backfill reclaim {backfill_id}"
    await conn.execute("UPDATE backfill_jobs SET state = 'cancelled', completed_at = sf_now()")
    assert f"3 of its slots are with worker {frozen}" in (await status(conn, backfill_id)).why
    await conn.execute("UPDATE workers SET state = 'dead', stopped_at = sf_now() WHERE id = $1", frozen)
    assert "slots" not in (await status(conn, backfill_id)).why


@covers("G5")
async def test_a_worker_that_is_heard_of_keeps_its_slots_without_a_word(
    conn: Connection, travel: Travel
) -> None:
    worker = await a_backfill_worker(conn)
    backfill_id = await a_backfill(
        conn, state="running", worker_id=worker, heartbeat_at=await now(conn, 14), total_partitions=9
    )
    await holding(conn, worker, backfill_id, 3)
    await travel(conn, seconds=14)
    assert (await status(conn, backfill_id)).why == "0 of 9 partitions completed"


@covers("B-41", "Q-68")
async def test_a_breaker_that_probes_lets_a_few_start_and_it_is_said_so(conn: Connection) -> None:
    worker = await a_backfill_worker(conn)
    await close(
        conn, "type", "asset:orders", "breaker", owner="breaker", reason="too much", minutes=5, rate_per_s=1.0
    )
    found = await one(conn, state="running", worker_id=worker, heartbeat_at=await now(conn))
    assert found.why.startswith("few of its partitions start: type 'asset:orders'")
    assert found.next == "starforge breaker reset asset:orders"


@covers("B-41")
@pytest.mark.parametrize("by", ["breaker", "canary"])
@pytest.mark.parametrize(("failed", "command"), [(0, "resume"), (2, "failures")])
async def test_one_that_paused_itself_is_resumed_once_the_cause_is_mended(
    conn: Connection, by: str, failed: int, command: str
) -> None:
    """Also where all that failed is to be retried yet."""
    found = await one(
        conn,
        state="paused",
        paused_at=await now(conn),
        state_by=by,
        total_partitions=9,
        failed_partitions=failed,
    )
    assert found.moves == "a resume, once the cause is mended"
    assert found.next == f"starforge backfill {command} {found.id}"


async def test_a_running_one_says_what_holds_it_up(conn: Connection) -> None:
    worker, at = await a_backfill_worker(conn), await now(conn)
    base = {"state": "running", "worker_id": worker, "heartbeat_at": at, "progress_at": at,
            "total_partitions": 10, "completed_partitions": 4, "job_type": "asset:orders"}  # fmt: skip
    well = await one(conn, asset="a", **base)
    assert (well.why, well.next) == (
        "4 of 10 partitions completed",
        f"starforge backfill status --watch {well.id}",
    )
    slow = await one(conn, asset="b", **base, pace=0.25, pace_reason="lock waits")
    assert slow.why.endswith("throttled to 25%: lock waits")
    held = await one(conn, asset="c", **base, pace=0, pace_reason="no connections")
    assert held.why.endswith("none starts now: no connections")
    sample = await one(conn, asset="d", **base, canary_partitions=3)
    assert "a sample of 3 partitions runs first" in sample.why
    quiet = await one(
        conn,
        asset="e",
        **{**base, "progress_at": at - timedelta(minutes=20)},
        avg_partition_duration_ms=2000.0,
    )
    assert "none has ended for 20 min, and one takes 2.0 s" in quiet.why
    assert "--partitions --state running" in quiet.next


@covers("B-46")
async def test_a_paused_one_says_by_whom_why_and_until_when(conn: Connection) -> None:
    at = await now(conn)
    base = {"state": "paused", "paused_at": at, "state_by": "ann", "state_reason": "maintenance"}
    told = await one(conn, asset="a", **base)
    assert "ann paused it at" in told.why
    assert "UTC: maintenance; 0 of 0 partitions completed" in told.why
    assert (told.next, told.not_resumable) == (f"starforge backfill resume {told.id}", "")
    later = await one(conn, asset="b", **base, resume_at=at + timedelta(hours=1))
    assert "it resumes by itself at" in later.why
    late = await one(conn, asset="c", **base, resume_at=at - timedelta(hours=1))
    assert "it was to resume at" in late.why
    by_hand = await one(conn, asset="d", state="paused", paused_at=at)
    assert by_hand.why.startswith("somebody who left no name, as SQL does, paused it at")


@covers("B-46")
async def test_what_was_done_by_hand_is_not_told_of_whoever_did_something_before(conn: Connection) -> None:
    """The name and the reason of a resume stay in the row when SQL pauses or cancels it afterwards."""
    at = await now(conn)
    resumed = {"state_by": "ann", "state_reason": "go on", "version": 4}
    resumed["changed"] = {"operation": "backfill resume", "by": "ann", "version": 3}
    paused = await one(conn, asset="a", state="paused", paused_at=at, **resumed)
    assert paused.why.startswith("somebody who left no name, as SQL does, paused it at")
    assert (paused.state_by, paused.state_reason) == (None, None)
    cancelled = await one(
        conn, asset="b", state="cancelled", completed_at=at, error_message="Bulk cancelled", **resumed
    )
    assert "it was cancelled" in cancelled.why
    assert ": Bulk cancelled" in cancelled.why


@covers("B-41")
async def test_one_that_was_resumed_waits_for_a_worker(conn: Connection) -> None:
    at = await now(conn)
    found = await one(conn, state="resuming", heartbeat_at=at - timedelta(seconds=121), state_by="ann")
    assert "its resume was asked for by ann" in found.why
    assert (found.claimable, found.not_resumable) == (
        True,
        "its resume was asked for already; a worker has to take it",
    )


@covers("B-16", "B-46")
async def test_an_end_says_the_rule_and_the_numbers(conn: Connection) -> None:
    at = await now(conn)
    over = {"closed_at": at, "completed_at": at, "total_partitions": 10}
    done = await one(conn, asset="a", state="completed", completed_partitions=10, **over)
    assert (done.why, done.next) == ("all of its 10 partitions ended, 10 completed", "")
    some = await one(
        conn, asset="b", state="completed", completed_partitions=9, failed_partitions=1, failed_max=2, **over
    )
    assert some.why.endswith("9 completed and 1 failed, of which it tolerates 2")
    assert some.next == f"starforge backfill retry-failed {some.id}"
    failed = await one(conn, asset="c", state="failed", failed_partitions=3, failed_max=2, **over)
    assert failed.why == "3 of its 10 partitions failed, and it tolerates 2"
    assert "final" in failed.not_resumable
    stopped = await one(conn, asset="d", state="cancelled", state_by="bob", state_reason="wrong", **over)
    assert "bob cancelled it at" in stopped.why
    assert "UTC: wrong; 0 of 10" in stopped.why
    wrong = await one(conn, asset="f", state="completed", completed_partitions=9, **over)
    assert wrong.why == "it says that it is, with 9 of its 10 partitions ended"
    assert wrong.next == f"starforge backfill verify {wrong.id}"
    ending = await one(conn, asset="e", state="cancelled", completed_at=at, total_partitions=10)
    assert (ending.why.endswith("what still runs ends first and is counted"), ending.ended) == (True, False)
    assert (done.ended, failed.ended, stopped.ended) == (True, True, True)


@covers("X-19", "B-46")
async def test_explain_says_the_same_and_whether_a_resume_would_be_refused(conn: Connection) -> None:
    backfill_id = await a_backfill(conn)
    told, found = await status(conn, backfill_id), await explain_backfill(conn, backfill_id)
    assert found.why == f"{told.why}; a resume would be refused, for it is pending, not paused"
    assert (found.subject, found.state, found.command) == (
        f"backfill {backfill_id} of orders",
        "pending",
        told.next,
    )


@covers("B-40")
async def test_what_waits_for_a_coordinator_is_listed_as_it_is_taken(conn: Connection) -> None:
    at = await now(conn)
    asked = at - timedelta(seconds=121)

    async def add(asset: str, state: str, **columns: object) -> UUID:
        return await a_backfill(conn, asset, state=state, **columns)

    await add("second", "pending", priority=5)
    await add("fourth", "pending")
    await add("third", "resuming", heartbeat_at=asked)
    await add("first", "pending", priority=9)
    await add("left", "running", heartbeat_at=asked, worker_id=uuid4(), priority=-1)
    await add("well", "running", heartbeat_at=at, worker_id=uuid4())
    await add("paused", "paused")
    await add("over", "completed", closed_at=at)
    assert [found.asset for found in await unclaimed(conn)] == ["first", "second", "third", "fourth", "left"]
