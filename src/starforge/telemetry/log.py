"""Logs: one JSON object a line, or coloured text on a terminal, to standard error."""

from __future__ import annotations

import logging
import sys

import structlog

from starforge.telemetry.trace import with_job

LEVELS = ("debug", "info", "warning", "error")


def configure(level: str = "info", *, text: bool | None = None) -> None:
    """Set up the process's log.

    Args:
        level: Least level that is written, one of LEVELS.
        text: Lines for people instead of JSON; by default when standard error is a terminal.
    """
    for_people = sys.stderr.isatty() if text is None else text
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if for_people
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            with_job,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
