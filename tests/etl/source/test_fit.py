"""Fit: what a mapping asks of the database, compared with what is there; and the tables that it prints."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from starforge.db.pool import Connection, connect
from starforge.etl.authoring.ddl import ddl
from starforge.etl.errors import MappingUnfitError
from starforge.etl.mapping import (
    BIGINT,
    DOUBLE,
    ID,
    INTEGER,
    JSON,
    TEXT,
    TIMESTAMP,
    Catalogue,
    Column,
    Each,
    Keep,
    Mapping,
    Ref,
    Table,
    array,
    scaled,
    text,
)
from starforge.etl.source import fit
from starforge.etl.source.fit import Fits, misfits
from starforge.heroes.mapping import HERO
from tests.covers import covers

FHIR: Mapping = importlib.import_module("examples.fhir.app").MAPPING
TABLES = Path(__file__).parents[3] / "examples" / "fhir" / "tables.sql"

ODD = Mapping(
    "odd's",
    subject="group",
    tables=[
        Table(
            "group",
            key=("tenant_id", "code"),
            columns=[
                Column("code", "Code", text(1, 64)),
                Column("order", "Order", TEXT, default="it's a \\ b"),
                Column("took", "Took", scaled(DOUBLE, 1000), unit="s"),
            ],
        ),
        Table(
            "own.members",
            rows=Each("Members"),
            key=("group_id", "id"),
            left=Keep("gone_at"),
            columns=[
                Ref("group_id", "group", "/Code", id="number", sql="bigint"),
                Column("id", ID, BIGINT, catalogue=Catalogue("own.kinds", missing="hold", owner="data")),
                Column("tags", "Tags", array(TEXT), default=["a"]),
                Column("since", "Since", TIMESTAMP),
                Column("of", "Of", TEXT, refers="group"),
                Column("rest", "Rest", JSON, default={"it's": 1}),
            ],
        ),
    ],
)
"""Names that SQL keeps for itself, quotes, a schema, and each kind of reference."""


async def told(conn: Connection, mapping: Mapping) -> list[str]:
    return [f"{each.level}: {each.table}: {each.told}" for each in await misfits(conn, mapping)]


def shape_of(tables: list[str]) -> str:
    """A query for everything about tables that their mapping depends on."""
    names = ", ".join(f"'{name}'" for name in tables)
    return f"""
        SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity,
            (SELECT jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                                                pg_get_expr(d.adbin, d.adrelid)) ORDER BY a.attname)
             FROM pg_attribute a LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
             WHERE a.attrelid = c.oid AND a.attnum > 0) AS columns,
            (SELECT jsonb_agg(pg_get_constraintdef(k.oid) ORDER BY pg_get_constraintdef(k.oid))
             FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'f')) AS keys,
            (SELECT jsonb_agg(jsonb_build_array(pg_get_expr(p.polqual, p.polrelid), p.polcmd,
                                                (SELECT array_agg(r::regrole::text ORDER BY r::regrole::text)
                                                 FROM unnest(p.polroles) AS r))
                              ORDER BY pg_get_expr(p.polqual, p.polrelid))
             FROM pg_policy p WHERE p.polrelid = c.oid) AS policies,
            (SELECT array_agg(x::text ORDER BY x::text) FROM unnest(c.relacl) AS x) AS rights
        FROM pg_class c WHERE c.relkind = 'r' AND c.relname IN ({names}) ORDER BY 1"""


async def owner_of(database: str) -> Connection:
    conn = await connect(database)
    await conn.execute("SET ROLE starforge_owner")
    return conn


async def test_the_built_in_mapping_fits_its_migrations(conn: Connection) -> None:
    assert await told(conn, HERO) == []


@covers("F-41")
async def test_what_the_ddl_makes_in_a_database_without_the_tables_fits(database: str) -> None:
    conn = await owner_of(database)
    await conn.execute(ddl(FHIR))
    assert await told(conn, FHIR) == []
    await conn.close()


async def test_quoted_names_schemas_and_references_come_out_right(database: str) -> None:
    conn = await connect(database)
    await conn.execute(ddl(ODD))
    assert await told(conn, ODD) == []
    assert await conn.fetchval(
        """INSERT INTO "group" (tenant_id, code) VALUES ('t', 'a') RETURNING "order" """
    ) == ("it's a \\ b")
    assert await conn.fetchval("""SELECT col_description('"group"'::regclass, 5)""") == "in s"
    await conn.close()


async def test_the_ddl_of_the_example_makes_the_tables_that_it_ships(database: str) -> None:
    """Columns, types, keys, references, policies and rights are the same; only the indexes beside differ."""
    conn = await owner_of(database)
    await conn.execute(TABLES.read_text())
    shipped = [dict(row) for row in await conn.fetch(shape_of(list(FHIR.tables)))]
    await conn.execute(f"DROP TABLE {', '.join(FHIR.tables)} CASCADE")
    await conn.execute(ddl(FHIR))
    assert [dict(row) for row in await conn.fetch(shape_of(list(FHIR.tables)))] == shipped
    assert await told(conn, FHIR) == []
    await conn.close()


CUSTOMERS = Table(
    "customers",
    key=("tenant_id", "code"),
    columns=[Column("code", "Code", text(1, 8)), Column("age", "Age", INTEGER)],
)
SHOP = Mapping("shop", subject="customers", tables=[CUSTOMERS])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP TABLE customers", "fault: customers: does not exist; `starforge mapping ddl` prints it"),
        ("ALTER TABLE customers DROP COLUMN age", "fault: customers: has no column age"),
        ("ALTER TABLE customers DROP COLUMN tenant_id CASCADE", "fault: customers: has no column tenant_id"),
        (
            "ALTER TABLE customers ALTER age TYPE smallint",
            "fault: customers: column age is smallint, which does not hold every integer",
        ),
        (
            "ALTER TABLE customers ALTER age TYPE text",
            "fault: customers: column age is text, which does not hold every integer",
        ),
        (
            "ALTER TABLE customers DROP CONSTRAINT customers_pkey",
            "fault: customers: has no unique index on exactly (tenant_id, code), the mapping's key",
        ),
        (
            "ALTER TABLE customers ADD COLUMN shoe integer NOT NULL",
            "fault: customers: column shoe takes no null, has no default, and the mapping does not write it",
        ),
        (
            "ALTER TABLE customers ALTER age SET NOT NULL",
            "warning: customers: column age takes no null,"
            " and the mapping has one where the document has none",
        ),
        (
            "REVOKE UPDATE ON customers FROM starforge_engine",
            "fault: customers: starforge_engine may not UPDATE there",
        ),
        (
            "ALTER TABLE customers NO FORCE ROW LEVEL SECURITY",
            "warning: customers: has no row security that binds its owner too,"
            " so tenants are kept apart by nothing",
        ),
        (
            "DROP POLICY tenant_own ON customers",
            "fault: customers: has row security and no policy that lets starforge_engine in",
        ),
    ],
)
async def test_each_difference_is_told_with_the_line_of_the_mapping(
    conn: Connection, change: str, said: str
) -> None:
    await conn.execute(ddl(SHOP).replace("BEGIN;\n", "").replace("COMMIT;", ""))
    assert await told(conn, SHOP) == []
    await conn.execute(change)
    assert said in await told(conn, SHOP)
    [place] = {each.at.rpartition(":")[0] for each in await misfits(conn, SHOP)}
    assert place.endswith("tests/etl/source/test_fit.py")


async def test_a_wider_column_and_a_longer_text_fit(conn: Connection) -> None:
    await conn.execute(ddl(SHOP).replace("BEGIN;\n", "").replace("COMMIT;", ""))
    await conn.execute("ALTER TABLE customers ALTER age TYPE bigint, ALTER code TYPE varchar")
    assert await told(conn, SHOP) == []


async def test_a_source_whose_mapping_does_not_fit_is_refused_until_it_does(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = Fits()
    await fits.require(conn, HERO)
    with pytest.raises(MappingUnfitError, match="source 'shop' does not fit the database: table customers"):
        await fits.require(conn, SHOP)
    await conn.execute(ddl(SHOP).replace("BEGIN;\n", "").replace("COMMIT;", ""))
    with pytest.raises(MappingUnfitError):
        await fits.require(conn, SHOP)
    monkeypatch.setattr(fit, "AGAIN_S", 0.0)
    await fits.require(conn, SHOP)


def test_the_printed_tables_name_the_source_whatever_it_is_called() -> None:
    assert ddl(ODD).startswith("-- The tables of source odd's,")
