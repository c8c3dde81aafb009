"""A life: one child under one registration, from its start to the word on its end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import msgspec
import structlog

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.queue.reclaim import reclaim
from starforge.telemetry.tree import inherited
from starforge.worker import registry
from starforge.worker.burial import Ending, bury, ending_of, killed_by_us
from starforge.worker.charge import Charge
from starforge.worker.child import ORDERS_ENV, RETIRE, ChildOrders
from starforge.worker.inflight import InFlight
from starforge.worker.overdue import RECYCLED, book, noted, settle
from starforge.worker.process import exit_status
from starforge.worker.registry import WorkerSettings
from starforge.worker.vigil import Vigil
from starforge.worker.watch import RecycleSettings
from starforge.worker.wire import TROUBLE, Wire

log = structlog.get_logger("worker")

TELL_S_MAX = 5.0
"""Longest that the database may take to hear what became of the worker; its lease runs out otherwise."""

KILL_AFTER_GRACE_S = 5.0
STALLED = "was killed, because it made no progress"


class Life:
    """Runs one child until it ends, is replaced, or is to stop; then says what became of the worker."""

    def __init__(self, worker_id: UUID, url: str, charge: Charge, wire: Wire) -> None:
        self.worker_id, self._charge, self._wire = worker_id, charge, wire
        self._settings = WorkerSettings.read()
        self._record = InFlight.create(worker_id, url)
        self.overdue_fd = book()
        self._child: asyncio.subprocess.Process | None = None
        self.status = 0
        self.ending = killed_by_us("was never started")
        self.told = True
        """Whether the database has heard of the end; else the record says it to whoever looks."""

    @property
    def recycled(self) -> bool:
        """Whether the child ended by itself so that another may take its place."""
        return self.status == RECYCLED and not self.ending.running

    def tell(self, number: signal.Signals) -> None:
        """Send the child a signal, where it runs."""
        if self._child is not None and self._child.returncode is None:
            with suppress(ProcessLookupError):
                self._child.send_signal(number)

    async def begin(self, orders: ChildOrders) -> None:
        """Start the child."""
        told = msgspec.structs.replace(
            orders,
            inflight=self._record.path,
            supervisor=os.getpid(),
            progress_s=self._settings.progress_s,
            isolated_max=self._settings.isolated_max,
        )
        environment = {**inherited(), ORDERS_ENV: msgspec.json.encode(told).decode()}
        self._child = await self._charge.spawn("starforge.worker.child", environment, (self.overdue_fd,))

    async def run(self, keep: Awaitable[None], stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """Follow the child to its end; `keep` holds the lease and returns when that is over."""
        assert self._child is not None
        charge, child = self._charge, self._child
        vigil = Vigil(child.pid, self._record, self._settings.progress_s)
        ended = asyncio.create_task(exit_status(child))
        stopping = asyncio.create_task(stop.wait())
        lease = asyncio.ensure_future(keep)
        due = asyncio.create_task(charge.due(child.pid, stop))
        stalled = asyncio.create_task(vigil.until_stalled())
        everything = {ended, stopping, lease, due, stalled}
        await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
        if due.done() and not (stop.is_set() or ended.done() or lease.done() or stalled.done()):
            charge.replaced = due.result()
            await self._retire({ended, stopping, lease, stalled})
        if stop.is_set() and not ended.done():
            self._record.stop()
            await self._drain(ended, lease, hurry)
        why = None
        if not ended.done():
            why = _why_killed(lease=lease.done(), stalled=stalled.done() and not stop.is_set())
            log.error("child.killed", worker_id=str(self.worker_id), reason=why)
            if why == STALLED:
                await vigil.ask_for_stacks()
            with suppress(ProcessLookupError):
                child.kill()
        self.status = await ended
        failpoint("child_ended")
        for task in everything:
            task.cancel()
        await asyncio.gather(*everything, return_exceptions=True)
        await charge.settle()
        self.ending = self._ending(vigil, why)

    def _ending(self, vigil: Vigil, why: str | None) -> Ending:
        if why is not None and why != STALLED:
            return killed_by_us(why)
        if self.status == RECYCLED and all(mark.overdue for mark in self._record.marks()):
            # It left for the sake of what went on past its time: nobody is to blame for that.
            return killed_by_us("was recycled")
        return ending_of(
            self.status,
            self._record,
            self._charge.governor,
            killed_for_memory=vigil.killed_for_memory,
            stalled_s=self._settings.progress_s if why else None,
            log_lines=self._charge.lines.last_lines(),
        )

    async def _retire(self, over: set[asyncio.Task[Any]]) -> None:
        """Have the child end its jobs and then itself; another takes its place."""
        log.info("child.replaced", worker_id=str(self.worker_id), reason=self._charge.replaced)
        self.tell(RETIRE)
        telling = asyncio.create_task(self._tell_stopping())
        within_s = RecycleSettings.read().drain_s + KILL_AFTER_GRACE_S
        await asyncio.wait(over, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({telling})

    async def _drain(
        self, ended: asyncio.Task[int], lease: asyncio.Future[None], hurry: asyncio.Event
    ) -> None:
        """Let the child end its jobs for the grace period, under the lease; when hurried, not for so long."""
        telling = asyncio.create_task(self._tell_stopping())
        hurried = asyncio.create_task(hurry.wait())
        over: set[asyncio.Future[Any]] = {ended, lease}
        grace_s = self._settings.grace_s
        await asyncio.wait({*over, hurried}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(over, timeout=KILL_AFTER_GRACE_S, return_when=asyncio.FIRST_COMPLETED)
        for task in (telling, hurried):
            task.cancel()
        await asyncio.gather(telling, hurried, return_exceptions=True)

    async def _tell_stopping(self) -> None:
        await self._tell(lambda conn: self._stop(conn, ended=False), "stop")

    async def _stop(self, conn: Connection, *, ended: bool) -> None:
        replaced = self._charge.replaced
        why = f"replaced: {replaced}" if replaced else "it was told to stop"
        await registry.stop(conn, self.worker_id, ended=ended, reason=why)

    async def bury(self, *, in_order: bool) -> None:
        """Record what became of the worker, in order or not; what died while jobs ran did not end in order.

        What the database does not hear now whoever comes next finds in the record.
        """
        self._record.note(msgspec.json.encode(self.ending))

        async def tell(conn: Connection) -> None:
            await settle(conn, noted(self.overdue_fd), worker_id=self.worker_id)
            if in_order and not self.ending.running:
                await self._stop(conn, ended=True)
            else:
                await bury(conn, self.worker_id, self.ending)
            # What a child that was killed still held need not wait for another worker's sweep.
            await reclaim(conn)

        self.told = await self._tell(tell, "end")
        os.close(self.overdue_fd)
        if self.told:
            self._record.remove()
        else:
            self._record.close()

    async def _tell(self, what: Callable[[Connection], Awaitable[None]], verb: str) -> bool:
        """Tell the database something of the worker; return False where it is away."""
        try:
            await self._wire.ask(what, within_s=TELL_S_MAX)
        except TROUBLE as error:
            log.warning("worker.untold", verb=verb, error=str(error) or repr(error))
            return False
        return True


def _why_killed(*, lease: bool, stalled: bool) -> str:
    if lease:
        return "was killed, because its lease was over"
    return STALLED if stalled else "was killed, because it did not stop in time"
