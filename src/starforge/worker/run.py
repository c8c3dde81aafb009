"""Run: the one path of a job through a worker's child: claim → attempt → finish, in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any
from uuid import UUID

import structlog

from starforge.clock import failpoint, failpoints, monotonic_s
from starforge.db.pool import MAY_PASS, Pool
from starforge.loop import forget_cancellation
from starforge.queue.context import Context, Host
from starforge.queue.flow import Flow
from starforge.queue.handler import RETRY, Discard, JobTypes
from starforge.queue.job import LeasedJob
from starforge.queue.plan import Plan
from starforge.worker.admit import Admission
from starforge.worker.alone import Alone
from starforge.worker.attempt import attempt
from starforge.worker.cancelling import Cancelling
from starforge.worker.chosen import Chosen
from starforge.worker.claimer import Claimer
from starforge.worker.deadline import CancelSettings
from starforge.worker.doubt import Doubt
from starforge.worker.finish import Finisher
from starforge.worker.inflight import APART, InFlight
from starforge.worker.isolation import Isolation
from starforge.worker.outcome import Outcome
from starforge.worker.overdue import Overdue
from starforge.worker.registry import CONCURRENCY_MAX
from starforge.worker.threads import Threads
from starforge.worker.verdict import overdue_of

log = structlog.get_logger("worker")

YIELD_EVERY = 64
"""Attempts that never wait let the loop breathe after this many."""

STUCK_LOOK_S = 0.2
"""A slot that got stuck while the end of the others is waited for is noticed after this time."""

LAST_CLAIM_S_MAX = 5.0
"""Longest that a stop waits for the answer to a claim."""


class Runner:
    """Runs the jobs that its claimer claims, in `concurrency` slots, and stops in order."""

    def __init__(
        self,
        pool: Pool,
        types: JobTypes,
        worker_id: UUID,
        *,
        queues: tuple[str, ...],
        concurrency: int,
        poll_s: float,
        admission: Admission | None = None,
        chosen: Chosen | None = None,
        tell_overdue: Callable[[Overdue], None] = lambda _overdue: None,
        inflight: InFlight | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        """Make a runner; `admission` where memory is limited, `chosen` where only some jobs are its own.

        Without `isolation` every job runs in this process; without `inflight` nobody else sees what runs.
        """
        self._inflight = inflight or InFlight.nowhere()
        self._isolation = isolation
        self._points = failpoints().armed
        self._pool, self._types = pool, types
        self._concurrency = concurrency
        self._admission = admission
        self._slots: set[asyncio.Task[None]] = set()
        self._slot_ended = asyncio.Event()
        self._threads = Threads(CONCURRENCY_MAX)
        self.host = Host(pool, worker_id, threads=self._threads, on_overdue=self._overdue)
        self.cancelling = Cancelling(pool, worker_id, cancel=self._cancel)
        self._tell_overdue = tell_overdue
        self._stuck: set[asyncio.Task[Any]] = set()  # slots whose handlers cannot be ended
        self._stop = asyncio.Event()
        self._alone = Alone(self._apart, self._over, self._stop)
        self.flow = Flow(worker_id, types, self._in_hand)
        # Through these the finisher tells the claimer that there is room, and that the database failed it.
        self._room, doubt = asyncio.Event(), Doubt(worker_id, self._known)
        self.finisher = Finisher(
            pool,
            types,
            worker_id,
            flow=self.flow,
            progress=self.host.progress,
            written=self._room.set,
            failed=doubt.arise,
        )
        self.claimer = Claimer(
            pool,
            Plan(queues, types.names(), self.flow),
            worker_id,
            chosen=chosen,
            concurrency=concurrency,
            poll_s=poll_s,
            running=self.host.attempts,
            alone=self._alone,
            finisher=self.finisher,
            doubt=doubt,
            room=self._room,
            stop=self._stop,
            resize=self._resize,
        )
        # The slots need these for every job, and have them without asking the claimer each time.
        self._buffer, self._pace = self.claimer.buffer, self.claimer.pace
        self._ready, self._announced = self.claimer.ready, self.claimer.announced
        self.recycling = False

    def announce(self, text: str) -> None:
        """Look for work at once: a hint came that there is some."""
        self.claimer.announce(text)

    def rest(self, wanted: bool) -> None:
        """Claim nothing and give back what waits, or go on: what runs, runs on."""
        self.claimer.rest(wanted)

    def running(self) -> list[tuple[UUID, str]]:
        """Return the jobs that run now, with their types; also for other threads."""
        return [(context.job.id, context.job.type) for context in list(self.host.attempts.values())]

    @property
    def waiting(self) -> int:
        """Jobs that are claimed and not started."""
        return len(self._buffer)

    def stop(self) -> None:
        """Claim nothing more; `run` returns once the running jobs have ended or were cancelled."""
        self._stop.set()
        self.claimer.wake()
        self._ready.set()
        self._alone.wake()

    def recycle(self) -> None:
        """Stop so that a new process may take this one's place."""
        self.recycling = True
        self.stop()

    @property
    def stuck(self) -> bool:
        """Whether a handler goes on that could not be ended: then only the process's end ends it."""
        return any(not slot.done() for slot in self._stuck)

    def _overdue(self, context: Context) -> None:
        """A handler goes on past its deadline: nobody may run its job while it does, so its process must end.

        What becomes of the job is said now, in case this process does not get to its own end.
        """
        assert context.task is not None
        self._stuck.add(context.task)
        self._inflight.overdue(context.job.id)
        job_type = self._types.get(context.job.type)
        self._tell_overdue(overdue_of(context, job_type.retry if job_type else RETRY))
        self.recycle()

    def _cancel(self, job_id: UUID, reason: str) -> bool:
        """End a job that runs or is about to; return False where it is neither."""
        if (running := self.host.attempts.get(job_id)) is not None:
            running.cancel(reason)
            return True
        for waiting in (self._buffer, self._alone.waiting):
            for entry in waiting:
                if entry[1].id == job_id:
                    waiting.remove(entry)
                    self.finisher.take(Outcome(entry[1], "cancelled", 0.0, Discard(reason)))
                    return True
        return False

    async def run(self, *, grace_s: float, hurry: asyncio.Event, recycle_s: float | None = None) -> None:
        """Work until `stop`; then let running jobs end for `grace_s` (or until `hurry`), then cancel them.

        Where it stops to be recycled they have `recycle_s`, if that is given.
        """
        written = asyncio.Event()
        self._resize(self._concurrency)
        alone = asyncio.create_task(self._alone.run())
        alone.add_done_callback(lambda _slot: self._slot_ended.set())
        finisher = asyncio.create_task(self.finisher.run(written))
        claiming = asyncio.create_task(self.claimer.run())
        others = self._others()
        stopping = asyncio.create_task(self._stop.wait())
        # Any of them ending before the stop is a fault of ours: stop at once, and raise it at the end.
        ended = asyncio.create_task(self._slot_ended.wait())
        await asyncio.wait({claiming, finisher, stopping, ended}, return_when=asyncio.FIRST_COMPLETED)
        self.stop()
        slots = [*self._slots, alone]
        hurried = asyncio.create_task(hurry.wait())
        everyone = asyncio.create_task(self._ended(slots))
        emptied = asyncio.create_task(self._end_claims(claiming))
        within_s = recycle_s if self.recycling and recycle_s is not None else grace_s
        await asyncio.wait({everyone, hurried}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        self.host.cut.set()
        for task in (hurried, ended, *slots):
            task.cancel()
        # Told to stop, it is killed by its supervisor when this takes too long; recycling is its own affair.
        await asyncio.wait(
            {everyone, emptied}, timeout=CancelSettings.read().cancel_s if self.recycling else None
        )
        self._stuck.update(slot for slot in slots if not slot.done())
        for job_id in self.host.attempts if self.recycling else ():
            self._inflight.overdue(job_id)
        await self.host.resources.close()
        written.set()
        await asyncio.wait({finisher})
        await self._leave()
        self._threads.close()
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for task in (claiming, finisher, *slots):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _resize(self, concurrency: int) -> None:
        """Have so many slots take jobs from now on; those too many end their jobs first and then wait."""
        self._concurrency = concurrency
        for _ in range(concurrency - len(self._slots)):
            slot = asyncio.create_task(self._slot())
            slot.add_done_callback(lambda _slot: self._slot_ended.set())
            self._slots.add(slot)
        self._ready.set()
        self._room.set()

    async def _leave(self) -> None:
        """Give back what was leased beside jobs; where that fails, the worker's own end frees it."""
        try:
            async with asyncio.timeout(LAST_CLAIM_S_MAX), self._pool.connection(probing=True) as conn:
                await self.flow.close(conn)
        except MAY_PASS as error:
            log.warning("tokens.kept", error=str(error) or repr(error))

    def _in_hand(self) -> Iterable[LeasedJob]:
        """Return the jobs that were claimed and have not ended: those running and those about to."""
        running = (context.job for context in self.host.attempts.values())
        return chain(running, (job for _, job in self._buffer), (job for _, job in self._alone.waiting))

    def _known(self) -> Iterable[UUID]:
        """Return the jobs that this worker knows to be its own."""
        return chain((job.id for job in self._in_hand()), self.finisher.held())

    def _others(self) -> list[asyncio.Task[None]]:
        """Start what goes on beside the jobs until the very end."""
        never = asyncio.Event()
        return [
            asyncio.create_task(self.host.progress.run(never)),
            asyncio.create_task(self.cancelling.run(never, lambda: any(True for _ in self._in_hand()))),
        ]

    async def _ended(self, slots: Sequence[asyncio.Task[None]]) -> None:
        """Wait until every slot has ended, save those whose handlers cannot be ended."""
        while left := {slot for slot in slots if not slot.done() and slot not in self._stuck}:
            await asyncio.wait(left, timeout=STUCK_LOOK_S)

    async def _end_claims(self, claiming: asyncio.Task[None]) -> None:
        """Wait for the last claim, not for long, and give back what no slot has taken."""
        await asyncio.wait({claiming}, timeout=LAST_CLAIM_S_MAX)
        # What it may still get is not lost: the supervisor reclaims what a worker that ended holds.
        claiming.cancel()
        self.claimer.give_back()

    async def _slot(self) -> None:
        """One slot: take a job from the buffer, run it, hand over its outcome, again and again."""
        since, started_s = 0, monotonic_s()
        me = asyncio.current_task()
        assert me is not None
        while True:
            while (job := self._next()) is None:
                if self._stop.is_set():
                    return
                self._room.set()
                self._ready.clear()
                await self._ready.wait()
            self._pace.taken += 1
            job_type = self._types.get(job.type)
            assert job_type is not None  # only known types are claimed
            if job_type.isolated and self._isolation is not None:
                outcome = await self._apart(job)
            else:
                mark = self._inflight.start(job)
                if self._points:
                    failpoint("handler_started")
                outcome = await attempt(job, job_type, self.host, me)
                self._inflight.end(mark)
                if self._points:
                    failpoint("handler_ended")
            if self._admission is not None:
                self._admission.ended(job.type)
                self._ready.set()  # what did not fit may fit now
            if self.flow.withholds:
                self._announced.set()
            self.finisher.take(outcome)
            if outcome.ending == "returned":
                return
            if me.cancelling():
                await forget_cancellation(me)
            since += 1
            if since >= YIELD_EVERY or monotonic_s() - started_s > 0.005:
                since, started_s = 0, monotonic_s()
                self._room.set()
                await asyncio.sleep(0)

    def _next(self) -> LeasedJob | None:
        """Take the next job that may start; None where there is none, and when all is to stop."""
        buffer, attempts, alone = self._buffer, self.host.attempts, self._alone
        # The slot for jobs that run alone is beside the others.
        while buffer and not self._stop.is_set() and len(attempts) - alone.running < self._concurrency:
            job = buffer.popleft()[1] if self._admission is None else self._admission.pick(buffer)
            if job is None or not job.alone or self._isolation is None:
                return job
            if self._admission is not None:
                self._admission.ended(job.type)
            alone.take(job)
        return None

    def _over(self, outcome: Outcome) -> None:
        """A job that ran alone has ended, or is given back."""
        if self.flow.withholds:
            self._announced.set()
        self.finisher.take(outcome)

    async def _apart(self, job: LeasedJob) -> Outcome:
        """Run a job in a process of its own."""
        job_type = self._types.get(job.type)
        assert job_type is not None  # only known types are claimed
        assert self._isolation is not None
        context = Context(job, self.host, asyncio.current_task(), monotonic_s())
        self.host.attempts[job.id] = context
        mark = self._inflight.start(job, APART)
        try:
            return await self._isolation.attempt(context, job_type)
        finally:
            self._inflight.end(mark)
            self.host.attempts.pop(job.id, None)
