"""Receive: what is offered becomes a stored snapshot with a job, or bytes in quarantine. Nothing is lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from starforge.clock import failpoint, new_id
from starforge.db.pool import Connection, Pool
from starforge.db.statement import sql
from starforge.etl.document.guard import MB, guard_settings
from starforge.etl.errors import IngestKeyReusedError, MalformedError, SourcePausedError, UnreadableError
from starforge.etl.ingest.control import open_for, require_open
from starforge.etl.ingest.judge import Judged, judge
from starforge.etl.ingest.key import IngestKey, KeyContestedError, keep, known
from starforge.etl.ingest.offers import Offer
from starforge.etl.ingest.receipt import FATES, Fate, Receipt, alert_receipt
from starforge.etl.mapping import Mapping
from starforge.etl.snapshot.rejects import reject, reject_of
from starforge.etl.snapshot.snapshot import JOB_TYPE
from starforge.queue.enqueue import enqueue, enqueue_all
from starforge.queue.job import NewJob
from starforge.telemetry.metrics import SNAPSHOTS_RECEIVED

__all__ = ["FATES", "Fate", "Receipt", "Taking", "batches", "receive", "take", "take_here"]

BATCH_OFFERS_MAX = 50
BATCH_BYTES_MAX = 8 * MB

REFUSED: tuple[type[Exception], ...] = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)
"""What Postgres raises for a document that our rule let pass: a text it cannot hold, or cannot index."""

CONTESTED: tuple[type[Exception], ...] = (asyncpg.DeadlockDetectedError, KeyContestedError)
"""What passes when each offer is taken in a transaction of its own: nobody waits in a circle then."""

ALONE_TRIES = 3
"""How often an offer by itself is tried: its key may be contested once, and is known at the next look."""


@dataclass(frozen=True, slots=True)
class Taking:
    """A judged offer to be taken, and the idempotency key that came with it."""

    judged: Judged
    key: IngestKey | None = None


Taken = Receipt | IngestKeyReusedError | SourcePausedError
"""What becomes of one offer: a receipt, or the refusal of its key, or of its source."""


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
    Raises: IngestPausedError while ingestion is paused, SourcePausedError while that of the source is; then
        none was taken.
    """
    takings = [Taking(judge(offer, mapping, captured_at)) for offer in offers]
    taken = await take(pool, takings, tenant=tenant)
    for one in taken:
        if isinstance(one, SourcePausedError):
            raise one
    return [one for one in taken if isinstance(one, Receipt)]


async def take(pool: Pool, takings: Sequence[Taking], *, tenant: str, tried: int = 1) -> list[Taken]:
    """Take judged offers of any sources in one transaction, as `receive` does; a key's answer comes again.

    Offers of sources that are paused by themselves are refused, each with its SourcePausedError.
    Raises: IngestPausedError; then none was taken.
    """
    try:
        async with pool.transaction() as conn:
            control = await open_for(conn, tenant)
            refused = [control.refusal(taking.judged.source) for taking in takings]
            open_ = [taking for taking, refusal in zip(takings, refused, strict=True) if refusal is None]
            receipts = iter(await _Transaction(conn, tenant).take_all(open_))
            taken = [refusal or next(receipts) for refusal in refused]
            failpoint("receive_before_commit")
    except CONTESTED:
        if len(takings) == 1 and tried >= ALONE_TRIES:
            raise
    except REFUSED as error:
        if len(takings) == 1:
            return [await _refused(pool, takings[0], tenant, error)]
    else:
        _count(taken, takings)
        return taken
    tried = tried + 1 if len(takings) == 1 else 1
    return [one for taking in takings for one in await take(pool, [taking], tenant=tenant, tried=tried)]


async def take_here(conn: Connection, judged: Judged, *, tenant: str) -> Receipt:
    """Take a judged offer in the caller's own transaction: it is there if and only if that commits.

    Raises: IngestPausedError, SourcePausedError; MalformedError where it is no JSON, or none that Postgres
        can hold: then nothing is kept, and the caller's transaction is as it was.
    """
    if judged.error is not None:
        raise judged.error
    await require_open(conn, judged.source)
    try:
        async with conn.transaction():
            [receipt] = await _Transaction(conn, tenant).take_all([Taking(judged)])
    except REFUSED as error:
        raise _malformed(error) from None
    assert isinstance(receipt, Receipt)
    _count([receipt], [Taking(judged)])
    return receipt


