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
    pairs = [entity for entity, _ in marks], [subject for _, subject in marks]
    made = await conn.fetch(sql("etl", "watermark_make"), tenant, source, *pairs, captured_at)
    seen = {(row["entity"], row["subject"]): Seen(None, False) for row in made}
    if len(seen) == len(marks):
        return seen
    held = await conn.fetch(sql("etl", "watermark_hold"), tenant, source, *pairs)
    for row in held:
        previous: datetime = row["captured_at"]
        seen.setdefault((row["entity"], row["subject"]), Seen(previous, previous > captured_at))
    if any(one.previous is not None and one.previous < captured_at for one in seen.values()):
        await conn.execute(sql("etl", "watermark_raise"), tenant, source, *pairs, captured_at)
    return seen
