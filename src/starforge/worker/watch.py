"""The watch over one child: measures it, tells it to rest, and says when another is to take its place.

A child that is replaced ends its jobs first: no attempt is burnt, and what it cannot end in time is given
back. The next one starts when it has ended and not beside it: two at once would run more jobs, hold more
connections and need more memory than the worker may. What is lost is the time of a start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from starforge.clock import monotonic_s
from starforge.settings import Settings, setting
from starforge.telemetry.process import memory_of
from starforge.worker.memory import SAMPLE_S, Governor
from starforge.worker.page import Fare, Page

log = structlog.get_logger("worker")

MB = 1_000_000
SETTLE_S = 2.0
"""Time that a child without jobs gets to give its memory back before it is replaced for it."""

READY_S_MAX = 120.0
"""An app may import for a while; a child that takes longer than this hangs."""

BLAME_SHARE = 0.05
"""A child that has grown by less than this share of the limit since it was ready is not what fills it."""


class RecycleSettings(Settings):
    """When a child has served long enough."""

    jobs_max: int = setting(
        0,
        env="STARFORGE_CHILD_JOBS_MAX",
        unit="jobs",
        meaning="A child is replaced after so many jobs, draining first; 0: never.",
        ge=0,
    )
    age_s_max: float = setting(
        0.0,
        env="STARFORGE_CHILD_AGE_S_MAX",
        unit="seconds",
        meaning="A child is replaced at this age, draining first; 0: never.",
        ge=0,
    )
    rss_mb_max: float = setting(
        0.0,
        env="STARFORGE_CHILD_RSS_MB_MAX",
        unit="MB",
        meaning="A child that uses more memory than this is replaced, draining first; 0: never.",
        ge=0,
    )
    drain_s: float = setting(
        60.0,
        env="STARFORGE_RECYCLE_S",
        unit="seconds",
        meaning="Time that a child's running jobs have to end before it is replaced; the rest is given back.",
        ge=0,
        le=86400,
    )
    claim_stale_s: float = setting(
        180.0,
        env="STARFORGE_CLAIM_STALE_S",
        unit="seconds",
        meaning="A child that has not asked for work for this long, while the database answers, is replaced.",
        ge=1,
    )


class Watch:
    """Looks at one child every half second until it is to be replaced."""

    def __init__(
        self, governor: Governor, page: Page, child: int, *, answered_since_s: Callable[[], float | None]
    ) -> None:
        self._governor, self._page, self._child = governor, page, child
        self._answered_since_s = answered_since_s
        self._settings = RecycleSettings.read()
        self._started_s = monotonic_s()
        self._idle_since_s: float | None = None
        self._told_too_small = False

    @property
    def fare(self) -> Fare | None:
        """What the child said last."""
        return self._page.fare()

    async def until_due(self) -> str:
        """Return why the child is to be replaced, once it is."""
        while True:
            if (reason := self._look()) is not None:
                return reason
            await asyncio.sleep(SAMPLE_S)

    def _look(self) -> str | None:
        fare = self._page.fare()
        self._governor.sample(self._child)
        self._page.rest = self._governor.judge(fare)
        if fare is None:
            return self._stale(self._started_s, "was not ready", READY_S_MAX)
        return self._worn(fare) or self._full(fare) or self._stale(fare.asked_s, "has not asked for work")

    def _worn(self, fare: Fare) -> str | None:
        """Tell whether it has served long enough, by jobs, age or memory."""
        most = self._settings
        if most.jobs_max and fare.finished >= most.jobs_max:
            return f"it has finished {fare.finished} jobs"
        if most.age_s_max and monotonic_s() - self._started_s >= most.age_s_max:
            return f"it is {most.age_s_max:g} s old"
        if most.rss_mb_max and fare.finished:
            memory = memory_of(self._child)
            if memory is not None and memory.rss_bytes >= most.rss_mb_max * MB:
                return f"it uses {memory.rss_bytes / MB:.0f} MB"
        return None

    def _full(self, fare: Fare) -> str | None:
        """Tell whether memory stays short although its jobs have ended, or have had their time."""
        limit, pressed_s = self._governor.limit, self._governor.pressed_s
        if limit is None or pressed_s is None:
            self._idle_since_s = None
            return None
        now_s = monotonic_s()
        if fare.running or fare.waiting or fare.told_s < pressed_s:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = now_s
        emptied = self._idle_since_s is not None and now_s - self._idle_since_s >= SETTLE_S
        if not emptied and now_s - pressed_s < self._settings.drain_s:
            return None
        grown = fare.rss_bytes - fare.idle_bytes
        if grown < limit.bytes * BLAME_SHARE:
            # A new one would be as large, and what fills the memory would still be there.
            if not self._told_too_small:
                self._told_too_small = True
                log.error(
                    "memory.others",
                    limit_bytes=limit.bytes,
                    source=limit.source,
                    child_rss_bytes=fare.rss_bytes,
                    remedy="Nothing is claimed: raise the limit, or end what else uses this memory.",
                )
            return None
        return f"memory is short and it holds {fare.rss_bytes / MB:.0f} MB"

    def _stale(self, asked_s: float, what: str, least_s: float = 0.0) -> str | None:
        """Tell whether it lives and does not work: nothing else would ever notice."""
        answered_since_s = self._answered_since_s()
        if answered_since_s is None:
            return None
        silent_s = monotonic_s() - max(asked_s, answered_since_s, self._started_s)
        if silent_s < max(self._settings.claim_stale_s, least_s):
            return None
        log.error("child.stale", what=what, silent_s=round(silent_s, 1), pid=self._child)
        return f"it {what} for {silent_s:.0f} s"
