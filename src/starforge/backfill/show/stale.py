"""Stale partitions: those that are missing, older than their inputs, or made by another version of the code.

What is there is what backfills made: the last completed row of each partition. A partition whose code version
was not kept counts as made by the present one, and one without inputs is never older than them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from sys import intern

from starforge.backfill.asset.asset import Asset, Assets
from starforge.backfill.asset.upstream import Upstream
from starforge.backfill.errors import MapsElsewhereError
from starforge.backfill.scheme.scheme import Span
from starforge.backfill.select.select import Facts, Request, select
from starforge.backfill.select.selection import Part
from starforge.backfill.show.made import EVERYWHERE, Beside, ByName, ByPlace, made
from starforge.db.pool import Connection

MISSING, OLDER, CODE = "missing", "older", "code"


@dataclass(frozen=True, slots=True)
class Stale:
    """A partition that should be made again."""

    key: str
    ordinal: int
    """Provisional where its name has none yet."""

    kind: str
    """missing, older (than its inputs) or code (another version made it)."""

    why: str


@dataclass(frozen=True, slots=True)
class Staleness:
    """What was found of an asset."""

    asset: str
    total: int
    """Partitions that were looked at."""

    partitions: list[Stale]
    notes: list[str]
    """What could not be judged."""

    def count(self, kind: str) -> int:
        """Return how many are stale for this reason."""
        return sum(one.kind == kind for one in self.partitions)


Known = tuple[float, str | None]
"""When a partition was completed, in seconds since 1970, and by which code."""

Newest = Callable[[str, int], Awaitable[tuple[float, str] | None]]
"""From a partition's key and ordinal to its newest input: when it was made, and its name."""


async def stale_partitions(
    conn: Connection,
    assets: Assets,
    facts: Facts,
    name: str,
    *,
    tenant: str,
    first: str | None = None,
    last: str | None = None,
) -> Staleness:
    """Find an asset's stale partitions, in their order.

    Args:
        conn: In a transaction that sees one moment.
        assets: What is declared.
        facts: What the selection has to know of the database.
        name: The asset.
        tenant: Whose backfills count.
        first: From this key; without it from the asset's first.
        last: To this key, included; without it to the last.
    Raises: what `select` raises of a range.
    """
    search = await Search.begin(conn, assets, facts, name, tenant=tenant, first=first, last=last)
    found = [Stale(key, ordinal, *why) async for key, ordinal, why in search.partitions() if why]
    return Staleness(name, search.part.total, found, search.notes)


@dataclass(slots=True)
class Search:
    """A search for stale partitions, which keeps none of what it has looked at."""

    part: Part
    """What is looked at."""

    notes: list[str]
    """What could not be judged."""

    _conn: Connection
    _tenant: str
    _assets: Assets

    @classmethod
    async def begin(
        cls,
        conn: Connection,
        assets: Assets,
        facts: Facts,
        name: str,
        *,
        tenant: str,
        first: str | None = None,
        last: str | None = None,
    ) -> Search:
        """Find out what there is to look at; as `stale_partitions`."""
        selection = await select(assets, Request(asset=name, first=first, last=last), facts)
        part = selection.asked
        assert isinstance(part, Part), "a range is asked for"
        return cls(part, [], conn, tenant, assets)

    async def partitions(self) -> AsyncIterator[tuple[str, int, tuple[str, str] | None]]:
        """Yield key and ordinal of every partition in order, and why it is stale: kind and words."""
        asset, part = self.part.asset, self.part
        own = Beside(made(self._conn, self._tenant, asset, part.covers))
        inputs = [await self._input(edge) for edge in asset.upstream]
        for key, ordinal in part.in_order():
            known = await own.of(key, ordinal)
            try:
                why = await _why(asset, known, key, ordinal, inputs)
            except MapsElsewhereError as error:
                self.notes.append(f"whether partitions are older than their inputs is not known: {error}")
                inputs = []
                why = await _why(asset, known, key, ordinal, inputs)
            yield key, ordinal, why

    async def _input(self, edge: Upstream) -> Newest:
        """Return what finds the newest of the upstream partitions that one of the asset's is made from."""
        below, above = self.part.asset, self._assets.get(edge.name)
        names = above.partitions.registers
        if edge.maps is None and below.partitions == above.partitions and not names:
            beside = Beside(made(self._conn, self._tenant, above, self.part.covers))

            async def alike(key: str, ordinal: int) -> tuple[float, str] | None:
                found = await beside.of(key, ordinal)
                return None if found is None else (found[0], f"{key} of {above.name}")

            return alike
        wanted: Sequence[Span] = EVERYWHERE
        if edge.maps is None and not names:
            wanted = self._assets.inputs(below, edge, self.part.spans)
        rows = made(self._conn, self._tenant, above, wanted)
        times = await (ByName() if names else ByPlace()).read(rows)

        async def mapped(key: str, _ordinal: int) -> tuple[float, str] | None:
            spans = self._assets.inputs(below, edge, [below.partitions.span(key, key)])
            found = ((times.at_s(one, place), one) for one, place in above.partitions.listed(spans))
            newest = max(((at_s, one) for at_s, one in found if at_s is not None), default=None)
            return None if newest is None else (newest[0], f"{newest[1]} of {above.name}")

        return mapped


async def _why(
    asset: Asset, known: Known | None, key: str, ordinal: int, inputs: Iterable[Newest]
) -> tuple[str, str] | None:
    if known is None:
        return MISSING, "no backfill has completed it"
    at_s, code = known
    for newest in inputs:
        found = await newest(key, ordinal)
        if found is not None and found[0] > at_s:
            return OLDER, f"{found[1]} was made after it"
    if code is not None and code != asset.version:
        # Half a million partitions may say the same.
        return CODE, intern(f"version {code} of the code made it, and it is {asset.version} now")
    return None
