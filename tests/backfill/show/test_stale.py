"""Which partitions should be made again: missing ones, those older than their inputs, those of older code."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from starforge.backfill.asset.asset import Assets, asset
from starforge.backfill.asset.upstream import Upstream
from starforge.backfill.create.facts import DatabaseFacts
from starforge.backfill.errors import UnknownAssetError
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.keyed import Static
from starforge.backfill.scheme.window import Daily, Monthly
from starforge.backfill.show.stale import Staleness, stale_partitions
from starforge.db.pool import Connection
from tests.backfill.rows import a_backfill
from tests.covers import covers

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
START, END = "2026-01-01", "2026-01-04"


async def make(partition: Partition[Any]) -> None:
    """Make nothing."""


def assets(*upstream: str | Upstream, version: str = "v2") -> Assets:
    """Declare raw, by the day, and orders, made from it where that is said."""
    return Assets(
        [
            asset("raw", make, partitions=Daily("2026-01-01"), version="v1"),
            asset("orders", make, partitions=Daily("2026-01-01"), upstream=upstream, version=version),
            asset("monthly", make, partitions=Monthly("2026-01"), upstream=["raw"], version="v1"),
            asset("shops", make, partitions=Static("north", "south"), version="v1"),
        ]
    )


async def made(conn: Connection, name: str, *keys: str, minutes: float = 0, code: str | None = "v2") -> UUID:
    """Complete partitions of an asset, so many minutes after noon."""
    backfill_id = await a_backfill(conn, name, state="completed")
    scheme = assets().get(name).partitions
    for place, key in enumerate(keys):
        ordinal = scheme.ordinal(key)
        await conn.execute(
            "INSERT INTO backfill_partitions (backfill_job_id, partition_key, tenant_id, ordinal, state,"
            " completed_at, code_version) VALUES ($1, $2, 'default', $3, 'completed', $4, $5)",
            backfill_id, key, place if ordinal is None else ordinal, NOON + timedelta(minutes=minutes), code,
        )  # fmt: skip
    return backfill_id


async def look(conn: Connection, declared: Assets, name: str = "orders", **ends: str | None) -> Staleness:
    facts = DatabaseFacts(conn, registering=False)
    span = {"first": START, "last": END, **ends}
    return await stale_partitions(conn, declared, facts, name, tenant="default", **span)


def kinds(found: Staleness) -> list[tuple[str, str]]:
    return [(one.key, one.kind) for one in found.partitions]


async def test_what_no_backfill_completed_is_missing(conn: Connection) -> None:
    await made(conn, "orders", "2026-01-01", "2026-01-03")
    found = await look(conn, assets())
    assert (found.total, kinds(found)) == (4, [("2026-01-02", "missing"), ("2026-01-04", "missing")])
    ordinals = [assets().get("orders").partitions.ordinal(one.key) for one in found.partitions]
    assert [one.ordinal for one in found.partitions] == ordinals
    await conn.execute("UPDATE backfill_partitions SET state = 'failed'")
    assert (await look(conn, assets())).count("missing") == 4


async def test_what_another_version_of_the_code_made_is_stale(conn: Connection) -> None:
    await made(conn, "orders", "2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04", code="v1")
    await made(conn, "orders", "2026-01-02", minutes=5, code="v2")
    await made(conn, "orders", "2026-01-03", minutes=5, code=None)
    found = await look(conn, assets())
    assert kinds(found) == [("2026-01-01", "code"), ("2026-01-04", "code")]
    assert found.partitions[0].why == "version v1 of the code made it, and it is v2 now"


async def test_what_is_older_than_its_inputs_is_stale(conn: Connection) -> None:
    await made(conn, "orders", "2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")
    await made(conn, "raw", "2026-01-01", "2026-01-02", minutes=-5, code="v1")
    await made(conn, "raw", "2026-01-02", minutes=5, code="v1")
    found = await look(conn, assets("raw"))
    assert kinds(found) == [("2026-01-02", "older")]
    assert found.partitions[0].why == "2026-01-02 of raw was made after it"
    assert kinds(await look(conn, assets())) == []


async def test_inputs_of_another_scheme_are_found_by_their_time(conn: Connection) -> None:
    await made(conn, "monthly", "2026-01", "2026-02", code="v1")
    await made(conn, "raw", "2026-02-28", minutes=5, code="v1")
    await made(conn, "raw", "2026-01-31", minutes=-5, code="v1")
    found = await look(conn, assets(), "monthly", first="2026-01", last="2026-02")
    assert kinds(found) == [("2026-02", "older")]
    assert found.partitions[0].why == "2026-02-28 of raw was made after it"


async def test_inputs_that_only_the_app_knows_are_told_and_not_guessed(conn: Connection) -> None:
    declared = assets(Upstream("raw", maps=lambda key: ["2026-01-01"]))
    await made(conn, "orders", "2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")
    await made(conn, "raw", "2026-01-01", minutes=5, code="v1")
    assert (await look(conn, declared)).count("older") == 4


async def test_partitions_with_names_are_looked_at_without_giving_them_ordinals(conn: Connection) -> None:
    await made(conn, "shops", "north", code="v1")
    found = await look(conn, assets(), "shops", first=None, last=None)
    assert kinds(found) == [("south", "missing")]
    assert await conn.fetchval("SELECT count(*) FROM backfill_names") == 0


@covers("B-70")
async def test_what_another_tenant_made_does_not_count(conn: Connection) -> None:
    await made(conn, "orders", "2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")
    await conn.execute("UPDATE backfill_jobs SET tenant_id = 'theirs'")
    assert (await look(conn, assets())).count("missing") == 4


async def test_an_unknown_asset_is_refused(conn: Connection) -> None:
    with pytest.raises(UnknownAssetError):
        await look(conn, assets(), "odrers")
