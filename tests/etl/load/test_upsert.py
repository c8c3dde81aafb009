"""Upsert: what one document changes, what a replay and an older capture leave alone, and who waits."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from starforge.db.pool import Connection, Pool, connect, set_tenant
from starforge.etl.errors import MappingError
from starforge.etl.load import upsert
from starforge.etl.load.parts import Written
from starforge.etl.load.write import write
from starforge.etl.mapping import (
    BIGINT,
    DOUBLE,
    ID,
    INTEGER,
    LIST,
    TEXT,
    TIMESTAMP,
    Catalogue,
    Column,
    Delete,
    Each,
    Keep,
    Mapping,
    One,
    Ref,
    Table,
    array,
)
from tests.covers import covers
from tests.postgres import TestServer

CUSTOMER = Ref("customer_id", "customers", "/Code")


def shop(missing: Any = "placeholder") -> Mapping:
    """A shop: customers with items that stay, notes that go, and clubs that customers share."""
    return Mapping(
        "shop",
        subject="customers",
        tables=[
            Table("customers", key=("tenant_id", "code"), columns=[Column("code", "Code", TEXT)]),
            Table(
                "items",
                rows=Each("Items", id="Id"),
                key=("customer_id", "item_id"),
                left=Keep("last_seen"),
                columns=[
                    CUSTOMER,
                    Column("item_id", ID, BIGINT, catalogue=Catalogue("item_catalog", missing=missing)),
                    Column("amount", "Amount", INTEGER, default=0),
                    Column("weight", "Weight", DOUBLE),
                    Column("at", "At", TIMESTAMP),
                    Column("tags", "Tags", array(TEXT), default=[]),
                    Column("parts", "Parts", LIST, default=[]),
                ],
            ),
            Table(
                "notes",
                rows=Each("Notes"),
                key=("customer_id", "name"),
                left=Delete(),
                extra=None,
                columns=[CUSTOMER, Column("name", "Name", TEXT)],
            ),
            Table(
                "clubs",
                rows=Each("Clubs", id="Name"),
                key=("tenant_id", "name"),
                shared=True,
                columns=[Column("name", ID, TEXT), Column("city", "City", TEXT)],
            ),
            Table(
                "members",
                rows=One(when="Club"),
                key=("customer_id",),
                left=Delete(),
                extra=None,
                columns=[CUSTOMER, Ref("club_id", "clubs", "Club")],
            ),
        ],
    )


SHOP = shop()
TABLES = """
CREATE TABLE customers (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id text NOT NULL,
    code text NOT NULL, extra jsonb NOT NULL DEFAULT '{}', created_at timestamptz NOT NULL DEFAULT sf_now(),
    updated_at timestamptz NOT NULL DEFAULT sf_now(), UNIQUE (tenant_id, code));
CREATE TABLE item_catalog (id bigint PRIMARY KEY, name text, meta jsonb NOT NULL DEFAULT '{}');
CREATE TABLE items (customer_id uuid NOT NULL REFERENCES customers (id), tenant_id text NOT NULL,
    item_id bigint NOT NULL REFERENCES item_catalog (id), amount integer NOT NULL, weight double precision,
    at timestamptz, tags text[] NOT NULL, parts jsonb NOT NULL, last_seen timestamptz,
    extra jsonb NOT NULL DEFAULT '{}', updated_at timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (customer_id, item_id));
CREATE TABLE notes (customer_id uuid NOT NULL REFERENCES customers (id), tenant_id text NOT NULL,
    name text NOT NULL, updated_at timestamptz NOT NULL DEFAULT sf_now(), PRIMARY KEY (customer_id, name));
CREATE TABLE clubs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id text NOT NULL,
    name text NOT NULL, city text, extra jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT sf_now(), UNIQUE (tenant_id, name));
CREATE TABLE members (customer_id uuid PRIMARY KEY REFERENCES customers (id), tenant_id text NOT NULL,
    club_id uuid NOT NULL REFERENCES clubs (id), updated_at timestamptz NOT NULL DEFAULT sf_now());
"""
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def made(conn: Connection) -> Connection:
    """A connection to a database with the shop's tables."""
    await conn.execute(TABLES)
    return conn


