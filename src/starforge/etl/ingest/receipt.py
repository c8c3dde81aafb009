"""The receipt: what became of one offer, as every door tells it and as an idempotency key keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import msgspec

from starforge.etl.document.guard import MB, guard_settings
from starforge.etl.errors import MalformedError, TooLargeError, UnreadableError
from starforge.etl.ingest.offers import OfferError
from starforge.etl.snapshot.alert import alert

Fate = Literal["accepted", "recaptured", "retried", "duplicate", "oversized", "malformed", "unreadable"]
FATES: tuple[Fate, ...] = (
    "accepted",
    "recaptured",
    "retried",
    "duplicate",
    "oversized",
    "malformed",
    "unreadable",
)


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
    repeated: bool = False
    """True where an earlier offer with this idempotency key got this answer, and this one changed nothing."""


class _Kept(msgspec.Struct, omit_defaults=True):
    """A receipt as an idempotency key keeps it."""

    name: str
    fate: Fate
    size_bytes: int
    snapshot_id: UUID | None = None
    job_id: UUID | None = None
    sha256: bytes | None = None
    at: tuple[int, int, int] | None = None
    reason: str = ""
    bytes_max: int = 0


def kept(receipt: Receipt) -> str:
    """Return the receipt as JSON text."""
    error = receipt.error
    document = _Kept(
        receipt.name, receipt.fate, receipt.size_bytes, receipt.snapshot_id, receipt.job_id, receipt.sha256
    )
    if isinstance(error, MalformedError):
        document.at, document.reason = (error.position, error.line, error.column), error.reason
    elif isinstance(error, TooLargeError):
        document.bytes_max = error.bytes_max
    elif isinstance(error, UnreadableError):
        document.reason = error.reason
    return msgspec.json.encode(document).decode()


def receipt_of(answer: Any) -> Receipt:
    """Return the receipt that `kept` made the JSON value of, as a repeated one."""
    found = msgspec.convert(answer, _Kept)
    error: OfferError | None = None
    if found.at is not None:
        error = MalformedError(*found.at, found.reason)
    elif found.bytes_max:
        error = TooLargeError(found.name, found.bytes_max)
    elif found.reason:
        error = UnreadableError(found.name, found.reason)
    return Receipt(
        found.name,
        found.fate,
        found.size_bytes,
        found.snapshot_id,
        found.job_id,
        error,
        found.sha256,
        repeated=True,
    )


def alert_receipt(receipt: Receipt, source: str, owner: str | None) -> None:
    """Tell whoever answers for the source that an offer is in quarantine, where it is."""
    if receipt.fate == "oversized":
        limit = f"above the size guard of {guard_settings().size_max_mb:g} MB"
        reason = f"{receipt.name}: {receipt.size_bytes / MB:.1f} MB is {limit}"
        alert("size", source, reason, owner=owner, snapshot_id=receipt.snapshot_id)
    elif receipt.fate == "malformed":
        alert("malformed", source, f"{receipt.name}: {receipt.error}", owner=owner)
