"""Rejects: what went wrong with a snapshot, classed and fingerprinted, as a row of etl_errors."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

import asyncpg
import msgspec

from starforge.db.fingerprint import fingerprint, place_of
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
    if at := place_of(cause):
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
    return Reject(kind, message, details, fingerprint(cause, kind))


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
