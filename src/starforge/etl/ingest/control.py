"""The one place that pauses ingestion: `feature_flags.ingest_control`, also when set by hand (Q-29, F-37).

`starforge ingest pause` writes owner, reason and until beside the flag. The runbook's SQL sets the flag
alone: that pause has no expiry and holds until somebody resumes it or sets the flag back. Under `sources`
stand those that are paused by themselves; the flag wins over them, and neither changes the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.errors import InvalidInputError
from starforge.etl.errors import (
    IngestNotPausedError,
    IngestPausedError,
    SourceNotPausedError,
    SourcePausedError,
)

RETRY_AFTER_S = 30
"""What a producer is told to wait while the end of a pause is unknown or far."""

SAME_UNTIL = timedelta(minutes=1)
"""Two ends of a pause that are closer than this are one: a repeated request changes nothing."""

SOURCES_MAX = 100
"""Sources that are paused by themselves at once: every transaction that takes a snapshot reads them."""


@dataclass(frozen=True, slots=True)
class IngestPause:
    """A pause that holds now; one set by hand names nobody and has no end."""

    owner: str | None = None
    """Who paused it."""
    reason: str | None = None
    until: datetime | None = None
    told: str | None = None
    """Who answers for the source that is paused."""

    def document(self) -> dict[str, Any]:
        """Return the pause as an operation's before and after show it."""
        return {"paused": True, "owner": self.owner, "reason": self.reason, "until": self.until}

    def __str__(self) -> str:
        owner = self.owner or "set by hand"
        until = f", until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else ", with no end"
        return f"{self.reason or 'no reason given'} ({owner}{until})"


@dataclass(frozen=True, slots=True)
class IngestControl:
    """What was paused at a moment: ingestion as a whole, and sources by themselves."""

    now: datetime | None = None
    whole: IngestPause | None = None
    sources: Mapping[str, IngestPause] = field(default_factory=dict)
    expired: bool = False
    """The flag is set, and the pause that set it has ended."""
    ended: tuple[str, ...] = ()
    """Sources whose pause has ended."""

    def refusal(self, source: str) -> SourcePausedError | None:
        """Return why an offer of this source is not taken, where it is paused by itself."""
        pause = self.sources.get(source)
        return None if pause is None else SourcePausedError(source, str(pause), self._retry_after_s(pause))

    def require_open(self, source: str | None = None) -> None:
        """Raise IngestPausedError while ingestion is paused, SourcePausedError while the source is."""
        if self.whole is not None:
            raise IngestPausedError(str(self.whole), self._retry_after_s(self.whole))
        if source is not None and (refusal := self.refusal(source)) is not None:
            raise refusal

    def _retry_after_s(self, pause: IngestPause) -> int:
        if pause.until is None or self.now is None:
            return RETRY_AFTER_S
        return max(1, min(RETRY_AFTER_S, round((pause.until - self.now).total_seconds())))


async def ingest_control(conn: Connection) -> IngestControl:
    """Return what is paused now."""
    return _control(await conn.fetchrow(sql("etl", "control")))


async def ingest_pause(conn: Connection) -> IngestPause | None:
    """Return the pause of all that holds now, or None while snapshots are accepted."""
    return (await ingest_control(conn)).whole


async def require_open(conn: Connection, source: str | None = None) -> None:
    """Raise IngestPausedError while ingestion is paused, SourcePausedError while that of the source is."""
    (await ingest_control(conn)).require_open(source)


async def open_for(conn: Connection, tenant: str) -> IngestControl:
    """Make the open transaction speak for `tenant`, as `set_tenant` does; return which sources are paused.

    Raises: IngestPausedError.
    """
    control = _control(await conn.fetchrow(sql("etl", "open"), tenant))
    control.require_open()
    return control


async def pause(
    conn: Connection, *, owner: str, reason: str, minutes: int
) -> tuple[IngestPause | None, IngestPause, bool]:
    """Pause ingestion; return the pause before, the pause now, and whether they differ."""
    control = await _locked(conn)
    before = control.whole
    if before is not None and _same(control, before, owner, reason, minutes):
        return before, before, False
    now = _control(await conn.fetchrow(sql("etl", "pause"), owner, reason, minutes)).whole
    assert now is not None
    return before, now, True


