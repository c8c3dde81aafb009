"""Plans: what an operation would do, shown before it is done and bound to what was shown."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from starforge.clock import new_id
from starforge.db.pool import Connection, Pool, set_tenant
from starforge.db.statement import sql
from starforge.operation import Change
from starforge.ops.audit import redacted
from starforge.ops.blockers import blockers_named
from starforge.ops.errors import (
    PlanAppliedError,
    PlanExpiredError,
    PlanMismatchError,
    PlanNotFoundError,
    PlanStaleError,
)
from starforge.ops.request import Request, admit, nothing_changed
from starforge.ops.undo import undone_by
from starforge.settings import Settings, setting

KEPT_DAYS = 7
"""A plan can be looked up this long after it expired; what was applied is in the audit log for good."""


class PlanSettings(Settings):
    """How long a plan may wait for its approval."""

    expires_s: float = setting(
        900.0,
        env="STARFORGE_PLAN_EXPIRES_S",
        unit="seconds",
        meaning="How long a plan may be applied after it was made.",
        gt=0,
        le=7 * 86400,
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operation would do now; applying `id` does it, unless something has changed by then."""

    id: UUID
    operation: str
    arguments: Mapping[str, Any]
    actor: str
    summary: str
    matched: int
    changed: int
    sample: tuple[str, ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    guards: tuple[str, ...]
    """The guards that the request has passed, in words."""

    undone_by: str
    """The command that would undo it; empty where nothing does."""

    next: Mapping[str, str]
    """What would make sense then, and the command for it."""

    created_at: datetime
    expires_at: datetime

    def document(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document


async def plan(
    pool: Pool,
    name: str,
    arguments: Mapping[str, Any],
    *,
    actor: str,
    role: str,
    tenant: str,
    source_address: str | None = None,
    request_id: UUID | None = None,
) -> Plan:
    """Run the operation in a transaction that is rolled back, keep what it said and return it.

    Raises: what `perform` raises for the same arguments, so that a plan fails where the act would.
    """
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
        change = await rehearse(pool, request)
    plan_id = new_id()
    shown = redacted(change.document())
    async with pool.transaction(tenant=tenant) as conn:
        row = await conn.fetchrow(
            sql("ops", "store_plan"),
            plan_id,
            tenant,
            actor,
            name,
            request.shown,
            fingerprint(request, change),
            shown,
            PlanSettings.read().expires_s,
        )
    assert row is not None
    return Plan(
        id=plan_id,
        operation=name,
        arguments=request.shown,
        actor=actor,
        summary=change.summary,
        matched=change.matched,
        changed=change.changed,
        sample=change.sample,
        before=shown["before"],
        after=shown["after"],
        guards=_guards(request),
        undone_by=undone_by(request.operation, request.shown, change),
        next=change.next,
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )


async def rehearse(pool: Pool, request: Request) -> Change:
    """Run the room's function and take everything back that it did."""
    async with pool.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        try:
            await set_tenant(conn, request.tenant)
            async with blockers_named(pool, conn):
                return await request.act(conn)
        finally:
            if not conn.is_closed():
                await transaction.rollback()


def fingerprint(request: Request, change: Change) -> str:
    """Digest what a plan promises: the act, its arguments, and the state of what it would change.

    What the act would leave behind is not part of it: an expiry is later at every look.
    """
    promised = {
        "operation": request.operation.name,
        "arguments": request.shown,
        "matched": change.matched,
        "sample": change.sample,
        "before": change.before,
    }
    return hashlib.sha256(msgspec.json.encode(promised, order="sorted")).hexdigest()


async def take(conn: Connection, plan_id: UUID, request: Request) -> str:
    """Lock the plan for this transaction and return its fingerprint.

    Raises: PlanNotFoundError, PlanExpiredError, PlanAppliedError, PlanMismatchError.
    """
    row = await conn.fetchrow(sql("ops", "take_plan"), plan_id, request.tenant)
    if row is None:
        raise PlanNotFoundError(f"there is no plan {plan_id}")
    if row["actor"] != request.actor:
        raise PlanMismatchError(f"plan {plan_id} was made by somebody else")
    if row["operation"] != request.operation.name:
        raise PlanMismatchError(f"plan {plan_id} is for {row['operation']}, not {request.operation.name}")
    if row["arguments"] != request.shown:
        names = sorted(set(row["arguments"]) | set(request.shown))
        other = [name for name in names if row["arguments"].get(name) != request.shown.get(name)]
        raise PlanMismatchError(f"plan {plan_id} was made with another {' and '.join(other)}")
    if row["applied_at"] is not None:
        raise PlanAppliedError(f"plan {plan_id} was applied at {row['applied_at']:%Y-%m-%d %H:%M:%S} UTC")
    if row["expired"]:
        raise PlanExpiredError(f"plan {plan_id} expired at {row['expires_at']:%Y-%m-%d %H:%M:%S} UTC")
    return str(row["fingerprint"])


async def use_up(conn: Connection, plan_id: UUID, request: Request, change: Change, promised: str) -> None:
    """Mark the plan as applied; raise PlanStaleError where the change is not the one it promised."""
    if fingerprint(request, change) != promised:
        raise PlanStaleError(f"plan {plan_id} no longer holds: what it would change is different now")
    if await conn.fetchval(sql("ops", "apply_plan"), plan_id, request.tenant) is None:
        raise PlanExpiredError(f"plan {plan_id} expired while it was being applied")


async def prune_plans(conn: Connection) -> int:
    """Forget the plans that expired longer ago than they are kept; return how many."""
    return int((await conn.execute(sql("ops", "prune_plans"), KEPT_DAYS)).rpartition(" ")[2])


def _guards(request: Request) -> tuple[str, ...]:
    passed = [f"role: {request.role} may do what needs {request.operation.role}"]
    passed.append(f"tenant: {request.tenant}")
    if request.operation.needs_reason:
        passed.append("reason: given")
    return tuple(passed)
