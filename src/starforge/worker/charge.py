"""The charge: what a supervisor has to do with its child beside holding the lease.

It starts the child with its output in pipes and a page in common, measures it, knows how it fares, and says
when another is to take its place.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from uuid import UUID

import structlog

from starforge.clock import monotonic_s
from starforge.worker.limit import Limit
from starforge.worker.log import Log
from starforge.worker.memory import Governor
from starforge.worker.need import Ledger
from starforge.worker.page import Page
from starforge.worker.registry import Vitals
from starforge.worker.reload import Sources
from starforge.worker.watch import Watch

log = structlog.get_logger("worker")

SETTLE_S = 0.5
"""Time for the last lines of an ended child to arrive: what it started may hold its pipes open."""


class Charge:
    """One supervisor's children, one after the other."""

    def __init__(self, lines: Log, limit: Limit | None, sources: Sources | None) -> None:
        self.lines, self.limit, self.sources = lines, limit, sources
        self.governor = Governor(limit)
        self.ledger = Ledger()
        self.replaced = ""
        """Why the child is to end, where another is to take its place."""

        self.previous_id: UUID | None = None
        """The worker whose child ended before."""

        self.was_ready = False
        """Whether the child that ended last had ever got as far as to work."""

        self._answered_since_s: float | None = None
        self._page: Page | None = None

    def begin(self, worker_id: UUID) -> Page:
        """A child is to be started as this worker; return the page that it is to share."""
        self.replaced = ""
        self.lines.begin(worker_id)
        self._page = Page.make()
        return self._page

    async def spawn(
        self, module: str, environment: Mapping[str, str], files: Sequence[int]
    ) -> asyncio.subprocess.Process:
        """Start the child: a module of ours, with its output in pipes of ours, and with these open files."""
        assert self._page is not None
        out, err = await self.lines.pipe(), await self.lines.pipe()
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                stdin=asyncio.subprocess.PIPE,
                stdout=out,
                stderr=err,
                pass_fds=(self._page.fd, *files),
                env=dict(environment),
            )
        finally:
            os.close(out)
            os.close(err)

    async def due(self, child: int, stop: asyncio.Event) -> str:
        """Return why the child is to be replaced, once it is."""
        assert self._page is not None
        watch = Watch(self.governor, self._page, child, answered_since_s=lambda: self._answered_since_s)
        watching = asyncio.create_task(watch.until_due())
        if self.sources is None:
            return await watching
        changing = asyncio.create_task(self.sources.changed(stop))
        try:
            await asyncio.wait({watching, changing}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                return watching.result()
            return f"{', '.join(file.name for file in changing.result()[:3])} changed"
        finally:
            watching.cancel()
            changing.cancel()

    def heard(self, answered: bool) -> None:
        """The database has answered a heartbeat, or has not."""
        self._answered_since_s = (self._answered_since_s or monotonic_s()) if answered else None

    def vitals(self) -> Vitals:
        """Return what a heartbeat says of the worker."""
        fare = self._page.fare() if self._page else None
        rss = self.governor.memory.rss_bytes
        if fare is None:
            return Vitals(rss)
        age_s = monotonic_s() - fare.answered_s if fare.answered_s else None
        return Vitals(rss, age_s, fare.finished)

    def news(self) -> dict[str, int]:
        """Return what was learned of the types' needs of memory and is worth writing down."""
        fare = self._page.fare() if self._page else None
        return self.ledger.news(fare.needs) if fare else {}

    async def settle(self) -> None:
        """Take the last lines of a child that has ended."""
        await self.lines.settle(SETTLE_S)

    def end(self, worker_id: UUID) -> None:
        """The child of this worker has ended, and nothing is asked of its page any more."""
        self.previous_id = worker_id
        if self._page is not None:
            self.was_ready = self._page.fare() is not None
            self._page.close()
            self._page = None
