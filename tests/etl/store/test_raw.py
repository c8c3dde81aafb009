"""The raw bytes of a snapshot come back as they were offered, wherever they are kept."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from starforge.db.pool import Pool
from starforge.etl.errors import ObjectMissingError, RawMissingError
from starforge.etl.store import raw as reading
from starforge.etl.store.local import LocalStore
from starforge.etl.store.objects import new_key
from starforge.etl.store.raw import open_raw
from tests.covers import covers


async def stored(pool: Pool, data: bytes, raw_key: str | None = None) -> UUID:
    async with pool.connection() as conn:
        found: UUID = await conn.fetchval(
            "INSERT INTO hero_snapshots (tenant_id, source, raw, raw_key, size_bytes, sha256)"
            " VALUES ('default', 'hero', $1::text::json, $2, $3, $4) RETURNING id",
            None if raw_key else data.decode(),
            raw_key,
            len(data),
            hashlib.sha256(data).digest(),
        )
    return found


async def chunks(pool: Pool, snapshot_id: UUID, store: LocalStore | None = None) -> list[bytes]:
    return [chunk async for chunk in open_raw(pool, snapshot_id, tenant="default", store=store)]


DOCUMENT = ' {"é😀": [1.0, "\\u0000\\ud800", "\\\\"],\r\n"a" :1, "a":2}\n'.encode()


@covers("F-20")
async def test_a_small_document_comes_in_one_chunk(pool: Pool) -> None:
    """White space, equal keys and escapes included."""
    assert await chunks(pool, await stored(pool, DOCUMENT)) == [DOCUMENT]


@pytest.mark.parametrize("size", [1, 3, 7, len(DOCUMENT), len(DOCUMENT) + 1])
async def test_a_large_column_comes_in_pieces(pool: Pool, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may end in the middle of a character."""
    monkeypatch.setattr(reading, "WHOLE_BYTES_MAX", 10)
    monkeypatch.setattr(reading, "PIECE_BYTES", size)
    pieces = await chunks(pool, await stored(pool, DOCUMENT))
    assert b"".join(pieces) == DOCUMENT
    assert all(0 < len(piece) <= size for piece in pieces)


async def test_what_is_in_the_object_store_comes_from_there(pool: Pool, tmp_path: Path) -> None:
    store, key = LocalStore(tmp_path), new_key("default")

    async def source() -> AsyncIterator[bytes]:
        yield DOCUMENT

    await store.put(key, source())
    snapshot_id = await stored(pool, DOCUMENT, key)
    assert b"".join(await chunks(pool, snapshot_id, store)) == DOCUMENT
    await store.delete(key)
    with pytest.raises(ObjectMissingError, match=key):
        await chunks(pool, snapshot_id, store)


async def test_a_snapshot_that_is_not_there_or_another_tenants_is_said_so(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is erased while it is read."""
    with pytest.raises(RawMissingError):
        await chunks(pool, uuid4())
    snapshot_id = await stored(pool, DOCUMENT)
    with pytest.raises(RawMissingError):
        await anext(open_raw(pool, snapshot_id, tenant="other"))
    monkeypatch.setattr(reading, "WHOLE_BYTES_MAX", 0)
    monkeypatch.setattr(reading, "PIECE_BYTES", 5)
    pieces = open_raw(pool, snapshot_id, tenant="default")
    assert await anext(pieces) == DOCUMENT[:5]
    async with pool.connection() as conn:
        await conn.execute("DELETE FROM hero_snapshots")
    with pytest.raises(RawMissingError, match="was deleted while it was read"):
        await anext(pieces)
