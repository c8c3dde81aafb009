"""The outcome of an attempt: how it ended, and what is told of that."""

from __future__ import annotations

import traceback
from typing import Any, Literal

import msgspec

from starforge.errors import storable, told
from starforge.queue.job import LeasedJob
from starforge.settings import Settings, setting

TRACE_CHARS_MAX = 8000
REASON_CHARS_MAX = 1000


class CodeSettings(Settings):
    """What the code is that runs the jobs."""

    version: str = setting(
        "",
        env="STARFORGE_CODE_VERSION",
        unit="name",
        meaning="Version of the deployed code, noted in the error of every failed attempt; empty: none.",
        max_length=100,
    )


Ending = Literal["done", "written", "failed", "spared", "putoff", "held", "cancelled", "returned", "killed"]
"""done: it returned. written: it committed its completion itself. failed: it raised. spared: the database was
away from under it. putoff: it is to run again later. held: until it is released. cancelled: nobody wants it
any more. returned: its worker stops. killed: the process that it had to itself died."""


class Outcome(msgspec.Struct):
    """How an attempt ended."""

    job: LeasedJob
    ending: Ending
    ran_ms: float
    error: BaseException | None = None
    result: str | None = None
    """What it returned, as JSON."""

    attempts_max: int | None = None
    """Attempts that an operator leaves it, where those are fewer than its own."""

    @property
    def last(self) -> bool:
        """Whether no attempt is left after this one."""
        most = self.job.max_attempts
        if self.attempts_max is not None:
            most = min(most, self.attempts_max)
        return self.job.attempt >= most

    @property
    def reason(self) -> str:
        """What went wrong, in words that Postgres can keep."""
        return told(self.error)[:REASON_CHARS_MAX] if self.error is not None else ""

    def last_error(self) -> dict[str, Any]:
        """Return what goes into `last_error`: at least a reason (D-10)."""
        document: dict[str, Any] = {
            "reason": self.reason,
            "error": type(self.error).__name__,
            "attempt": self.job.attempt,
            "ran_ms": round(self.ran_ms, 1),
        }
        if version := CodeSettings.read().version:
            document["version"] = version
        if self.attempts_max is not None:
            document["attempts_lowered_to"] = self.attempts_max
        if self.error is not None and self.ending in ("failed", "spared"):
            # Some errors bring more than their words.
            document |= getattr(self.error, "evidence", None) or {}
            trace = "".join(traceback.format_exception(self.error))
            document["trace"] = storable(trace[-TRACE_CHARS_MAX:])
        return document
