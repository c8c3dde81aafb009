"""Limits: how many jobs may run at once over all workers, per type, per queue and per key.

A limit of N is N slots. A worker leases slots as tokens, rows that name it, and starts no more jobs under
the limit than it holds tokens for. Nothing is ever counted: a slot has one holder, so N is not exceeded
whatever dies. A token outlives its use for about a second, because the next job usually needs it again;
tokens of workers that are recorded as dead or stopped are free. Where an answer was lost, the rows say which
slots a worker has: one that it did not know of would stand empty for as long as it lives.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from starforge.clock import failpoint, monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql

ASK_AGAIN_S = 0.1
"""After others were found to hold the tokens, they are asked for again this much later."""

COST_MAX = 0.05
"""Share of its time that a worker may spend on asking in vain."""

BEYOND_MAX = 100_000
"""A limit that comes while more jobs run than it allows finds slots for at most so many of them."""

IDLE_S = 1.0
"""What was not needed for this long is given back."""

DOUBT_S = (0.0, 5.0, 130.0)
"""After a statement about tokens had no answer, it is asked so many seconds later which are this worker's: at
once, and for one that the server was still at, once more, and after the engine role's statement_timeout."""


class Limited(NamedTuple):
    """What a limit counts: the jobs of a queue, of a type, or of a type and key."""

    scope: str
    name: str
    key: str = ""


@dataclass(slots=True)
class _Held:
    """A worker's tokens of one limit."""

    slots: list[int] = field(default_factory=list)  # sorted
    most: int = 0  # the most that were in use at once since the last tidying
    ask_at_s: float = -math.inf


class Tokens:
    """The tokens of one worker. What is used of them is not kept here: the jobs in hand say that."""

    def __init__(self, worker_id: UUID) -> None:
        self._worker_id = worker_id
        self._begin = worker_id.int & 0x7FFFFFFF
        self._held: dict[Limited, _Held] = {}
        self._tidied_s = monotonic_s()
        self._doubt_at_s: list[float] = []

    def held(self, limited: Limited, limit: int) -> int:
        """How many jobs may run here under this limit: slots beyond a lowered limit count no more."""
        found = self._held.get(limited)
        if found is None:
            return 0
        if not found.slots or found.slots[-1] <= limit:
            return len(found.slots)
        return sum(slot <= limit for slot in found.slots)

    def could_hold(self, limited: Limited, limit: int) -> int:
        """How many more it is worth asking for: none where others were just found to hold them."""
        found = self._held.get(limited)
        if found is None:
            return limit
        if monotonic_s() < found.ask_at_s:
            return 0
        return limit - self.held(limited, limit)

    def need(self, limited: Limited, jobs: int) -> None:
        """Note that so many jobs are in hand or about to be: so many tokens are kept."""
        found = self._held.get(limited)
        if found is not None and jobs > found.most:
            found.most = jobs

    async def take(self, conn: Connection, wanted: Mapping[Limited, tuple[int, int]]) -> None:
        """Lease tokens: of each limit (its number, how many more are wanted), as many as are free."""
        if not wanted:
            return
        asked_s = monotonic_s()
        got = await self._take(conn, wanted, self._begin)
        now_s = monotonic_s()
        again_s = now_s + max(ASK_AGAIN_S, (now_s - asked_s) / COST_MAX)
        for limited, (_, more) in wanted.items():
            if got[limited] < more:
                self._held[limited].ask_at_s = again_s

    async def cover(self, conn: Connection, used: Mapping[Limited, tuple[int, int]]) -> None:
        """Take tokens for jobs that run already (of each limit: its number, how many run).

        Where more run than the limit allows, they are slots beyond it, the lowest that are free.
        """
        lacking = {
            limited: (limit + BEYOND_MAX, jobs - len(self._slots(limited)))
            for limited, (limit, jobs) in used.items()
            if jobs > len(self._slots(limited))
        }
        if lacking:
            await self._take(conn, lacking, 0)

    async def beyond(self, conn: Connection, limits: Mapping[Limited, int]) -> set[Limited]:
        """Return those of these limits beyond which a living worker holds a token."""
        if not limits:
            return set()
        columns = zip(*((*limited, limit) for limited, limit in limits.items()), strict=True)
        rows = await conn.fetch(sql("queue", "tokens_beyond"), *columns)
        return {Limited(*row) for row in rows}

    def _slots(self, limited: Limited) -> list[int]:
        found = self._held.get(limited)
        return [] if found is None else found.slots

    async def _take(
        self, conn: Connection, wanted: Mapping[Limited, tuple[int, int]], begin: int
    ) -> Counter[Limited]:
        columns = zip(*((*limited, limit, more) for limited, (limit, more) in wanted.items()), strict=True)
        try:
            rows = await conn.fetch(sql("queue", "take_tokens"), *columns, self._worker_id, begin)
            failpoint("after_take_tokens")
        except BaseException:
            self._doubt()
            raise
        got: Counter[Limited] = Counter()
        for limited in wanted:
            self._held.setdefault(limited, _Held())
        for scope, name, key, slot in rows:
            limited = Limited(scope, name, key)
            got[limited] += 1
            insort(self._held[limited].slots, slot)
        return got

    def _doubt(self) -> None:
        """A statement was not answered: whether it was carried out, the rows say."""
        self._doubt_at_s = [monotonic_s() + after_s for after_s in DOUBT_S]

    async def _settle(self, conn: Connection) -> None:
        """Hold what is this worker's by the rows, and nothing else."""
        rows = await conn.fetch(sql("queue", "tokens_of"), self._worker_id)
        self._doubt_at_s.pop(0)
        slots: dict[Limited, list[int]] = {limited: [] for limited in self._held}
        for scope, name, key, slot in rows:
            slots.setdefault(Limited(scope, name, key), []).append(slot)
        for limited, found in slots.items():
            self._held.setdefault(limited, _Held()).slots = found

    async def tidy(self, conn: Connection, count: Callable[[], Mapping[Limited, int]]) -> None:
        """Give back what was not needed since the last tidying; at most once per IDLE_S.

        Where an answer was lost, find out first which tokens there are.

        Args:
            conn: Where they go back.
            count: Returns how many jobs are in hand under each limit.
        """
        now_s = monotonic_s()
        if self._doubt_at_s and now_s >= self._doubt_at_s[0]:
            await self._settle(conn)
        if now_s - self._tidied_s < IDLE_S or not self._held:
            return
        self._tidied_s, used = now_s, count()
        surplus: list[tuple[Limited, int]] = []
        for limited, found in self._held.items():
            # The highest slots first: after a limit was lowered, they are the ones that are too many.
            keep = max(found.most, used.get(limited, 0))
            surplus += [(limited, slot) for slot in found.slots[keep:]]
            found.most = used.get(limited, 0)
        await self._give_back(conn, surplus)
        for limited in [limited for limited, found in self._held.items() if not found.slots]:
            del self._held[limited]

    async def give_back(self, conn: Connection) -> None:
        """Give back everything: nothing is running any more."""
        await self._give_back(
            conn, [(limited, slot) for limited, found in self._held.items() for slot in found.slots]
        )
        self._held.clear()

    async def _give_back(self, conn: Connection, tokens: list[tuple[Limited, int]]) -> None:
        if not tokens:
            return
        columns = zip(*((*limited, slot) for limited, slot in tokens), strict=True)
        for limited, slot in tokens:  # first of all: without an answer they may be another's all the same
            self._held[limited].slots.remove(slot)
        try:
            await conn.execute(sql("queue", "give_tokens"), *columns, self._worker_id)
        except BaseException:
            self._doubt()
            raise
