"""Follow: what became of the snapshots that were taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from starforge.db.pool import Connection
from starforge.db.statement import sql


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of snapshots by how they ended; `waiting` have not ended yet."""

    processed: int
    failed: int
    quarantined: int
    waiting: int
    rows_written: int

    @property
    def ended(self) -> int:
        """Snapshots that are processed, failed or quarantined."""
        return self.processed + self.failed + self.quarantined


async def tally(conn: Connection, ids: Sequence[UUID]) -> Tally:
    """Count these snapshots; a superseded one was processed: an older state wrote nothing."""
    counts: dict[str, int] = {}
    rows_written = 0
    for row in await conn.fetch(sql("etl", "tally"), list(ids)):
        counts[row["status"]] = row["snapshots"]
        rows_written += int(row["rows_written"])
    return Tally(
        processed=counts.get("processed", 0) + counts.get("superseded", 0),
        failed=counts.get("failed", 0),
        quarantined=counts.get("quarantined", 0),
        waiting=counts.get("received", 0),
        rows_written=rows_written,
    )


@dataclass(frozen=True, slots=True)
class Reason:
    """Why some snapshots did not become rows."""

    status: str
    reason: str
    snapshots: int
    sample_id: str


async def reasons(conn: Connection, ids: Sequence[UUID]) -> list[Reason]:
    """Say why the failed and quarantined ones of these snapshots are so, most frequent first."""
    return [Reason(**row) for row in await conn.fetch(sql("etl", "reasons"), list(ids))]
