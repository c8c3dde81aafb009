"""What ingest answers: documents with a schema, and never a row of the database as it is."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from starforge.errors import StarForgeError
from starforge.etl.document.guard import guard_settings
from starforge.etl.errors import MalformedError
from starforge.etl.ingest.receipt import Receipt
from starforge.ops.registry import API
from starforge.web.problem import Problem

SNAPSHOTS = f"{API}/snapshots"
REFUSED = "refused"

TOLD = {
    "accepted": "stored, and a job will process it",
    "recaptured": "known content that is the latest state again; a job will process it, or on release",
    "retried": "known content that had failed; a job will process it again",
    "duplicate": "known content; nothing was stored",
}


class Offered(msgspec.Struct, omit_defaults=True):
    """What became of one snapshot that was taken."""

    fate: Annotated[
        str, Meta(description="accepted, recaptured, retried, duplicate or oversized: see docs/ingest.md.")
    ]
    told: Annotated[str, Meta(description="The same as a sentence.")]
    size_bytes: int
    snapshot_id: UUID | None = None
    job_id: Annotated[UUID | None, Meta(description="The job that will process it, where there is one.")] = (
        None
    )
    status_url: Annotated[str, Meta(description="Where to see what becomes of it.")] = ""


class Fault(msgspec.Struct, omit_defaults=True):
    """Why something was not taken."""

    code: str
    detail: str
    position: Annotated[int | None, Meta(description="Byte at fault, from 0.")] = None
    line: int | None = None
    column: Annotated[int | None, Meta(description="Column in bytes, from 1.")] = None
    reason: str | None = None


class LineAnswer(msgspec.Struct, omit_defaults=True):
    """What became of one line of a batch."""

    line: Annotated[int, Meta(description="From 1; blank lines count and have no answer.")]
    fate: Annotated[
        str, Meta(description="As of a single one; malformed: in quarantine; refused: nothing is kept.")
    ]
    size_bytes: int
    snapshot_id: UUID | None = None
    job_id: UUID | None = None
    error: Fault | None = None


class BatchEnd(msgspec.Struct):
    """The last line of the answer to a batch."""

    complete: Annotated[bool, Meta(description="Every line was read and has its answer above.")]
    lines: int
    fates: dict[str, int]
    error: Annotated[Fault | None, Meta(description="Why the rest was not read.")] = None


class MalformedProblem(Problem, omit_defaults=True):
    """A document that is no JSON, or cannot be unpacked: where, and why."""

    position: int | None = None  # no default that a place could have: byte 0 is told too
    line: int | None = None
    column: int | None = None
    reason: str = ""
    kept: bool | None = None
    sha256: str = ""


class SnapshotState(msgspec.Struct):
    """A snapshot and what became of it; its content is not part of it."""

    id: UUID
    source: str
    subject: str | None
    size_bytes: int
    sha256: str
    status: Annotated[str, Meta(description="received, processed, superseded, failed or quarantined.")]
    held: Annotated[bool, Meta(description="In quarantine: not processed until it is released.")]
    processing: bool
    error_count: int
    rows_written: int | None
    captured_at: datetime | None
    created_at: datetime
    updated_at: datetime
    processed_at: datetime | None


def offered(receipt: Receipt) -> Offered:
    """Return the answer to a snapshot that was taken."""
    found = Offered(receipt.fate, told(receipt), receipt.size_bytes, receipt.snapshot_id, receipt.job_id)
    if receipt.snapshot_id is not None:
        found.status_url = f"{SNAPSHOTS}/{receipt.snapshot_id}"
    return found


def told(receipt: Receipt) -> str:
    """Say in a sentence what became of a snapshot."""
    if receipt.fate == "oversized":
        limit = guard_settings().size_max_mb
        return f"above the size guard of {limit:g} MB: stored, and held back until somebody releases it"
    return TOLD.get(receipt.fate, receipt.fate)


def line_answer(number: int, receipt: Receipt) -> LineAnswer:
    """Return the answer to a line that was taken, or kept in quarantine."""
    error = None if receipt.error is None else fault(receipt.error)
    return LineAnswer(number, receipt.fate, receipt.size_bytes, receipt.snapshot_id, receipt.job_id, error)


def fault(error: StarForgeError) -> Fault:
    """Return why something was not taken."""
    found = Fault(error.code, str(error))
    if isinstance(error, MalformedError):
        found.position, found.line, found.column = error.position, error.line, error.column
        found.reason = error.reason
    return found


def malformed(
    error: MalformedError, *, kept: bool, sha256: bytes | None, request_id: Any
) -> MalformedProblem:
    """Return the problem of a document that is no JSON, which says whether its bytes are kept."""
    return MalformedProblem(
        title=(type(error).__doc__ or "").splitlines()[0],
        status=error.http_status,
        detail=str(error),
        type=f"urn:starforge:error:{error.code}",
        code=error.code,
        remedy=error.remedy
        if kept
        else "Nothing is kept. Correct it and offer it again; ?keep=true keeps it.",
        instance=f"urn:uuid:{request_id}",
        position=error.position,
        line=error.line,
        column=error.column,
        reason=error.reason,
        kept=kept,
        sha256=sha256.hex() if sha256 else "",
    )
