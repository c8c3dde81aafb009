"""Judge: what an offer is, decided on its bytes alone, before the database hears of it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from starforge.etl.document.guard import Verdict, check
from starforge.etl.document.parse import parse
from starforge.etl.errors import DocumentTimeoutError, MalformedError, MappingError, UnreadableError
from starforge.etl.gears.entities import whose
from starforge.etl.ingest.offers import Offer, OfferError
from starforge.etl.mapping import Mapping
from starforge.etl.mapping.taken import require_taken

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Judged:
    """An offer, with what its bytes say of themselves."""

    offer: Offer
    source: str
    sha256: bytes
    subject: str | None = None
    captured_at: datetime | None = None
    owner: str | None = None
    """Who answers for the source."""
    guard: int | None = None
    """The version of the guard that its bytes have passed as they are."""
    oversized: bool = False
    """Well-formed, and above the size guard: to be stored and held back."""
    error: OfferError | None = None
    """Why it cannot be a snapshot: its bytes are kept as they came, or not at all."""

    @property
    def size(self) -> int:
        """Bytes that were offered."""
        return len(self.offer.data)

    @property
    def is_unreadable(self) -> bool:
        """Tell whether there is nothing to keep: nothing came, or what is wrong is not in the bytes."""
        return isinstance(self.error, UnreadableError) or (
            self.offer.error is not None and not self.offer.data
        )


def judge(offer: Offer, mapping: Mapping, captured_at: datetime | None = None) -> Judged:
    """Look at an offer once: guard, grammar, whose state it is and when that was.

    Args:
        offer: What was offered; an error that it brings is its verdict.
        mapping: How documents of its source say whose they are and when they were taken.
        captured_at: What the caller says; it counts more than what the document says.
    Raises: CapturedAheadError.
    """
    require_taken(captured_at)
    digest = hashlib.sha256(offer.data).digest()
    if offer.error is not None:
        return Judged(offer, mapping.name, digest, owner=mapping.owner, error=offer.error)
    try:
        verdict = check(offer.data)
        document = _document(offer.data, verdict)
    except (MalformedError, DocumentTimeoutError) as error:
        return Judged(offer, mapping.name, digest, owner=mapping.owner, error=error)
    subject = None
    if verdict.oversized:
        subject, found_at = _whose(offer.data, mapping)
        captured_at = captured_at or found_at
    elif document is not None:
        # What does not say is stored, and fails when it is mapped.
        with suppress(MappingError):
            subject = mapping.subject(document)
        with suppress(MappingError):
            captured_at = captured_at or mapping.captured_at(document)
    return Judged(
        offer,
        mapping.name,
        digest,
        subject,
        captured_at,
        owner=mapping.owner,
        guard=verdict.passed,
        oversized=verdict.oversized,
    )


def _whose(data: bytes, mapping: Mapping) -> tuple[str | None, datetime | None]:
    """Find whose state a document above the size guard is, and when it was taken, without its objects."""

    async def chunks() -> AsyncIterator[bytes]:
        for first in range(0, len(data), CHUNK_BYTES):
            yield data[first : first + CHUNK_BYTES]

    # Nothing of it waits for anything, so it needs no loop, of which the caller's thread may have one.
    try:
        whose(mapping, chunks).send(None)
    except StopIteration as end:
        found: tuple[str | None, datetime | None] = end.value
        return found
    raise AssertionError("bytes in memory are waited for")


def _document(data: bytes, verdict: Verdict) -> Any:
    """Parse what will be processed; of what is above the size guard only the grammar is checked."""
    if not verdict.oversized:
        return parse(data, verdict)
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except msgspec.DecodeError:
        parse(data, verdict)  # raises with the position
    return None
