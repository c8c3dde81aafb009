"""Watermarks: up to which capture each entity of each subject has been written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from starforge.db.pool import Connection
from starforge.db.statement import sql

Mark = tuple[str, str]
"""An entity and the subject whose it is."""


async def take(
    conn: Connection, tenant: str, source: str, marks: Mapping[Mark, datetime]
) -> dict[Mark, datetime | None]:
    """Lock these watermarks until the transaction ends, in one order for all, and raise those below.

    Needs READ COMMITTED: a document that waited must see what the one before it left.

    Args:
        conn: In the transaction.
        tenant: Whose they are.
        source: The source.
        marks: The time of the capture that is to be written, by watermark.
    Returns: The time of the previous capture, by watermark; None where there was none. One that is later
        than the capture supersedes it: that must write nothing.
    """
    if not marks:
        return {}
    entities, subjects = zip(*marks, strict=True)
    rows = await conn.fetch(sql("etl", "watermark"), tenant, source, entities, subjects, list(marks.values()))
    return {(row["entity"], row["subject"]): row["previous_at"] for row in rows}


def supersedes(previous: datetime | None, captured_at: datetime) -> bool:
    """Tell whether what was written before is later than a capture."""
    return previous is not None and previous > captured_at
