"""Lists of backfills, one of them whole, its partitions and failures: what people see of rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from starforge.backfill.errors import UnknownBackfillError
from starforge.backfill.show.cause import WHAT_TO_DO, likely_cause
from starforge.backfill.show.reads import failures, list_backfills, partitions
from starforge.backfill.show.status import Status, status
from starforge.db.pool import Connection, set_tenant
from starforge.db.probing import plan_by_probes
from starforge.db.statement import sql
from starforge.errors import InvalidInputError
from tests.backfill.rows import a_backfill, a_backfill_worker, now, parts
from tests.covers import covers


async def listed(conn: Connection, **filters: Any) -> list[str]:
    """Return the assets of the backfills that fit."""
    return [one.asset for one in await list_backfills(conn, **filters)]


@covers("B-29")
async def test_backfills_are_listed_by_state_asset_age_and_number(conn: Connection) -> None:
    at = await now(conn)
    await a_backfill(conn, "old", created_at=at - timedelta(hours=3))
    await a_backfill(conn, "mid", created_at=at - timedelta(hours=2), state="paused")
    await a_backfill(conn, "new", created_at=at - timedelta(hours=1), state="running", heartbeat_at=at)
    assert await listed(conn) == ["new", "mid", "old"]
    assert await listed(conn, state="paused") == ["mid"]
    assert await listed(conn, asset="new") == ["new"]
    assert await listed(conn, older_s=5400) == ["mid", "old"]
    assert await listed(conn, most=1) == ["new"]


@covers("B-29")
async def test_a_list_goes_on_behind_the_last_one_of_the_page_before(conn: Connection) -> None:
    at = await now(conn)
    for n in range(7):  # two of them of one moment
        await a_backfill(conn, f"a{n}", created_at=at - timedelta(minutes=max(n, 1)))
    whole = await list_backfills(conn)
    seen = await list_backfills(conn, most=3)
    while page := await list_backfills(conn, most=3, after=seen[-1].id):
        assert len(page) <= 3
        seen += page
    assert seen == whole
    assert len(seen) == 7
    with pytest.raises(InvalidInputError, match="only the newest are listed in pages: by eta"):
        await list_backfills(conn, sort="eta", after=whole[0].id)
    with pytest.raises(UnknownBackfillError):
        await list_backfills(conn, after=uuid4())


@covers("B-29", "B-31")
async def test_health_tells_a_silent_coordinator_from_a_lack_of_progress(conn: Connection) -> None:
    at = await now(conn)

    async def running(asset: str, *, sign_s: float, ended_s: float, average_ms: float | None) -> None:
        await a_backfill(
            conn,
            asset,
            state="running",
            heartbeat_at=at - timedelta(seconds=sign_s),
            progress_at=at - timedelta(seconds=ended_s),
            avg_partition_duration_ms=average_ms,
        )

    await running("well", sign_s=2, ended_s=50, average_ms=10)
    await running("slow", sign_s=2, ended_s=200, average_ms=100_000)
    await running("stuck", sign_s=2, ended_s=200, average_ms=10)
    await running("unknown", sign_s=2, ended_s=9000, average_ms=None)
    await running("silent", sign_s=121, ended_s=9000, average_ms=10)
    await running("dead", sign_s=900, ended_s=9000, average_ms=10)
    await a_backfill(conn, "paused", state="paused", heartbeat_at=at - timedelta(hours=9))
    await a_backfill(conn, "asked", state="resuming", heartbeat_at=at - timedelta(seconds=121))
    await a_backfill(conn, "left", state="resuming", heartbeat_at=at - timedelta(seconds=601))
    await a_backfill(conn, "unsaid", state="running", updated_at=at - timedelta(seconds=300))
    stale = await listed(conn, health="stale", sort="heartbeat")
    assert (stale[:3], set(stale)) == (["dead", "left", "silent"], {"dead", "left", "silent", "unsaid"})
    assert await listed(conn, health="no-progress") == ["stuck"]
    assert set(await listed(conn, health="ok")) == {"well", "slow", "unknown", "paused", "asked"}


@covers("B-32", "B-49")
async def test_running_backfills_are_listed_by_their_end_and_none_ends_in_the_past(conn: Connection) -> None:
    for asset, ends_s in (("later", 900), ("soon", 60), ("overdue", -30)):
        end = await now(conn, ends_s)
        await a_backfill(
            conn,
            asset,
            state="running",
            eta_low_at=end - timedelta(seconds=10),
            estimated_completion_at=end,
            eta_high_at=end + timedelta(seconds=10),
        )
    await a_backfill(conn, "none", state="running")
    found = await list_backfills(conn, state="running", sort="eta")
    assert [one.asset for one in found] == ["overdue", "soon", "later", "none"]
    assert (found[0].eta_low_s, found[0].eta_high_s, found[3].eta_low_s) == (0, 0, None)
    assert found[1].eta_low_s == pytest.approx(50, abs=2)


async def test_a_filter_that_does_not_exist_is_refused_with_those_that_do(conn: Connection) -> None:
    with pytest.raises(InvalidInputError, match="no state 'runing'; there are pending, running"):
        await list_backfills(conn, state="runing")
    with pytest.raises(InvalidInputError, match="no health 'bad'; there are ok, stale, no-progress"):
        await list_backfills(conn, health="bad")
    with pytest.raises(InvalidInputError, match="ask for 1 to"):
        await list_backfills(conn, most=0)


async def test_a_page_of_partitions_is_read_from_its_place_on_for_a_tenant_too(conn: Connection) -> None:
    """A statement that anybody's plan serves, under row security: the last page reads no other."""
    await conn.execute(plan_by_probes(local=True))
    await conn.execute("SET LOCAL ROLE starforge_app")
    await conn.execute(f"PREPARE page (uuid, text, bigint, int) AS {sql('backfill', 'partitions')}")
    plan = await conn.fetch(f"EXPLAIN EXECUTE page ('{uuid4()}', NULL, 5, 10)")
    [condition] = [row[0] for row in plan if "Index Cond" in row[0]]
    assert "ordinal >= " in condition
    await conn.execute("DEALLOCATE page")


