"""Sensitive reads: who looks at a payload may do so, and is in the audit log before the first byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starforge.db.pool import Pool
from starforge.operation import Change
from starforge.ops.audit import DENIED, Entry, record, redacted
from starforge.ops.errors import RoleDeniedError
from starforge.ops.request import may

SENSITIVE_READ = "sensitive_read"


async def sensitive_read(
    pool: Pool,
    what: str,
    arguments: Mapping[str, Any],
    *,
    needs: str,
    actor: str,
    role: str,
    tenant: str,
    reason: str | None = None,
    source_address: str | None = None,
) -> None:
    """Record that somebody reads a payload; committed when this returns.

    Args:
        pool: Where the audit log is.
        what: The command or route that reads, as "snapshot export".
        arguments: What of whom is read.
        needs: The least role that may.
        actor: Who reads.
        role: The reader's role.
        tenant: Whose payload it is.
        reason: Why, where that was said.
        source_address: From where, for the audit log.
    Raises: RoleDeniedError, which is recorded too.
    """
    allowed = may(role, needs)
    shown = {"operation": what, **redacted(arguments)}
    entry = Entry(
        tenant,
        actor,
        role,
        SENSITIVE_READ if allowed else DENIED,
        shown if allowed else {**shown, "needs": needs},
        reason=reason,
        source_address=source_address,
        change=Change(f"{what} was read" if allowed else "", int(allowed), 0),
    )
    async with pool.transaction(tenant=tenant) as conn:
        await record(conn, entry)
    if not allowed:
        raise RoleDeniedError(what, needs, role)
