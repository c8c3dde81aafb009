"""Receive: what is offered becomes a stored snapshot with a job, or bytes in quarantine. Nothing is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg
import msgspec

from starforge.clock import failpoint
from starforge.db.pool import Connection, Pool
from starforge.db.statement import sql
from starforge.etl.alert import alert
from starforge.etl.control import require_open
from starforge.etl.errors import MalformedError, MappingError, UnreadableError
from starforge.etl.guard import MB, Verdict, check, guard_settings
from starforge.etl.mapping import Mapping
from starforge.etl.parse import parse
from starforge.etl.rejects import reject, reject_of
from starforge.etl.snapshot import JOB_TYPE
from starforge.etl.source import Offer, OfferError
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob
from starforge.telemetry.metrics import SNAPSHOTS_RECEIVED

BATCH_OFFERS_MAX = 50
BATCH_BYTES_MAX = 8 * MB

REFUSED: tuple[type[Exception], ...] = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)
"""What Postgres raises for a document that our rule let pass: a text it cannot hold, or cannot index."""

Fate = Literal["accepted", "recaptured", "retried", "duplicate", "oversized", "malformed", "unreadable"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one offer.

    accepted, recaptured and retried have a job; oversized and malformed are in quarantine; a duplicate is
    known already; unreadable had no bytes to keep. retried is known too, had failed, and is tried anew.
    """

    name: str
    fate: Fate
    size_bytes: int
    snapshot_id: UUID | None = None
    job_id: UUID | None = None
    error: OfferError | None = None
    sha256: bytes | None = None


async def receive(
    pool: Pool,
    offers: Sequence[Offer],
    *,
    mapping: Mapping,
    tenant: str,
    captured_at: datetime | None = None,
) -> list[Receipt]:
    """Take these offers in one transaction and say what became of each, in order.

    Where Postgres refuses the transaction because of one of them, each is taken in a transaction of its own.
    Raises: IngestPausedError while ingestion is paused; then none was taken.
    """
    receipts = await _Receiver(mapping, tenant, captured_at).take_all(pool, offers)
    SNAPSHOTS_RECEIVED.labels(source=mapping.name).inc(sum(one.fate != "unreadable" for one in receipts))
    _alert(receipts, mapping)
    return receipts


def _alert(receipts: Iterable[Receipt], mapping: Mapping) -> None:
    """Tell whoever answers for the source what of it is in quarantine now (O-34)."""
    for one in receipts:
        if one.fate == "oversized":
            limit = f"above the size guard of {guard_settings().size_max_mb:g} MB"
            reason = f"{one.name}: {one.size_bytes / MB:.1f} MB is {limit}"
            alert("size", mapping.name, reason, owner=mapping.owner, snapshot_id=one.snapshot_id)
        elif one.fate == "malformed":
            alert("malformed", mapping.name, f"{one.name}: {one.error}", owner=mapping.owner)


