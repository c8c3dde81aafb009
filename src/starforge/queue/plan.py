"""The plan: which lanes a worker may claim from now, and where in each its next scan starts.

A lane is a (queue, type, priority, tenant, limit key) that had jobs. What is held, unknown or delayed costs
the claim nothing: its lanes are not in the plan, or end at their first index entry. Every lane has a
watermark, because a long transaction keeps the index entries of finished jobs alive: a scan starts where
the last one ended, less a margin. What comes in behind the watermark (late commits, returned jobs, clocks
that step back) is found by a wider scan after each announcement, and by the sweep.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from typing import NamedTuple, TypeVar

import msgspec

from starforge.clock import monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.flow import Flow
from starforge.queue.hint import Hint
from starforge.queue.sweep import Kind, Sweep
from starforge.settings import Settings, setting

REFRESH_S = 1.0
"""A new lane is seen within this time."""

EXPECT_S = 0.02
"""A lane that was announced this short a time ago may have got more since."""

AFTER_HINT_S = 0.03
"""After a hint, which says where work is, a look waits this long."""

COST_MAX = 0.05
"""Share of its time that a worker may spend on looks: slow ones are made less often."""

STORM_COST_MAX = 0.2
"""The same while hints say again and again that many lanes have work."""

MARGIN_S = 0.02
"""A scan starts this much before the watermark: commits overtake each other."""

DENSE_JOBS_MIN = 100
MARGIN_JOBS = 500
"""… but where claims take many, not more than so many jobs: others have them, and each is passed over."""

WIDE_S = 0.25
"""After an announcement it starts this much before, at most once in WIDE_EVERY_S."""

WIDE_EVERY_S = 0.1
LANES_MAX = 2000
"""Beyond this many lanes those idle for longest are forgotten, and found again when they have jobs."""

LANES_PER_CLAIM_MAX = 100
AGED_SHARE = 4
"""In one claim of so many the lanes whose oldest job has waited too long go first: however much is old, the
urgent and other tenants wait for no more than that one."""

STRIDE = (5**0.5 - 1) / 2
"""Of a tenant's lanes one at this part of the circle behind the last comes first: with a few of many in each
claim, all of them come after about equally many claims."""

T = TypeVar("T")


class AgingSettings(Settings):
    """What keeps low priorities from waiting for ever."""

    aging_s: float = setting(
        300.0,
        env="STARFORGE_AGING_S",
        unit="seconds",
        meaning="A job that has been due for this long is served whatever its priority.",
        gt=0,
    )


class LaneKey(NamedTuple):
    """What tells one lane from another."""

    queue: str
    type: str
    priority: int
    tenant: str
    limit_key: str = ""


@dataclass(slots=True, eq=False)
class Lane:
    """A lane as one worker knows it."""

    key: LaneKey
    since_s: float = -math.inf
    """The watermark: where the last scan ended, on the database's clock."""

    margin_s: float = MARGIN_S
    """How much before the watermark a scan starts: the less, the denser the jobs are."""

    frame_s: float = -math.inf
    """Where the sweep that goes on began."""

    oldest_s: float | None = None
    """Since when its oldest job is due, as of the last look; None: nothing is."""

    used_s: float = field(default_factory=monotonic_s)


@dataclass(slots=True)
class Scan:
    """One index scan of a claim: the lane's jobs due from `since_s` to `until_s`, at most `most` of them."""

    lane: Lane
    since_s: float
    until_s: float
    most: int
    first_only: bool = False
    """Only jobs that never failed."""

    taken: int = 0
    first_s: float = math.inf
    reached_s: float = -math.inf
    """The earliest and the latest due time that the claim took; with `taken` they are the claim's answer."""

    dry: bool = False
    """It took all that it found, and might have taken more."""

    def took(self, due_s: float) -> None:
        """Note one job that the claim took."""
        self.taken += 1
        if due_s > self.reached_s:
            self.reached_s = due_s
        if due_s < self.first_s:
            self.first_s = due_s


