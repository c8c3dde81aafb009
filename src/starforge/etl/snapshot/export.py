"""Export: the content of one snapshot, or of bytes in quarantine, in pieces: redacted, or as it came."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import ijson

from starforge.db.pool import Pool
from starforge.db.statement import sql
from starforge.etl.document.redact import Redactor
from starforge.etl.errors import MalformedError, UnknownSnapshotError
from starforge.etl.store.raw import open_raw
from starforge.etl.store.store import object_store

PIECE_BYTES = 4 << 20


async def export(pool: Pool, snapshot_id: UUID, *, tenant: str, raw: bool) -> AsyncIterator[bytes]:
    """Read a snapshot's content, or the bytes that quarantine keeps under this id.

    Args:
        pool: Where it is.
        snapshot_id: The snapshot, or the line of quarantine of what never became one.
        tenant: Whose it is.
        raw: As it came, byte for byte; else with what the rules of `etl/document/redact.py` hide hidden.
    Yields: Chunks, in order; no more than a few MB are held at a time.
    Raises: UnknownSnapshotError; MalformedError where what is to be redacted is no JSON; the store's errors.
    """
    chunks = await _open(pool, snapshot_id, tenant)
    if raw:
        async for chunk in chunks:
            yield chunk
        return
    redactor, read = Redactor(), 0
    try:
        async for chunk in chunks:
            read += len(chunk)
            for at in range(0, len(chunk), 1 << 16):
                if shown := redactor.feed(chunk[at : at + (1 << 16)]):
                    yield shown
        yield redactor.end()
    except ijson.JSONError as error:
        told = str(error).splitlines()[0]
        raise MalformedError(read, 1, read + 1, f"it cannot be redacted, for it is no JSON: {told}") from None


async def _open(pool: Pool, snapshot_id: UUID, tenant: str) -> AsyncIterator[bytes]:
    async with pool.transaction(tenant=tenant) as conn:
        kept = await conn.fetchrow(sql("etl", "kept_as"), snapshot_id, tenant)
    if kept is None:
        raise UnknownSnapshotError(snapshot_id, tenant)
    match kept["kind"]:
        case "snapshot":
            return open_raw(pool, snapshot_id, tenant=tenant)
        case "object":
            return object_store().get(kept["raw_key"])
        case _:
            return _bytes(pool, snapshot_id, tenant)


async def _bytes(pool: Pool, quarantine_id: UUID, tenant: str) -> AsyncIterator[bytes]:
    at = 1
    while True:
        async with pool.transaction(tenant=tenant) as conn:
            piece = await conn.fetchval(
                sql("etl", "quarantined_piece"), quarantine_id, tenant, at, PIECE_BYTES
            )
        if piece:
            yield piece
        if not piece or len(piece) < PIECE_BYTES:
            return
        at += len(piece)
