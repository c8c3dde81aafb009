"""Slots: how many partitions of one backfill run at once, as every worker heeds it."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from starforge.db.pool import Connection
from starforge.queue.override import overridden, override, reset_keys

MINUTES = 10 * 366 * 24 * 60
"""How long it holds: longer than any backfill. What ends one takes it away, and so does its expiry."""


async def slots_of(conn: Connection, backfill_id: UUID) -> int | None:
    """Return how many may, locked until the transaction ends; None: as its job type declares."""
    found = await overridden(conn, "key", str(backfill_id), "limit")
    return None if found is None else found.value


async def set_slots(conn: Connection, backfill_id: UUID, slots: int, *, owner: str, reason: str) -> None:
    """Let so many run at once, 0 or more, whatever its job type declares."""
    await override(conn, "key", str(backfill_id), "limit", slots, owner=owner, reason=reason, minutes=MINUTES)


async def forget_slots(conn: Connection, backfill_ids: Iterable[UUID]) -> None:
    """Forget what was said of backfills that are over."""
    await reset_keys(conn, map(str, backfill_ids), "limit")
