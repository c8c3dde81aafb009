"""What backfills look like now: a list of them, and the partitions of one. Nothing here locks.

The list reads the backfills' own rows and never their partitions, so it takes as long for half a million of
these as for ten. Every read is confined to the tenant that its transaction speaks for (B-70).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from starforge.backfill.errors import UnknownBackfillError
from starforge.backfill.partition.partition import PARTITION
from starforge.backfill.show.cause import likely_cause
from starforge.backfill.show.why import QUIET_S, QUIET_TIMES
from starforge.backfill.state.ages import AgeSettings
from starforge.backfill.state.author import author
from starforge.backfill.state.backfill import BACKFILL
from starforge.db.pool import Connection
from starforge.db.probing import plan_by_probes
from starforge.db.statement import sql
from starforge.errors import InvalidInputError

HEALTHS = ("ok", "stale", "no-progress")
SORTS = ("newest", "eta", "heartbeat")
LISTED_MAX = 1000
PAGE_MAX = 10_000
OLDER_S_MAX = 36_500 * 86_400.0
PLACE_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a list of backfills."""

    id: UUID
    tenant: str
    asset: str
    state: str
    health: str
    """ok, stale (nobody coordinates it), or no-progress."""

    priority: int
    total: int
    completed: int
    failed: int
    cancelled: int
    checkpoint: str | None
    eta_low_at: datetime | None
    eta_at: datetime | None
    eta_high_at: datetime | None
    eta_low_s: float | None
    """Seconds that are left until then, not below 0."""

    eta_high_s: float | None

    average_ms: float | None
    sla_at: datetime | None
    heartbeat_at: datetime | None
    heartbeat_age_s: float | None
    pace: float
    """Share of its concurrency that it may use now."""

    pace_reason: str | None
    created_by: str | None
    state_by: str | None
    state_reason: str | None
    created_at: datetime
    completed_at: datetime | None
    closed_at: datetime | None
    worker: str | None
    """Host and process of its coordinator."""


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed attempts that look alike."""

    fingerprint: str | None
    message: str
    count: int
    keys: list[str]
    """Some of the partitions."""

    last_at: datetime | None
    cause: str
    """The likely cause, by what the message says."""


@dataclass(frozen=True, slots=True)
class Made:
    """One partition of a backfill."""

    key: str
    ordinal: int
    state: str
    attempts: int
    error: str | None
    fingerprint: str | None
    started_at: datetime | None
    completed_at: datetime | None
    duration_ms: float | None
    canary: bool


async def list_backfills(
    conn: Connection,
    *,
    state: str | None = None,
    asset: str | None = None,
    older_s: float | None = None,
    health: str | None = None,
    sort: str = "newest",
    after: UUID | None = None,
    most: int = 50,
) -> list[Listed]:
    """List the backfills that fit, at most `most`.

    Args:
        state: Only in this state.
        asset: Only of this asset.
        older_s: Only created at least so many seconds ago.
        health: Only so: ok, stale or no-progress.
        sort: newest first, by eta (the next to end first), or by heartbeat (the oldest first).
        after: Those behind this one, of the newest: the last of the page before.
    Raises: InvalidInputError for a word that does not exist, or too many, or a page of another order;
        UnknownBackfillError for an `after` that the tenant does not have.
    """
    _known("state", state, BACKFILL.states)
    _known("health", health, HEALTHS)
    _known("order", sort, SORTS)
    if asset is not None and "\0" in asset:
        raise InvalidInputError("no asset has NUL in its name")
    if older_s is not None and not 0 <= older_s <= OLDER_S_MAX:
        raise InvalidInputError(f"no backfill is {older_s:g} s old; ask for 0 to {OLDER_S_MAX:g}")
    if not 1 <= most <= LISTED_MAX:
        raise InvalidInputError(f"{most} backfills cannot be listed; ask for 1 to {LISTED_MAX}")
    ages = AgeSettings.read()
    bounds = (ages.suspect_s, ages.bulk_recovery_s, QUIET_S, QUIET_TIMES)
    behind = None if after is None else await _created_at(conn, after, sort)
    rows = await conn.fetch(
        sql("backfill", "list"), state, asset, older_s, health, *bounds, sort, most, behind, after
    )
    return [_listed(row) for row in rows]


async def _created_at(conn: Connection, after: UUID, sort: str) -> datetime:
    if sort != "newest":
        raise InvalidInputError(
            f"only the newest are listed in pages: by {sort} ask for more at once, or without `after`"
        )
    found: datetime | None = await conn.fetchval(sql("backfill", "created"), after)
    if found is None:
        raise UnknownBackfillError(after)
    return found


def _listed(row: asyncpg.Record) -> Listed:
    by, reason = author(row)
    told = {name: value for name, value in row.items() if name not in ("version", "changed")}
    return Listed(**{**told, "state_by": by, "state_reason": reason})


async def partitions(
    conn: Connection,
    backfill_id: UUID,
    *,
    state: str | None = None,
    after: int | None = None,
    most: int = 100,
) -> list[Made]:
    """Return a backfill's partitions in their order, at most `most`, those behind the ordinal `after`.

    Inside a transaction, of which it is the last read: the rest of it probes indexes.

    Raises: UnknownBackfillError, InvalidInputError for a state that does not exist, or too many.
    """
    _known("state", state, PARTITION.states)
    if not 1 <= most <= PAGE_MAX:
        raise InvalidInputError(f"{most} partitions are no page; ask for 1 to {PAGE_MAX}")
    if after is not None and not -PLACE_MAX <= after <= PLACE_MAX:
        raise InvalidInputError(f"{after} is no place of a partition")
    await require(conn, backfill_id)
    # Of a backfill that was just made there are no statistics: without this all its rows would be sorted.
    await conn.execute(plan_by_probes(local=True))
    rows = await conn.fetch(sql("backfill", "partitions"), backfill_id, state, after, most)
    return [Made(**row) for row in rows]


async def failures(conn: Connection, backfill_id: UUID, *, most: int = 100) -> list[Failures]:
    """Group a backfill's failed partitions by what failed, the most frequent first; from the partitions.

    Raises: UnknownBackfillError, InvalidInputError for too many.
    """
    if not 1 <= most <= LISTED_MAX:
        raise InvalidInputError(f"{most} groups cannot be shown; ask for 1 to {LISTED_MAX}")
    await require(conn, backfill_id)
    rows = await conn.fetch(sql("backfill", "failures"), backfill_id, most)
    return [Failures(**row, cause=likely_cause(row["message"])) for row in rows]


async def require(conn: Connection, backfill_id: UUID) -> None:
    """Raise UnknownBackfillError where the caller's tenant has no such backfill."""
    if not await conn.fetchval(sql("backfill", "exists"), backfill_id):
        raise UnknownBackfillError(backfill_id)


def _known(what: str, word: str | None, words: Sequence[str]) -> None:
    if word is not None and word not in words:
        raise InvalidInputError(f"there is no {what} {word!r}; there are {', '.join(words)}")
