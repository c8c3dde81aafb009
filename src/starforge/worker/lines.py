"""Lines: what comes out of a pipe becomes lines with a level and a job, and so many of them may be kept."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import msgspec

from starforge.clock import monotonic_s
from starforge.settings import Settings, setting

SERIOUS = ("warning", "error", "critical")
SERIOUS_SHARE = 0.2
"""Beside the lines per minute that any line may use up, warnings and errors have this share more."""


class LogSettings(Settings):
    """How much of its processes' output a worker keeps in the database."""

    lines_per_minute: int = setting(
        3000,
        env="STARFORGE_LOG_LINES_PER_MINUTE",
        unit="lines",
        meaning="Most lines that one worker keeps in a minute; further ones are counted. 0: none are kept.",
        ge=0,
        le=1_000_000,
    )
    line_bytes_max: int = setting(
        8192,
        env="STARFORGE_LOG_LINE_BYTES_MAX",
        unit="bytes",
        meaning="Longest line that is kept and passed on whole.",
        ge=256,
        le=1_000_000,
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it is kept."""

    at_s: float
    level: str
    job_id: UUID | None
    text: str
    worker_id: UUID | None


class _Said(msgspec.Struct):
    """What a line of our own log says of itself."""

    level: str = ""
    job_id: str | None = None


class Splitter:
    """Makes lines of the pieces that come out of a pipe; what is too long is cut, and the cut is shown."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are complete."""
        most = LogSettings.read().line_bytes_max
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._skipping and lines:
            del lines[0]  # the end of a line that was cut
            self._skipping = False
        if self._skipping:
            self._rest = b""
        elif len(self._rest) > most:
            lines.append(self._rest)
            self._rest, self._skipping = b"", True
        return [_cut(line, most) for line in lines]

    def rest(self) -> list[bytes]:
        """Return what came last without the end of its line."""
        rest, self._rest, self._skipping = self._rest, b"", False
        return [rest] if rest else []


def _cut(line: bytes, most: int) -> bytes:
    return line if len(line) <= most else line[:most] + b" [cut]"


class Reader:
    """Tells a line's level and job: our own lines say so, a traceback is an error, the rest is output."""

    def __init__(self) -> None:
        self._in_trace = False

    def read(self, line: bytes) -> tuple[str, UUID | None]:
        """Return (level, job id)."""
        if line.startswith(b"{"):
            try:
                said = msgspec.json.decode(line, type=_Said)
                if said.level:
                    self._in_trace = False
                    return said.level, UUID(said.job_id) if said.job_id else None
            except (msgspec.MsgspecError, ValueError):
                pass  # somebody else's JSON is output like any other
        if line.startswith(
            (b"Traceback (most recent call last)", b"Fatal Python error", b"  + Exception Group Trace")
        ):
            self._in_trace = True
            return "error", None
        if self._in_trace:
            # The line that is not indented names the exception; blank ones part chained tracebacks.
            chained = line.startswith((b"During handling of", b"The above exception"))
            self._in_trace = not line or line[:1] in b" \t|+" or chained
            return "error", None
        return "output", None


class Allowance:
    """How many lines may be kept: a bucket that fills up within a minute."""

    def __init__(self) -> None:
        self._left = float(LogSettings.read().lines_per_minute)
        self._serious_left = self._left * SERIOUS_SHARE
        self._at_s = monotonic_s()

    def allows(self, level: str) -> bool:
        """Use one up; False where none is left."""
        most = LogSettings.read().lines_per_minute
        now_s = monotonic_s()
        more = (now_s - self._at_s) * most / 60
        self._at_s = now_s
        self._left = min(most, self._left + more)
        self._serious_left = min(most * SERIOUS_SHARE, self._serious_left + more * SERIOUS_SHARE)
        if self._left >= 1:
            self._left -= 1
            return True
        if level in SERIOUS and self._serious_left >= 1:
            self._serious_left -= 1
            return True
        return False


def event(level: str, name: str, **more: object) -> bytes:
    """Return a line of our own log."""
    return msgspec.json.encode({"level": level, "event": name, **more})