@pytest.fixture
async def shop_pool(pool: Pool) -> Pool:
    """A pool on a database with the shop's tables."""
    async with pool.connection() as conn:
        await conn.execute(TABLES)
    return pool


async def put(
    conn: Connection, document: Any, hour: float = 0, mapping: Mapping = SHOP, **more: Any
) -> Written:
    """Write a document taken `hour` hours after the start."""
    at = START + timedelta(hours=hour)
    return await write(conn, mapping, document, tenant="default", captured_at=at, **more)


async def rows(conn: Connection, table: str, columns: str = "*") -> list[dict[str, Any]]:
    """Every row of a table, in the order of its columns."""
    return [dict(row) for row in await conn.fetch(f"SELECT {columns} FROM {table} ORDER BY 1, 2")]


async def versions(conn: Connection) -> list[Any]:
    """What tells any write to any row of the shop apart: its place and the transaction that made it."""
    tables = ("customers", "items", "notes", "clubs", "members", "item_catalog")
    found = []
    for table in tables:
        found += [
            tuple(row) for row in await conn.fetch(f"SELECT ctid::text, xmin::text FROM {table} ORDER BY 1")
        ]
    return found


FULL: dict[str, Any] = {
    "Code": "A",
    "Items": {
        "7": {
            "Amount": 2,
            "Weight": 1.5,
            "At": "2026-01-01T00:00:00Z",
            "Tags": ['a"b', "c"],
            "Parts": [{"x": 1}],
        },
        "8": {"Amount": 3, "Colour": "red"},
    },
    "Notes": [{"Name": "first"}, {"Name": "second"}],
    "Clubs": [{"Name": "chess", "City": "Rome"}],
    "Club": "chess",
}


async def test_every_value_arrives_as_it_was(made: Connection) -> None:
    written = await put(made, FULL)
    assert written == Written(7, {"item_catalog": [7, 8]}, (), True)
    first, second = await rows(made, "items", "item_id, amount, weight, at, tags, parts, extra")
    assert (first["item_id"], first["amount"], first["weight"]) == (7, 2, 1.5)
    assert (first["at"], first["tags"], first["parts"]) == (START, ['a"b', "c"], [{"x": 1}])
    assert (second["weight"], second["tags"], second["parts"]) == (None, [], [])
    assert (first["extra"], second["extra"]) == ({}, {"Colour": "red"})
    assert await made.fetchval("SELECT c.name FROM members JOIN clubs c ON c.id = club_id") == "chess"


async def test_a_replay_writes_no_row_and_touches_none(made: Connection) -> None:
    await put(made, FULL)
    before = await versions(made)
    assert await put(made, FULL) == Written(0, {}, (), True)
    assert await put(made, FULL, hour=1) == Written(0, {}, (), True)
    assert await versions(made) == before


