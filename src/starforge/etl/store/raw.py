"""The raw bytes of a stored snapshot, in pieces, wherever they are kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from uuid import UUID

from starforge.db.pool import Pool
from starforge.db.statement import sql
from starforge.etl.document.guard import MB
from starforge.etl.errors import RawMissingError
from starforge.etl.store.objects import ObjectStore
from starforge.etl.store.store import object_store

WHOLE_BYTES_MAX = 8 * MB
"""Up to this size a document comes in one read: its reader holds it whole anyway."""

PIECE_BYTES = 4 << 20


async def open_raw(
    pool: Pool, snapshot_id: UUID, *, tenant: str, store: ObjectStore | None = None
) -> AsyncGenerator[bytes, None]:
    """Read the bytes of a snapshot as they came, from the object store or its column.

    No connection is held between two pieces; of a column above WHOLE_BYTES_MAX one piece is held at a time.

    Args:
        pool: Where the snapshot's row is.
        snapshot_id: The snapshot.
        tenant: Whose it is.
        store: The object store; that of the process's settings where not given.
    Yields: Chunks of 1 byte up to about 8 MB, in order. Leave early by `aclose`.
    Raises: RawMissingError where the tenant has no such snapshot, or it is deleted meanwhile;
        ObjectMissingError and the store's other errors.
    """
    async with pool.transaction(tenant=tenant) as conn:
        row = await conn.fetchrow(sql("etl", "raw"), snapshot_id, tenant, WHOLE_BYTES_MAX)
    if row is None:
        raise RawMissingError(f"tenant {tenant!r} has no snapshot {snapshot_id}")
    if row["raw_key"] is not None:
        async for chunk in (store or object_store()).get(row["raw_key"]):
            yield chunk
        return
    if row["bytes"] is not None:
        yield row["bytes"]
        return
    at = 1
    while True:
        async with pool.transaction(tenant=tenant) as conn:
            piece = await conn.fetchval(sql("etl", "raw_piece"), snapshot_id, tenant, at, PIECE_BYTES)
        if piece is None:
            raise RawMissingError(
                f"snapshot {snapshot_id} of tenant {tenant!r} was deleted while it was read"
            )
        if piece:
            yield piece
        at += len(piece)
        if len(piece) < PIECE_BYTES:
            return
