"""A program gives snapshots to its app, alone or in a transaction of its own."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from starforge.app import StarForge
from starforge.db.pool import Pool
from starforge.errors import InvalidInputError
from starforge.etl.errors import IngestPausedError, MalformedError, SourcePausedError, UnknownSourceError
from starforge.queue.errors import CallerConnectionError
from tests.covers import covers
from tests.stories.test_path_of_a_job import HISTORY, run_until
from tests.web.api.conftest import SHOP, count, nothing_stored

PROFILE = {"result": {"ProfileData": {"NameCode": "ANN_1", "Level": 3}}}


@pytest.fixture
def app(database: str, monkeypatch: pytest.MonkeyPatch) -> StarForge:
    """An app whose own connections go to the test's database."""
    monkeypatch.setenv("DATABASE_URL", database)
    return StarForge("shop", mappings=[SHOP])


@covers("F-20")
async def test_a_value_is_stored_and_processed(app: StarForge, pool: Pool) -> None:
    receipt = await app.ingest(PROFILE)
    assert receipt.fate == "accepted"
    await run_until(pool, app.job_types(), HISTORY, 1)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM users WHERE namecode = 'ANN_1'") == 1
        status = "SELECT status FROM hero_snapshots WHERE id = $1"
        assert await conn.fetchval(status, receipt.snapshot_id) == "processed"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: data.decode()])
async def test_bytes_and_text_are_the_document_as_it_is(app: StarForge, pool: Pool, kind: type) -> None:
    data = b' {"Code": "c",\t"n": 1.0}\n'
    await app.ingest(kind(data), "shop", captured_at=datetime(2026, 1, 2))  # taken for UTC
    async with pool.connection() as conn:
        row = await conn.fetchrow("SELECT raw::text AS raw, subject, captured_at FROM hero_snapshots")
    assert row is not None
    assert row["raw"].encode() == data
    assert (row["subject"], row["captured_at"]) == ("c", datetime(2026, 1, 2, tzinfo=UTC))


@covers("G4")
@pytest.mark.parametrize("ends", ["commits", "rolls back"])
async def test_in_the_callers_transaction_a_snapshot_is_there_if_and_only_if_that_commits(
    app: StarForge, pool: Pool, database: str, ends: str
) -> None:
    """The connection is the caller's own, as the driver makes it: without the codecs of ours."""
    conn = await asyncpg.connect(database)
    transaction = conn.transaction()
    await transaction.start()
    receipt = await app.ingest(PROFILE, conn=conn)
    with pytest.raises(MalformedError):
        await app.ingest(b"{", conn=conn)
    # No index holds such a subject.
    with pytest.raises(MalformedError, match="Postgres refuses it"):
        await app.ingest({"Code": random.Random(1).randbytes(6000).hex()}, "shop", conn=conn)
    assert (await app.ingest(PROFILE, conn=conn)).fate == "duplicate", "what was refused left it as it was"
    assert await count(pool, "hero_snapshots") == 0
    await (transaction.commit() if ends == "commits" else transaction.rollback())
    await conn.close()
    assert await count(pool, "hero_snapshots") == await count(pool, "queue_jobs") == (ends == "commits")
    assert receipt.job_id is not None


async def test_a_pause_holds_for_programs_too_also_on_their_own_connections(
    app: StarForge, pool: Pool, database: str
) -> None:
    async with pool.connection() as conn:
        await conn.execute("UPDATE feature_flags SET data = '{\"ingest_paused\": true}'")
    own = await asyncpg.connect(database)
    for conn_or_none in (None, own):
        with pytest.raises(IngestPausedError):
            await app.ingest(PROFILE, conn=conn_or_none)
    await own.close()
    assert await nothing_stored(pool)


@covers("F-37")
async def test_the_pause_of_a_source_holds_for_programs_and_leaves_their_transactions_whole(
    app: StarForge, pool: Pool, database: str
) -> None:
    async with pool.connection() as conn:
        await conn.execute('UPDATE feature_flags SET data = \'{"sources": {"hero": true}}\'')
    with pytest.raises(SourcePausedError, match="'hero'"):
        await app.ingest(PROFILE)
    own = await asyncpg.connect(database)
    async with own.transaction():
        with pytest.raises(SourcePausedError):
            await app.ingest(PROFILE, conn=own)
        await app.ingest({"Code": "A_1"}, "shop", conn=own)
    await own.close()
    assert await count(pool, "hero_snapshots") == 1


async def test_what_cannot_be_a_snapshot_is_refused_with_the_reason(app: StarForge, pool: Pool) -> None:
    with pytest.raises(MalformedError, match="line 1, column 2"):
        await app.ingest(b"{")
    with pytest.raises(InvalidInputError, match="JSON"):
        await app.ingest({"a": object()})
    with pytest.raises(UnknownSourceError, match="hero, shop"):
        await app.ingest({}, "nobody")
    no_connection: Any = object()
    with pytest.raises(CallerConnectionError):
        await app.ingest({}, conn=no_connection)
    assert await nothing_stored(pool)


async def test_many_at_once_are_each_stored_once(app: StarForge, pool: Pool) -> None:
    receipts = await asyncio.gather(*(app.ingest({"Code": f"c{n % 20}"}, "shop") for n in range(60)))
    assert sorted(receipt.fate for receipt in receipts) == ["accepted"] * 20 + ["duplicate"] * 40
    assert await count(pool, "queue_jobs") == 20


async def test_for_another_tenant_it_is_stored_as_that_tenants(app: StarForge, pool: Pool) -> None:
    await app.ingest(PROFILE, tenant="acme")
    async with pool.connection() as conn:
        row = await conn.fetchrow(
            "SELECT s.tenant_id, j.tenant_id AS job FROM hero_snapshots s, queue_jobs j"
        )
    assert row is not None
    assert tuple(row) == ("acme", "acme")
