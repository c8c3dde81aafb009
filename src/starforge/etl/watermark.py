"""Watermarks: up to which capture each entity of each subject has been written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from starforge.db.pool import Connection
from starforge.db.statement import sql

Mark = tuple[str, str]
"""An entity and the subject whose it is."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Where one watermark stood: the time of the previous capture, None where this is the first."""

    previous: datetime | None
    superseded: bool
    """The previous capture is later than this one, which must write nothing."""


async def take(
    conn: Connection, tenant: str, source: str, marks: Sequence[Mark], captured_at: datetime
) -> dict[Mark, Seen]:
    """Lock these watermarks until the transaction ends, in one order for all, and raise those below.

    Needs READ COMMITTED: a document that waited must see what the one before it left.
    """
    if not marks:
        return {}
    wanted = list(dict.fromkeys(marks))
    pairs = [entity for entity, _ in wanted], [subject for _, subject in wanted]
    rows = await conn.fetch(sql("etl", "watermark"), tenant, source, *pairs, captured_at)
    return {(row["entity"], row["subject"]): _seen(row["previous_at"], captured_at) for row in rows}


def _seen(previous: datetime | None, captured_at: datetime) -> Seen:
    return Seen(previous, previous is not None and previous > captured_at)