class Plan:
    """The lanes of a worker's queues and types, refreshed every second or when told to."""

    def __init__(self, queues: Sequence[str], types: Sequence[str], flow: Flow | None = None) -> None:
        self._queues, self._types = list(queues), list(types)
        self.flow = flow or Flow()
        self._lanes: dict[LaneKey, Lane] = {}
        self._aging_s = AgingSettings.read().aging_s
        self._look_at_s = self._wide_at_s = -math.inf
        self._sweep = Sweep()
        self._piece: Kind = "first"
        self._look_s = 0.0  # how long the last one took
        self._wide = False
        self._hinted: dict[Lane, float] = {}  # since the last look began, and when
        self._told = False  # of a lane that has work, since the last claim
        self._looked_s = self._may_look_s = -math.inf
        self._asked = False  # for a look, by a hint
        self._now_s = 0.0
        self._turn = self._aged_turn = 0
        self._since_aged = AGED_SHARE  # claims since the aged lanes went first

    def expire(self) -> None:
        """Have the next claim look afresh: the lanes ran dry, or something unknown was announced."""
        self._look_at_s = -math.inf

    def expect(self) -> None:
        """Have the next claim try the lanes that were announced just now; look afresh where none was.

        Whoever enqueues announces a lane once in DEBOUNCE_S only: there may be more in it by now.
        """
        since_s = monotonic_s() - EXPECT_S
        lanes = [lane for lane, hinted_s in self._hinted.items() if hinted_s >= since_s]
        if not lanes:
            self.expire()
            return
        self._told = True
        for lane in lanes:
            lane.oldest_s = self._now_s if lane.oldest_s is None else lane.oldest_s

    def announce(self, hint: Hint | None) -> None:
        """Hear that jobs came into a lane; None: somewhere, and perhaps behind the watermarks."""
        self._wide = True
        if hint is None:
            self._look_at_s = self._looked_s = -math.inf
            self._sweep.hurry()
            self.flow.expire()
        elif hint.queue in self._queues and hint.type in self._types:
            key = LaneKey(*msgspec.structs.astuple(hint))
            lane = self._lanes.setdefault(key, Lane(key))
            self._hinted[lane] = monotonic_s()
            self._told = True
            if lane.oldest_s is None:
                lane.oldest_s = self._now_s

    def announce_some(self) -> None:
        """Hear that jobs came into many lanes: a look tells which, soon if not at once."""
        self._wide = self._asked = True
        self._look_at_s = min(self._look_at_s, self._may_look_s)
        self._looked_s = -math.inf

    @property
    def wake_s(self) -> float:
        """Seconds until a look that was asked for may be made, or a sweep goes on; infinite without."""
        at_s = min(self._look_at_s if self._asked else math.inf, self._sweep.wake_s)
        return max(0.0, at_s - monotonic_s())

    async def heed(self, conn: Connection) -> None:
        """Read what restricts the worker, where the last time is too long ago."""
        if self.flow.due and await self.flow.read(conn):
            # What a gate held back within a lane may be behind the lane's watermark.
            for lane in self._lanes.values():
                lane.since_s = -math.inf

    async def refresh(self, conn: Connection) -> None:
        """Read what restricts the worker and look at the lanes, each where the last time is too long ago.

        A claim right after a hint goes where that says: the look of an idle worker can wait for the next one.
        """
        await self.heed(conn)
        now_s, told = monotonic_s(), self._told
        self._told = False
        if told and now_s - self._looked_s < REFRESH_S:
            self._look_at_s = max(self._look_at_s, min(now_s + AFTER_HINT_S, self._looked_s + REFRESH_S))
        if now_s < self._look_at_s:
            return
        # What is announced while it looks sets another time.
        self._looked_s, self._look_at_s = now_s, math.inf
        try:
            await self._look(conn)
        except BaseException:
            self.expire()
            raise
        spent_s = monotonic_s() - now_s
        self._look_s = spent_s
        if self._look_at_s == math.inf:
            self._look_at_s = now_s + spent_s + max(REFRESH_S, spent_s / COST_MAX)
        self._may_look_s = now_s + spent_s / STORM_COST_MAX

    def scans(self, n: int) -> list[Scan]:
        """Return the scans of a claim of up to `n` jobs; [] where nothing waits that may start."""
        margin_s, now_s = 0.0, monotonic_s()
        if self._wide and now_s >= self._wide_at_s:
            self._wide, self._wide_at_s, margin_s = False, now_s + WIDE_EVERY_S, WIDE_S
        ready = self._in_order()[:LANES_PER_CLAIM_MAX]
        first_only = self.flow.first_only
        return [
            Scan(lane, lane.since_s - max(margin_s, lane.margin_s), math.inf, n, first_only(lane.key))
            for lane in ready
        ]

    def sweep(self, n: int) -> list[Scan]:
        """Return scans of what is behind the watermarks, where it is time to look there; [] otherwise."""
        now_s = monotonic_s()
        piece = self._sweep.piece(now_s)
        if piece is None:
            return []
        self._piece, begins_s, ends_s = piece
        scans = []
        for lane in self._lanes.values():
            mark_s = lane.since_s - lane.margin_s
            if self._piece == "first":
                lane.frame_s = mark_s
            from_s = mark_s if self._piece == "near" else lane.frame_s
            if from_s > -math.inf and self.flow.open(lane.key):
                first_only = self.flow.first_only(lane.key)
                scans.append(Scan(lane, from_s - begins_s, from_s - ends_s, n, first_only))
        if not scans:
            self._sweep.skip(now_s)
        return scans

    def settle(self, scans: Sequence[Scan]) -> None:
        """Learn from a claim: the watermarks rise, and dry lanes rest until a look."""
        for scan in scans:
            lane = scan.lane
            if scan.taken:
                lane.used_s = monotonic_s()
                # A wide scan may have found more than it could take: the next goes on there.
                lane.since_s = max(lane.since_s, scan.reached_s) if scan.dry else scan.reached_s
                lane.oldest_s = scan.reached_s
            lane.margin_s = _margin_s(scan)
            if scan.dry:
                lane.oldest_s = None

    def settle_sweep(self, scans: Sequence[Scan], n: int, took_s: float) -> None:
        """Learn from a sweep of up to `n` jobs: where there may be more behind, scans start there again."""
        full = sum(scan.taken for scan in scans) >= n
        for scan in scans:
            if (full or scan.taken >= scan.most) and scan.taken:
                scan.lane.since_s, scan.lane.oldest_s = scan.since_s, scan.reached_s
        self._sweep.settle(monotonic_s(), self._piece, took_s, self._look_s, full=full)

    def sweep_failed(self) -> None:
        """Learn that a sweep was not answered."""
        self._sweep.fail(monotonic_s())

    def unswept(self, scans: Iterable[Scan]) -> None:
        """Have these lanes' next scans start where a sweep would have: something there may be free."""
        for scan in scans:
            scan.lane.since_s = scan.since_s

    async def _look(self, conn: Connection) -> None:
        """Ask what waits in the known lanes, and which lanes there are besides."""
        known = list(self._lanes.values())
        columns = list(zip(*(lane.key for lane in known), strict=True)) or [(), (), (), (), ()]
        since_s = [lane.since_s - lane.margin_s for lane in known]
        self._hinted.clear()
        self._asked = False
        rows = await conn.fetch(sql("queue", "look"), self._queues, self._types, *columns, since_s)
        for row in rows:
            self._now_s = row["now_s"]
            if row["place"] is None:
                key = LaneKey(*row[1:6])
                lane = self._lanes.setdefault(key, Lane(key))
            else:
                lane = known[row["place"] - 1]
            lane.oldest_s = row["oldest_s"]
            if lane.oldest_s is None and row["place"] is not None:
                # Nothing is due from the watermark on, so the next scan need not start before now.
                lane.since_s = max(lane.since_s, row["now_s"] - WIDE_S)
        for lane in self._hinted:
            # The look may have begun before what was announced was there.
            if lane.oldest_s is None:
                lane.oldest_s = self._now_s
        if len(self._lanes) > LANES_MAX:
            idle = sorted(self._lanes.values(), key=lambda lane: (lane.oldest_s is not None, lane.used_s))
            for lane in idle[: len(self._lanes) - LANES_MAX]:
                del self._lanes[lane.key]

    def _is_aged(self, lane: Lane) -> bool:
        return lane.oldest_s is not None and self._now_s - lane.oldest_s > self._aging_s

    def _in_order(self) -> list[Lane]:
        """Return the open lanes with due jobs by priority, equals in turn; now and then the aged first."""
        open_, room = self.flow.open, self.flow.may_have_room()
        ready = [
            lane
            for lane in self._lanes.values()
            if lane.oldest_s is not None and open_(lane.key) and room(lane.key)
        ]
        if len(ready) < 2:
            return ready
        self._since_aged += 1
        aged = [lane for lane in ready if self._is_aged(lane)] if self._since_aged >= AGED_SHARE else []
        if not aged:
            self._turn += 1
            return in_turn(ready, self._turn)
        self._since_aged = 0
        self._aged_turn += 1
        aged.sort(key=lambda lane: lane.oldest_s or 0.0)
        rest = [lane for lane in ready if not self._is_aged(lane)]
        return in_turn(aged, self._aged_turn, by_priority=False) + in_turn(rest, self._aged_turn)


