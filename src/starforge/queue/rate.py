"""Rates: how many jobs may start per second over all workers, by a bucket of permits on the database's clock.

A bucket fills by `per_s` up to `burst`. A worker takes permits out of it for the jobs that it is about to
claim, up to AHEAD_S of them before they are there: each of those is good only once the bucket would have
held it. So a busy rate loses nothing between two questions, and no span of time t sees more starts than
burst + per_s · t. Permits for which there was no job go back at once, save as many as are nothing to the
bucket (BULK_PART): those stay for a second, so that neither a fast rate nor a rare job pays for the asking.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from starforge.clock import failpoint, monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.declare import Rate
from starforge.queue.limit import Limited

AHEAD_S = 1.0
"""Permits are given this long before they are good."""

ASK_S_MIN = 0.005
"""Two questions to one bucket are at least this far apart while it is empty."""

BULK_PART = 0.05
"""At least this part of what a bucket holds, and of what it gains in a second, is asked for at once and kept
for the next jobs: by so much each worker may exceed the burst."""

IDLE_S = 1.0
"""Permits that were not used for this long go back, good or not."""


@dataclass(slots=True)
class _Lease:
    """Permits of one bucket in a worker's hands; the n-th is good when level + per_s · (time since) >= n."""

    rate: Rate
    level: float
    granted: int
    given_s: float
    used: int = 0
    used_s: float = 0.0
    ask_at_s: float = 0.0

    @property
    def left(self) -> int:
        return self.granted - self.used

    def good(self, now_s: float) -> int:
        filled = math.floor(self.level + self.rate.per_s * (now_s - self.given_s) + 1e-6)
        return max(0, min(self.granted, filled) - self.used)

    def next_s(self, now_s: float) -> float:
        """Seconds until there is a permit, or it is worth asking."""
        if self.left:
            return max(0.0, (self.used + 1 - self.level) / self.rate.per_s - (now_s - self.given_s))
        return max(0.0, self.ask_at_s - now_s)


class Permits:
    """The permits of one worker."""

    def __init__(self) -> None:
        self._leases: dict[Limited, _Lease] = {}
        self._known: set[Limited] = set()

    def good(self, bucket: Limited, rate: Rate) -> int:
        """How many jobs may be claimed now without asking."""
        lease = self._leases.get(bucket)
        return 0 if lease is None or lease.rate != rate else lease.good(monotonic_s())

    def worth_asking(self, bucket: Limited, rate: Rate) -> bool:
        """Tell whether the bucket may give more: not while what it gave is still to become good."""
        lease = self._leases.get(bucket)
        if lease is None or lease.rate != rate:
            return True
        now_s = monotonic_s()
        return now_s >= lease.ask_at_s and lease.good(now_s) == lease.left

    def next_s(self, bucket: Limited) -> float:
        """Seconds until there may be a permit."""
        lease = self._leases.get(bucket)
        return 0.0 if lease is None else lease.next_s(monotonic_s())

    async def take(self, conn: Connection, wanted: Mapping[Limited, tuple[Rate, int]]) -> None:
        """Take permits: of each bucket at most so many, as it can give."""
        if not wanted:
            return
        stale = [b for b, (rate, _) in wanted.items() if b in self._leases and self._leases[b].rate != rate]
        await self.give_back(conn, stale)
        if new := [bucket for bucket in wanted if bucket not in self._known]:
            columns = zip(*((*bucket, wanted[bucket][0].burst) for bucket in new), strict=True)
            await conn.execute(sql("queue", "make_buckets"), *columns)
            self._known.update(new)
        asked = {bucket: max(n, _bulk(rate)) for bucket, (rate, n) in wanted.items()}
        columns = zip(
            *((*bucket, rate.per_s, rate.burst, asked[bucket]) for bucket, (rate, _) in wanted.items()),
            strict=True,
        )
        rows = await conn.fetch(sql("queue", "take_permits"), *columns, AHEAD_S)
        failpoint("after_take_permits")
        # An upkeep may have removed a bucket that was full for long: it is made again by the next question.
        self._known.difference_update(wanted)
        now_s = monotonic_s()
        for scope, name, key, level, granted in rows:
            bucket = Limited(scope, name, key)
            self._known.add(bucket)
            rate, _ = wanted[bucket]
            before = self._leases.get(bucket)
            left = 0 if before is None else before.left
            lease = _Lease(rate, level + left, granted + left, now_s, used_s=now_s)
            if granted < asked[bucket]:
                lacking_s = (1 - (level - granted)) / rate.per_s - AHEAD_S
                lease.ask_at_s = now_s + max(ASK_S_MIN, lacking_s)
            self._leases[bucket] = lease

    def spend(self, bucket: Limited, jobs: int) -> None:
        """Note that so many jobs were claimed under permits of this bucket."""
        lease = self._leases.get(bucket)
        if lease is not None and jobs:
            lease.used += jobs
            lease.used_s = monotonic_s()

    async def spare(self, conn: Connection, buckets: Iterable[Limited]) -> None:
        """Give back the permits of these buckets, for which there is no job, save those few that may stay."""
        leases = ((bucket, self._leases.get(bucket)) for bucket in buckets)
        many = [bucket for bucket, lease in leases if lease is not None and lease.left > _bulk(lease.rate)]
        await self.give_back(conn, many)

    async def tidy(self, conn: Connection) -> None:
        """Give back what was not used for a while; forget buckets that were not asked for a while."""
        now_s = monotonic_s()
        idle = [bucket for bucket, lease in self._leases.items() if now_s - lease.used_s > IDLE_S]
        await self.give_back(conn, idle)

    async def give_back(self, conn: Connection, buckets: list[Limited] | None = None) -> None:
        """Give back the permits of these buckets, or of all."""
        chosen = list(self._leases) if buckets is None else buckets
        leases = [(bucket, self._leases.pop(bucket)) for bucket in chosen if bucket in self._leases]
        full = [(*bucket, lease.rate.burst, lease.left) for bucket, lease in leases if lease.left > 0]
        if full:
            await conn.execute(sql("queue", "give_permits"), *zip(*full, strict=True))


def _bulk(rate: Rate) -> int:
    """Return how many permits are nothing to a bucket."""
    return math.floor(BULK_PART * min(rate.burst, rate.per_s))
