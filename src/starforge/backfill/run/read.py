"""What the rows say of a backfill's partitions, read in one pass as a coordinator begins with it.

A letter comes for each partition, and with what they say is gone on at once: a million of them take half a
second and hardly any memory, for all of it has to fit into one look of a coordinator.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from starforge.backfill.run.look import PLACES, Look
from starforge.backfill.state.checkpoint import Frontier
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.errors import InvalidInputError

PAGE = 50_000
BEFORE_ALL = -(1 << 63)
OVER = str.maketrans("prcfx", "00111")
LETTERS = {"c": "completed", "f": "failed", "x": "cancelled"}


@dataclass(slots=True)
class Partitions:
    """A backfill's partitions."""

    ordinals: Sequence[int]
    frontier: Frontier
    look: Look
    """As they are counted: what ended and waits to be counted is open in it."""

    running: list[int] = field(default_factory=list)
    """Ordinals of those that run by their rows."""


async def read_partitions(
    conn: Connection, backfill_id: UUID, checkpoint: int | None, known: Sequence[int] | None
) -> Partitions:
    """Read all of them: what was asked to run again may lie before the checkpoint.

    Args:
        conn: In a transaction that holds the backfill's row.
        backfill_id: Which.
        checkpoint: The stored one's ordinal.
        known: Their ordinals, where they were read before.
    """
    ordinals = await _ordinals(conn, backfill_id) if known is None else known
    found = Partitions(ordinals, Frontier(ordinals, upto=checkpoint), Look.begin(len(ordinals)))
    place, after, pages = 0, BEFORE_ALL, list[str]()
    while place < len(ordinals):
        row = await conn.fetchrow(sql("backfill", "states"), backfill_id, after, PAGE)
        assert row is not None
        states, last = row["states"] or "", row["last"]
        behind = place + len(states)
        if not states or behind > len(ordinals) or ordinals[behind - 1] != last:
            # Somebody deleted or added some by hand.
            if known is None:
                raise InvalidInputError(f"partitions of backfill {backfill_id} changed as they were read")
            return await read_partitions(conn, backfill_id, checkpoint, None)
        _take(found, states, place)
        pages.append(states)
        place, after = behind, last
    every = "".join(pages)
    # After the states: what ended between the two is open in them, and is counted with the next fold.
    for row in await conn.fetch(sql("backfill", "uncounted"), backfill_id):
        at = found.frontier.place(row["ordinal"])
        if at is not None and (outcome := LETTERS.get(every[at])):
            found.look.end(at, outcome, -1)
    return found


def _take(found: Partitions, states: str, first: int) -> None:
    """Take in the states of the partitions from this place on."""
    found.frontier.fold_places(first, states.translate(OVER))
    at = states.find("r")
    while at >= 0:
        found.running.append(found.ordinals[first + at])
        at = states.find("r", at + 1)
    look, behind = found.look, first + len(states)
    part = look.part(first)
    while part < len(look.strip) and (begin := look.begins(part)) < behind:
        low, high = max(begin, first) - first, min(look.begins(part + 1), behind) - first
        for letter, outcome in LETTERS.items():
            look.strip[part][PLACES[outcome]] += states.count(letter, low, high)
        part += 1


async def _ordinals(conn: Connection, backfill_id: UUID) -> Sequence[int]:
    found = await conn.fetchrow(sql("backfill", "places"), backfill_id)
    assert found is not None
    count, first, last = found
    if not count:
        return range(0)
    if last - first + 1 == count:
        return range(first, last + 1)
    ordinals, after = array("q"), BEFORE_ALL
    while len(ordinals) < count:
        page = await conn.fetchval(sql("backfill", "ordinals"), backfill_id, after, PAGE)
        ordinals.extend(page)
        after = page[-1]
    return ordinals
