"""`starforge backfill create` and its dry run, as a user runs them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from starforge.backfill.asset.asset import Assets
from starforge.backfill.asset.declared import declare
from starforge.db.pool import Pool
from tests.backfill.create.test_create import made
from tests.cli.test_mappings import run
from tests.covers import covers

JANUARY = ("--from", "2024-01-01", "--to", "2024-01-31")


@pytest.fixture
async def shop(pool: Pool, database: str) -> str:
    """A database whose workers have declared two assets and have all ended."""
    async with pool.transaction() as conn:
        await declare(conn, Assets([made("orders"), made("totals", upstream=["orders"])]))
        await conn.execute(
            "INSERT INTO job_types (name, queue)"
            " VALUES ('asset:orders', 'backfill'), ('asset:totals', 'backfill')"
        )
    return database


async def written(pool: Pool) -> list[int]:
    async with pool.connection() as conn:
        tables = ("backfill_jobs", "backfill_partitions", "backfill_names", "audit_logs", "operation_plans")
        return [await conn.fetchval(f"SELECT count(*) FROM {table}") for table in tables]


@covers("B-67")
async def test_a_dry_run_shows_what_would_be_created_and_writes_nothing(shop: str, pool: Pool) -> None:
    words = ("backfill", "create", "totals", *JANUARY, "--include-upstream", "--canary", "10%", "--dry-run")
    code, out, _ = await run(shop, *words)
    assert code == 0
    assert [line.split()[:5] for line in out.splitlines()[1:3]] == [
        ["orders", "31", "2024-01-01", "2024-01-31", "4"],
        ["totals", "31", "2024-01-01", "2024-01-31", "4"],
    ]
    assert "warning: worker: asset orders: no live worker runs asset:orders" in out
    assert out.rstrip().endswith("The same without --dry-run creates it.")
    document = json.loads((await run(shop, *words, "--json"))[1])
    assert (document["refused"], document["partitions"]) == (False, 62)
    assert document["parts"][1]["canary"] == {"share": 0.1, "partitions": 4}
    assert document["parts"][1]["concurrency"] == 4
    assert await written(pool) == [0, 0, 0, 0, 0]


async def test_a_dry_run_says_all_that_would_be_refused(shop: str, pool: Pool) -> None:
    code, out, _ = await run(
        shop,
        "backfill",
        "create",
        "orders",
        "--keys",
        "2024-02-30,1999-01-01,x",
        "--sla",
        "never",
        "--dry-run",
    )
    assert code == 1
    for told in (
        "--sla 'never' is no moment",
        "'2024-02-30' is not in the calendar",
        "'x' is not written as",
        "1999-01-01 is before the first partition",
    ):
        assert told in out
    created, _, _ = await run(shop, "backfill", "create", "orders", *JANUARY)
    assert created == 0
    code, out, _ = await run(
        shop, "backfill", "create", "orders", "--keys", "2024-01-05", "--dry-run", "--json"
    )
    assert code == 1
    assert [found["check"] for found in json.loads(out)["findings"] if found["refuses"]] == ["overlap"]


@covers("B-70")
async def test_a_backfill_is_created_shown_and_planned_by_the_same_command(shop: str, pool: Pool) -> None:
    words = ("backfill", "create", "orders", *JANUARY, "--concurrency", "2")
    _, planned, _ = await run(shop, *words, "--plan", "--json")
    assert json.loads(planned)["changed"] == 31
    code, out, _ = await run(shop, *words, "--json")
    document: dict[str, Any] = json.loads(out)
    assert (code, document["operation"], document["changed"]) == (0, "backfill create", 31)
    assert document["after"]["backfills"][0]["id"] == document["after"]["id"]
    code, _, err = await run(shop, *words)
    assert code == 1
    assert "SF510" in err
    assert f"starforge backfill status {document['after']['id']}" in err
    code, _, err = await run(shop, *words, "--dry-run", "--plan")
    assert (code, "--dry-run only looks" in err) == (2, True)
