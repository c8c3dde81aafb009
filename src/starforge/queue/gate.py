"""Gates: the one answer to "may this start now?".

A gate withholds and never changes a job's row: it is a row of its own with a cause, an owner, a reason
and an expiry on the database's clock. A pause that nobody ends, ends by itself (X-11).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.machine import Machine
from starforge.queue.errors import UnknownGateError
from starforge.settings import Settings, setting

GATE = Machine.of(
    "gate",
    [
        # verb     from           to
        ("pause", "open closed", "closed"),
        ("resume", "closed", "open"),
        ("expire", "closed", "open"),
    ],
)

PAUSE_MINUTES_MAX = 7 * 24 * 60
"""Longest pause: what has to be held back for longer is no mitigation any more."""


class PauseSettings(Settings):
    """How long a pause holds where nobody says otherwise."""

    minutes: int = setting(
        60,
        env="STARFORGE_PAUSE_MINUTES",
        unit="minutes",
        meaning="A pause of a queue or of ingestion ends by itself after this time, unless it says another.",
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

    def document(self) -> dict[str, Any]:
        """Return the gate as an operation's before and after show it."""
        return {
            "paused": True,
            "owner": self.owner,
            "reason": self.reason,
            "since": self.created_at,
            "until": self.expires_at,
        }


@dataclass(frozen=True, slots=True)
class Held:
    """What a gate before a queue withholds."""

    waiting: int
    known: bool
    """False when no job and no live worker names the queue: its name may be mistyped."""


async def closed_gates(conn: Connection) -> list[Gate]:
    """Return every gate that is closed now; expired ones are not."""
    return [Gate(**row) for row in await conn.fetch(sql("queue", "gates"))]


async def paused(conn: Connection, queue: str) -> Gate | None:
    """Return the queue's pause, locked until the transaction ends, or None where it is not paused."""
    row = await conn.fetchrow(sql("queue", "gate"), queue)
    return None if row is None else Gate(**row)


async def held(conn: Connection, queue: str) -> Held:
    """Count what waits in the queue and tell whether anybody knows it."""
    row = await conn.fetchrow(sql("queue", "held"), queue)
    assert row is not None
    return Held(**row)


async def pause(conn: Connection, queue: str, *, owner: str, reason: str, minutes: int) -> tuple[Gate, bool]:
    """Withhold the queue's jobs; return the gate and whether it is different from what it was.

    A pause of a paused queue renews it: owner, reason and expiry are the new ones.
    """
    row = await conn.fetchrow(sql("queue", "pause"), queue, owner, reason, minutes)
    if row is not None:
        return Gate(**row), True
    as_before = await paused(conn, queue)
    assert as_before is not None
    return as_before, False


async def resume(conn: Connection, queue: str) -> Gate:
    """Let the queue's jobs start again; return the pause that ended.

    Raises: UnknownGateError when the queue is not paused, or its pause has expired.
    """
    row = await conn.fetchrow(sql("queue", "resume"), queue)
    if row is None:
        raise UnknownGateError(f"queue {queue!r} is not paused")
    return Gate(**row)
