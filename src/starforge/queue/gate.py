"""Gates: the one answer to "may this start now?".

A gate withholds and never changes a job's row: it is a row of its own with a cause, an owner, a reason
and an expiry on the database's clock. One that nobody ends, ends by itself (X-11). It stands before a
queue, a type, a tenant or a tag; workers read the gates with their plan, once a second or when told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from shlex import quote
from typing import Any, Literal

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.machine import Machine
from starforge.queue.errors import UnknownGateError
from starforge.queue.hint import CHANNEL, EVERYWHERE
from starforge.settings import Settings, setting

GATE = Machine.of(
    "gate",
    [
        # verb      from           to
        ("pause", "open closed", "closed"),
        ("resume", "closed", "open"),
        ("suspend", "open closed", "closed"),  # a gate for retries only
        ("release", "closed", "open"),
        ("expire", "closed", "open"),
    ],
)

Scope = Literal["queue", "type", "tenant", "tag"]
Cause = Literal["pause", "breaker", "throttle", "retries"]

PAUSE_MINUTES_MAX = 7 * 24 * 60
"""Longest pause: what has to be held back for longer is no mitigation any more."""


class PauseSettings(Settings):
    """How long a pause holds where nobody says otherwise."""

    minutes: int = setting(
        60,
        env="STARFORGE_PAUSE_MINUTES",
        unit="minutes",
        meaning="What an operator holds back or overrides is so for this time, unless they say another.",
        ge=1,
        le=PAUSE_MINUTES_MAX,
    )


@dataclass(frozen=True, slots=True)
class Gate:
    """A closed gate: what it withholds, why, on whose word and until when."""

    scope: str
    name: str
    cause: str
    owner: str
    reason: str
    created_at: datetime
    expires_at: datetime
    rate_per_s: float | None = None
    """Jobs that it lets through per second; none where it is 0 or None."""

    detail: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the gate as an operation's before and after show it."""
        document = {
            "paused": True,
            "owner": self.owner,
            "reason": self.reason,
            "since": self.created_at,
            "until": self.expires_at,
        }
        return document if self.rate_per_s is None else {**document, "rate_per_s": self.rate_per_s}

    @property
    def told(self) -> str:
        """What it does, in words that go after the name: "is paused"."""
        if self.cause == "retries":
            return "has its retries suspended"
        trickle = f" but for {self.rate_per_s:g}/s" if self.rate_per_s else ""
        return {"pause": "is paused", "breaker": "failed too often and is held by its circuit breaker"}.get(
            self.cause, "is throttled"
        ) + trickle

    @property
    def undo(self) -> str:
        """The command that ends it."""
        if self.cause == "retries":
            return f"starforge retries release {self.scope} {quote(self.name)}"
        if self.cause == "breaker":
            return f"starforge breaker reset {quote(self.name)}"
        return f"starforge {self.scope} resume {quote(self.name)}"


@dataclass(frozen=True, slots=True)
class Held:
    """What stands before a gate."""

    waiting: int
    """Pending jobs, those whose time has not come included."""

    retries: int
    """Those of them that have failed before."""

    known: bool
    """False when no job, no type and no live worker has this name: it may be mistyped."""


async def closed_gates(conn: Connection) -> list[Gate]:
    """Return every gate that is closed now; expired ones are not."""
    return [Gate(**row) for row in await conn.fetch(sql("queue", "gates"))]


async def closed(conn: Connection, scope: Scope, name: str, cause: Cause = "pause") -> Gate | None:
    """Return the gate, locked until the transaction ends, or None where it is open."""
    row = await conn.fetchrow(sql("queue", "gate"), scope, name, cause)
    return None if row is None else Gate(**row)


async def held(conn: Connection, scope: Scope, name: str) -> Held:
    """Count what waits before a gate and tell whether anybody knows the name."""
    row = await conn.fetchrow(sql("queue", "held"), scope, name)
    assert row is not None
    return Held(**row)


async def close(
    conn: Connection,
    scope: Scope,
    name: str,
    cause: Cause = "pause",
    *,
    owner: str,
    reason: str,
    minutes: int,
    rate_per_s: float | None = None,
    detail: Mapping[str, Any] | None = None,
) -> tuple[Gate, bool]:
    """Withhold jobs from now on; return the gate and whether it is different from what it was.

    Closing a closed gate renews it: owner, reason and expiry are the new ones, its beginning stays.
    Every live worker honours it within a second, or with its next statement where it listens.
    """
    row = await conn.fetchrow(
        sql("queue", "close"), scope, name, cause, owner, reason, minutes, rate_per_s, detail or {}
    )
    await announce(conn)
    if row is not None:
        return Gate(**row), True
    as_before = await closed(conn, scope, name, cause)
    assert as_before is not None
    return as_before, False


async def end(conn: Connection, scope: Scope, name: str, cause: Cause = "pause") -> Gate:
    """Let jobs start again; return the gate that ended.

    Raises: UnknownGateError when it is open, or has expired.
    """
    row = await conn.fetchrow(sql("queue", "end"), scope, name, cause)
    if row is None:
        held_by = "has no suspended retries" if cause == "retries" else "is not paused"
        raise UnknownGateError(f"{scope} {name!r} {held_by}")
    await announce(conn)
    return Gate(**row)


async def noncritical_queues(conn: Connection) -> list[str]:
    """Return the queues that anybody knows and that hold, and are declared for, no critical type (Q-46)."""
    return [row["queue"] for row in await conn.fetch(sql("queue", "noncritical"))]


async def announce(conn: Connection) -> None:
    """Have every worker that listens read its plan afresh once this transaction commits."""
    await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, EVERYWHERE)
