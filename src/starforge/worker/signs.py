"""Signs of life: a thread of the child that tells the supervisor how the child fares, and hears when to rest.

A thread, because a handler may hold the loop for as long as it likes. It looks a few times per second and
costs no job anything.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import threading
from collections import Counter, deque
from typing import Any
from uuid import UUID

import structlog

from starforge.clock import monotonic_s
from starforge.errors import told
from starforge.telemetry.process import Memory, forget_peak, memory_of
from starforge.worker import report
from starforge.worker.admit import Admission
from starforge.worker.need import Needs
from starforge.worker.page import RUNNING_TOLD_MAX, Fare, Page, RunningJob
from starforge.worker.run import Runner

log = structlog.get_logger("worker")

TICK_S = 0.25
CURVE_TICKS = 240


class Signs:
    """What one child tells of itself until `end`."""

    def __init__(self, page: Page, runner: Runner, worker_id: UUID, *, admission: Admission | None) -> None:
        self._page, self._runner, self._worker_id = page, runner, worker_id
        self._admission = admission
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._idle_bytes = (memory_of(self._pid) or Memory()).rss_bytes
        self._needs = Needs(self._idle_bytes) if admission else None
        self._since_s: dict[UUID, float] = {}
        self._curve: deque[tuple[float, int]] = deque(maxlen=CURVE_TICKS)
        self._resting = False
        self._emptying = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signs", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Tell a last time and end."""
        self._over.set()
        self._thread.join(TICK_S * 4)

    def _run(self) -> None:
        while not self._over.wait(TICK_S):
            try:
                self._tick()
            except Exception as error:
                # Without a sign the child would be taken for one that hangs.
                log.error("signs.failed", error=told(error))
        self._tell(memory_of(self._pid) or Memory())

    def _tick(self) -> None:
        self._runner.host.standstill.catch()
        memory = memory_of(self._pid) or Memory()
        self._curve.append((monotonic_s(), memory.rss_bytes))
        if self._admission is not None and self._needs is not None:
            self._learn(self._admission, self._needs, memory)
        self._tell(memory)
        rest = self._page.rest
        if rest != self._resting:
            self._resting = self._emptying = rest
            self._loop.call_soon_threadsafe(self._runner.rest, rest)
            if rest:
                self._relieve(memory)
        elif rest and self._emptying and not self._runner.running():
            # What has ended meanwhile is garbage now.
            self._emptying = False
            give_back_memory()

    def _learn(self, admission: Admission, needs: Needs, memory: Memory) -> None:
        seen = Counter(admission.seen)
        admission.seen = Counter(admission.running)
        if seen:
            needs.observe(seen, max(memory.peak_bytes, memory.rss_bytes))
        else:
            needs.idle(memory.rss_bytes)
        forget_peak()

    def _tell(self, memory: Memory) -> None:
        now_s, runner = monotonic_s(), self._runner
        running = runner.running()
        self._since_s = {job_id: self._since_s.get(job_id, now_s) for job_id, _ in running}
        first = running[:RUNNING_TOLD_MAX]
        jobs = [RunningJob(str(job_id), of, self._since_s[job_id]) for job_id, of in first]
        self._page.tell(
            Fare(
                told_s=now_s,
                asked_s=runner.claimer.asked_s,
                answered_s=runner.claimer.answered_s,
                finished=runner.finisher.finished,
                running=len(running),
                waiting=runner.waiting,
                rss_bytes=memory.rss_bytes,
                idle_bytes=self._idle_bytes,
                needs=dict(self._needs.seen) if self._needs else {},
                jobs=jobs,
            )
        )

    def _relieve(self, memory: Memory) -> None:
        """Give memory back to the system and write down what is held, once per time of need."""
        document = self._document(memory)
        give_back_memory()
        after = memory_of(self._pid) or Memory()
        document["rss_bytes_after_collection"] = after.rss_bytes
        try:
            file = str(report.write(document, f"memory-{self._worker_id}"))
        except OSError as error:
            file = f"not written: {error}"
        log.warning(
            "memory.report",
            file=file,
            rss_bytes=memory.rss_bytes,
            rss_bytes_after=after.rss_bytes,
            types=document["types"][:10],
            lines=document.get("lines", [])[:10],
            jobs=document["jobs"][:10],
        )

    def _document(self, memory: Memory) -> dict[str, Any]:
        now_s = monotonic_s()
        running, since_s = self._runner.running(), self._since_s
        return {
            "worker_id": str(self._worker_id),
            "pid": self._pid,
            "rss_bytes": memory.rss_bytes,
            "heap_bytes": memory.heap_bytes,
            "jobs": [
                {
                    "job_id": str(job_id),
                    "type": of,
                    "age_s": round(now_s - since_s.get(job_id, now_s), 2),
                }
                for job_id, of in running
            ],
            "curve": [(round(now_s - at_s, 2), rss) for at_s, rss in self._curve],
            **report.allocation(),
            "stacks": report.stacks(),
        }


def give_back_memory() -> None:
    """Collect garbage, and have the C library return to the system what it keeps for later."""
    gc.collect()
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


_LIBC = ctypes.CDLL(None)
