"""Alert: a snapshot that was held back is told to whoever answers for its source (O-34, F-46).

The event and the metric are the alert; the row of snapshot_quarantine, with its cause, is the notice that
pages show and a notifier may read.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import structlog

from starforge.telemetry.metrics import SNAPSHOTS_QUARANTINED

log = structlog.get_logger("etl")

Cause = Literal["size", "poison", "malformed"]
"""What held it, where nobody did so by hand."""


def alert(
    cause: Cause, source: str, reason: str, *, owner: str | None = None, snapshot_id: UUID | None = None
) -> None:
    """Say that something of a source is in quarantine since now, and count it."""
    SNAPSHOTS_QUARANTINED.labels(source=source, cause=cause).inc()
    # A command, or a program that only offers snapshots, says so to its user in its own words.
    if not structlog.is_configured():
        return
    log.warning(
        "snapshot.quarantined",
        cause=cause,
        source=source,
        owner=owner,
        reason=reason,
        snapshot_id=str(snapshot_id) if snapshot_id else None,
    )
