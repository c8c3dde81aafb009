"""Rejects: what went wrong with a snapshot, classed and fingerprinted, as a row of etl_errors."""

from __future__ import annotations

import hashlib
import re
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import asyncpg
import msgspec

from starforge.db.pool import DATABASE_AWAY, Connection
from starforge.db.statement import sql
from starforge.errors import storable, told
from starforge.etl.document.redact import redaction
from starforge.etl.errors import (
    CatalogueGapError,
    DocumentTimeoutError,
    EntitiesFailedError,
    MalformedError,
    MappingError,
    MappingUnfitError,
    TooLargeError,
)
from starforge.queue.handler import PermanentError

ErrorType = Literal["PARSE_ERROR", "MAPPING_ERROR", "DB_ERROR", "FK_VIOLATION", "OOM", "TIMEOUT", "UNKNOWN"]
ERROR_TYPES: tuple[ErrorType, ...] = (
    "PARSE_ERROR",
    "MAPPING_ERROR",
    "DB_ERROR",
    "FK_VIOLATION",
    "OOM",
    "TIMEOUT",
    "UNKNOWN",
)
MESSAGE_CHARS_MAX = 2000
VALUE_CHARS_MAX = 200
SEGMENT = re.compile(r"[^.\[\]]+")

DETAILS = (
    "position", "line", "column", "reason", "path",
    "sqlstate", "schema_name", "table_name", "column_name", "constraint_name",
)  # fmt: skip
"""What an error says of itself that is kept beside its message."""

_VARIABLE = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"")


@dataclass(frozen=True, slots=True)
class Reject:
    """One row of etl_errors, before it is written."""

    error_type: ErrorType
    message: str
    details: dict[str, Any]
    fingerprint: str


def reject_of(error: BaseException) -> Reject:
    """Class an exception; a PermanentError that a handler raised `from` another is classed by that other.

    The exception may be anybody's: what of it Postgres or JSON cannot hold is left out or becomes U+FFFD.
    """
    cause = (error.__cause__ or error) if isinstance(error, PermanentError) else error
    kind, rules = error_type(cause), redaction()
    message = rules.text(told(cause))[:MESSAGE_CHARS_MAX]
    details: dict[str, Any] = {"error": type(cause).__name__}
    if at := _place(cause):
        details["at"] = at
    for name in DETAILS:
        value = getattr(cause, name, None)
        if isinstance(value, str):
            details[name] = storable(value)[:MESSAGE_CHARS_MAX]
        elif type(value) is int:
            details[name] = value
    if isinstance(cause, MappingError) and cause.value is not None:
        hidden = rules.value(cause.value, tuple(SEGMENT.findall(cause.path)))
        details["value"] = storable(msgspec.json.encode(hidden).decode())[:VALUE_CHARS_MAX]
    return Reject(kind, message, details, fingerprint(kind, cause))


def rejects_of(error: BaseException) -> list[Reject]:
    """Class an exception, and where entities of a large snapshot failed each of these, with its name."""
    cause = (error.__cause__ or error) if isinstance(error, PermanentError) else error
    if not isinstance(cause, EntitiesFailedError):
        return [reject_of(error)]
    found = {id(one): (name, one) for name, one in reversed(cause.failed.items())}
    rejects = [(name, reject_of(one)) for name, one in reversed(found.values())]
    return [replace(one, details={**one.details, "entity": name}) for name, one in rejects]


def error_type(error: BaseException) -> ErrorType:
    """Return the class of an exception, by its type and SQLSTATE (F-21, F-38)."""
    match error:
        case EntitiesFailedError():
            return error_type(error.first)
        case MalformedError() | TooLargeError():
            return "PARSE_ERROR"
        case MappingError():
            return "MAPPING_ERROR"
        case asyncpg.ForeignKeyViolationError() | CatalogueGapError():
            return "FK_VIOLATION"
        case MemoryError():
            return "OOM"
        case asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError() | TimeoutError():
            return "TIMEOUT"
        case DocumentTimeoutError():
            return "TIMEOUT"
        case asyncpg.PostgresError() | MappingUnfitError():
            return "DB_ERROR"
        case _ if isinstance(error, DATABASE_AWAY):
            return "DB_ERROR"
        case _:
            return "UNKNOWN"


def fingerprint(kind: ErrorType, error: BaseException) -> str:
    """Return what like failures share: class, place in the code, message without its variable parts.

    An error of Postgres is known by its SQLSTATE and the table, column or constraint that it names; its
    detail holds values of the row.
    """
    place = _place(error)
    said = told(error)
    if isinstance(error, asyncpg.PostgresError):
        names = ("sqlstate", "schema_name", "table_name", "column_name", "constraint_name")
        place = "|".join(str(getattr(error, name, None)) for name in names)
        said = error.message or said
    # The path of a mapping error tells failures apart by field; its ids do not.
    said = _VARIABLE.sub("#", said)
    return hashlib.sha256(
        f"{kind}|{type(error).__name__}|{place}|{said}".encode(errors="replace")
    ).hexdigest()[:16]


def _place(error: BaseException) -> str:
    """Return where in the code an error arose, without the line: that is another with every release."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else ""


async def reject(
    conn: Connection,
    found: Reject,
    *,
    tenant: str,
    source: str,
    snapshot_id: UUID | None = None,
    job_id: UUID | None = None,
) -> None:
    """Write one row of etl_errors in the caller's transaction."""
    await conn.execute(
        sql("etl", "reject"),
        tenant,
        snapshot_id,
        job_id,
        source,
        found.error_type,
        found.message,
        found.details,
        found.fingerprint,
    )