async def test_only_what_differs_is_written_and_stamped(pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute(TABLES)
        await put(conn, FULL)
        before = {row["item_id"]: row["updated_at"] for row in await rows(conn, "items")}
        changed = {**FULL, "Items": {**FULL["Items"], "8": {"Amount": 4}}}
        assert (await put(conn, changed, hour=1)).rows_written == 1
        after = {row["item_id"]: row["updated_at"] for row in await rows(conn, "items")}
        assert after[7] == before[7]
        assert after[8] > before[8]
        assert await conn.fetchval("SELECT extra FROM items WHERE item_id = 8") == {}


async def test_many_rows_by_copy_become_what_few_rows_by_arrays_do(
    made: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def items(count: int) -> dict[str, Any]:
        one = {"Tags": ['x"\\y', "z"], "Parts": [{"n": None}], "Odd": {"k": "\ufffd"}, "Weight": 0.1}
        return {str(n): {**one, "Amount": n} if n % 3 else {} for n in range(1, count)}

    many, document = upsert.STAGED_ROWS + 500, {"Code": "A"}
    assert (await put(made, {**document, "Items": items(many)})).rows_written == many
    assert (await put(made, {**document, "Items": items(many)}, hour=1)).rows_written == 0
    staged = await rows(made, "items", "item_id, amount, weight, at, tags, parts, extra, last_seen")

    monkeypatch.setattr(upsert, "STAGED_ROWS", many + 1)
    assert (await put(made, {**document, "Items": items(many)}, hour=2)).rows_written == 0
    assert (await put(made, {"Code": "B", "Items": items(many)})).rows_written == many
    by_arrays = "items WHERE customer_id = (SELECT id FROM customers WHERE code = 'B')"
    assert await rows(made, by_arrays, "item_id, amount, weight, at, tags, parts, extra, last_seen") == staged


async def test_two_large_documents_can_follow_each_other_in_one_transaction(made: Connection) -> None:
    items: dict[str, Any] = {str(n): {} for n in range(upsert.STAGED_ROWS)}
    for code in ("A", "B"):
        assert (await put(made, {"Code": code, "Items": items})).rows_written == upsert.STAGED_ROWS + 1
    assert await made.fetchval("SELECT count(*) FROM items") == 2 * upsert.STAGED_ROWS


# ---- rows that left


async def test_a_row_that_left_keeps_the_time_when_it_was_last_seen(made: Connection) -> None:
    await put(made, {"Code": "A", "Items": {"7": {}, "8": {}}})
    await put(made, {"Code": "A", "Items": {"7": {}, "8": {}}}, hour=1)
    assert (await put(made, {"Code": "A", "Items": {"7": {}}}, hour=2)).rows_written == 1
    seen = {row["item_id"]: row["last_seen"] for row in await rows(made, "items")}
    assert seen == {7: None, 8: START + timedelta(hours=1)}

    await put(made, {"Code": "A"}, hour=3)
    seen = {row["item_id"]: row["last_seen"] for row in await rows(made, "items")}
    assert seen == {7: START + timedelta(hours=2), 8: START + timedelta(hours=1)}

    assert (await put(made, {"Code": "A", "Items": {"8": {}}}, hour=4)).rows_written == 1
    assert await made.fetchval("SELECT last_seen FROM items WHERE item_id = 8") is None


async def test_rows_of_others_do_not_leave(made: Connection) -> None:
    await put(made, FULL)
    await put(made, {**FULL, "Code": "B"})
    await put(made, {"Code": "B"}, hour=1)
    left = (
        "SELECT count(*) FROM items JOIN customers c ON c.id = customer_id"
        " WHERE last_seen IS NULL AND code = $1"
    )
    assert await made.fetchval(left, "A") == 2
    assert await made.fetchval(left, "B") == 0
    assert await made.fetchval("SELECT count(*) FROM notes") == 2
    assert await made.fetchval("SELECT count(*) FROM members") == 1


async def test_rows_that_are_not_kept_are_deleted_when_they_leave(made: Connection) -> None:
    await put(made, FULL)
    assert (await put(made, {**FULL, "Notes": [{"Name": "second"}], "Club": None}, hour=1)).rows_written == 2
    assert [row["name"] for row in await rows(made, "notes", "name, tenant_id")] == ["second"]
    assert await rows(made, "members") == []


# ---- time


@covers("F-21")
async def test_an_older_capture_writes_nothing_at_all(made: Connection) -> None:
    await put(made, FULL, hour=2)
    before = await versions(made)
    older = {
        "Code": "A",
        "Items": {"7": {"Amount": 9}, "99": {}},
        "Notes": [],
        "Clubs": [{"Name": "go", "City": "Bern"}],
    }
    written = await put(made, older, hour=1)
    assert written == Written(0, {}, ("customers", "items", "members", "notes"), False)
    assert await versions(made) == before


async def test_other_content_of_the_same_time_is_written(made: Connection) -> None:
    await put(made, {"Code": "A", "Items": {"7": {"Amount": 1}}})
    assert (await put(made, {"Code": "A", "Items": {"7": {"Amount": 2}}})).rows_written == 1


async def test_only_the_entities_that_are_behind_are_written(made: Connection) -> None:
    await put(made, FULL, hour=0)
    await put(made, {**FULL, "Items": {"7": {"Amount": 9}}, "Notes": []}, hour=2, only=["items"])
    written = await put(made, {**FULL, "Items": {}, "Notes": [{"Name": "third"}]}, hour=1)
    assert written.superseded == ("items",)
    assert written.complete
    assert await made.fetchval("SELECT amount FROM items WHERE item_id = 7") == 9
    assert [row["name"] for row in await rows(made, "notes", "name, tenant_id")] == ["third"]


async def test_a_table_written_alone_finds_the_rows_that_it_refers_to(made: Connection) -> None:
    await put(made, {"Code": "A"}, only=["customers"])
    written = await put(made, FULL, only=["items"])
    assert written.rows_written == 2
    assert await rows(made, "notes") == []
    with pytest.raises(MappingError, match="customer_id refers to 'B' of customers, which has no such row"):
        await put(made, {**FULL, "Code": "B"}, only=["items"])


# ---- shared rows


async def test_a_shared_row_keeps_the_latest_description_whoever_gave_it(made: Connection) -> None:
    async def city() -> Any:
        return await made.fetchval("SELECT city FROM clubs WHERE name = 'chess'")

    def told(code: str, town: str | None) -> dict[str, Any]:
        return {"Code": code, "Clubs": [{"Name": "chess", "City": town}], "Club": "chess"}

    await put(made, told("A", "Rome"), hour=5)
    written = await put(made, told("B", "Oslo"), hour=3)
    assert (await city(), written.superseded, written.complete) == ("Rome", ("clubs",), True)
    assert await made.fetchval("SELECT count(*) FROM members") == 2
    await put(made, told("C", "Bern"), hour=6)
    assert await city() == "Bern"
    await put(made, told("D", None), hour=7)
    assert await city() == "Bern"
    await put(made, told("E", "Graz"), hour=6.5)
    assert await city() == "Graz"


async def test_a_shared_row_that_is_only_mentioned_is_made(made: Connection) -> None:
    await put(made, {"Code": "A", "Clubs": [{"Name": "go"}], "Club": "go"})
    assert [(row["name"], row["city"]) for row in await rows(made, "clubs", "name, city")] == [("go", None)]
    await put(made, {"Code": "B", "Clubs": [{"Name": "go", "City": "Bern"}]}, hour=-5)
    assert [(row["name"], row["city"]) for row in await rows(made, "clubs", "name, city")] == [("go", "Bern")]


# ---- catalogues


@covers("F-41")
async def test_what_a_catalogue_knows_stays_and_what_it_lacks_is_made(made: Connection) -> None:
    await made.execute("INSERT INTO item_catalog (id, name) VALUES (7, 'sword')")
    assert (await put(made, FULL)).placeholders == {"item_catalog": [8]}
    catalogue = await rows(made, "item_catalog")
    assert catalogue == [
        {"id": 7, "name": "sword", "meta": {}},
        {"id": 8, "name": None, "meta": {"placeholder": True}},
    ]


async def test_without_placeholders_a_missing_entry_is_a_foreign_key_violation(made: Connection) -> None:
    strict = shop(missing="fail")
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await put(made, FULL, mapping=strict)


# ---- what is at fault in the document


@covers("F-21")
async def test_a_document_at_fault_is_refused_before_anything_is_written(made: Connection) -> None:
    with pytest.raises(MappingError, match=r"^Items\.8\.Amount: 1099511627776 is out of range for integer$"):
        await put(made, {"Code": "A", "Items": {"7": {}, "8": {"Amount": 2**40}}})
    assert await versions(made) == []
    assert await made.fetchval("SELECT count(*) FROM entity_seen") == 0


# ---- at once


async def test_of_two_captures_at_once_the_later_one_stays(shop_pool: Pool) -> None:
    """The older one, begun later, waits for the newer one and then writes nothing."""
    async with shop_pool.connection() as first, shop_pool.connection() as second:
        begun = first.transaction()
        await begun.start()
        await put(first, {"Code": "A", "Items": {"7": {"Amount": 2}}}, hour=2)
        waiting = asyncio.create_task(_alone(second, {"Code": "A", "Items": {"8": {}}}, hour=1))
        await _until_waiting(shop_pool)
        await begun.commit()
        assert (await waiting).complete is False
        assert [row["item_id"] for row in await rows(first, "items", "item_id, amount")] == [7]


@pytest.mark.parametrize(
    ("held", "lower", "higher"),
    [
        (
            "INSERT INTO item_catalog (id) VALUES (5)",
            "INSERT INTO item_catalog (id) VALUES (3)",
            "INSERT INTO item_catalog (id) VALUES (9)",
        ),
        (
            "INSERT INTO clubs (tenant_id, name) VALUES ('default', 'e')",
            "INSERT INTO clubs (tenant_id, name) VALUES ('default', 'c')",
            "INSERT INTO clubs (tenant_id, name) VALUES ('default', 'x')",
        ),
        (
            "INSERT INTO entity_seen VALUES ('default', 'shop', 'e', 'clubs', now())",
            "INSERT INTO entity_seen VALUES ('default', 'shop', 'c', 'clubs', now())",
            "INSERT INTO entity_seen VALUES ('default', 'shop', 'x', 'clubs', now())",
        ),
    ],
    ids=["catalogue", "shared rows", "watermarks"],
)
async def test_what_is_shared_is_locked_from_the_lowest_key_upwards(
    shop_pool: Pool, held: str, lower: str, higher: str
) -> None:
    """A document that waits for the middle one of three holds the lowest and not the highest."""
    document = {
        "Code": "A",
        "Items": [{"Id": 9}, {"Id": 3}, {"Id": 5}],
        "Clubs": [{"Name": name, "City": "Rome"} for name in ("x", "c", "e")],
    }
    async with (
        shop_pool.connection() as first,
        shop_pool.connection() as second,
        shop_pool.connection() as third,
    ):
        begun = first.transaction()
        await begun.start()
        await first.execute(held)
        waiting = asyncio.create_task(_alone(second, document, hour=0))
        await _until_waiting(shop_pool)
        await third.execute("SET lock_timeout = '20ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await third.execute(lower)
        await third.execute(higher)
        await begun.rollback()
        assert (await waiting).complete


async def test_documents_that_share_rows_wait_in_line_and_never_in_a_circle(shop_pool: Pool) -> None:
    """Each names the same new catalogue entries and clubs, in an order of its own."""

    async def one(number: int) -> Written:
        ids = range(1, 60)
        clubs = [f"club {n}" for n in range(12)]
        turned = number % 12
        document = {
            "Code": f"customer {number % 9}",
            "Items": [{"Id": n} for n in (ids if number % 2 else reversed(ids))],
            "Clubs": [
                {"Name": name, "City": f"{number}" if place % 3 else None}
                for place, name in enumerate(clubs[turned:] + clubs[:turned])
            ],
            "Club": clubs[turned],
        }
        async with shop_pool.transaction() as conn:
            return await put(conn, document, hour=number % 5)

    written = await asyncio.gather(*(one(number) for number in range(48)))
    made = [id_ for each in written for id_ in each.placeholders.get("item_catalog", [])]
    assert sorted(made) == list(range(1, 60))
    async with shop_pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM clubs") == 12
        assert await conn.fetchval("SELECT count(*) FROM members") == 9


# ---- tenants


@covers("X-12")
async def test_the_engine_writes_for_its_tenant_and_no_other(database: str, server: TestServer) -> None:
    conn = await connect(server.url(database.rpartition("/")[2], user="starforge_engine"))
    owner = await connect(database)
    await owner.execute(TABLES)
    await owner.execute(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO starforge_engine;"
        " ALTER TABLE customers ENABLE ROW LEVEL SECURITY;"
        " CREATE POLICY own ON customers USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant())"
    )
    items: dict[str, Any] = {str(n): {} for n in range(upsert.STAGED_ROWS)}
    for tenant in ("a", "b"):
        async with conn.transaction():
            await set_tenant(conn, tenant)
            written = await write(conn, SHOP, {"Code": "A", "Items": items}, tenant=tenant, captured_at=START)
            assert written.rows_written == upsert.STAGED_ROWS + 1
            assert await conn.fetchval("SELECT count(*) FROM customers") == 1
    await set_tenant(conn, "a")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await write(conn, SHOP, {"Code": "B"}, tenant="b", captured_at=START)
    await conn.close()
    await owner.close()


async def _alone(conn: Connection, document: Any, hour: float) -> Written:
    async with conn.transaction():
        return await put(conn, document, hour=hour)


async def _until_waiting(pool: Pool) -> None:
    """Return once a session waits for another's lock."""
    async with pool.connection() as conn:
        for _ in range(1000):
            if await conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                return
            await asyncio.sleep(0.01)
    raise AssertionError("nobody waits for a lock")
