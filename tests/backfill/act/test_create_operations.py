"""The operation, and the app's own call: looked at first, then created, and in the audit log."""

from __future__ import annotations

from typing import Any

import pytest

from starforge.app import StarForge
from starforge.backfill.asset.asset import Asset, Assets, asset
from starforge.backfill.asset.declared import declare
from starforge.backfill.asset.upstream import Upstream
from starforge.backfill.errors import (
    BackfillOptionError,
    OverlapError,
    PreflightError,
    SelectionError,
    UnknownAssetError,
)
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.scheme import Window
from starforge.backfill.scheme.window import Daily
from starforge.db.pool import Pool
from starforge.operation import OPERATIONS, BadArgumentError
from starforge.ops.perform import perform
from starforge.ops.plan import plan
from starforge.queue.handler import JobType, JobTypes
from starforge.queue.known import declare_types
from tests.covers import covers

DAYS = Daily("2024-01-01")
WHO: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}
JANUARY = {"from": "2024-01-01", "to": "2024-01-31"}


async def fill(partition: Partition[Window]) -> None:
    """Do nothing."""


def made(name: str, **options: Any) -> Asset:
    return asset(name, fill, partitions=DAYS, version="1", **options)


async def never(*_: Any) -> None: ...


@pytest.fixture
async def shop(pool: Pool) -> Pool:
    """A database whose workers have declared orders and, made from it, totals."""
    assets = Assets([made("orders"), made("totals", upstream=["orders"])])
    async with pool.transaction() as conn:
        await declare(conn, assets)
        await declare_types(conn, JobTypes(JobType(one.job_type, never, queue="backfill") for one in assets))
    return pool


async def test_an_asset_s_first_partition_is_named_by_from(shop: Pool) -> None:
    result = await perform(shop, "backfill create", {"asset": "orders", **JANUARY, "concurrency": 8}, **WHO)
    assert (result.matched, result.changed) == (31, 31)
    assert result.sample == ("orders 2024-01-01 … 2024-01-31",)
    assert result.after["backfills"][0]["partitions"] == 31
    assert any(told.startswith("worker: no live worker runs asset:orders") for told in result.after["warned"])
    async with shop.connection() as conn:
        assert await conn.fetchval("SELECT arguments->>'from' FROM audit_logs") == "2024-01-01"
        assert await conn.fetchval("SELECT value FROM setting_overrides WHERE scope = 'key'") == 8
        assert await conn.fetchval("SELECT created_by FROM backfill_jobs") == "ann"


async def test_what_was_created_says_how_to_follow_and_to_stop_it_and_that_nobody_runs_it(shop: Pool) -> None:
    result = await perform(shop, "backfill create", {"asset": "orders", **JANUARY}, **WHO)
    made_id = result.after["id"]
    assert "; warning: worker: no live worker runs asset:orders" in result.summary
    assert result.undone_by == ""
    assert list(result.next.items()) == [
        ("no live worker runs it; to start one", "starforge worker --app MODULE:ATTR"),
        ("to follow it", f"starforge backfill status --watch {made_id}"),
        ("to stop it", f"starforge backfill cancel {made_id} --reason TEXT"),
    ]
    planned = await plan(shop, "backfill create", {"asset": "orders", "keys": "2024-02-01"}, **WHO)
    assert planned.next["to stop it"] == "starforge backfill cancel ID --reason TEXT"


async def test_a_plan_tells_no_id_for_none_that_it_makes_is_kept(shop: Pool) -> None:
    asked = {"asset": "totals", **JANUARY, "include_upstream": True}
    planned = await plan(shop, "backfill create", asked, **WHO)
    assert planned.summary.startswith(
        "a backfill is created: 2 backfills, 62 partitions;"
        " totals: 31 partitions, 2024-01-01 to 2024-01-31, once orders is complete; warning: "
    )
    assert [one["asset"] for one in planned.after["backfills"]] == ["orders", "totals"]
    assert "'id'" not in str(planned.after)


async def test_a_plan_shows_what_would_be_created_and_is_applied(shop: Pool) -> None:
    asked = {"asset": "orders", "keys": "2024-01-05,2024-01-03", "reason": "late files"}
    planned = await plan(shop, "backfill create", asked, **WHO)
    assert "orders: 2 partitions, 2024-01-03 to 2024-01-05; warning: worker" in planned.summary
    async with shop.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM backfill_jobs") == 0
    applied = await perform(shop, "backfill create", asked, plan_id=planned.id, **WHO)
    assert applied.changed == 2


@covers("B-67", "F-68")
async def test_a_refusing_preflight_is_overridden_with_a_reason_that_is_kept(shop: Pool) -> None:
    async with shop.connection() as conn:
        await conn.execute("DELETE FROM job_types")
    with pytest.raises(PreflightError, match="worker: asset orders: no worker has ever known asset:orders"):
        await perform(shop, "backfill create", {"asset": "orders", **JANUARY}, **WHO)
    forced = {"asset": "orders", **JANUARY, "override_preflight": True}
    with pytest.raises(BackfillOptionError, match="needs a --reason"):
        await perform(shop, "backfill create", forced, **WHO)
    result = await perform(shop, "backfill create", {**forced, "reason": "deploy follows"}, **WHO)
    assert result.reason == "deploy follows"
    assert [told.partition(":")[0] for told in result.after["overridden"]] == ["worker"]


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"asset": "order"}, UnknownAssetError, "did you mean orders"),
        (
            {"asset": "orders", "keys": "2024-01-01", "to": "2024-01-02"},
            SelectionError,
            "leave --from and --to",
        ),
        ({"asset": "orders", "max_depth": 2}, SelectionError, "give both or neither"),
        ({"asset": "orders", "canary": "120%"}, SelectionError, "above 0 and below 100 %"),
        ({"asset": "orders", "concurrency": 0}, BadArgumentError, "concurrency"),
        ({"asset": "orders", "from_": "2024-01-01"}, BadArgumentError, "takes no argument from_"),
    ],
)
async def test_bad_arguments_are_refused(
    shop: Pool, arguments: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        await perform(shop, "backfill create", arguments, **WHO)


def test_the_operation_s_arguments_are_named_as_people_write_them() -> None:
    names = [parameter.name for parameter in OPERATIONS["backfill create"].parameters]
    assert names[:4] == ["asset", "from", "to", "keys"]


async def test_an_app_creates_backfills_of_its_own_assets(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", pool.url)
    app = StarForge("shop")

    @app.asset("orders", partitions=DAYS, concurrency=2)
    async def orders(day: Partition[Window]) -> None:
        """Do nothing."""

    @app.asset("totals", partitions=DAYS, upstream=[Upstream("orders", maps=lambda key: ["2024-01-01", key])])
    async def totals(day: Partition[Window]) -> None:
        """Do nothing."""

    assert {"asset:orders", "asset:totals"} <= set(app.job_types().names())
    declared = app.job_types().declared("asset:orders")
    assert declared is not None
    assert declared.limit is not None
    assert (declared.limit.per_key, declared.queue) == (2, "backfill")
    async with pool.connection() as conn:
        await declare_types(conn, app.job_types())
    found = await app.backfill(totals, keys=["2024-01-09"], include_upstream=True, canary="50%", sla="2h")
    assert [(each.asset, each.partitions) for each in found.backfills] == [("orders", 2), ("totals", 1)]
    async with pool.connection() as conn:
        row = await conn.fetchrow("SELECT operation, actor, matched FROM audit_logs")
    assert row is not None
    assert tuple(row) == ("backfill create", "app shop", 3)
    with pytest.raises(OverlapError):
        await app.backfill("totals", keys=["2024-01-09"])
