"""Together: small snapshots that are ready at once share a transaction, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from starforge.db.pool import Connection, Pool, connect
from starforge.etl.load.parts import Written
from starforge.etl.load.process import GROUP_LOCK_MS_MAX, InHand, process
from starforge.etl.load.write import Captured, write, write_all
from starforge.etl.mapping import Mapping
from starforge.heroes.mapping import HERO
from tests.covers import covers
from tests.etl.load.test_job import STRICT, offer
from tests.etl.load.test_upsert import SHOP, START, TABLES, shop

SEEDS = range(12)
COMPARED = {
    "customers": "code, extra",
    "items": "(SELECT code FROM customers WHERE id = customer_id), item_id, amount, tags, extra, last_seen",
    "notes": "(SELECT code FROM customers WHERE id = customer_id), name",
    "clubs": "name, city, extra",
    "members": "(SELECT code FROM customers WHERE id = customer_id),"
    " (SELECT name FROM clubs WHERE id = club_id)",
    "entity_seen": "entity, subject, captured_at",
    "item_catalog": "id",
}


def customer(random: Random, code: str) -> dict[str, Any]:
    """A customer with something of everything; what it has depends on chance alone."""
    ids = random.sample(range(1, 13), random.randrange(6))
    clubs = {name: random.choice([{}, {"City": random.choice("XY")}]) for name in random.sample("PQR", 2)}
    return {
        "Code": code,
        "Items": {str(id_): {"Amount": random.randrange(3), "Odd": random.randrange(2)} for id_ in ids},
        "Notes": [{"Name": name} for name in random.sample("nmop", random.randrange(4))],
        "Clubs": clubs,
        **({"Club": random.choice(sorted(clubs))} if random.random() < 0.7 else {}),
        **({"More": random.randrange(3)} if random.random() < 0.5 else {}),
    }


def groups(seed: int) -> list[list[tuple[dict[str, Any], datetime]]]:
    """Some groups of documents of different customers, each taken at some hour."""
    random = Random(seed)
    return [
        [
            (customer(random, code), START + timedelta(hours=random.randrange(6)))
            for code in random.sample("ABCDE", 4)
        ]
        for _ in range(4)
    ]


async def said(conn: Connection, tenant: str) -> dict[str, list[Any]]:
    """What a tenant's rows say; the catalogue has no tenant."""
    found = {}
    for table, columns in COMPARED.items():
        of = "" if table == "item_catalog" else f"WHERE tenant_id = '{tenant}'"
        found[table] = sorted(map(repr, await conn.fetch(f"SELECT {columns} FROM {table} {of}")))
    return found


async def written_together(
    conn: Connection, documents: Sequence[tuple[dict[str, Any], datetime]], tenant: str, batch: int
) -> list[Written]:
    async with conn.transaction():
        captured = [Captured(SHOP.read(document), at) for document, at in documents]
        return await write_all(conn, SHOP, captured, tenant=tenant, batch=batch)


async def written_apart(
    conn: Connection, documents: Sequence[tuple[dict[str, Any], datetime]], tenant: str
) -> list[Written]:
    told = []
    for document, at in documents:
        async with conn.transaction():
            told.append(await write(conn, SHOP, document, tenant=tenant, captured_at=at))
    return told


@covers("O-33", "Q-67")
@pytest.mark.parametrize("seed", SEEDS)
async def test_documents_written_together_are_as_if_written_one_after_the_other(
    conn: Connection, seed: int
) -> None:
    """Rows, watermarks, what left, and which document did what; those of one time in the order given."""
    await conn.execute(TABLES)
    batch = Random(seed).choice([2, 7, 5000])
    for documents in groups(seed):
        apart = await written_apart(conn, documents, "apart")
        together = await written_together(conn, documents, "together", batch)
        assert [told.complete for told in together] == [told.complete for told in apart]
        assert [told.superseded for told in together] == [told.superseded for told in apart], seed
        # A club that several describe is written once.
        fewer = sum(told.rows_written for told in apart) - sum(told.rows_written for told in together)
        assert 0 <= fewer < sum(len(document["Clubs"]) for document, _ in documents)
        assert await said(conn, "together") == await said(conn, "apart"), seed


async def ready(pool: Pool, mapping: Mapping = HERO, **fields: Any) -> InHand:
    """Store a snapshot and take it in hand as a worker does."""
    snapshot_id: UUID = await offer(pool, mapping, **fields)
    async with pool.connection() as conn:
        row = await conn.fetchrow(
            "SELECT raw::text AS raw, size_bytes, captured_at FROM hero_snapshots WHERE id = $1", snapshot_id
        )
    assert row is not None
    raw = row["raw"].encode()
    return InHand(snapshot_id, "default", row["size_bytes"], row["captured_at"], raw, True, False)


async def states(pool: Pool) -> dict[str, tuple[str, int | None]]:
    """Every snapshot's state and rows, by its hero's name."""
    async with pool.connection() as conn:
        found = await conn.fetch("SELECT raw::text AS raw, status, rows_written FROM hero_snapshots")
    return {json.loads(row["raw"])["NameCode"]: (row["status"], row["rows_written"]) for row in found}


