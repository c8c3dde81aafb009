"""The claimer: keeps a child's slots in jobs, claimed in batches and not further ahead than they are used."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sized
from uuid import UUID

import structlog

from starforge.clock import monotonic_s, randomness
from starforge.db.errors import PoolExhaustedError
from starforge.db.pool import MAY_PASS, Pool
from starforge.loop import set_within
from starforge.queue.claim import claim
from starforge.queue.flow import READ_S
from starforge.queue.hint import SOMEWHERE, parse_hint
from starforge.queue.job import LeasedJob
from starforge.queue.plan import EXPECT_S, Plan
from starforge.worker.alone import Alone
from starforge.worker.chosen import Chosen
from starforge.worker.doubt import Doubt
from starforge.worker.finish import Finisher
from starforge.worker.outcome import Outcome
from starforge.worker.pace import Pace
from starforge.worker.registry import CONCURRENCY_MAX

log = structlog.get_logger("worker")

CLAIM_MAX = 1000
AHEAD_S = 0.1
"""Jobs are claimed ahead for this long at the recent rate: slow jobs are not hoarded."""

FINISH_BACKLOG_MAX = 5000
"""With this many unwritten outcomes nothing more is claimed: the database does not keep up."""

IDLE_S_MIN = 0.002

BUFFER_S_MAX = 2.0
"""What was claimed ahead and found no slot for this long is given back: others may have one free."""

CLAIM_S_MAX = 30.0
"""A claim without an answer for this long is given up: its connection may have died without a word."""


class Claimer:
    """Claims jobs into a bounded buffer, from which the slots take them."""

    def __init__(
        self,
        pool: Pool,
        plan: Plan,
        worker_id: UUID,
        *,
        chosen: Chosen | None,
        concurrency: int,
        poll_s: float,
        running: Sized,
        alone: Alone,
        finisher: Finisher,
        doubt: Doubt,
        room: asyncio.Event,
        stop: asyncio.Event,
        resize: Callable[[int], None],
    ) -> None:
        self._pool, self._plan, self._worker_id = pool, plan, worker_id
        self._flow = plan.flow
        self._only = chosen  # where only some jobs are its own
        self._concurrency = self._chosen = concurrency
        self._poll_s = poll_s
        self._running = running  # attempts, those of the jobs that run alone among them
        self._alone, self._finisher, self._doubt = alone, finisher, doubt
        self._room = room  # set by whoever makes room: there may be some for more jobs
        self._stop = stop
        self._resize = resize  # called when an operator changes how many jobs run at once
        self._resting = False
        self.buffer: deque[tuple[float, LeasedJob]] = deque()
        """What is claimed and not started, with when it was claimed."""

        self.ready = asyncio.Event()
        """Set when jobs came into the buffer."""

        self.announced = asyncio.Event()
        """To be set where it should look for work at once."""

        self.pace = Pace()
        """The slots count in it what they take."""

        self.claimed = 0
        self.asked_s = monotonic_s()
        """When it last asked for work and was answered, or had no room for any."""

        self.answered_s = 0.0

    def announce(self, text: str) -> None:
        """Look for work at once: a hint came that there is some."""
        if text == SOMEWHERE:
            self._plan.announce_some()
        else:
            self._plan.announce(parse_hint(text))
        self.announced.set()

    def rest(self, wanted: bool) -> None:
        """Claim nothing and give back what waits, or go on."""
        self._resting = wanted
        if wanted:
            self.give_back()
        self.wake()

    def wake(self) -> None:
        """Let `run` see what has changed, or that it is told to stop."""
        self.announced.set()
        self._room.set()

    def give_back(self) -> None:
        """Return what is claimed and not started to the queue."""
        for waiting in (self.buffer, self._alone.waiting):
            while waiting:
                self._finisher.take(Outcome(waiting.popleft()[1], "returned", 0.0))

    async def run(self) -> None:
        """Claim whenever there is room and may be work, until the stop."""
        idle_s, looked_s = IDLE_S_MIN, -math.inf
        while not self._stop.is_set():
            if self._waits_too_long():
                self.give_back()
            wanted = self._wanted()
            if wanted <= 0 and not self._doubt.due and not self._flow.due:
                self.asked_s = monotonic_s()
                self._room.clear()
                await set_within(self._room, READ_S)
                continue
            self.announced.clear()
            try:
                jobs = await self._claim(wanted)
            except MAY_PASS as error:
                log.warning("claim.failed", error=str(error) or repr(error))
                if not isinstance(error, PoolExhaustedError):
                    self._doubt.arise()
                elif self._pool.lent:
                    self.asked_s = monotonic_s()  # an isolated job has the connection: no room for any
                idle_s = min(2.0, max(idle_s, 0.05) * 2)
                await self._idle(idle_s)
                continue
            self._obey()
            now_s = self.asked_s = self.answered_s = monotonic_s()
            if jobs:
                idle_s = IDLE_S_MIN
                self.claimed += len(jobs)
                self.buffer.extend((now_s, job) for job in jobs)
                if self._resting:
                    self.give_back()
                self.ready.set()
                continue
            if wanted <= 0:
                continue
            # What came into a lane that the plan does not have yet is found by the next look; while something
            # waits for its turn under a limit, claims come oftener than there is need to look.
            wake_s, now_s = self._flow.wake_s, monotonic_s()
            if idle_s <= EXPECT_S and wake_s is None:
                self._plan.expect()
            elif wake_s is None or now_s - looked_s >= self._poll_s:
                self._plan.expire()
                looked_s = now_s
            pause_s = idle_s if wake_s is None else min(self._poll_s, max(IDLE_S_MIN, wake_s))
            await self._idle(min(pause_s, self._plan.wake_s))
            idle_s = min(self._poll_s, idle_s * 2)

    def _waits_too_long(self) -> bool:
        """Tell whether what was claimed finds no slot here; another worker may have one free."""
        late = self.buffer and monotonic_s() - self.buffer[0][0] > BUFFER_S_MAX
        return bool(late) or self._alone.late

    def _wanted(self) -> int:
        """How many jobs to claim now: free slots, and as many ahead as the recent rate uses up."""
        if self._resting or self._finisher.backlog >= FINISH_BACKLOG_MAX:
            return 0
        rate = self.pace.per_s()
        if self._concurrency == 0:
            self.give_back()
            return 0
        ahead = min(CLAIM_MAX * 2, int(rate * AHEAD_S))
        want = self._concurrency - len(self._running) + self._alone.running + ahead - len(self.buffer)
        # A full batch is worth waiting for: small claims cost as much as large ones.
        if self.buffer and want < min(CLAIM_MAX, ahead) // 2:
            return 0
        most = self._flow.overrides.batch
        return min(CLAIM_MAX, want) if most is None else min(most, want)

    async def _claim(self, wanted: int) -> list[LeasedJob]:
        async with asyncio.timeout(CLAIM_S_MAX), self._pool.connection(probing=True) as conn:
            if self._doubt.due:
                await self._doubt.settle(conn)
            if wanted <= 0:
                await self._plan.heed(conn)
                await self._flow.tidy(conn)
                return []
            if self._only is not None:
                return await self._only.claim(conn, n=wanted, worker_id=self._worker_id)
            return await claim(conn, self._plan, n=wanted, worker_id=self._worker_id)

    def _obey(self) -> None:
        """Claim for as many slots as the operator says now, else as many as the worker was started for."""
        said = self._flow.overrides.concurrency
        wanted = self._chosen if said is None else min(said, CONCURRENCY_MAX)
        if wanted != self._concurrency:
            log.info("worker.resized", before=self._concurrency, now=wanted, overridden=said is not None)
            self._concurrency = wanted
            self._resize(wanted)

    async def _idle(self, seconds: float) -> None:
        """Wait for an announcement, at most about `seconds`."""
        await set_within(self.announced, seconds * randomness.uniform(0.9, 1.1))
