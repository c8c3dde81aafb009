"""Documents above the inline limit: streamed once into the object store, then named by a row.

The bytes go through guard, grammar, digest and upload in one pass, about a megabyte at a time, and once more
past what finds whose state they are and when that was. Each gets a key that was never used before, so a
document that turns out to be known, and one whose process dies, leave at most an object that no row names;
`retention/sweep.py` deletes those.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from starforge.clock import failpoint, monotonic_s
from starforge.db.pool import Connection, Pool
from starforge.db.statement import sql
from starforge.errors import StarForgeError
from starforge.etl.document.grammar import Grammar
from starforge.etl.document.guard import MB, Guard, guard_settings, require_time
from starforge.etl.errors import (
    DocumentTimeoutError,
    MalformedError,
    ObjectMissingError,
    TooLargeError,
    UnreadableError,
)
from starforge.etl.gears.entities import whose
from starforge.etl.ingest.control import require_open
from starforge.etl.ingest.offers import LargeDocument, LargeReading, Offer, OfferError
from starforge.etl.ingest.receipt import Receipt, alert_receipt
from starforge.etl.ingest.receive import offered_again, receive
from starforge.etl.mapping import Mapping
from starforge.etl.mapping.taken import require_taken
from starforge.etl.snapshot.rejects import reject, reject_of
from starforge.etl.snapshot.snapshot import HIGHMEM_TYPE
from starforge.etl.store.objects import CHUNK_BYTES, ObjectStore, new_key
from starforge.etl.store.store import object_store
from starforge.telemetry.metrics import SNAPSHOTS_RECEIVED

Progress = Callable[[int], None]
"""Called with the bytes of the file that were read so far."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """An object that was written and has no row yet."""

    key: str
    size_bytes: int
    sha256: bytes
    error: MalformedError | None
    subject: str | None = None
    captured_at: datetime | None = None
    """Whose it is and when it was taken, where the document says so."""


async def take_large(
    pool: Pool,
    offer: Offer,
    *,
    mapping: Mapping,
    tenant: str,
    captured_at: datetime | None = None,
    store: ObjectStore | None = None,
    progress: Progress = lambda _: None,
) -> Receipt:
    """Take one large document and say what became of it, as `receive` does for others.

    It is held for the high-memory lane; what is malformed is kept as an object that a row of quarantine
    names. What is above the hard limit is refused and not kept.

    Raises: CapturedAheadError, IngestPausedError, SourcePausedError and the object store's errors: then
        nothing of it was taken.
    """
    assert offer.large is not None
    require_taken(captured_at)
    store = store or object_store()
    async with pool.transaction(tenant=tenant) as conn:
        await require_open(conn, mapping.name)
    try:
        stored = await _put(store, offer.large, tenant, progress)
    except (TooLargeError, DocumentTimeoutError) as error:
        return await _refused(pool, offer, error, mapping, tenant)
    except OSError as error:
        refused = UnreadableError(offer.name, error.strerror or str(error))
        return await _refused(pool, offer, refused, mapping, tenant)
    if stored.error is None:
        stored = await _told(stored, offer.large, mapping)
    receipt = await _named(pool, store, stored, offer, mapping, tenant, captured_at)
    SNAPSHOTS_RECEIVED.labels(source=mapping.name).inc()
    alert_receipt(receipt, mapping.name, mapping.owner)
    return receipt


async def _refused(pool: Pool, offer: Offer, error: OfferError, mapping: Mapping, tenant: str) -> Receipt:
    """Record why a document was not taken; a bomb's own few bytes are kept."""
    [receipt] = await receive(pool, [Offer(offer.name, offer.data, error)], mapping=mapping, tenant=tenant)
    return receipt


async def _put(store: ObjectStore, large: LargeDocument, tenant: str, progress: Progress) -> _Stored:
    """Write the document to an object; where its packing is broken, write the file as it is."""
    key = new_key(tenant)
    reading = _Reading(large, progress)
    try:
        size = await store.put(key, reading.chunks())
    except MalformedError as error:
        reading = _Reading(replace(large, packed=False), progress, error=error)
        size = await store.put(key, reading.chunks())
    return _Stored(key, size, reading.sha256.digest(), reading.error)


async def _told(stored: _Stored, large: LargeDocument, mapping: Mapping) -> _Stored:
    """Read the document once more for whose it is and when it was taken, holding no more than that.

    What does not say is stored all the same, and fails when it is mapped.
    """

    async def chunks() -> AsyncIterator[bytes]:
        with large.open() as reading:
            while chunk := await asyncio.to_thread(reading.read, CHUNK_BYTES):
                yield chunk

    with suppress(OSError):
        subject, captured_at = await whose(mapping, chunks)
        return replace(stored, subject=subject, captured_at=captured_at)
    return stored