@covers("O-33", "F-41")
async def test_snapshots_that_are_ready_at_once_share_transactions_and_each_has_its_own_figures(
    pool: Pool,
) -> None:
    troops: dict[str, dict[str, Any]] = {
        name: {str(n): {} for n in range(1, 2 + place)} for place, name in enumerate("ABCDEFGH")
    }
    snapshots = [await ready(pool, NameCode=name, Troops=held) for name, held in troops.items()]
    told = await asyncio.gather(*(process(pool, HERO, snapshot) for snapshot in snapshots))
    expected = {name: 2 + len(held) for name, held in troops.items()}  # the user, the summary, the troops
    assert [one.rows_written for one in told] == list(expected.values())
    assert {name: count for name, (_, count) in (await states(pool)).items()} == expected
    async with pool.connection() as conn:
        transactions = await conn.fetchval("SELECT count(DISTINCT xmin::text) FROM users")
        assert 1 < transactions <= 4, "eight snapshots in two lanes"
        noted = await conn.fetch("SELECT snapshot_id, id FROM catalogue_placeholders")
    by = {str(row["id"]): row["snapshot_id"] for row in noted}
    assert by.keys() == set(troops["H"])
    names = {snapshot.id: name for snapshot, name in zip(snapshots, troops, strict=True)}
    assert all(id_ in troops[names[snapshot_id]] for id_, snapshot_id in by.items())


@covers("F-19", "F-20")
async def test_one_that_fails_fails_alone(pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute("INSERT INTO troop_catalog (id) VALUES (1)")
    snapshots = [
        await ready(pool, STRICT, NameCode=name, Troops={"1" if name != "C" else "2": {}})
        for name in "ABCDEF"
    ]
    told = await asyncio.gather(
        *(process(pool, STRICT, snapshot) for snapshot in snapshots), return_exceptions=True
    )
    assert [type(one) for one in told] == [
        asyncpg.ForeignKeyViolationError if name == "C" else Written for name in "ABCDEF"
    ]
    found = await states(pool)
    assert found.pop("C") == ("received", None)
    assert set(found.values()) == {("processed", 2)}


async def test_one_that_waits_for_a_lock_holds_up_no_other(pool: Pool) -> None:
    """Somebody has one hero's row in an open transaction, at night, by hand."""
    for name in "AB":
        await process(pool, HERO, await ready(pool, NameCode=name))
    snapshots = {name: await ready(pool, NameCode=name, Level=2) for name in "BACDEFG"}
    other = await connect(pool.url)
    try:
        by_hand = other.transaction()
        await by_hand.start()
        await other.execute("UPDATE entity_seen SET updated_at = now() WHERE subject IN ('A', 'B')")
        tasks = {name: asyncio.create_task(process(pool, HERO, one)) for name, one in snapshots.items()}
        free = [task for name, task in tasks.items() if name not in "AB"]
        async with asyncio.timeout(20 * GROUP_LOCK_MS_MAX / 1000):
            await asyncio.gather(*free)
        assert not tasks["A"].done()
        assert not tasks["B"].done()
        await by_hand.rollback()
        await asyncio.gather(*tasks.values())
    finally:
        await other.close()
    assert {status for status, _ in (await states(pool)).values()} == {"processed"}


async def test_one_that_is_cancelled_writes_nothing_and_the_others_are_written(pool: Pool) -> None:
    snapshots = {name: await ready(pool, NameCode=name) for name in "ABCDEF"}
    other = await connect(pool.url)
    try:
        by_hand = other.transaction()
        await by_hand.start()
        await other.execute("LOCK TABLE user_profile_summary IN SHARE MODE")  # nobody gets to the commit
        tasks = {name: asyncio.create_task(process(pool, HERO, one)) for name, one in snapshots.items()}
        while await waiting(pool) < 2:
            await asyncio.sleep(0.01)
        tasks["A"].cancel()
        tasks["D"].cancel()
        await by_hand.rollback()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    finally:
        await other.close()
    ended = {name: status for name, (status, _) in (await states(pool)).items()}
    assert ended == {name: "received" if name in "AD" else "processed" for name in "ABCDEF"}


async def waiting(pool: Pool) -> int:
    """How many wait for a lock."""
    async with pool.connection() as conn:
        return int(await conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))


@covers("F-42")
async def test_a_document_that_has_to_wait_for_an_entry_keeps_no_other(conn: Connection) -> None:
    """Written together all wait; `process` then writes each alone."""
    await conn.execute(TABLES)
    holding = shop("hold")
    captured = [Captured(holding.read({"Code": code, "Items": {"7": {}}}), START) for code in "AB"]
    with pytest.raises(Exception, match="item_catalog"):
        async with conn.transaction():
            await write_all(conn, holding, captured, tenant="default")
    assert await conn.fetchval("SELECT count(*) FROM customers") == 0
