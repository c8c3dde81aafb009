"""What a handler may end its attempt with, beside returning or failing: each is raised.

Ordinary exceptions are failures and are tried again; what is here says more.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

AFTER_S_MAX = 366 * 86400.0
"""Longest time that a handler may put its job off, whatever a server's Retry-After asks for."""

When = float | timedelta | datetime
"""Seconds, a timedelta, or a time (without a zone: UTC)."""


class PermanentError(Exception):
    """Raised by a handler: no retry can help; the job goes to the dead letters at once."""


class MisfitError(PermanentError):
    """A stored payload does not fit the handler's parameters: the field, and what was expected there."""

    def __init__(self, field: str, fault: str) -> None:
        super().__init__(f"the payload does not fit the handler: {field}: {fault}")
        self.field, self.fault = field, fault


class Quarantined(Exception):  # noqa: N818 - an outcome, not an error
    """Raised by a handler: hold this job back, with its reason, until it is released."""


class Discard(Exception):  # noqa: N818 - as above
    """Raised by a handler: this job is not wanted any more; it ends as cancelled, with its reason."""


class PutOff(Exception):  # noqa: N818 - as above
    """A job that is to run again at a time of its handler's choice."""

    def __init__(self, after: When | None, reason: str) -> None:
        super().__init__(reason)
        self.delay_s: float | None = None
        self.at: datetime | None = None
        if isinstance(after, datetime):
            self.at = after if after.tzinfo is not None else after.replace(tzinfo=UTC)
        elif after is not None:
            found = after.total_seconds() if isinstance(after, timedelta) else float(after)
            self.delay_s = min(max(found, 0.0), AFTER_S_MAX)


class RetryLater(PutOff):
    """Raised by a handler: try again, but not before the time that it was told.

    Args:
        after: Seconds, a timedelta, a time, or the text of a Retry-After header (seconds or a date). None,
            and text that is neither, mean the type's own backoff.
        reason: What was in the way.
        counts: Whether this attempt counts as one of the job's; where it was the last, the job is given up.
    """

    def __init__(self, after: When | str | None = None, reason: str = "", *, counts: bool = True) -> None:
        read = _retry_after(after) if isinstance(after, str) else after
        super().__init__(read, reason or "it asked to be tried later")
        self.counts = counts


class Snooze(PutOff):
    """Raised by a handler: not now; run again later. No attempt is counted."""

    def __init__(self, for_: When, reason: str = "") -> None:
        super().__init__(for_, reason or "it was snoozed")


def _retry_after(header: str) -> When | None:
    """Read a Retry-After header; None where it says nothing that can be understood (RFC 9110, 10.2.3)."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
