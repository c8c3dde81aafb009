"""Poison rows: what a walk could not get through even row by row, kept with the reason and stepped over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from starforge.db.fingerprint import fingerprint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.errors import shortened, told

MESSAGE_CHARS_MAX = 2000
LISTED_MAX = 1000


@dataclass(frozen=True, slots=True)
class Poison:
    """A row that was stepped over."""

    row_key: int
    asset_name: str
    ordinal: int
    partition_key: str | None
    error_type: str
    """The class of the error, with its SQLSTATE where it has one."""

    error_message: str
    fingerprint: str | None
    created_at: datetime

    def document(self) -> dict[str, Any]:
        """Return it as programs read it."""
        return {
            "row_key": self.row_key,
            "partition_key": self.partition_key,
            "error_type": self.error_type,
            "error_message": self.error_message,
            "fingerprint": self.fingerprint,
            "created_at": self.created_at.isoformat(),
        }


async def poison_of(
    conn: Connection, backfill_id: UUID, *, after: int | None = None, most: int = LISTED_MAX
) -> list[Poison]:
    """Return poison rows of a backfill, by key; `after` is the last key of the list before."""
    rows = await conn.fetch(sql("backfill", "poison_of"), backfill_id, after, most)
    return [Poison(**row) for row in rows]


async def keep(
    conn: Connection,
    backfill_id: UUID,
    row_key: int,
    error: BaseException,
    *,
    tenant: str,
    asset: str,
    ordinal: int,
) -> None:
    """Keep a row with what was wrong with it, in the caller's transaction."""
    await conn.execute(
        sql("backfill", "poison_keep"),
        backfill_id,
        row_key,
        tenant,
        asset,
        ordinal,
        _class_of(error),
        shortened(told(error), MESSAGE_CHARS_MAX),
        fingerprint(error),
    )


async def drop(conn: Connection, backfill_id: UUID, row_key: int) -> None:
    """Forget a row that got through after all."""
    await conn.execute(sql("backfill", "poison_drop"), backfill_id, row_key)


def _class_of(error: BaseException) -> str:
    state = getattr(error, "sqlstate", None)
    return f"{type(error).__name__} ({state})" if state else type(error).__name__
