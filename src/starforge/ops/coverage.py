"""Coverage: whether catalogues know what the stored snapshots of a backfill refer to.            (B-67)

A backfill knows nothing of catalogues, and what knows them nothing of backfills: here they meet.
"""

from __future__ import annotations

from starforge.backfill.create.preflight import Finding, also
from starforge.backfill.scheme.snapshot_range import SnapshotRange
from starforge.backfill.select.selection import AnyPart
from starforge.db.pool import Connection
from starforge.etl.snapshot.hold import HOLDS_MAX, held_for
from starforge.etl.source.catalogue import placeholders

SHOWN = 3


@also
async def lacking(conn: Connection, part: AnyPart) -> list[Finding]:
    """Tell which entries the documents of a source refer to and its catalogues lack."""
    scheme, name = part.asset.partitions, part.asset.name
    if not isinstance(scheme, SnapshotRange):
        return []
    found, more = await placeholders(conn, source=scheme.source, most=SHOWN)
    told = []
    if found:
        some = ", ".join(f"{each.id} of {each.catalogue}" for each in found)
        rest = f" and {more} more" if more else ""
        text = (
            f"documents of {scheme.source} refer to what their catalogues lack ({some}{rest}): its rows would"
            f" point at placeholders; `starforge catalog check --source {scheme.source}`"
        )
        told.append(Finding("catalogue", name, text))
    held = len(await held_for(conn, source=scheme.source))
    if held:
        count = f"{held} or more" if held == HOLDS_MAX else str(held)
        text = (
            f"{count} snapshots of {scheme.source} wait for entries of catalogues, and would wait once more;"
            f" `starforge catalog check --source {scheme.source}`"
        )
        told.append(Finding("catalogue", name, text))
    return told
