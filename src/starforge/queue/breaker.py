"""The circuit breaker of a job type: when too much of it fails its starts are held, and probes bring it back.

It is a gate of cause `breaker`: open means closed to starts, half-open lets a trickle through. Enqueueing
is never refused. Upkeep calls `watch_breakers` every few seconds under the leader's lease; should nobody
call it any more, the gate expires and the type runs again.

Attempts are counted by minute and type where they finish. A breaker remembers in its row what the minute
of its last move had counted before, so that each state judges only what finished within it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.machine import Machine
from starforge.queue.errors import UnknownGateError
from starforge.queue.gate import Gate, announce
from starforge.settings import Settings, setting

log = structlog.get_logger("queue")

BREAKER = Machine.of(
    "breaker",
    [
        # verb      from               to
        ("trip", "closed half_open", "open"),
        ("probe", "open", "half_open"),
        ("recover", "open half_open", "closed"),  # from open: it was turned off for the type
        ("reset", "open half_open", "closed"),
        ("expire", "open half_open", "closed"),
    ],
)

OWNER = "breaker"
UNWATCHED_S = 600.0
"""A breaker that nobody watches for this long lets its type run again."""


class BreakerSettings(Settings):
    """When a type is held back by itself, and how it comes back."""

    ratio: float = setting(
        0.5,
        env="STARFORGE_BREAKER_RATIO",
        unit="share",
        meaning="Share of a type's finished attempts that must have failed to hold its starts.",
        gt=0,
        le=1,
    )
    attempts_min: int = setting(
        20,
        env="STARFORGE_BREAKER_MIN",
        unit="attempts",
        meaning="With fewer finished attempts in the window nothing is concluded.",
        ge=1,
    )
    window_s: float = setting(
        60.0,
        env="STARFORGE_BREAKER_WINDOW_S",
        unit="seconds",
        meaning="How far back attempts are judged, rounded up to whole minutes.",
        gt=0,
        le=3600,
    )
    cooldown_s: float = setting(
        30.0,
        env="STARFORGE_BREAKER_COOLDOWN_S",
        unit="seconds",
        meaning="How long nothing starts before the first probes; doubles with each failed probing.",
        gt=0,
    )
    cooldown_s_max: float = setting(
        600.0,
        env="STARFORGE_BREAKER_COOLDOWN_S_MAX",
        unit="seconds",
        meaning="Longest time without probes.",
        gt=0,
    )
    probes: int = setting(
        5,
        env="STARFORGE_BREAKER_PROBES",
        unit="attempts",
        meaning="So many attempts in a row must succeed while half-open to let the type run again.",
        ge=1,
    )
    probes_per_s: float = setting(
        1.0,
        env="STARFORGE_BREAKER_PROBES_PER_S",
        unit="starts per second",
        meaning="Starts that a half-open breaker lets through.",
        gt=0,
    )


@dataclass(frozen=True, slots=True)
class Watched:
    """A type as one look finds it: its breaker, and what finished since the breaker's last move."""

    type: str
    type_owner: str | None
    state: str
    off: bool
    """An operator turned it off for the type."""

    succeeded: int
    failed: int
    minute_succeeded: int
    """Of the current minute, with what finished in it before the last move."""

    minute_failed: int
    trips: int
    """How often it tripped without having recovered for long in between."""

    since_s: float | None
    """Seconds since its last move; None where it never moved."""

    expires_in_s: float | None
    detail: dict[str, Any] | None

    @property
    def finished(self) -> int:
        return self.succeeded + self.failed


@dataclass(frozen=True, slots=True)
class Moved:
    """One move of a breaker."""

    type: str
    type_owner: str | None
    verb: str
    state: str
    reason: str


async def watch_breakers(conn: Connection) -> list[Moved]:
    """Judge every type that finished attempts lately, and every breaker; return the moves."""
    settings = BreakerSettings.read()
    moved = []
    for row in await conn.fetch(sql("queue", "breakers"), settings.window_s):
        seen = Watched(**row)
        verb, reason = verdict(seen, settings)
        if verb is None and (seen.expires_in_s is None or seen.expires_in_s > UNWATCHED_S / 2):
            continue
        if not await _move(conn, seen, verb, reason, settings) or verb is None:
            continue
        move = Moved(seen.type, seen.type_owner, verb, BREAKER.target(verb, seen.state), reason)
        moved.append(move)
        tell = log.info if verb == "recover" else log.warning
        tell(
            f"breaker.{verb}",
            type=move.type,
            owner=move.type_owner,
            state=move.state,
            reason=reason,
            failed=seen.failed,
            finished=seen.finished,
        )
    if moved:
        await announce(conn)
    return moved


def verdict(seen: Watched, settings: BreakerSettings) -> tuple[str | None, str]:
    """Return the move that is due, or None, and its reason with the figures."""
    told = f"{seen.failed} of {seen.finished} attempts failed"
    if seen.off:
        return ("recover", "it was turned off for the type") if seen.state != "closed" else (None, "")
    if seen.state == "closed":
        enough = seen.finished >= settings.attempts_min
        if enough and seen.failed >= settings.ratio * seen.finished:
            return "trip", f"{told} within {settings.window_s:g} s"
        return None, ""
    if seen.state == "open":
        if (seen.since_s or 0.0) >= cooldown_s(seen.trips, settings):
            return "probe", f"{settings.probes_per_s:g} start/s after {seen.since_s:.0f} s without any"
        return None, ""
    if seen.failed:
        return "trip", f"{told} while it was probed"
    if seen.succeeded >= settings.probes:
        return "recover", f"{seen.succeeded} attempts in a row succeeded"
    return None, ""


def cooldown_s(trips: int, settings: BreakerSettings) -> float:
    """Return how long a breaker stays open after so many trips, 1 or more."""
    # 2^60 s is beyond any bound; it keeps the power finite.
    return float(min(settings.cooldown_s_max, settings.cooldown_s * 2.0 ** min(trips - 1, 60)))


async def reset(conn: Connection, job_type: str) -> Gate:
    """Let a type run again whatever its breaker thinks; what failed so far no longer counts.

    Raises: UnknownGateError when its breaker does not hold it.
    """
    row = await conn.fetchrow(sql("queue", "breaker_reset"), job_type)
    if row is None:
        raise UnknownGateError(f"the breaker of type {job_type!r} does not hold it")
    await announce(conn)
    return Gate(**row)


async def _move(
    conn: Connection, seen: Watched, verb: str | None, reason: str, settings: BreakerSettings
) -> bool:
    """Write a move, or with no verb a later expiry, if the breaker is still as it was seen."""
    state = seen.state if verb is None else BREAKER.target(verb, seen.state)
    detail = seen.detail or {}
    if verb is not None:
        quiet = seen.since_s is None or seen.since_s > settings.cooldown_s_max
        again = 0 if seen.state == "closed" and quiet else seen.trips
        detail = {
            "succeeded": seen.minute_succeeded,
            "failed": seen.minute_failed,
            "trips": again + 1 if verb == "trip" else seen.trips,
        }
    changed: datetime | None = await conn.fetchval(
        sql("queue", "breaker"),
        seen.type,
        OWNER,
        reason or None,
        state,
        0.0 if state == "closed" else UNWATCHED_S,
        settings.probes_per_s,
        detail,
        verb is not None,
        seen.detail,
    )
    return changed is not None