@covers("B-70")
async def test_nobody_sees_the_backfills_of_another_tenant(conn: Connection) -> None:
    await set_tenant(conn, "theirs")
    theirs = await a_backfill(conn, state="running")
    await parts(conn, theirs, failed=2)
    assert len(await list_backfills(conn)) == 1
    await set_tenant(conn, "ours")
    assert await list_backfills(conn) == []
    for read in (status, partitions, failures):
        with pytest.raises(UnknownBackfillError, match=f"no backfill {theirs}"):
            await read(conn, theirs)


@covers("B-16", "B-26", "B-30", "B-36")
async def test_the_status_of_a_running_backfill_holds_all_that_its_row_says(conn: Connection) -> None:
    at = await now(conn)
    worker = await a_backfill_worker(conn)
    backfill_id = await a_backfill(
        conn,
        state="running",
        heartbeat_at=at,
        progress_at=at,
        worker_id=worker,
        lease_epoch=3,
        total_partitions=10,
        completed_partitions=4,
        failed_partitions=1,
        failed_max=2,
        concurrency=8,
        pace=0.5,
        pace_reason="lock waits",
        checkpoint_partition_key="k4",
        avg_partition_duration_ms=500.0,
        eta_low_at=at + timedelta(seconds=60),
        estimated_completion_at=at + timedelta(seconds=90),
        eta_high_at=at + timedelta(seconds=120),
        eta_basis="from 4 partitions",
        look={
            "strip": [[4, 1, 0, 5], [0, 0, 0, 5]],
            "rate_per_s": 2.0,
            "in_flight": 3,
            "failures": [
                {"fingerprint": "f1", "message": "429 Too Many Requests", "count": 1, "keys": ["k3"],
                 "last_at": at.isoformat()}
            ],
        },
    )  # fmt: skip
    one = await status(conn, backfill_id)
    assert (one.state, one.done, one.left, one.total, one.checkpoint) == ("running", 5, 5, 10, "k4")
    assert (one.rate_per_s, one.rate_per_minute, one.in_flight, one.average_ms) == (2.0, 120.0, 3, 500.0)
    assert (one.eta.at, one.eta.basis) == (at + timedelta(seconds=90), "from 4 partitions")
    assert [one.eta.low_s, one.eta.high_s] == pytest.approx([60, 120], abs=2)
    assert (one.throttle.pace, one.throttle.slots, one.throttle.reason) == (0.5, 4, "lock waits")
    assert one.executor is not None
    assert (one.executor.worker_id, one.executor.epoch, one.executor.alive) == (worker, 3, True)
    assert (one.strip, one.failures[0].cause) == ([[4, 1, 0, 5], [0, 0, 0, 5]], "external rate limit")
    assert (one.failures[0].last_at, one.failures[0].keys) == (at, ["k3"])
    assert one.next == f"starforge backfill failures {backfill_id}"


@covers("B-48", "B-49")
async def test_without_an_estimate_the_reason_is_said(conn: Connection) -> None:
    at = await now(conn)

    async def basis(**columns: object) -> Status:
        given = {"state": "running", "heartbeat_at": at, "asset": str(uuid4()), **columns}
        return await status(conn, await a_backfill(conn, **given))

    none = await basis(completed_partitions=0, estimated_completion_at=at)
    assert (none.eta.at, none.eta.basis) == (None, "no partition has completed yet: an estimate needs one")
    paused = await basis(completed_partitions=1, state="paused", estimated_completion_at=at)
    assert (paused.eta.at, paused.eta.basis) == (None, "it is paused, not running")
    assert (await basis(completed_partitions=1)).eta.basis == "its coordinator has written none yet"
    late = await basis(completed_partitions=1, estimated_completion_at=at - timedelta(minutes=5))
    assert (late.eta.seconds, late.eta.at) == (0, late.now)


