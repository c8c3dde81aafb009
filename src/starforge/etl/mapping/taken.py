"""When a document was taken: a time that lies ahead is no such time.

One capture dated ten years ahead would supersede everything of its subject that comes until then. A day is
left for clocks and zones that are wrong.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from starforge.etl.errors import CapturedAheadError

AHEAD_MAX = timedelta(days=1)


def ahead(captured_at: datetime) -> str | None:
    """Return why a document cannot have been taken then, None where it can."""
    if captured_at <= datetime.now(UTC) + AHEAD_MAX:
        return None
    return f"{captured_at.isoformat()} lies more than a day ahead"


def require_taken(captured_at: datetime | None) -> None:
    """Raise CapturedAheadError where a caller's time lies ahead."""
    if captured_at is not None and (reason := ahead(captured_at)) is not None:
        raise CapturedAheadError(f"captured_at {reason}")