async def resume(conn: Connection) -> IngestPause:
    """Accept snapshots again; return the pause that ended, raise IngestNotPausedError if there was none."""
    before = (await _locked(conn)).whole
    if before is None:
        raise IngestNotPausedError("ingestion is not paused")
    await conn.execute(sql("etl", "resume"))
    return before


async def pause_source(
    conn: Connection, source: str, *, owner: str, reason: str, minutes: int, told: str | None
) -> tuple[IngestPause | None, IngestPause, bool]:
    """Pause one source; return its pause before, its pause now, and whether they differ.

    Raises: InvalidInputError where too many are paused by themselves already.
    """
    control = await _locked(conn)
    before = control.sources.get(source)
    if before is not None and before.told == told and _same(control, before, owner, reason, minutes):
        return before, before, False
    if before is None and len(control.sources) >= SOURCES_MAX:
        raise InvalidInputError(f"{SOURCES_MAX} sources are paused by themselves: pause ingestion as a whole")
    await _forget_expired(conn, control)
    row = await conn.fetchrow(
        sql("etl", "source_pause"), source, owner, reason, minutes, told, list(control.ended)
    )
    return before, _control(row).sources[source], True


async def resume_source(conn: Connection, source: str) -> IngestPause:
    """Accept a source's snapshots again; return the pause that ended, or raise SourceNotPausedError."""
    control = await _locked(conn)
    before = control.sources.get(source)
    if before is None:
        raise SourceNotPausedError(f"ingestion of source {source!r} is not paused by itself")
    await _forget_expired(conn, control)
    await conn.execute(sql("etl", "source_resume"), [source, *control.ended])
    return before


async def _locked(conn: Connection) -> IngestControl:
    return _control(await conn.fetchrow(sql("etl", "control_lock")))


async def _forget_expired(conn: Connection, control: IngestControl) -> None:
    """Take back a flag whose pause is over: its row is about to change, which else says "set again"."""
    if control.expired:
        await conn.execute(sql("etl", "resume"))


def _same(control: IngestControl, before: IngestPause, owner: str, reason: str, minutes: int) -> bool:
    """Tell whether a request asks for the pause that holds already."""
    if before.until is None or control.now is None or (before.owner, before.reason) != (owner, reason):
        return False
    return abs(control.now + timedelta(minutes=minutes) - before.until) < SAME_UNTIL


def _control(row: asyncpg.Record | None) -> IngestControl:
    """Read the flag with leniency: what people write by hand must work, and in doubt it pauses."""
    data = row["data"] if row is not None else None
    if isinstance(data, str):  # a caller's own connection need not decode jsonb
        data = msgspec.json.decode(data)
    if row is None or not isinstance(data, dict):
        return IngestControl()
    now = row["now"]
    whole = _whole(data, row["updated_at"], now)
    sources, ended = {}, []
    given = data.get("sources")
    for source, value in given.items() if isinstance(given, dict) else ():
        found = _of_source(value, now)
        if found is None:
            ended.append(source)
        else:
            sources[source] = found
    return IngestControl(now, whole, sources, _is_set(data) and whole is None, tuple(ended))


def _is_set(data: dict[str, Any]) -> bool:
    return str(data.get("ingest_paused")).lower() == "true"


def _whole(data: dict[str, Any], updated_at: datetime, now: datetime) -> IngestPause | None:
    if not _is_set(data):
        return None
    until = _time(data.get("until"))
    if until is None:
        return IngestPause(_text(data.get("owner")), _text(data.get("reason")))
    if updated_at > until:
        # Somebody set the flag again by hand after that pause had expired; its owner is not theirs.
        return IngestPause()
    if until <= now:
        return None
    return IngestPause(_text(data.get("owner")), _text(data.get("reason")), until)


def _of_source(value: object, now: datetime) -> IngestPause | None:
    """Read what stands at a source's name: an object, or by hand also true or the reason alone."""
    if not isinstance(value, dict):
        is_open = value is None or str(value).strip().lower() in ("", "false", "0")
        return None if is_open else IngestPause(reason=_text(value) if value != "true" else None)
    until = _time(value.get("until"))
    if until is not None and until <= now:
        return None
    return IngestPause(_text(value.get("owner")), _text(value.get("reason")), until, _text(value.get("told")))


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
