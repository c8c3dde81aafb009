"""Overlap: what stands in the way of a second backfill of the same partitions, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from uuid import UUID

import asyncpg

from starforge.backfill.scheme.scheme import Span, clipped, merged, ranges
from starforge.backfill.select.select import command
from starforge.backfill.select.selection import AnyPart, Frozen, counted
from starforge.db.pool import Connection
from starforge.db.statement import sql

OTHERS_MAX = 20
KEYS_MAX = 5


@dataclass(frozen=True, slots=True)
class Overlap:
    """A live backfill that covers some of the partitions that another is to have."""

    id: UUID
    state: str
    created_by: str | None
    created_at: datetime
    partitions: int
    """How many both have."""

    keys: tuple[str, ...]
    """The first few of them, and the last."""

    shared: tuple[Span, ...]
    """Their places."""

    def told(self) -> str:
        """Return it in words: who has which partitions."""
        return (
            f"backfill {self.id} ({self.state}, created by {self.created_by or 'nobody known'} at"
            f" {self.created_at:%Y-%m-%d %H:%M} UTC) has {counted(self.partitions)} of them:"
            f" {', '.join(self.keys)}"
        )


async def overlaps(conn: Connection, part: AnyPart, tenant: str) -> list[Overlap]:
    """Return the live backfills that have partitions of a part, the oldest first."""
    rows = await conn.fetch(
        sql("backfill", "overlapping"), tenant, part.asset.name, ranges(part.covers), OTHERS_MAX
    )
    return [_overlap(part, row) for row in rows]


def _overlap(part: AnyPart, row: asyncpg.Record) -> Overlap:
    shared = [(each.lower, each.upper) for each in row["shared"]]
    scheme = part.asset.partitions
    if scheme.registers:
        places = {ordinal for first, end in shared for ordinal in range(first, end)}
        keys = [key for key, ordinal, _ in part.partitions() if ordinal in places]
        count, last = len(keys), keys[-1]
    else:
        keys = [key for key, _ in islice(scheme.listed(shared), KEYS_MAX)]
        count, last = sum(map(scheme.count, shared)), scheme.last_key(shared)
    shown = keys if count <= KEYS_MAX else [*keys[: KEYS_MAX - 2], "…", last]
    return Overlap(
        id=row["id"],
        state=row["state"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        partitions=count,
        keys=tuple(shown),
        shared=tuple(shared),
    )


def refusal(part: AnyPart, found: Sequence[Overlap]) -> str:
    """Return what is told to whoever asked, with the commands that would work."""
    name = part.asset.name
    if not found:
        return (
            f"asset {name}: another backfill had some of these partitions and has just ended: ask once more"
        )
    each = "; ".join(one.told() for one in found)
    first = found[0].id
    return (
        f"asset {name}: {each}. `starforge backfill status {first}` shows it, `starforge backfill cancel"
        f" {first} --reason TEXT` ends it{_rest(part, found)}"
    )


def _rest(part: AnyPart, found: Sequence[Overlap]) -> str:
    """Return the command for the first stretch that no other backfill has."""
    scheme = part.asset.partitions
    left = free(part.covers, [span for one in found for span in one.shared])
    if not left:
        return ""
    if isinstance(part, Frozen) or scheme.registers:
        return "; what no other backfill has can be chosen with --keys"
    first, last = scheme.first_key(left[:1]), scheme.last_key(left[:1])
    begins = "begins with" if left[1:] else "is"
    return f"; what no other backfill has {begins} {command(part.asset, first, last)}"


def free(covers: Sequence[Span], taken: Iterable[Span]) -> list[Span]:
    """Return the places of `covers` that are not taken."""
    left: list[Span] = []
    blocked = merged(taken)
    for first, end in covers:
        at = first
        for start, stop in clipped(blocked, (first, end)):
            if at < start:
                left.append((at, start))
            at = stop
        if at < end:
            left.append((at, end))
    return left
