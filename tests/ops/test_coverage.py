"""Coverage: a backfill of stored snapshots is told what the catalogues lack."""

from __future__ import annotations

from starforge.backfill.asset.asset import Assets
from starforge.backfill.create.choose import choose
from starforge.backfill.create.facts import DatabaseFacts
from starforge.backfill.create.options import Options
from starforge.backfill.create.preflight import Finding, preflight
from starforge.backfill.scheme.snapshot_range import SnapshotRange
from starforge.backfill.scheme.window import Daily
from starforge.backfill.select.select import Request
from starforge.db.pool import Connection
from starforge.ops import registry
from tests.backfill.create.test_create import made
from tests.covers import covers

ASSETS = Assets([made("again", SnapshotRange("fhir", every=Daily("2024-01-01"))), made("orders")])


async def found(conn: Connection, asset: str) -> list[Finding]:
    registry.load()
    request = Request(asset=asset, keys=("2024-01-01",))
    facts = DatabaseFacts(conn, registering=False)
    selection = await choose(conn, ASSETS, request, facts, tenant="default")
    looked = await preflight(conn, ASSETS, selection, Options(), tenant="default")
    return [each for each in looked.findings if each.check == "catalogue"]


@covers("B-67")
async def test_what_the_catalogues_of_a_source_lack_is_told_before_its_snapshots_are_made_again(
    conn: Connection,
) -> None:
    assert await found(conn, "again") == []
    await conn.execute(
        "INSERT INTO catalogue_placeholders (catalogue, key_column, id, source)"
        " SELECT 'codes', 'id', 'c' || n, 'fhir' FROM generate_series(1, 5) AS n"
    )
    [lacking] = await found(conn, "again")
    assert not lacking.refuses
    assert "(c1 of codes, c2 of codes, c3 of codes and 2 more)" in lacking.text
    assert await found(conn, "orders") == []
