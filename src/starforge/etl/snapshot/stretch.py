"""Stretch: the stored snapshots of a source in a stretch of time, page by page, in the order of that time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from starforge.db.pool import Connection
from starforge.db.statement import sql

By = Literal["captured_at", "created_at"]
"""The time it was taken at, or stored at."""

Lane = Literal["normal", "highmem", "held"]
"""Who may process it: any worker, one with --high-memory, or nobody for now."""

LOWEST_ID = UUID(int=0)

STATEMENTS: dict[By, str] = {"captured_at": "taken_between", "created_at": "stored_between"}


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored snapshot as the state of its subject at a time."""

    at: datetime
    id: UUID
    """With `at` its place in the stretch."""

    snapshot_id: UUID
    capture_id: UUID | None
    """None: its latest capture."""

    status: str
    size_bytes: int
    lane: Lane


async def page(
    conn: Connection,
    *,
    tenant: str,
    source: str,
    by: By,
    end: datetime,
    after: tuple[datetime, UUID],
    most: int,
) -> list[Stored]:
    """Return the snapshots behind a place and before the end, at most `most`.

    By captured_at each capture counts, and a content that came twice is there twice; by created_at each
    stored content counts once. The first place of a stretch is its start with LOWEST_ID.
    """
    rows = await conn.fetch(sql("etl", STATEMENTS[by]), tenant, source, end, *after, most)
    return [Stored(**row) for row in rows]


async def begin_again(conn: Connection, snapshot_ids: Sequence[UUID]) -> None:
    """Have these written in full when they are processed next, also where an attempt had written a part."""
    await conn.execute(sql("etl", "entities_again"), snapshot_ids)
