"""Alert: whoever answers for a source is told what is held back of it, or paused (O-34, F-37, F-46).

The event and the metric are the alert; the row of snapshot_quarantine, with its cause, is the notice that
pages show and a notifier may read.
"""

from __future__ import annotations

from datetime import datetime
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


def alert_paused(source: str, *, owner: str | None, by: str, reason: str, until: datetime | None) -> None:
    """Say that ingestion of a source is paused since now; `feature_flags.ingest_control` is the notice."""
    if not structlog.is_configured():
        return
    log.warning(
        "source.paused",
        source=source,
        owner=owner,
        paused_by=by,
        reason=reason,
        until=until.isoformat() if until else None,
    )
