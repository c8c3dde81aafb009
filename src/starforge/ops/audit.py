"""The audit log: one append-only row per change, written in the transaction of the change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.operation import Change

DENIED = "authz_fail"
"""The operation of a row that records a refusal for want of a role; its arguments name what was asked."""

REDACTED = "(redacted)"
SECRET_NAME = re.compile(r"pass(word|wd|phrase)?$|secret|token|credential|api_?key|private_?key|dsn$", re.I)
SECRET_IN_URL = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+@")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is recorded: who asked for what, in values that may be shown, and what came of it."""

    tenant: str
    actor: str
    role: str
    operation: str
    arguments: Mapping[str, Any]
    reason: str | None = None
    plan_id: UUID | None = None
    key: str | None = None
    request_id: UUID | None = None
    source_address: str | None = None
    change: Change = field(default_factory=lambda: Change("", 0, 0))
    undone_by: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What an operation did: the same document at every door, and again when the request is repeated."""

    operation: str
    summary: str
    matched: int
    changed: int
    sample: tuple[str, ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    actor: str
    reason: str | None
    at: datetime
    audit_id: int
    plan_id: UUID | None
    undone_by: str = ""
    """The command that undoes it; empty where nothing does, or nothing was changed."""

    next: Mapping[str, str] = field(default_factory=dict)
    """What makes sense now, and the command for it."""

    repeated: bool = False
    """True when an earlier request with this idempotency key did it and this one changed nothing."""

    def document(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document


@dataclass(frozen=True, slots=True)
class Recorded:
    """A row of the audit log: the result that it keeps and the arguments that led to it."""

    result: Result
    arguments: Mapping[str, Any]


async def record(conn: Connection, entry: Entry) -> Recorded:
    """Write the row and return it as it is kept.

    Raises: asyncpg.UniqueViolationError (constraint audit_logs_key) when the key was used already.
    """
    change = entry.change
    row = await conn.fetchrow(
        sql("ops", "record"),
        entry.tenant,
        entry.actor,
        entry.role,
        entry.operation,
        entry.arguments,
        entry.reason,
        entry.plan_id,
        entry.key,
        entry.request_id,
        entry.source_address,
        change.matched,
        change.changed,
        redacted(change.before),
        redacted(change.after),
        {
            "summary": change.summary,
            "sample": list(change.sample),
            "undone_by": entry.undone_by,
            "next": list(change.next.items()),  # an object of jsonb has an order of its own
        },
    )
    assert row is not None
    return _recorded(row, repeated=False)


async def first_result(conn: Connection, tenant: str, key: str) -> Recorded | None:
    """Return what came of the first request with this key, or None; its result says `repeated`."""
    row = await conn.fetchrow(sql("ops", "first_result"), tenant, key)
    return None if row is None else _recorded(row, repeated=True)


def _recorded(row: asyncpg.Record, *, repeated: bool) -> Recorded:
    kept = row["result"]
    result = Result(
        operation=row["operation"],
        summary=kept["summary"],
        matched=row["matched"],
        changed=row["changed"],
        sample=tuple(kept["sample"]),
        before=row["before"],
        after=row["after"],
        actor=row["actor"],
        reason=row["reason"],
        at=row["at"],
        audit_id=row["id"],
        plan_id=row["plan_id"],
        undone_by=kept.get("undone_by", ""),
        next=dict(kept.get("next", ())),
        repeated=repeated,
    )
    return Recorded(result, row["arguments"])


def redacted(value: Any, name: str = "") -> Any:
    """Return the value as JSON values, with nothing in it that its name or form says is a secret."""
    if SECRET_NAME.search(name) and value is not None:
        return REDACTED
    if isinstance(value, Mapping):
        return {str(key): redacted(part, str(key)) for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redacted(part) for part in value]
    value = msgspec.to_builtins(value)
    return SECRET_IN_URL.sub(rf"\1:{REDACTED}@", value) if isinstance(value, str) else value