async def _refused(pool: Pool, taking: Taking, tenant: str, error: Exception) -> Receipt:
    """Keep the bytes of what our rule let pass and Postgres does not."""
    judged = replace(taking.judged, error=_malformed(error))
    async with pool.transaction(tenant=tenant) as conn:
        receipt = await _Transaction(conn, tenant).keep_bytes(judged)
    _count([receipt], [taking])
    return receipt


def _malformed(error: Exception) -> MalformedError:
    return MalformedError(0, 1, 1, f"Postgres refuses it: {error}")


def _count(taken: Sequence[Taken], takings: Sequence[Taking]) -> None:
    for one, taking in zip(taken, takings, strict=True):
        if isinstance(one, Receipt) and one.fate != "unreadable" and not one.repeated:
            SNAPSHOTS_RECEIVED.labels(source=taking.judged.source).inc()
            alert_receipt(one, taking.judged.source, taking.judged.owner)


class _Transaction:
    """Takes offers of one tenant in an open transaction."""

    def __init__(self, conn: Connection, tenant: str) -> None:
        self._conn, self._tenant = conn, tenant

    async def take_all(self, takings: Sequence[Taking]) -> list[Taken]:
        taken: list[Taken] = []
        for part in _parts(takings):
            taken += await self._take_part(part)
        return taken

    async def _take_part(self, part: Sequence[Taking]) -> list[Taken]:
        """Take offers of different contents, subjects and keys: their order does not matter."""
        keys = [taking.key for taking in part if taking.key is not None]
        answered: dict[Any, Taken] = {}
        if keys:
            answered.update(await known(self._conn, self._tenant, keys))
        fresh = [taking.judged for taking in part if _name(taking) not in answered]
        receipts = iter(await self._take_fresh(fresh))
        taken = [answered.get(_name(taking)) or next(receipts) for taking in part]
        new = [
            (taking.key, one)
            for taking, one in zip(part, taken, strict=True)
            if taking.key is not None and isinstance(one, Receipt) and not one.repeated
        ]
        if new:
            await keep(self._conn, self._tenant, new)
        return taken

    async def _take_fresh(self, part: Sequence[Judged]) -> list[Receipt]:
        ids = [new_id() for _ in part]
        sound = [(each, judged) for each, judged in zip(ids, part, strict=True) if judged.error is None]
        stored = await self._store(sound) if sound else {}
        jobs = [
            NewJob(type=JOB_TYPE, payload=_payload(each, stored[each]), tenant=self._tenant)
            for each, judged in sound
            if each in stored and not judged.oversized
        ]
        job_ids = iter(await self._enqueue(jobs))
        receipts = []
        for each, judged in zip(ids, part, strict=True):
            if judged.error is not None:
                receipts.append(await self.keep_bytes(judged))
            elif each not in stored:
                receipts.append(await self._again(judged))
            elif judged.oversized:
                receipts.append(await self._hold(each, judged))
            else:
                receipts.append(_receipt(judged, "accepted", each, next(job_ids)))
        return receipts

    async def _store(self, sound: Sequence[tuple[UUID, Judged]]) -> dict[UUID, UUID | None]:
        """Store what is new; return the capture of each that was, by its id."""
        judged = [one for _, one in sound]
        rows = await self._conn.fetch(
            sql("etl", "receive"),
            self._tenant,
            [each for each, _ in sound],
            [one.source for one in judged],
            [one.subject for one in judged],
            [one.offer.data.decode() for one in judged],
            [one.size for one in judged],
            [one.sha256 for one in judged],
            [one.captured_at for one in judged],
            ["quarantined" if one.oversized else "received" for one in judged],
            [one.guard for one in judged],
        )
        return {row["id"]: row["capture_id"] for row in rows}

    async def _enqueue(self, jobs: Sequence[NewJob]) -> list[UUID]:
        if len(jobs) > 1:
            return [accepted.id for accepted in await enqueue_all(self._conn, jobs)]
        return [(await enqueue(self._conn, job)).id for job in jobs]

    async def _hold(self, snapshot_id: UUID, judged: Judged) -> Receipt:
        limit = guard_settings().size_max_mb
        reason = f"{judged.size / MB:.1f} MB is above the size guard of {limit:g} MB"
        await self._conn.execute(sql("etl", "quarantine_snapshot"), snapshot_id, judged.offer.name, reason)
        return _receipt(judged, "oversized", snapshot_id)

    async def _again(self, judged: Judged) -> Receipt:
        found = await offered_again(
            self._conn,
            self._tenant,
            source=judged.source,
            sha256=judged.sha256,
            subject=judged.subject,
            captured_at=judged.captured_at,
        )
        return _receipt(judged, *found)

    async def keep_bytes(self, judged: Judged) -> Receipt:
        """Keep what is no JSON as it came, and record why. Of a file that cannot be read nothing came."""
        offer, error = judged.offer, judged.error
        assert error is not None
        if isinstance(error, UnreadableError):
            return Receipt(offer.name, "unreadable", 0, error=error)
        found = reject_of(error)
        details = {**found.details, "name": offer.name}
        await reject(self._conn, replace(found, details=details), tenant=self._tenant, source=judged.source)
        if judged.is_unreadable:
            return Receipt(offer.name, "unreadable", 0, error=error)
        await self._conn.execute(
            sql("etl", "quarantine_bytes"),
            self._tenant,
            judged.source,
            offer.name,
            offer.data,
            judged.size,
            judged.sha256,
            str(error),
            details,
        )
        return Receipt(offer.name, "malformed", judged.size, error=error, sha256=judged.sha256)


