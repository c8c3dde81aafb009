"""The plan: which lanes a worker may claim from now. Cached, so that the claim itself stays tiny.

A lane is a (queue, type, priority) that has pending jobs. Held, unknown and delayed jobs cost the claim
nothing, because their lanes are not in the plan or end at their first index entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from starforge.clock import monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.gate import Gate, closed_gates

REFRESH_S = 1.0
"""A pause is honoured, and a new priority seen, within this time."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What one index scan of the claim covers."""

    queue: str
    type: str
    priority: int


class Plan:
    """The open lanes of a worker's queues and types, refreshed every second or when told to."""

    def __init__(self, queues: Sequence[str], types: Sequence[str]) -> None:
        self._queues, self._types = list(queues), list(types)
        self._lanes: list[Lane] = []
        self._read_s = -REFRESH_S
        self._turn = 0

    def expire(self) -> None:
        """Have the next `lanes` read afresh: something was announced, or the lanes ran dry."""
        self._read_s = -REFRESH_S

    async def lanes(self, conn: Connection) -> list[Lane]:
        """Return the open lanes, highest priority first; those of one priority take turns at the head."""
        if monotonic_s() - self._read_s >= REFRESH_S:
            rows = await conn.fetch(sql("queue", "lanes"), self._queues, self._types)
            gates = await closed_gates(conn)
            self._lanes = open_lanes((Lane(*row) for row in rows), gates)
            self._read_s = monotonic_s()
        self._turn += 1
        return in_turn(self._lanes, self._turn)


def open_lanes(lanes: Iterable[Lane], gates: Iterable[Gate]) -> list[Lane]:
    """Return the lanes that no gate closes."""
    closed = {(gate.scope, gate.name) for gate in gates}
    return [
        lane for lane in lanes if ("queue", lane.queue) not in closed and ("type", lane.type) not in closed
    ]


def in_turn(lanes: Sequence[Lane], turn: int) -> list[Lane]:
    """Rotate the lanes of each priority by `turn`, so that none starves behind another."""
    turned: list[Lane] = []
    for _, equals in groupby(lanes, key=lambda lane: lane.priority):
        group = list(equals)
        shift = turn % len(group)
        turned += group[shift:] + group[:shift]
    return turned
