"""Preflight: what speaks against a backfill is found before it is there, and nothing is written."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import pytest

from starforge.backfill.asset.asset import Assets
from starforge.backfill.asset.declared import declare, declared_assets
from starforge.backfill.asset.upstream import Upstream
from starforge.backfill.create.choose import choose
from starforge.backfill.create.facts import DatabaseFacts
from starforge.backfill.create.options import Options
from starforge.backfill.create.preflight import PARTITION_BYTES, Finding, Preflight, preflight
from starforge.backfill.scheme.keyed import Static
from starforge.backfill.scheme.window import Monthly
from starforge.backfill.select.select import Request
from starforge.clock import new_id
from starforge.db.budget import read_budget
from starforge.db.pool import Connection
from starforge.queue.gate import close
from tests.backfill.create.test_create import made, made_of
from tests.covers import covers

ORDERS = made("orders", concurrency=2)
SHOP = Assets([ORDERS, made("months", Monthly("2024-01"), upstream=["orders"])])
FEBRUARY = Request(asset="months", keys=("2024-02",))


async def looked(
    conn: Connection, request: Request, options: Options | None = None, assets: Assets = SHOP
) -> Preflight:
    facts = DatabaseFacts(conn, registering=False)
    selection = await choose(conn, assets, request, facts, tenant="default")
    return await preflight(conn, assets, selection, options or Options(), tenant="default")


def of(found: Preflight, check: str) -> list[Finding]:
    return [each for each in found.findings if each.check == check]


async def worker(conn: Connection, types: Sequence[str]) -> None:
    await conn.execute(
        "INSERT INTO workers (id, host, machine, pid, pid_started_s, version, queues, types, concurrency,"
        " lease_expires_at, connections) VALUES ($1, 'h', 'm', 1, 1, '1', '{backfill}', $2, 8,"
        " sf_now() + interval '1 minute', 8)",
        new_id(),
        list(types),
    )


async def ended(
    conn: Connection, backfill_id: UUID, *, state: str = "completed", failed: int = 0, ms: float = 1000
) -> None:
    """End a backfill: so many of its partitions failed, each of the others took so long."""
    await conn.execute(
        "UPDATE backfill_partitions SET state = CASE WHEN place <= $2 THEN 'failed' ELSE 'completed' END,"
        " duration_ms = $3 * place, error_message = 'the source is away', completed_at = sf_now()"
        " FROM (SELECT ordinal AS at, row_number() OVER (ORDER BY ordinal) AS place FROM backfill_partitions"
        "       WHERE backfill_job_id = $1) AS placed WHERE backfill_job_id = $1 AND ordinal = at",
        backfill_id,
        failed,
        ms,
    )
    await conn.execute("UPDATE backfill_jobs SET state = 'running' WHERE id = $1", backfill_id)
    await conn.execute(
        "UPDATE backfill_jobs SET state = $2, failed_partitions = $3,"
        " completed_partitions = total_partitions - $3, closed_at = sf_now() WHERE id = $1",
        backfill_id,
        state,
        failed,
    )


@covers("B-67")
async def test_a_type_that_no_worker_has_ever_known_refuses_and_one_that_none_runs_now_warns(
    conn: Connection,
) -> None:
    request = Request(asset="orders", keys=("2024-01-01",))
    [found] = of(await looked(conn, request), "worker")
    assert found.refuses
    assert found.text.startswith("no worker has ever known asset:orders: deploy the app")
    await conn.execute("INSERT INTO job_types (name, queue) VALUES ('asset:orders', 'backfill')")
    [found] = of(await looked(conn, request), "worker")
    assert (found.refuses, found.text.startswith("no live worker runs asset:orders")) == (False, True)
    await worker(conn, ["asset:orders"])
    assert of(await looked(conn, request), "worker") == []


@covers("B-67")
async def test_upstream_partitions_that_were_not_completed_refuse_unless_they_are_included(
    conn: Connection,
) -> None:
    [found] = of(await looked(conn, FEBRUARY), "upstream")
    assert not found.refuses
    assert found.text.startswith("its upstream orders was never backfilled")
    first = await made_of(conn, SHOP, asset="orders", first="2024-02-01", last="2024-02-27")
    await ended(conn, first.id)
    [found] = of(await looked(conn, FEBRUARY), "upstream")
    assert found.refuses
    assert found.text == (
        "2 partitions of its upstream orders (2024-02-28 … 2024-02-29) are not completed; `starforge backfill"
        " create orders --from 2024-02-28 --to 2024-02-29` makes them,"
        " --include-upstream makes all of it first"
    )
    included = Request(asset="months", keys=("2024-02",), include_upstream=True)
    assert of(await looked(conn, included), "upstream") == []
    rest = await made_of(conn, SHOP, asset="orders", first="2024-02-28", last="2024-03-02")
    [found] = of(await looked(conn, FEBRUARY), "upstream")
    assert found.text.endswith(
        f"are not completed; backfill {rest.id} (pending) is to make them:"
        f" `starforge backfill status --watch {rest.id}`"
    ), "one more beside it would be refused"
    await ended(conn, rest.id, state="failed", failed=1)
    [found] = of(await looked(conn, FEBRUARY), "upstream")
    assert "1 partition of its upstream orders (2024-02-28) is not completed" in found.text


async def test_names_upstream_are_judged_by_their_ordinals_and_what_only_an_app_maps_is_said(
    conn: Connection,
) -> None:
    regions = Static("eu", "us")
    assets = Assets(
        [
            made("regions", regions),
            made("reports", regions, upstream=["regions"]),
            made("days", upstream=[Upstream("regions", maps=lambda key: ["us"])]),
        ]
    )
    await made_of(conn, Assets([made("regions", Static("us"))]), asset="regions")
    await made_of(conn, Assets([made("regions", Static("eu"))]), asset="regions")
    await ended(conn, await conn.fetchval("SELECT id FROM backfill_jobs ORDER BY created_at LIMIT 1"))
    assert of(await looked(conn, Request(asset="reports", keys=("us",)), assets=assets), "upstream") == []
    [found] = of(await looked(conn, Request(asset="reports", keys=("eu",)), assets=assets), "upstream")
    assert found.text.startswith("1 partition of its upstream regions is not completed")
    await declare(conn, assets)
    kept = await declared_assets(conn)
    [found] = of(await looked(conn, Request(asset="days", keys=("2024-01-01",)), assets=kept), "upstream")
    assert (found.refuses, "only the app that declares days can tell" in found.text) == (False, True)


@covers("B-67", "B-07")
@pytest.mark.parametrize(
    ("failed", "version", "refuses", "told"),
    [
        (
            3,
            "1",
            True,
            "had 30% of its partitions fail, most often: the source is away; the code is the same",
        ),
        (3, "2", False, "the code has changed since"),
        (1, "1", False, "10% of the partitions of its last backfill failed"),
        (0, "1", None, ""),
    ],
)
async def test_what_failed_the_last_time_speaks_against_it(
    conn: Connection, failed: int, version: str, refuses: bool | None, told: str
) -> None:
    before = await made_of(conn, SHOP, asset="orders", first="2024-01-01", last="2024-01-10")
    await ended(conn, before.id, state="failed" if failed else "completed", failed=failed)
    code = Assets([made("orders", version=version)])
    found = of(await looked(conn, Request(asset="orders", keys=("2024-03-01",)), assets=code), "failures")
    assert [each.refuses for each in found] == ([] if refuses is None else [refuses])
    assert told in "".join(each.text for each in found)


@covers("B-67")
async def test_what_it_takes_follows_from_earlier_durations_and_is_held_against_the_sla(
    conn: Connection,
) -> None:
    request = Request(asset="orders", first="2024-03-01", last="2024-03-31")
    assert (await looked(conn, request)).estimates == {}
    before = await made_of(conn, SHOP, asset="orders", first="2024-01-01", last="2024-01-11")
    await ended(conn, before.id, ms=1000)
    found = await looked(conn, request, Options(sla="60s"))
    estimate = found.estimates["orders"]
    assert (estimate.seen, estimate.low_s, estimate.high_s) == (11, 6 * 31 / 2, 10 * 31 / 2)
    [late] = of(found, "duration")
    assert (late.refuses, "its SLA ends in" in late.text) == (False, True)
    assert of(await looked(conn, request, Options(sla="60s", concurrency=31)), "duration") == []


@covers("B-67")
async def test_a_concurrency_beyond_the_connections_there_are_refuses(conn: Connection) -> None:
    request = Request(asset="orders", keys=("2024-01-01",))
    capacity = (await read_budget(conn)).capacity
    [found] = of(await looked(conn, request, Options(concurrency=capacity + 1)), "connections")
    assert found.refuses
    assert "max_connections" in found.text
    await worker(conn, ["asset:orders"])
    [found] = of(await looked(conn, request, Options(concurrency=9)), "connections")
    assert not found.refuses
    assert of(await looked(conn, request, Options(concurrency=8)), "connections") == []


async def test_a_closed_gate_is_told_with_what_opens_it(conn: Connection) -> None:
    await close(conn, "queue", "backfill", owner="ann", reason="night", minutes=5)
    [found] = of(await looked(conn, Request(asset="orders", keys=("2024-01-01",))), "gate")
    assert found.text == "queue backfill is paused (ann: night); `starforge queue resume backfill`"


@covers("B-67")
async def test_a_disk_that_its_rows_would_fill_refuses(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    request = Request(asset="orders", first="2024-01-01", last="2024-01-31")
    for share, refusals in ((0.9, [True]), (1.5, [False]), (2.5, [])):
        room = Usage(int(31 * PARTITION_BYTES * share))
        monkeypatch.setattr(shutil, "disk_usage", lambda _place, room=room: room)
        found = of(await looked(conn, request), "disk")
        assert [each.refuses for each in found] == refusals
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/db")
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: Usage(0))
    assert of(await looked(conn, request), "disk") == []


async def test_a_preflight_writes_nothing(conn: Connection) -> None:
    assets = Assets([made("regions", Static("eu"))])
    await looked(conn, Request(asset="regions"), assets=assets)
    for table in ("backfill_jobs", "backfill_names", "setting_overrides"):
        assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 0


@covers("B-70", "B-67")
async def test_what_another_tenant_has_or_had_says_nothing_of_this_ones(conn: Connection) -> None:
    """Nor is any of it told: not who has the partitions, nor what failed, nor how long it took."""
    over = await made_of(conn, SHOP, asset="orders", first="2024-01-01", last="2024-01-10", tenant="theirs")
    await ended(conn, over.id, failed=9)
    await made_of(conn, SHOP, asset="orders", first="2024-02-01", last="2024-02-10", tenant="theirs")
    found = await looked(conn, Request(asset="orders", first="2024-02-01", last="2024-02-10"))
    assert {each.check for each in found.findings} == {"worker"}
    assert found.estimates == {}
    [above] = of(await looked(conn, FEBRUARY), "upstream")
    assert above.text.startswith("its upstream orders was never backfilled")
