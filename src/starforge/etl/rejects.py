"""Rejects: what went wrong with a snapshot, classed and fingerprinted, as a row of etl_errors."""

from __future__ import annotations

import hashlib
import re
import traceback
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import asyncpg

from starforge.db.pool import CONNECT_ERRORS, Connection
from starforge.db.statement import sql
from starforge.etl.errors import MalformedError, MappingError

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

_VARIABLE = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"")


@dataclass(frozen=True, slots=True)
class Reject:
    """One row of etl_errors, before it is written."""

    error_type: ErrorType
    message: str
    details: dict[str, Any]
    fingerprint: str


def reject_of(error: BaseException) -> Reject:
    """Class an exception; what a handler raised `from` another is classed by that other."""
    cause = error.__cause__ or error
    kind = error_type(cause)
    message = (str(cause) or type(cause).__name__)[:MESSAGE_CHARS_MAX]
    details: dict[str, Any] = {"error": type(cause).__name__}
    for name in ("position", "line", "column", "reason", "path", "sqlstate", "constraint_name", "table_name"):
        value = getattr(cause, name, None)
        if value is not None:
            details[name] = value
    return Reject(kind, message, details, fingerprint(kind, cause))


def error_type(error: BaseException) -> ErrorType:
    """Return the class of an exception, by its type and SQLSTATE (F-21, F-38)."""
    match error:
        case MalformedError():
            return "PARSE_ERROR"
        case MappingError():
            return "MAPPING_ERROR"
        case asyncpg.ForeignKeyViolationError():
            return "FK_VIOLATION"
        case MemoryError():
            return "OOM"
        case asyncpg.QueryCanceledError() | TimeoutError():
            return "TIMEOUT"
        case asyncpg.PostgresError() | asyncpg.InterfaceError():
            return "DB_ERROR"
        case _ if isinstance(error, CONNECT_ERRORS):
            return "DB_ERROR"
        case _:
            return "UNKNOWN"


def fingerprint(kind: ErrorType, error: BaseException) -> str:
    """Return what like failures share: class, place in the code, message without its variable parts."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].name}" if frames else ""
    # The path of a mapping error tells failures apart by field; its ids do not.
    told = _VARIABLE.sub("#", str(error))
    return hashlib.sha256(f"{kind}|{type(error).__name__}|{place}|{told}".encode()).hexdigest()[:16]


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
