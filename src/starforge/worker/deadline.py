"""The deadline of an attempt: what is past it is cancelled, and what is deaf to that costs its process.

A coroutine is cancelled. A thread cannot be: it is reported with its stack, and may see `ctx.cancelled`.
What goes on all the same for STARFORGE_CANCEL_S more is overdue, and its process is recycled.
"""

from __future__ import annotations

import traceback
from types import CoroutineType, FrameType
from typing import Any

import structlog

from starforge.clock import monotonic_s
from starforge.queue.context import Context
from starforge.queue.handler import JobType
from starforge.queue.job import LeasedJob
from starforge.settings import Settings, setting

log = structlog.get_logger("worker")

STACK_CHARS_MAX = 4000
FRAMES_MAX = 50


class CancelSettings(Settings):
    """How long a handler may take to end once it was told to."""

    cancel_s: float = setting(
        5.0,
        env="STARFORGE_CANCEL_S",
        unit="seconds",
        meaning="Time that a handler has to end once it is cancelled, before its process is recycled.",
        gt=0,
        le=3600,
    )


def limit_s_of(job: LeasedJob, job_type: JobType) -> float | None:
    """Return how long an attempt may take: as an operator says now, else the job itself, else its type."""
    return job_type.timeout_s if job_type.timeout_set else job.timeout_s or job_type.timeout_s


class Deadline:
    """Ends one attempt when its time, from its start on, is over."""

    __slots__ = ("_context", "_limit_s", "_timer")

    def __init__(self, context: Context, limit_s: float) -> None:
        self._context, self._limit_s = context, limit_s
        left_s = context.started_s + limit_s - monotonic_s()
        self._timer = context.host.loop.call_later(max(0.0, left_s), self._late)

    def close(self) -> None:
        """The attempt has ended."""
        self._timer.cancel()

    def _late(self) -> None:
        context = self._context
        context.expired = True
        threads = context.host.threads
        if (stack := threads.stack(context)) is not None:
            tell_overdue(context, self._limit_s, stack)
        if context.task is not None:
            context.task.cancel()
        self._timer = context.host.loop.call_later(CancelSettings.read().cancel_s, self._deaf)

    def _deaf(self) -> None:
        context = self._context
        stack = context.host.threads.stack(context)
        if stack is None:
            tell_overdue(context, self._limit_s, coroutine_stack(context.coroutine))
        context.host.on_overdue(context)


def tell_overdue(context: Context, limit_s: float, stack: str) -> None:
    """Log that an attempt goes on past its deadline, and where it is."""
    log.error(
        "job.overdue",
        job_id=str(context.job.id),
        type=context.job.type,
        attempt=context.job.attempt,
        timeout_s=limit_s,
        stack=stack[-STACK_CHARS_MAX:],
    )


def coroutine_stack(coroutine: Any) -> str:
    """Return where a suspended coroutine waits, outermost first."""
    lines: list[str] = []
    for _ in range(FRAMES_MAX):
        frame: FrameType | None = getattr(coroutine, "cr_frame", None)
        if frame is None:
            break
        lines += traceback.format_stack(frame, 1)
        coroutine = coroutine.cr_await if isinstance(coroutine, CoroutineType) else None
    return "".join(lines)
