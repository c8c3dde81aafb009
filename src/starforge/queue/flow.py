"""Flow: what one worker may start now, by gates, overrides, limits and rates.

The plan asks it once per claim and never per job. Where nothing restricts a worker it costs a claim one
look at a flag.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from starforge.clock import monotonic_s
from starforge.db.pool import Connection
from starforge.queue.bound import Batch, Bound, Bounds, Pace, Share, Slots, counted, names_of
from starforge.queue.declare import Rate
from starforge.queue.gate import Gate, closed_gates
from starforge.queue.handler import JobTypes
from starforge.queue.job import LeasedJob
from starforge.queue.limit import ASK_AGAIN_S, Limited, Tokens
from starforge.queue.override import NONE, Overrides, overlaid, overrides_for
from starforge.queue.rate import Permits

if TYPE_CHECKING:
    from starforge.queue.plan import LaneKey, Scan

READ_S = 1.0
"""A gate or an override is honoured within this time, also by a worker that hears no announcement."""

SETTLE_S = 2 * READ_S
"""Under a limit that is new to it a worker starts nothing for this long: others take tokens for what they
run, and what runs already counts."""


LANE_JOBS_MIN = 16
"""For a lane of its own limit, tokens for fewer jobs than this are not worth another lane."""

AMPLE = 1.25
"""Lanes are added to a claim until they might give so many times the jobs that it takes."""


def _nothing() -> Iterable[LeasedJob]:
    return ()


class Flow:
    """The restrictions of one worker.

    Args:
        worker_id: Whose tokens and overrides; None for none.
        types: The types that it knows, with their limits and rates; overrides are laid over them.
        in_hand: Returns the jobs that the worker has claimed and that have not ended.
    """

    def __init__(
        self,
        worker_id: UUID | None = None,
        types: JobTypes | None = None,
        in_hand: Callable[[], Iterable[LeasedJob]] = _nothing,
    ) -> None:
        self._worker_id, self._types, self._in_hand = worker_id, types or JobTypes(), in_hand
        self._tokens = None if worker_id is None else Tokens(worker_id)
        self._permits = Permits()
        self._limits: dict[Limited, int] = {}  # by override
        self._unsettled_s: dict[Limited, float] = {}  # those that are new or lowered, and since when
        self._withheld: set[tuple[Bound, ...]] = set()  # what kept lanes out of the last claim
        self._used: Counter[Limited] = Counter()  # by what was in hand when the claim began
        self._read_at_s = -math.inf
        self._gates: list[Gate] = []
        self.overrides: Overrides = NONE
        self._heed()

    @property
    def due(self) -> bool:
        """Whether it is time to read gates and overrides again."""
        return monotonic_s() >= self._read_at_s

    def expire(self) -> None:
        """Have gates and overrides read with the next claim."""
        self._read_at_s = -math.inf

    async def read(self, conn: Connection) -> bool:
        """Read gates and overrides; return whether one opened that may have held jobs back within a lane."""
        # Noted before it is done: what is changed meanwhile, and announced, is read again.
        self._read_at_s = monotonic_s() + READ_S
        try:
            gates = await closed_gates(conn)
            overrides = NONE if self._worker_id is None else await overrides_for(conn, self._worker_id)
        except BaseException:
            self.expire()
            raise
        if (gates, overrides) == (self._gates, self.overrides):
            return False
        before = self._within_lanes
        self._gates, self.overrides = gates, overrides
        self._types.lay_over(overlaid(self._types, overrides))
        self._note_limits({Limited(*key): limit for key, limit in overrides.limit.items()})
        self._heed()
        return bool(before - self._within_lanes)

    def _heed(self) -> None:
        """Work out what the gates close, and what bounds what they leave."""
        shut = [gate for gate in self._gates if gate.cause != "retries"]
        # A tag is no part of a lane: what is to be let through of it cannot be counted beforehand.
        trickling = [gate for gate in shut if gate.rate_per_s and gate.scope != "tag"]
        self._closed = frozenset((gate.scope, gate.name) for gate in shut if gate not in trickling)
        self._first_only = frozenset(
            (gate.scope, gate.name) for gate in self._gates if gate.cause == "retries"
        )
        tags = {("tag", name) for scope, name in self._closed if scope == "tag"}
        self._within_lanes = {("retries", *name) for name in self._first_only} | tags
        self.closed_tags = sorted(name for _, name in tags) or None
        """The tags whose jobs may not start; None where all may."""

        self._bounds = Bounds(self._types, self.overrides, trickling)

    def open(self, key: LaneKey) -> bool:
        """Tell whether a lane's jobs may start."""
        return not self._closed or self._closed.isdisjoint(names_of(key))

    def first_only(self, key: LaneKey) -> bool:
        """Tell whether only those of the lane's jobs may start that never failed."""
        return bool(self._first_only) and not self._first_only.isdisjoint(names_of(key))

    def begin(self) -> None:
        """Begin a claim: count what is in hand."""
        self._withheld.clear()
        self._used = counted(self._in_hand()) if self._bounds.any else Counter()

    def may_have_room(self) -> Callable[[LaneKey], bool]:
        """Return a function that tells of a lane whether asking for tokens and permits may be worth it.

        It asks nobody, so that lanes at their limits crowd no others out of a claim.
        """
        if not self._bounds.any:
            return lambda _key: True
        known: dict[Bound, bool] = {}

        def may(bound: Bound) -> bool:
            if bound not in known:
                known[bound] = self._possible(bound) > 0
            return known[bound]

        def have_room(key: LaneKey) -> bool:
            blocking = tuple(bound for bound in self._bounds.of(key) if not may(bound))
            if blocking:
                self._withheld.add(blocking)
            return not blocking

        return have_room

    async def allot(self, conn: Connection, scans: Sequence[Scan], n: int) -> list[Scan]:
        """Return the scans of which at least one job may start, each with how many may.

        Tokens and permits are leased for up to `n` jobs. The scans' order decides where there are too few:
        one that takes less than it may leaves the rest to the next claim.
        """
        if not self._bounds.any:
            return list(scans)
        chosen, need = self._choose(scans, n)
        await self._lease(conn, need)
        return self._shared_out(chosen, self._withheld)

    def allot_held(self, scans: Sequence[Scan]) -> list[Scan]:
        """Return the scans of which at least one job may start with what is held, each with how many may."""
        return self._shared_out(scans, set()) if self._bounds.any else list(scans)

    def _shared_out(self, scans: Sequence[Scan], withheld: set[tuple[Bound, ...]]) -> list[Scan]:
        room: dict[Bound, int] = {}
        allotted = []
        for scan in scans:
            bounds = self._bounds.of(scan.lane.key)
            for bound in bounds:
                if bound not in room:
                    room[bound] = self._room(bound)
            most = min([scan.most, *(room[bound] for bound in bounds)])
            if most <= 0:
                withheld.add(tuple(bound for bound in bounds if room[bound] <= 0))
                continue
            scan.most = most
            for bound in bounds:
                room[bound] -= most
            allotted.append(scan)
        return allotted

    def _choose(self, scans: Sequence[Scan], n: int) -> tuple[list[Scan], Counter[Bound]]:
        """Return scans that may well give `n` jobs, and for how many each of their bounds is needed.

        Lanes with a limit of their own, which may be many, give a share each and are not all asked for at
        once: a token is a row in a table.
        """
        equals = Counter(scan.lane.key.priority for scan in scans)
        chosen: list[Scan] = []
        need: Counter[Bound] = Counter()
        hoped = 0
        for scan in scans:
            key = scan.lane.key
            bounds = self._bounds.of(key)
            if bounds:
                if hoped >= AMPLE * n:
                    continue
                if key.limit_key:
                    scan.most = min(scan.most, max(LANE_JOBS_MIN, math.ceil(n / equals[key.priority])))
                wanted = max(0, min([scan.most, *map(self._possible, bounds)]))
                hoped += wanted
                for bound in bounds:
                    need[bound] = min(n, need[bound] + wanted)
            chosen.append(scan)
        return chosen, need

    async def settle(self, conn: Connection, scans: Sequence[Scan], jobs: Iterable[LeasedJob]) -> None:
        """Learn what a claim took: permits are spent, and where there were too few jobs the rest go back.

        Args:
            conn: Where permits go back.
            scans: Those that were allotted.
            jobs: What they took; it is not yet among the jobs in hand.
        """
        if not self._bounds.any:
            return
        self._used += counted(jobs)
        dry = set()
        for scan in scans:
            for bound in self._bounds.of(scan.lane.key):
                if isinstance(bound, Pace):
                    self._permits.spend(bound.bucket, scan.taken)
                    if scan.dry:
                        dry.add(bound.bucket)
        await self._permits.spare(conn, sorted(dry))

    @property
    def withholds(self) -> bool:
        """Whether the last claim had to leave jobs that wait."""
        return bool(self._withheld)

    @property
    def wake_s(self) -> float | None:
        """Seconds until some of what the last claim had to leave may start; None where it left nothing."""
        if not self._withheld:
            return None
        return min(max(map(self._free_in_s, blocking), default=0.0) for blocking in self._withheld)

    async def tidy(self, conn: Connection) -> None:
        """Give back what was not needed lately, and take tokens for what runs under a new limit."""
        if self._tokens is not None:
            if self._unsettled_s:
                await self._settle_limits(conn, self._tokens)
            await self._tokens.tidy(conn, lambda: counted(self._in_hand()))
        await self._permits.tidy(conn)

    async def close(self, conn: Connection) -> None:
        """Give everything back: the worker has ended its jobs."""
        if self._tokens is not None:
            await self._tokens.give_back(conn)
        await self._permits.give_back(conn)

    async def _lease(self, conn: Connection, need: Counter[Bound]) -> None:
        """Ask for the tokens and permits that lack, one question for each kind."""
        tokens: dict[Limited, tuple[int, int]] = {}
        permits: dict[Limited, tuple[Rate, int]] = {}
        for bound, jobs in need.items():
            if isinstance(bound, Slots) and self._tokens is not None:
                room = self._room(bound)
                # Half of what is needed at hand is enough for now: so most claims ask for nothing.
                if 2 * room < jobs and (more := min(jobs - room, self._askable(bound))) > 0:
                    tokens[bound.limited] = bound.limit, more
            elif isinstance(bound, Pace) and self._askable(bound):
                lacking = jobs - self._permits.good(bound.bucket, bound.rate)
                if lacking > 0:
                    permits[bound.bucket] = bound.rate, lacking
        if self._tokens is not None:
            await self._tokens.take(conn, tokens)
            for bound, jobs in need.items():
                if isinstance(bound, Slots):
                    self._tokens.need(bound.limited, self._used[bound.limited] + jobs)
        await self._permits.take(conn, permits)

    def _possible(self, bound: Bound) -> int:
        """Return how many more jobs a bound might allow if all that it asks for is given."""
        return max(0, self._room(bound)) + self._askable(bound)

    def _room(self, bound: Bound) -> int:
        """Return how many more jobs a bound allows with what is held."""
        match bound:
            case Slots(limited, limit):
                if self._tokens is None or limited in self._unsettled_s:
                    return 0
                return self._tokens.held(limited, limit) - self._used[limited]
            case Share(limited, limit):
                return limit - self._used[limited]
            case Batch():
                return bound.jobs
            case Pace(bucket, rate):
                return self._permits.good(bucket, rate)

    def _askable(self, bound: Bound) -> int:
        """Return for how many more jobs it is worth asking the database now."""
        match bound:
            case Slots(limited, limit) if self._tokens is not None and limited not in self._unsettled_s:
                return self._tokens.could_hold(limited, limit)
            case Pace(bucket, rate) if self._permits.worth_asking(bucket, rate):
                return rate.burst + math.ceil(rate.per_s)
        return 0

    def _free_in_s(self, bound: Bound) -> float:
        if isinstance(bound, Pace):
            return self._permits.next_s(bound.bucket)
        return 0.0 if isinstance(bound, Batch) else ASK_AGAIN_S

    def _note_limits(self, limits: dict[Limited, int]) -> None:
        """Take note of which limits came or were lowered at run time: too much may run under them now."""
        now_s = monotonic_s()
        for limited, limit in limits.items():
            if limit < self._limits.get(limited, math.inf):
                self._unsettled_s[limited] = now_s
        for limited in self._unsettled_s.keys() - limits.keys():
            del self._unsettled_s[limited]
        self._limits = limits

    async def _settle_limits(self, conn: Connection, tokens: Tokens) -> None:
        """Take tokens for what runs already, beyond the limit if need be; see whether anybody has such.

        A limit is settled once every worker had the time to do so and none holds a token beyond it.
        """
        used, now_s = counted(self._in_hand()), monotonic_s()
        await tokens.cover(conn, {of: (self._limits[of], used[of]) for of in self._unsettled_s})
        waited = {
            of: self._limits[of] for of, since_s in self._unsettled_s.items() if now_s - since_s >= SETTLE_S
        }
        for limited in waited.keys() - await tokens.beyond(conn, waited):
            del self._unsettled_s[limited]