class _Receiver:
    """Takes offers of one source for one tenant."""

    def __init__(self, mapping: Mapping, tenant: str, captured_at: datetime | None) -> None:
        self._mapping, self._tenant, self._captured_at = mapping, tenant, captured_at

    async def take_all(self, pool: Pool, offers: Sequence[Offer]) -> list[Receipt]:
        try:
            async with pool.transaction(tenant=self._tenant) as conn:
                await require_open(conn)
                receipts = [await self.take(conn, offer) for offer in offers]
                failpoint("receive_before_commit")
                return receipts
        except asyncpg.DeadlockDetectedError:
            # Somebody takes the same contents in another order. One by one nobody waits in a circle.
            if len(offers) == 1:
                raise
        except REFUSED as error:
            if len(offers) == 1:
                refused = MalformedError(0, 1, 1, f"Postgres refuses it: {error}")
                async with pool.transaction(tenant=self._tenant) as conn:
                    return [await self.keep_bytes(conn, offers[0], refused)]
        return [receipt for offer in offers for receipt in await self.take_all(pool, [offer])]

    async def take(self, conn: Connection, offer: Offer) -> Receipt:
        if offer.error is not None:
            return await self.keep_bytes(conn, offer, offer.error)
        try:
            verdict = check(offer.data)
            document = self._document(offer.data, verdict)
        except MalformedError as error:
            return await self.keep_bytes(conn, offer, error)
        return await self._store(conn, offer, verdict, document)

    def _document(self, data: bytes, verdict: Verdict) -> Any:
        """Parse what will be processed; of what is above the size guard only the grammar is checked."""
        if not verdict.oversized:
            return parse(data, verdict)
        try:
            msgspec.json.decode(data, type=msgspec.Raw)
        except msgspec.DecodeError:
            parse(data, verdict)  # raises with the position
        return None

    async def _store(self, conn: Connection, offer: Offer, verdict: Verdict, document: Any) -> Receipt:
        subject, captured_at = self._identity(document)
        digest = hashlib.sha256(offer.data).digest()
        row = await conn.fetchrow(
            sql("etl", "receive"),
            self._tenant,
            self._mapping.name,
            subject,
            offer.data.decode(),
            len(offer.data),
            digest,
            captured_at,
            "quarantined" if verdict.oversized else "received",
        )
        size = len(offer.data)
        if row is None:
            return await self._again(conn, offer, digest, subject, captured_at)
        snapshot_id = row["id"]
        if verdict.oversized:
            limit = guard_settings().size_max_mb
            reason = f"{size / MB:.1f} MB is above the size guard of {limit:g} MB"
            await conn.execute(sql("etl", "quarantine_snapshot"), snapshot_id, offer.name, reason)
            return Receipt(offer.name, "oversized", size, snapshot_id)
        capture_id = await self._capture(conn, snapshot_id, subject, row["captured_at"])
        job_id = await self._enqueue(conn, snapshot_id, capture_id)
        return Receipt(offer.name, "accepted", size, snapshot_id, job_id)

    async def _again(
        self, conn: Connection, offer: Offer, digest: bytes, subject: str | None, captured_at: datetime | None
    ) -> Receipt:
        """Known content is nothing new, unless its subject differed since (A → B → A), or it failed."""
        known = await conn.fetchrow(sql("etl", "known"), self._tenant, self._mapping.name, digest)
        assert known is not None
        size, snapshot_id, status = len(offer.data), known["id"], known["status"]
        fate: Fate = "retried" if status == "failed" else "duplicate"
        capture_id = None
        if status != "quarantined" and known["latest_id"] not in (None, snapshot_id):
            capture_id = await self._capture(conn, snapshot_id, known["subject"], captured_at)
            fate = "recaptured" if capture_id is not None else fate
        if fate == "duplicate" or not await conn.fetchval(
            sql("etl", "again"), snapshot_id, subject, fate == "retried"
        ):
            return Receipt(offer.name, "duplicate", size, snapshot_id)
        job_id = await self._enqueue(conn, snapshot_id, capture_id)
        return Receipt(offer.name, fate, size, snapshot_id, job_id)

    async def keep_bytes(self, conn: Connection, offer: Offer, error: OfferError) -> Receipt:
        """Keep what is no JSON as it came, and record why. Of a file that cannot be read nothing came."""
        if isinstance(error, UnreadableError):
            return Receipt(offer.name, "unreadable", 0, error=error)
        found = reject_of(error)
        details = {**found.details, "name": offer.name}
        await reject(conn, replace(found, details=details), tenant=self._tenant, source=self._mapping.name)
        if offer.error is not None and not offer.data:
            return Receipt(offer.name, "unreadable", 0, error=error)
        digest = hashlib.sha256(offer.data).digest()
        size = len(offer.data)
        await conn.execute(
            sql("etl", "quarantine_bytes"),
            self._tenant,
            self._mapping.name,
            offer.name,
            offer.data,
            size,
            digest,
            str(error),
            details,
        )
        return Receipt(offer.name, "malformed", size, error=error, sha256=digest)

    def _identity(self, document: Any) -> tuple[str | None, datetime | None]:
        """Return whose state this is and when it was; what does not say is stored, and fails when mapped."""
        subject, captured_at = None, self._captured_at
        if document is not None:
            with suppress(MappingError):
                subject = self._mapping.subject(document)
            with suppress(MappingError):
                captured_at = captured_at or self._mapping.captured_at(document)
        return subject, captured_at

    async def _capture(
        self, conn: Connection, snapshot_id: UUID, subject: str | None, captured_at: datetime | None
    ) -> UUID | None:
        found: UUID | None = await conn.fetchval(
            sql("etl", "capture"), self._tenant, snapshot_id, self._mapping.name, subject, captured_at
        )
        return found

    async def _enqueue(self, conn: Connection, snapshot_id: UUID, capture_id: UUID | None) -> UUID:
        payload = {"snapshot_id": str(snapshot_id)}
        if capture_id is not None:
            payload["capture_id"] = str(capture_id)
        accepted = await enqueue(conn, NewJob(type=JOB_TYPE, payload=payload, tenant=self._tenant))
        return accepted.id


def batches(offers: Iterable[Offer]) -> Iterator[list[Offer]]:
    """Group offers so that each transaction stays small: at most 50 offers and about 8 MB."""
    batch: list[Offer] = []
    size = 0
    for offer in offers:
        if batch and (len(batch) >= BATCH_OFFERS_MAX or size + len(offer.data) > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(offer)
        size += len(offer.data)
    if batch:
        yield batch
