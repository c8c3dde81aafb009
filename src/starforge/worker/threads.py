"""Threads: where plain functions run, so that one that blocks holds up no other job.

A thread cannot be stopped from outside. Whoever awaits a call here waits until the thread has ended it,
cancelled or not: so no job is given to anybody else while its code still runs.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from starforge.telemetry.trace import Running, running

STACK_FRAMES_MAX = 50


class _Answer(asyncio.Future[tuple[Any, BaseException | None]]):
    """What a thread will say; a cancellation of whoever waits for it waits as well."""

    def cancel(self, msg: Any | None = None) -> bool:
        return False


_Call = tuple[_Answer, contextvars.Context, Callable[[], Any], Running | None]


class Threads:
    """At most `most` threads, started when they are needed.

    Answers come back in bundles: a thread wakes the loop only when it is not woken already.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._ended: deque[tuple[_Answer, Any, BaseException | None]] = deque()
        self._waking = False
        self._waiting = 0
        self._threads: list[threading.Thread] = []
        self._runs: dict[int, Running | None] = {}
        self._loop = asyncio.get_running_loop()

    async def run(self, call: Callable[[], Any], *, last: bool = False) -> Any:
        """Run `call` in a thread, in a copy of this context, and return what it returns.

        Args:
            call: What blocks.
            last: There is nothing to do after it: then it has happened, also where whoever waits for it was
                cancelled meanwhile. Otherwise the cancellation is raised once the thread has ended.
        """
        answer = _Answer(loop=self._loop)
        self._waiting += 1
        if self._waiting > len(self._threads) and len(self._threads) < self._most:
            self._start()
        self._calls.put((answer, contextvars.copy_context(), call, running.get()))
        try:
            value, error = await answer
        except asyncio.CancelledError:
            if not (last and answer.done()):
                raise
            value, error = answer.result()
        finally:
            self._waiting -= 1
        if error is not None:
            raise error
        return value

    def stack(self, attempt: Running) -> str | None:
        """Return where an attempt's thread is now; None where it has none."""
        for ident, runs in list(self._runs.items()):
            if runs is attempt and (frame := sys._current_frames().get(ident)) is not None:
                return "".join(traceback.format_stack(frame, STACK_FRAMES_MAX))
        return None

    def close(self) -> None:
        """Let the threads end that have nothing to do; the process does not wait for the others."""
        for _ in self._threads:
            self._calls.put(None)

    def _start(self) -> None:
        name = f"starforge-job-{len(self._threads) + 1}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        me = threading.get_ident()
        while (item := self._calls.get()) is not None:
            answer, context, call, self._runs[me] = item
            value, error = None, None
            try:
                value = context.run(call)
            except BaseException as raised:  # whatever a job's code raises is its job's affair
                error = raised
            self._runs[me] = None
            # First the answer, then the look whether somebody has woken the loop: see _collect.
            self._ended.append((answer, value, error))
            if not self._waking:
                self._waking = True
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._collect)
            # Nothing of a job stays alive while its thread waits for the next one.
            del item, answer, context, call, value, error

    def _collect(self) -> None:
        self._waking = False
        while self._ended:
            answer, value, error = self._ended.popleft()
            if not answer.done():
                answer.set_result((value, error))