async def _named(
    pool: Pool,
    store: ObjectStore,
    stored: _Stored,
    offer: Offer,
    mapping: Mapping,
    tenant: str,
    captured_at: datetime | None,
) -> Receipt:
    """Give the object its row; delete it where there is a row for this content already."""
    failpoint("large_before_row")
    try:
        async with pool.transaction(tenant=tenant) as conn:
            await require_open(conn, mapping.name)
            await conn.execute(sql("etl", "objects_use"))
            if await store.head(stored.key) is None:
                raise ObjectMissingError(f"{store.name} has lost {stored.key}, which was just written")
            take = _keep if stored.error is not None else _hold
            receipt, new = await take(conn, stored, offer, mapping, tenant, captured_at)
            failpoint("large_before_commit")
    except StarForgeError:
        with suppress(StarForgeError):
            await store.delete(stored.key)
        raise
    if not new:
        await store.delete(stored.key)
    return receipt


async def _hold(
    conn: Connection,
    stored: _Stored,
    offer: Offer,
    mapping: Mapping,
    tenant: str,
    captured_at: datetime | None,
) -> tuple[Receipt, bool]:
    size, captured_at = stored.size_bytes, captured_at or stored.captured_at
    snapshot_id = await conn.fetchval(
        sql("etl", "receive_large"),
        tenant,
        mapping.name,
        offer.name,
        stored.key,
        size,
        stored.sha256,
        captured_at,
        _above(size),
        stored.subject,
    )
    if snapshot_id is not None:
        return Receipt(offer.name, "oversized", size, snapshot_id), True
    fate, known_id, job_id = await offered_again(
        conn,
        tenant,
        source=mapping.name,
        sha256=stored.sha256,
        subject=stored.subject,
        captured_at=captured_at,
        job_type=HIGHMEM_TYPE,
    )
    return Receipt(offer.name, fate, size, known_id, job_id), False


def _above(size_bytes: int) -> str:
    return f"{size_bytes / MB:.1f} MB is above the size guard of {guard_settings().size_max_mb:g} MB"


async def _keep(
    conn: Connection,
    stored: _Stored,
    offer: Offer,
    mapping: Mapping,
    tenant: str,
    _captured_at: datetime | None,
) -> tuple[Receipt, bool]:
    assert stored.error is not None
    found = reject_of(stored.error)
    details = {**found.details, "name": offer.name}
    await reject(conn, replace(found, details=details), tenant=tenant, source=mapping.name)
    kept = await conn.fetchval(
        sql("etl", "quarantine_large"),
        tenant,
        mapping.name,
        offer.name,
        stored.key,
        stored.size_bytes,
        stored.sha256,
        str(stored.error),
        details,
    )
    receipt = Receipt(offer.name, "malformed", stored.size_bytes, error=stored.error, sha256=stored.sha256)
    return receipt, kept is not None


class _Reading:
    """Reads a document once: hashes and judges its bytes while it gives them to the store."""

    def __init__(self, large: LargeDocument, progress: Progress, error: MalformedError | None = None) -> None:
        self._large, self._progress = large, progress
        self._guard, self._grammar = Guard(), Grammar()
        self._size, self._hard_max = 0, guard_settings().hard_bytes_max
        self._grammar_s = 0.0
        self.sha256 = hashlib.sha256()
        self.error = error
        """Why it is malformed; its bytes are read to the end all the same."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the document's bytes; raise TooLargeError, DocumentTimeoutError.

        Raises MalformedError where they are packed badly; what else is malformed is in `error`.
        """
        with self._large.open() as reading:
            while chunk := await asyncio.to_thread(self._next, reading):
                yield chunk
                self._progress(reading.position())
        await asyncio.to_thread(self._judge, None)

    def _next(self, reading: LargeReading) -> bytes:
        chunk = reading.read(CHUNK_BYTES)
        self._size += len(chunk)
        if self._size > self._hard_max:
            raise TooLargeError(self._large.name, self._hard_max)
        self.sha256.update(chunk)
        if chunk:
            self._judge(chunk)
        return chunk

    def _judge(self, chunk: bytes | None) -> None:
        """Judge the next chunk, or the end; what is malformed is judged no further."""
        if self.error is not None:
            return
        try:
            if chunk is None:
                self._guard.end()
            else:
                self._guard.feed(chunk)
            began_s = monotonic_s()
            if chunk is None:
                self._grammar.end()
            else:
                self._grammar.feed(chunk)
            self._grammar_s += monotonic_s() - began_s
        except MalformedError as error:
            self.error = self._first(error)
            return
        if chunk is None:
            self.error = self._guard.cut_short()  # the grammar may have given up before
        require_time(self._guard.spent_s + self._grammar_s, self._size)

    def _first(self, error: MalformedError) -> MalformedError:
        """Return the nearer of this fault and one in the bytes that the guard still held."""
        try:
            self._guard.end()
        except MalformedError as held:
            return min(held, error, key=lambda one: one.position)
        return error
