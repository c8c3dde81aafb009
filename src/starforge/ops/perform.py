"""The one way in which anything changes on somebody's behalf: role, plan, change and audit row.

A door (command line, HTTP, console) establishes who asks and calls `perform`. The room's function and
the audit row share one transaction: either both are there afterwards or neither is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import asyncpg

from starforge.clock import failpoint
from starforge.db.pool import Connection, Pool
from starforge.db.statement import sql
from starforge.ops.audit import Recorded, Result, first_result, record
from starforge.ops.blockers import blockers_named
from starforge.ops.errors import KeyReusedError, OutcomeUnknownError, RowsBusyError
from starforge.ops.plan import take, use_up
from starforge.ops.request import LOST, Request, admit, nothing_changed, require_key

ATTEMPTS_MAX = 3
"""How often a transaction is tried that Postgres ended to resolve a deadlock."""


async def perform(
    pool: Pool,
    name: str,
    arguments: Mapping[str, Any],
    *,
    actor: str,
    role: str,
    tenant: str,
    idempotency_key: str | None = None,
    plan_id: UUID | None = None,
    source_address: str | None = None,
    request_id: UUID | None = None,
) -> Result:
    """Perform an operation and return what it did.

    Args:
        pool: Where the database is.
        name: "noun verb" as declared.
        arguments: By name, as text or JSON values; the signature's types are made of them.
        actor: Who asks; a name that the door has established.
        role: One of `ROLES`; decides what the actor may do.
        tenant: For whom; the transaction sees this tenant only.
        idempotency_key: Repeating a request with its key returns the first result and changes nothing.
        plan_id: Apply this plan: refused unless it still holds.
        source_address: From where the request came, for the audit log.
        request_id: The request's id, for the audit log.
    Raises: UnknownOperationError, RoleDeniedError, BadArgumentError, ReasonMissingError,
        InvalidInputError; the Plan errors; KeyReusedError; RowsBusyError, DatabaseUnreachableError,
        OutcomeUnknownError; and what the room's function raises. Nothing is changed by any of them,
        save OutcomeUnknownError, which says so.
    """
    require_key(idempotency_key)
    request = await admit(
        pool,
        name,
        arguments,
        actor=actor,
        role=role,
        tenant=tenant,
        source_address=source_address,
        request_id=request_id,
    )
    with nothing_changed(name):
        result = await _until_done(pool, request, idempotency_key, plan_id)
    failpoint("perform_after_commit")
    return result


async def _until_done(pool: Pool, request: Request, key: str | None, plan_id: UUID | None) -> Result:
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return await _once(pool, request, key, plan_id)
        except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
            if attempt == ATTEMPTS_MAX:
                raise RowsBusyError(f"{request.operation.name} met a deadlock {attempt} times") from None
        except asyncpg.UniqueViolationError as error:
            # Somebody wrote this key without the lock; the next look finds the first result.
            if error.constraint_name != "audit_logs_key" or attempt == ATTEMPTS_MAX:
                raise
    raise AssertionError("the last attempt returns or raises")


async def _once(pool: Pool, request: Request, key: str | None, plan_id: UUID | None) -> Result:
    committing = False
    committed: list[Callable[[], None]] = []
    try:
        async with pool.transaction(tenant=request.tenant) as conn:
            async with blockers_named(pool, conn):
                recorded = await _change_and_record(conn, request, key, plan_id, committed)
            failpoint("perform_before_commit")
            committing = True
    except LOST as error:
        if not committing:
            raise
        told = str(error) or type(error).__name__
        raise OutcomeUnknownError(
            f"{request.operation.name}: the connection was lost at the commit: {told}"
        ) from None
    for tell in committed:
        tell()
    return recorded.result


async def _change_and_record(
    conn: Connection,
    request: Request,
    key: str | None,
    plan_id: UUID | None,
    committed: list[Callable[[], None]],
) -> Recorded:
    if key is not None:
        await conn.execute(sql("ops", "lock_key"), f"{request.tenant}\n{key}")
        first = await first_result(conn, request.tenant, key)
        if first is not None:
            return _same_request(first, request, key, plan_id)
    promised = None if plan_id is None else await take(conn, plan_id, request)
    change = await request.act(conn, committed)
    if plan_id is not None and promised is not None:
        await use_up(conn, plan_id, request, change, promised)
    return await record(conn, request.entry(change, plan_id=plan_id, key=key))


def _same_request(first: Recorded, request: Request, key: str, plan_id: UUID | None) -> Recorded:
    """Return the first result; raise KeyReusedError where the key stands for another request."""
    result = first.result
    if result.operation != request.operation.name:
        raise KeyReusedError(f"idempotency key {key!r} was used for {result.operation}")
    if first.arguments != request.shown or result.plan_id != plan_id:
        raise KeyReusedError(f"idempotency key {key!r} was used for {result.operation} with other arguments")
    return first
