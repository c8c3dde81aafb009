"""What runs here and for whom: the attempt of this context, and the trace that it belongs to.

A trace is carried as a W3C `traceparent` and nothing else. Where the program has loaded OpenTelemetry, its
current span is the trace; otherwise it is what `trace` holds. Nothing is loaded on its account.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
"""Source: W3C Trace Context, 3.2."""

trace: ContextVar[str | None] = ContextVar("starforge_trace", default=None)
"""The traceparent that jobs enqueued from here belong to."""


class _Job(Protocol):
    @property
    def id(self) -> object: ...

    @property
    def type(self) -> str: ...


class Running(Protocol):
    """An attempt, as far as the log is concerned."""

    @property
    def job(self) -> _Job: ...


running: ContextVar[Running | None] = ContextVar("starforge_running", default=None)
"""The attempt that this code runs for."""


def current_traceparent() -> str | None:
    """Return the traceparent of what runs here, or None where it belongs to no trace."""
    otel: Any = sys.modules.get("opentelemetry.trace")
    if otel is not None:
        span = otel.get_current_span().get_span_context()
        if span.is_valid:
            return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    return trace.get()


def join(traceparent: str) -> None:
    """Make what runs in this context part of the trace; what is no traceparent is carried and not joined."""
    trace.set(traceparent)
    otel: Any = sys.modules.get("opentelemetry.trace")
    if otel is None or (found := TRACEPARENT.fullmatch(traceparent)) is None:
        return
    from opentelemetry import context

    parent = otel.SpanContext(
        int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=otel.TraceFlags(int(found[3], 16))
    )
    context.attach(otel.set_span_in_context(otel.NonRecordingSpan(parent)))


def with_job(_logger: object, _method: str, event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the running job's id and type to a log line that does not name them: structlog's processor."""
    attempt = running.get()
    if attempt is None:
        return event
    return {"job_id": str(attempt.job.id), "type": attempt.job.type, **event}