@covers("B-16")
async def test_an_sla_is_held_against_the_estimate(conn: Connection) -> None:
    at = await now(conn)
    middle, high = at + timedelta(minutes=10), at + timedelta(minutes=20)

    async def verdict(sla_minutes: float, **columns: object) -> str:
        one = await status(
            conn,
            await a_backfill(
                conn,
                str(uuid4()),
                sla_at=at + timedelta(minutes=sla_minutes),
                **{
                    "state": "running",
                    "completed_partitions": 1,
                    "estimated_completion_at": middle,
                    "eta_high_at": high,
                    **columns,
                },
            ),
        )
        assert one.sla is not None
        return one.sla.verdict

    assert [await verdict(minutes) for minutes in (30, 15, 5, -1)] == ["safe", "at-risk", "at-risk", "late"]
    assert await verdict(30, completed_partitions=0) == "unknown"
    assert await verdict(30, state="completed", completed_at=at) == "met"
    assert await verdict(-30, state="completed", completed_at=at) == "missed"
    assert await verdict(30, state="failed", completed_at=at) == "missed"


async def test_a_look_that_was_never_written_is_no_look(conn: Connection) -> None:
    for look in (None, {}, {"strip": None, "failures": None}):
        one = await status(conn, await a_backfill(conn, str(uuid4()), state="running", look=look))
        assert (one.strip, one.failures, one.rate_per_s, one.in_flight) == ([], [], None, None)


@covers("B-33")
async def test_partitions_are_paged_in_their_order(conn: Connection) -> None:
    backfill_id = await a_backfill(conn)
    await parts(conn, backfill_id, completed=3, failed=2, pending=1)
    page = await partitions(conn, backfill_id, most=4)
    assert [one.key for one in page] == ["k000", "k001", "k002", "k003"]
    rest = await partitions(conn, backfill_id, after=page[-1].ordinal)
    assert [(one.key, one.state) for one in rest] == [("k004", "failed"), ("k005", "pending")]
    assert [one.key for one in await partitions(conn, backfill_id, state="failed")] == ["k003", "k004"]
    with pytest.raises(InvalidInputError, match="no state 'gone'"):
        await partitions(conn, backfill_id, state="gone")


@covers("B-33", "B-42")
async def test_failed_partitions_are_grouped_by_what_failed_with_a_likely_cause(conn: Connection) -> None:
    backfill_id = await a_backfill(conn)
    await parts(conn, backfill_id, failed=9)
    for fingerprint, message, first, last in (
        ("a", "connection refused", 0, 1),
        ("b", 'column "price" does not exist', 2, 7),
        (None, "who knows", 8, 8),
    ):
        await conn.execute(
            "UPDATE backfill_partitions SET fingerprint = $2, error_message = $3 || ' ' || ordinal"
            " WHERE backfill_job_id = $1 AND ordinal BETWEEN $4 AND $5",
            backfill_id, fingerprint, message, first, last,
        )  # fmt: skip
    found = await failures(conn, backfill_id)
    assert [(one.fingerprint, one.count, one.cause) for one in found] == [
        ("b", 6, "schema change"),
        ("a", 2, "source unavailable"),
        (None, 1, "unknown"),
    ]
    assert found[0].keys == ["k002", "k003", "k004", "k005", "k006"]
    assert found[0].message == 'column "price" does not exist 2'


@covers("B-42")
@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("ConnectionRefusedError: [Errno 111] Connection refused", "source unavailable"),
        ("HTTP 503 Service Unavailable", "source unavailable"),
        ("could not translate host name: Name or service not known", "source unavailable"),
        ('relation "orders_v2" does not exist', "schema change"),
        ("KeyError: 'price_cents'", "schema change"),
        ("'price_cents'", "schema change"),
        ("null value in column \"x\" violates not-null constraint", "schema change"),
        ("MemoryError", "resource exhaustion"),
        ("FATAL: sorry, too many clients already", "resource exhaustion"),
        ("could not write: No space left on device", "resource exhaustion"),
        ("429 Client Error: Too Many Requests", "external rate limit"),
        ("ThrottlingException: Rate exceeded", "external rate limit"),
        ("division by zero", "unknown"),
        ("", "unknown"),
    ],
)  # fmt: skip
def test_a_message_points_to_its_likely_cause_or_to_none(message: str, cause: str) -> None:
    assert likely_cause(message) == cause
    assert WHAT_TO_DO[cause]