async def offered_again(
    conn: Connection,
    tenant: str,
    *,
    source: str,
    sha256: bytes,
    subject: str | None,
    captured_at: datetime | None,
    job_type: str = JOB_TYPE,
) -> tuple[Fate, UUID, UUID | None]:
    """Take known content again; return its fate, its snapshot and the job that it has now, if any.

    It is nothing new, unless its subject differed since (A → B → A), or it failed. What is held back has a
    job on release, which takes the latest capture.
    """
    row = await conn.fetchrow(sql("etl", "known"), tenant, source, sha256, subject)
    assert row is not None
    snapshot_id, status = row["id"], row["status"]
    fate: Fate = "retried" if status == "failed" else "duplicate"
    capture_id = None
    if row["latest_id"] not in (None, snapshot_id):
        capture_id = await conn.fetchval(
            sql("etl", "capture"), tenant, snapshot_id, source, row["subject"], captured_at
        )
        fate = "recaptured" if capture_id is not None else fate
    if status == "quarantined":
        return fate, snapshot_id, None
    if fate == "duplicate" or not await conn.fetchval(
        sql("etl", "again"), snapshot_id, subject, fate == "retried"
    ):
        return "duplicate", snapshot_id, None
    job = NewJob(type=job_type, payload=_payload(snapshot_id, capture_id), tenant=tenant)
    return fate, snapshot_id, (await enqueue(conn, job)).id


def _receipt(judged: Judged, fate: Fate, snapshot_id: UUID, job_id: UUID | None = None) -> Receipt:
    return Receipt(judged.offer.name, fate, judged.size, snapshot_id, job_id)


def _payload(snapshot_id: UUID, capture_id: UUID | None) -> dict[str, str]:
    payload = {"snapshot_id": str(snapshot_id)}
    if capture_id is not None:
        payload["capture_id"] = str(capture_id)
    return payload


def _name(taking: Taking) -> tuple[str, str] | None:
    return (taking.key.client, taking.key.key) if taking.key is not None else None


def _parts(takings: Sequence[Taking]) -> Iterator[list[Taking]]:
    """Cut where a content, a subject or a key comes again: what it meets must be there already."""
    part: list[Taking] = []
    met: set[object] = set()
    for taking in takings:
        judged = taking.judged
        marks: set[object] = {(judged.source, judged.sha256)}
        if judged.subject is not None:
            marks.add((judged.source, judged.subject))
        if taking.key is not None:
            marks.add((IngestKey, taking.key.client, taking.key.key))
        if not met.isdisjoint(marks):
            yield part
            part, met = [], set()
        part.append(taking)
        met |= marks
    if part:
        yield part


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
