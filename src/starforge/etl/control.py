"""The one switch that pauses ingestion: `feature_flags.ingest_control`, also when set by hand (Q-29).

`starforge ingest pause` writes owner, reason and until beside the flag. The runbook's SQL sets the flag
alone: that pause has no expiry and holds until somebody resumes it or sets the flag back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.etl.errors import IngestNotPausedError, IngestPausedError

RETRY_AFTER_S = 30
"""What a producer is told to wait while the end of a pause is unknown or far."""

SAME_UNTIL = timedelta(minutes=1)
"""Two ends of a pause that are closer than this are one: a repeated request changes nothing."""


@dataclass(frozen=True, slots=True)
class IngestPause:
    """A pause of ingestion that holds now; one set by hand names nobody and has no end."""

    owner: str | None = None
    reason: str | None = None
    until: datetime | None = None

    def document(self) -> dict[str, Any]:
        """Return the pause as an operation's before and after show it."""
        return {"paused": True, "owner": self.owner, "reason": self.reason, "until": self.until}

    def __str__(self) -> str:
        owner = self.owner or "set by hand"
        until = f", until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else ", with no end"
        return f"{self.reason or 'no reason given'} ({owner}{until})"


async def ingest_pause(conn: Connection) -> IngestPause | None:
    """Return the pause that holds now, or None while snapshots are accepted."""
    return _read(await conn.fetchrow(sql("etl", "control")))


async def require_open(conn: Connection) -> None:
    """Raise IngestPausedError while ingestion is paused."""
    _require_open(await conn.fetchrow(sql("etl", "control")))


async def open_for(conn: Connection, tenant: str) -> None:
    """Make the open transaction speak for `tenant`, as `set_tenant` does; raise as `require_open` does."""
    _require_open(await conn.fetchrow(sql("etl", "open"), tenant))


def _require_open(row: asyncpg.Record | None) -> None:
    pause = _read(row)
    if pause is None or row is None:
        return
    left_s = (pause.until - row["now"]).total_seconds() if pause.until else RETRY_AFTER_S
    raise IngestPausedError(str(pause), retry_after_s=max(1, min(RETRY_AFTER_S, round(left_s))))


async def pause(
    conn: Connection, *, owner: str, reason: str, minutes: int
) -> tuple[IngestPause | None, IngestPause, bool]:
    """Pause ingestion; return the pause before, the pause now, and whether they differ."""
    row = await conn.fetchrow(sql("etl", "control_lock"))
    before = _read(row)
    if row is not None and before is not None and before.until is not None:
        later = abs(row["now"] + timedelta(minutes=minutes) - before.until)
        if (before.owner, before.reason) == (owner, reason) and later < SAME_UNTIL:
            return before, before, False
    now = _read(await conn.fetchrow(sql("etl", "pause"), owner, reason, minutes))
    assert now is not None
    return before, now, True


async def resume(conn: Connection) -> IngestPause:
    """Accept snapshots again; return the pause that ended, raise IngestNotPausedError if there was none."""
    before = _read(await conn.fetchrow(sql("etl", "control_lock")))
    if before is None:
        raise IngestNotPausedError("ingestion is not paused")
    await conn.execute(sql("etl", "resume"))
    return before


def _read(row: asyncpg.Record | None) -> IngestPause | None:
    """Read the flag with leniency: what people write by hand must work, and in doubt it pauses."""
    data = row["data"] if row is not None else None
    if isinstance(data, str):  # a caller's own connection need not decode jsonb
        data = msgspec.json.decode(data)
    if row is None or not isinstance(data, dict) or str(data.get("ingest_paused")).lower() != "true":
        return None
    until = _time(data.get("until"))
    if until is None:
        return IngestPause(_text(data.get("owner")), _text(data.get("reason")))
    if row["updated_at"] > until:
        # Somebody set the flag again by hand after that pause had expired; its owner is not theirs.
        return IngestPause()
    if until <= row["now"]:
        return None
    return IngestPause(_text(data.get("owner")), _text(data.get("reason")), until)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