def _margin_s(scan: Scan) -> float:
    """Return how far back the lane's next scan begins: MARGIN_S, less where that would be very many jobs."""
    if scan.dry or scan.taken < DENSE_JOBS_MIN:
        return MARGIN_S
    return min(MARGIN_S, (scan.reached_s - scan.first_s) * MARGIN_JOBS / scan.taken)


def in_turn(lanes: Iterable[Lane], turn: int, *, by_priority: bool = True) -> list[Lane]:
    """Order lanes by priority, highest first; among equals the tenants take turns, and each one's lanes do.

    So a tenant with many lanes comes no oftener than one with a single lane.
    """
    turned: list[Lane] = []
    if by_priority:
        lanes = sorted(lanes, key=lambda lane: -lane.key.priority)
    for _, equals in groupby(lanes, key=lambda lane: lane.key.priority if by_priority else 0):
        of_tenants: dict[str, list[Lane]] = {}
        for lane in equals:
            of_tenants.setdefault(lane.key.tenant, []).append(lane)
        tenants = _rotated(list(of_tenants.values()), turn)
        own_turn = turn // len(tenants)
        rows = zip_longest(*(_rotated(group, int(own_turn * STRIDE * len(group))) for group in tenants))
        turned += [lane for row in rows for lane in row if lane is not None]
    return turned


def _rotated(group: list[T], turn: int) -> list[T]:
    shift = turn % len(group)
    return group[shift:] + group[:shift]
