"""Every act on one backfill, from every state: what is allowed changes it, what is not says what would be."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from starforge.backfill.errors import (
    BackfillStateError,
    CheckpointMismatchError,
    StaleVersionError,
    UnknownBackfillError,
)
from starforge.backfill.state.backfill import BACKFILL
from starforge.db.pool import Pool
from starforge.errors import InvalidInputError
from starforge.ops.audit import Result
from starforge.ops.errors import PlanStaleError, ReasonMissingError
from starforge.ops.perform import perform
from starforge.ops.plan import plan
from starforge.queue.gate import close
from starforge.queue.override import override
from tests.backfill.backfills import ANN, LIVE, TERMINAL, WHY, made, row_of
from tests.covers import covers

VERBS = ("pause", "resume", "cancel", "reclaim")
ALREADY = {"pause": "paused", "cancel": "cancelled"}
"""What these lead to: asked again there, they change nothing and say so."""

PAIRS = [(verb, state) for verb in VERBS for state in (*LIVE, *TERMINAL)]
LEGAL = [(verb, state) for verb, state in PAIRS if state in BACKFILL.sources(verb)]
ILLEGAL = [pair for pair in PAIRS if pair not in LEGAL and ALREADY.get(pair[0]) != pair[1]]


async def act(pool: Pool, verb: str, backfill_id: UUID, /, **arguments: Any) -> Result:
    return await perform(pool, f"backfill {verb}", {"job_id": str(backfill_id), **arguments}, **ANN)


async def audits(pool: Pool) -> list[Any]:
    async with pool.connection() as conn:
        return await conn.fetch("SELECT * FROM audit_logs ORDER BY id")


@pytest.mark.parametrize(("verb", "state"), LEGAL)
@covers("B-15", "B-20", "B-22", "B-27", "B-38", "D-03", "D-04", "D-13", "G8")
async def test_an_act_that_a_state_allows_changes_the_row_once_and_is_audited(
    pool: Pool, verb: str, state: str
) -> None:
    backfill_id = await made(pool, state, "completed", "pending", avg_partition_duration_ms=12.5)
    before = await row_of(pool, backfill_id)
    done = await act(pool, verb, backfill_id, reason=WHY)
    row = await row_of(pool, backfill_id)
    assert (done.matched, done.changed, done.sample) == (1, 1, (str(backfill_id),))
    assert row["state"] == BACKFILL.target(verb, state)
    assert row["version"] == before["version"] + 1 == done.after["version"]
    assert done.before["version"] == 5
    kept = ("checkpoint_partition_key", "completed_partitions", "avg_partition_duration_ms")
    assert [row[name] for name in kept] == [before[name] for name in kept]
    assert {name: row["changed"][name] for name in ("operation", "by", "version")} == {
        "operation": f"backfill {verb}",
        "by": "ann",
        "version": 6,
    }
    [audit] = await audits(pool)
    assert (audit["operation"], audit["actor"], audit["reason"]) == (f"backfill {verb}", "ann", WHY)
    assert audit["before"]["state"] == state
    assert audit["after"]["state"] == row["state"]
    match verb:
        case "pause":
            assert row["paused_at"] is not None
            assert (row["state_by"], row["state_reason"], row["lease_epoch"]) == (
                "ann",
                WHY,
                before["lease_epoch"],
            )
        case "resume":
            assert 121 <= row["age_s"] < 130
        case "cancel":
            assert row["completed_at"] is not None
            assert row["error_message"] == f"cancelled by ann: {WHY}"
            assert row["closed_at"] is None, "its coordinator closes it, once what is left is settled"
        case _:
            assert row["lease_epoch"] == before["lease_epoch"] + 1
            assert 121 <= row["age_s"] < 130


@pytest.mark.parametrize(("verb", "state"), ILLEGAL)
@covers("B-03", "B-46")
async def test_an_act_that_a_state_does_not_allow_is_refused_with_the_state_and_the_command_that_works(
    pool: Pool, verb: str, state: str
) -> None:
    backfill_id = await made(pool, state, "completed", "failed", completed_at=datetime.now(UTC))
    before = await row_of(pool, backfill_id)
    with pytest.raises(BackfillStateError) as refused:
        await act(pool, verb, backfill_id, reason=WHY)
    told = str(refused.value)
    assert f"for it is {state} " in told.replace(",", " ")
    command = told.partition("starforge backfill ")[2].split()
    assert command[1] == str(backfill_id)
    works = {"retry-failed", "clone"} if state in TERMINAL else set(BACKFILL.allowed(state))
    assert command[0] in works
    after = await row_of(pool, backfill_id)
    assert {**after, "age_s": 0} == {**before, "age_s": 0}
    assert await audits(pool) == []


@pytest.mark.parametrize("verb", list(ALREADY))
@covers("G8")
async def test_what_is_as_wanted_already_is_left_alone_and_said_so(pool: Pool, verb: str) -> None:
    backfill_id = await made(pool, "running", "pending")
    await act(pool, verb, backfill_id, reason=WHY)
    before = await row_of(pool, backfill_id)
    again = await act(pool, verb, backfill_id, reason="another")
    assert (again.matched, again.changed) == (1, 0)
    assert "already" in again.summary
    assert WHY in again.summary
    after = await row_of(pool, backfill_id)
    assert {**after, "age_s": 0} == {**before, "age_s": 0}


@pytest.mark.parametrize("state", ["pending", "running", "resuming"])
@covers("X-10", "B-24")
async def test_resume_undoes_pause_and_pause_resume(pool: Pool, state: str) -> None:
    backfill_id = await made(pool, state, "completed", "pending")
    await act(pool, "pause", backfill_id)
    await act(pool, "resume", backfill_id)
    assert (await row_of(pool, backfill_id))["state"] == "resuming"
    await act(pool, "pause", backfill_id)
    row = await row_of(pool, backfill_id)
    assert (row["state"], row["checkpoint_partition_key"], row["version"]) == ("paused", "p1", 8)


@covers("B-12")
async def test_a_pause_says_when_it_is_meant_to_end_and_may_be_planned_anew(pool: Pool) -> None:
    backfill_id = await made(pool, "running", "pending")
    done = await act(pool, "pause", backfill_id, resume_in="2h")
    planned = (await row_of(pool, backfill_id))["resume_at"]
    away_s = (planned - datetime.now(UTC)).total_seconds()
    assert 7100 < away_s < 7210
    assert "it is to go on at" in done.summary
    assert (await act(pool, "pause", backfill_id)).changed == 0
    assert (await row_of(pool, backfill_id))["resume_at"] == planned, "only a new time changes it"
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    assert (await act(pool, "pause", backfill_id, resume_at=tomorrow.isoformat())).changed == 1
    row = await row_of(pool, backfill_id)
    assert (row["resume_at"], row["version"], row["state"]) == (tomorrow, 7, "paused")
    await act(pool, "resume", backfill_id)
    assert (await row_of(pool, backfill_id))["resume_at"] is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"resume_in": "soon"}, "--resume-in 'soon' is no moment"),
        ({"resume_in": "0s"}, "is not after now"),
        ({"resume_in": "9999d"}, "more than ten years"),
        ({"resume_in": ""}, "is no moment"),
        ({"resume_at": "2020-01-01"}, "is not after now"),
        ({"resume_at": "9999-12-31"}, "more than ten years"),
        ({"resume_at": "2030-13-01"}, "is no moment"),
        ({"resume_in": "1h", "resume_at": "2030-01-01"}, "give one of them"),
    ],
)
async def test_a_moment_that_is_none_is_refused(pool: Pool, arguments: dict[str, str], told: str) -> None:
    backfill_id = await made(pool, "running", "pending")
    with pytest.raises(InvalidInputError, match=told):
        await act(pool, "pause", backfill_id, **arguments)
    assert (await row_of(pool, backfill_id))["state"] == "running"


@pytest.mark.parametrize("verb", VERBS)
@covers("B-47")
async def test_a_stale_version_is_refused_with_the_version_the_state_and_who_changed_it(
    pool: Pool, verb: str
) -> None:
    backfill_id = await made(pool, "running", "pending")
    await perform(
        pool, "backfill pause", {"job_id": str(backfill_id), "reason": "lunch"}, **{**ANN, "actor": "bob"}
    )
    with pytest.raises(StaleVersionError) as refused:
        await act(pool, verb, backfill_id, reason=WHY, expect_version=5)
    told = str(refused.value)
    for part in ("has version 6 by now and not 5", "bob changed it last, by backfill pause", "lunch"):
        assert part in told
    async with pool.connection() as conn:
        await conn.execute("UPDATE backfill_jobs SET version = version + 1")
    with pytest.raises(StaleVersionError, match="a statement by hand, or the engine, changed it after bob"):
        await act(pool, verb, backfill_id, reason=WHY, expect_version=6)
    assert (await row_of(pool, backfill_id))["state"] == "paused"


@covers("B-47")
async def test_the_version_that_it_has_is_accepted(pool: Pool) -> None:
    backfill_id = await made(pool, "running", "pending")
    assert (await act(pool, "pause", backfill_id, expect_version=5)).changed == 1
    assert (await act(pool, "resume", backfill_id, expect_version=6)).changed == 1


@pytest.mark.parametrize("verb", VERBS)
@covers("B-70")
async def test_a_backfill_of_another_tenant_or_of_nobody_is_not_found(pool: Pool, verb: str) -> None:
    theirs = await made(pool, "running", "pending", tenant="bolt")
    before = await row_of(pool, theirs)
    for hostile in (theirs, uuid4(), UUID(int=0)):
        with pytest.raises(UnknownBackfillError, match=f"there is no backfill {hostile}"):
            await act(pool, verb, hostile, reason=WHY)
    assert {**await row_of(pool, theirs), "age_s": 0} == {**before, "age_s": 0}


async def test_a_cancel_without_a_reason_is_refused(pool: Pool) -> None:
    backfill_id = await made(pool, "running", "pending")
    with pytest.raises(ReasonMissingError):
        await act(pool, "cancel", backfill_id, reason=" ")


@covers("B-27")
async def test_a_cancel_takes_with_it_what_waits_for_it_however_far_down_and_no_one_elses(
    pool: Pool,
) -> None:
    top = await made(pool, "running", "pending", asset="raw")
    middle = await made(pool, "pending", "pending", asset="clean", waits_for=[top])
    last = await made(pool, "paused", "pending", asset="report", waits_for=[uuid4(), middle])
    resumed = await made(pool, "resuming", "pending", asset="mail", waits_for=[middle])
    theirs = await made(pool, "pending", "pending", asset="clean", waits_for=[top], tenant="bolt")
    other = await made(pool, "pending", "pending", asset="other")
    ended = await made(pool, "completed", "completed", asset="old", waits_for=[top])
    planned = await plan(pool, "backfill cancel", {"job_id": str(top), "reason": WHY}, **ANN)
    assert planned.changed == 4
    done = await act(pool, "cancel", top, reason=WHY)
    assert (done.matched, done.changed) == (4, 4)
    assert set(done.sample) == {str(one) for one in (top, middle, last, resumed)}
    assert "3 that waited for it are cancelled too" in done.summary
    states = {one: (await row_of(pool, one))["state"] for one in (top, middle, last, resumed)}
    assert set(states.values()) == {"cancelled"}
    assert (await row_of(pool, last))["error_message"] == f"cancelled with {top}, for which it waited: {WHY}"
    for one, state in ((theirs, "pending"), (other, "pending"), (ended, "completed")):
        assert (await row_of(pool, one))["state"] == state


async def test_a_cancelled_backfill_leaves_no_override_of_its_concurrency(pool: Pool) -> None:
    backfill_id, other = await made(pool, "running", "pending"), await made(pool, "running", "pending")
    async with pool.transaction() as conn:
        for one in (backfill_id, other):
            await override(conn, "key", str(one), "limit", 8, owner="ann", reason="faster", minutes=60)
    await act(pool, "cancel", backfill_id, reason=WHY)
    async with pool.connection() as conn:
        assert [row["name"] for row in await conn.fetch("SELECT name FROM setting_overrides")] == [str(other)]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE backfill_jobs SET checkpoint_partition_key = 'p3'", "ahead of 1 partition that did not end"),
        ("UPDATE backfill_jobs SET checkpoint_partition_key = 'no'", "is not a partition of this backfill"),
        ("DELETE FROM backfill_partitions WHERE partition_key = 'p4'", "says 4 partitions, there are 3"),
        ("UPDATE backfill_jobs SET completed_partitions = 4", "says 4 completed, its partitions 2"),
    ],
)
@covers("B-35")
async def test_a_checkpoint_that_does_not_fit_keeps_a_backfill_paused_unless_it_is_overridden(
    pool: Pool, damage: str, told: str
) -> None:
    backfill_id = await made(pool, "paused", "completed", "pending", "completed", "pending")
    async with pool.connection() as conn:
        await conn.execute(damage)
    with pytest.raises(CheckpointMismatchError, match=told):
        await act(pool, "resume", backfill_id)
    assert (await row_of(pool, backfill_id))["state"] == "paused"
    with pytest.raises(InvalidInputError, match="--override-integrity needs a reason"):
        await act(pool, "resume", backfill_id, override_integrity=True)
    done = await act(pool, "resume", backfill_id, override_integrity=True, reason="counted by hand")
    assert (await row_of(pool, backfill_id))["state"] == "resuming"
    assert told in done.summary
    assert told in done.after["findings"][0]


@pytest.mark.parametrize(
    "harmless",
    [
        "UPDATE backfill_jobs SET checkpoint_partition_key = NULL, completed_partitions = 0",
        "UPDATE backfill_partitions SET state = 'pending', reopened_at = sf_now() WHERE partition_key = 'p1'",
    ],
)
@covers("B-35")
async def test_what_the_next_fold_makes_good_or_was_asked_for_does_not_block_a_resume(
    pool: Pool, harmless: str
) -> None:
    backfill_id = await made(pool, "paused", "failed", "pending", "completed", "pending")
    async with pool.connection() as conn:
        await conn.execute(harmless)
    assert (await act(pool, "resume", backfill_id)).changed == 1


@covers("X-02", "B-47")
async def test_a_plan_is_stale_once_somebody_else_changed_the_backfill(pool: Pool) -> None:
    backfill_id = await made(pool, "running", "pending")
    arguments = {"job_id": str(backfill_id), "reason": WHY}
    planned = await plan(pool, "backfill cancel", arguments, **ANN)
    assert (await row_of(pool, backfill_id))["state"] == "running"
    await act(pool, "pause", backfill_id)
    with pytest.raises(PlanStaleError):
        await perform(pool, "backfill cancel", arguments, **ANN, plan_id=planned.id)
    assert (await row_of(pool, backfill_id))["state"] == "paused"


@covers("G8", "B-47")
async def test_of_acts_at_the_same_time_none_is_lost_and_each_sees_what_was_before(pool: Pool) -> None:
    """They follow each other on the row: as many versions as acts that were done."""
    backfill_id = await made(pool, "running", "pending")

    async def one(verb: str) -> int:
        try:
            return (await act(pool, verb, backfill_id, reason=WHY)).changed
        except BackfillStateError:
            return 0

    changed = sum(await asyncio.gather(*(one(verb) for verb in ("pause", "reclaim", "resume", "pause") * 3)))
    row = await row_of(pool, backfill_id)
    assert row["version"] == 5 + changed
    assert changed >= 1
    assert sum(audit["changed"] for audit in await audits(pool)) == changed
    last = [audit for audit in await audits(pool) if audit["changed"]][-1]
    assert last["after"]["state"] == row["state"]


BY_HAND = (
    "UPDATE backfill_jobs SET state = 'paused', paused_at = NOW(), version = version + 1"
    " WHERE id = $1 AND state = 'running' AND tenant_id = 'default'",
    "UPDATE backfill_jobs SET heartbeat_at = NOW() - INTERVAL '5 minutes', version = version + 1"
    " WHERE id = $1 AND state = 'running'",
    "UPDATE backfill_jobs SET state = 'running', version = version + 1 WHERE id = $1 AND state = 'resuming'",
)
"""B-SQL-1, B-SQL-7, and what a claim does, so that there is something to do again."""


@covers("G8", "B-47", "X-14")
async def test_acts_and_statements_by_hand_at_the_same_time_lose_nothing_of_one_another(pool: Pool) -> None:
    backfill_id = await made(pool, "running", "pending")

    async def one(verb: str) -> int:
        arguments = {"concurrency": 4 + len(verb)} if verb == "set" else {}
        try:
            return (await act(pool, verb, backfill_id, reason=WHY, **arguments)).changed
        except BackfillStateError:
            return 0

    async def by_hand(statement: str) -> int:
        async with pool.connection() as conn:
            return int((await conn.execute(statement, backfill_id)).split()[1])

    work = [one(verb) for verb in ("pause", "resume", "reclaim", "set", "resume") * 6]
    hands = [by_hand(statement) for statement in BY_HAND * 6]
    # In turns, so that every act has a statement by hand beside it.
    mixed = [each for pair in zip(work, hands, strict=False) for each in pair] + work[len(hands) :]
    changed = sum(await asyncio.gather(*mixed))
    row = await row_of(pool, backfill_id)
    assert row["version"] == 5 + changed
    assert changed >= 6
    for audit in await audits(pool):
        assert audit["after"]["version"] == audit["before"]["version"] + audit["changed"]


@covers("B-22", "Q-68")
async def test_a_resume_says_that_the_types_breaker_withholds_its_partitions_and_what_ends_that(
    pool: Pool,
) -> None:
    """The backfill's own breaker paused it; the queue's, for the same failures, still holds the type."""
    backfill_id = await made(pool, "paused", "completed", "failed", "pending")
    async with pool.connection() as conn:
        await close(
            conn,
            "type",
            "asset:daily",
            "breaker",
            owner="breaker",
            reason="20 of 20 attempts failed",
            minutes=5,
        )
    planned = await plan(pool, "backfill resume", {"job_id": str(backfill_id)}, **ANN)
    done = await act(pool, "resume", backfill_id)
    for told in (planned, done):
        assert "none of its partitions starts: type 'asset:daily' failed too often" in told.summary
        assert "20 of 20 attempts failed" in told.summary
        assert (
            told.next["to end what withholds its partitions (breaker)"]
            == "starforge breaker reset asset:daily"
        )
        assert "1 failed before, of which it tolerates 0" in told.summary
        assert told.next["to make again what failed"] == f"starforge backfill retry-failed {backfill_id}"
        assert told.undone_by == f"starforge backfill pause {backfill_id}"
    another = await made(pool, "running", "pending", asset="other")
    await perform(pool, "backfill pause-all", {"reason": WHY}, **ANN)
    resumed = await perform(pool, "backfill resume-all", {}, **ANN)
    assert "starforge breaker reset asset:daily" in resumed.next.values()
    assert resumed.undone_by == "starforge backfill pause-all --reason TEXT"
    assert "asset:daily" not in (await act(pool, "pause", another)).summary


async def test_what_cannot_be_undone_says_what_comes_nearest(pool: Pool) -> None:
    backfill_id = await made(pool, "running", "completed", "pending")
    done = await act(pool, "cancel", backfill_id, reason=WHY)
    assert done.undone_by == ""
    assert dict(done.next) == {
        "to make what is left": f"starforge backfill clone {backfill_id} --unfinished --reason TEXT"
    }
    paused = await made(pool, "running", "pending", asset="other")
    assert (await act(pool, "pause", paused)).undone_by == f"starforge backfill resume {paused}"
    assert (await act(pool, "pause", paused, resume_in="2h")).undone_by == "", "a resume would do more"
