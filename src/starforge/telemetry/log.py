"""Logs: one JSON object a line, or coloured text on a terminal, to standard error.

A supervisor takes the lines of its process itself (`redirect`): they are kept beside those of its children,
and nobody who leaves standard error unread can stop it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from threading import Lock
from typing import Any

import structlog

from starforge.telemetry.trace import with_job

LEVELS = ("debug", "info", "warning", "error")


class _Out:
    """Where the lines of this process go, and in which form; loggers that are made already follow it."""

    def __init__(self) -> None:
        self.text = False
        self.take: Callable[[str], None] | None = None
        self._lock = Lock()

    def write(self, line: str) -> None:
        with self._lock:
            if self.take is None:
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()
            else:
                self.take(f"{line}\n")

    debug = info = warning = error = critical = write
    """What structlog calls its logger by."""


_out = _Out()
_as_json = structlog.processors.JSONRenderer()
_as_text = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def configure(level: str = "info", *, text: bool | None = None) -> None:
    """Set up the process's log.

    Args:
        level: Least level that is written, one of LEVELS.
        text: Lines for people instead of JSON; by default when standard error is a terminal.
    """
    _out.text, _out.take = sys.stderr.isatty() if text is None else text, None
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            with_job,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: _out,
        cache_logger_on_first_use=True,
    )


def redirect(take: Callable[[str], None] | None) -> None:
    """Give every further line of this process to `take`, as JSON with its newline; None: as before."""
    _out.take = take


def for_people(document: dict[str, Any]) -> str:
    """Return a line's document as a terminal shows it."""
    return str(_as_text(None, "", document))


def _render(logger: Any, method: str, event: structlog.typing.EventDict) -> str | bytes:
    renderer = _as_text if _out.text and _out.take is None else _as_json
    return renderer(logger, method, event)
