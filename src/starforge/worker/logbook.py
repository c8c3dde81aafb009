"""The logbook: workers' lines in Postgres, written by their supervisors and read by anybody on call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from starforge.clock import monotonic_s
from starforge.db.pool import Connection, connect
from starforge.db.statement import sql
from starforge.worker.errors import UnknownWorkerError
from starforge.worker.lines import Line

NAMED_MAX = 5

LEVELS = {
    "debug": ("debug", "output", "info", "warning", "error", "critical"),
    "info": ("output", "info", "warning", "error", "critical"),
    "warning": ("warning", "error", "critical"),
    "error": ("error", "critical"),
}
"""What is shown from each level on; `output` is what a handler printed."""

_VARIABLE = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|0x[0-9a-f]+|\d+(?:\.\d+)?|'[^']*'")
HEAD_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Kept:
    """A line of the logbook."""

    id: int
    at: datetime
    worker_id: UUID
    job_id: UUID | None
    level: str
    line: str


@dataclass(frozen=True, slots=True)
class Who:
    """A worker that was named."""

    id: UUID
    host: str
    pid: int
    state: str
    previous_id: UUID | None
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Alike:
    """Lines of one kind."""

    count: int
    said: str
    last_at: datetime
    workers: int
    last: Kept


class Writer:
    """Writes lines on a connection of its own: what is said never delays a heartbeat."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._conn: Connection | None = None

    async def write(self, lines: Sequence[Line]) -> None:
        """Write these lines; what fails costs the connection."""
        try:
            if self._conn is None or self._conn.is_closed():
                self._conn = await connect(self._url, application="starforge log")
            await keep(self._conn, lines)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the connection."""
        if self._conn is not None:
            self._conn.terminate()
            self._conn = None


async def keep(conn: Connection, lines: Sequence[Line]) -> None:
    """Write lines that were taken a moment ago, each as of its own time."""
    now_s = monotonic_s()
    await conn.execute(
        sql("worker", "keep_lines"),
        [line.worker_id for line in lines],
        [now_s - line.at_s for line in lines],
        [line.level for line in lines],
        [line.job_id for line in lines],
        [line.text for line in lines],
    )


async def who(conn: Connection, word: str) -> Who:
    """Return the worker that an id, the start of one, or host:pid names: of host:pid the newest.

    Raises: UnknownWorkerError where none or more than one is meant.
    """
    found = [Who(**row) for row in await conn.fetch(sql("worker", "who"), word.strip(), NAMED_MAX)]
    if not found:
        raise UnknownWorkerError(f"no worker is called {word!r}")
    ids = [one for one in found if str(one.id).startswith(word.strip().lower())]
    if len(ids) > 1:
        raise UnknownWorkerError(f"{word!r} may be {', '.join(str(one.id) for one in ids)}")
    return found[0]


async def lines(
    conn: Connection,
    *,
    worker_id: UUID | None = None,
    job_id: UUID | None = None,
    since_s: float | None = None,
    level: str | None = None,
    after: int = 0,
    limit: int = 1000,
) -> list[Kept]:
    """Return the newest lines that match, oldest first.

    Args:
        worker_id: Of this worker; None: of all.
        job_id: About this job.
        since_s: No older than this.
        level: Of this level or a graver one, one of LEVELS.
        after: Only lines with a greater id: what came since a look before.
        limit: Most lines.
    """
    levels = list(LEVELS[level]) if level else None
    rows = await conn.fetch(sql("worker", "lines"), worker_id, job_id, since_s, levels, after, limit)
    return [Kept(**row) for row in reversed(rows)]


async def faults(conn: Connection, *, since_s: float, limit: int) -> list[Alike]:
    """Group the newest lines that tell of an error, of anything failed or of a panic; most frequent first."""
    groups: dict[str, list[Kept]] = {}
    for row in await conn.fetch(sql("worker", "faults"), since_s, limit):
        line = Kept(**row)
        groups.setdefault(said(line.line), []).append(line)
    alike = [
        Alike(len(of), what, of[0].at, len({line.worker_id for line in of}), of[0])
        for what, of in groups.items()
    ]
    return sorted(alike, key=lambda group: (-group.count, group.said))


class _Event(msgspec.Struct):
    event: str
    type: str | None = None
    error: str | None = None


def said(line: str) -> str:
    """Return what like lines share: event, job type and error, or the text, without ids and numbers."""
    text = line
    try:
        event = msgspec.json.decode(line, type=_Event)
        text = " ".join(part for part in (event.event, event.type, event.error) if part)
    except msgspec.MsgspecError:
        pass  # no line of our own log
    return _VARIABLE.sub("#", text)[:HEAD_CHARS_MAX]
