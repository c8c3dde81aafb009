"""Stale partitions: those that are missing, older than their inputs, or made by another version of the code.

What is there is what backfills made: the last completed row of each partition. A partition whose code version
was not kept counts as made by the present one, and one without inputs is never older than them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from sys import intern

from starforge.backfill.asset.asset import Asset, Assets
from starforge.backfill.asset.upstream import Upstream
from starforge.backfill.errors import MapsElsewhereError
from starforge.backfill.select.select import Facts, Request, select
from starforge.db.pool import Connection
from starforge.db.statement import sql

AT_ONCE = 5_000
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


@dataclass(frozen=True, slots=True)
class _Made:
    """When a partition was completed, in seconds since 1970, and by which code."""

    at_s: float
    code: str | None


Newest = Callable[[str], tuple[float, str] | None]
"""From a partition's key to its newest input: when it was made, and its name."""


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
    selection = await select(assets, Request(asset=name, first=first, last=last), facts)
    part, asset = selection.asked, assets.get(name)
    made = {key: found async for key, found in _made(conn, tenant, name)}
    notes: list[str] = []
    inputs = [await _input(conn, tenant, assets, asset, edge) for edge in asset.upstream]
    found: list[Stale] = []
    for key, ordinal, _ in part.partitions():
        try:
            why = _why(asset, made.get(key), key, inputs)
        except MapsElsewhereError as error:
            notes.append(f"whether partitions are older than their inputs is not known: {error}")
            inputs = []
            why = _why(asset, made.get(key), key, inputs)
        if why is not None:
            found.append(Stale(key, ordinal, *why))
    return Staleness(name, part.total, found, notes)


async def _made(conn: Connection, tenant: str, asset: str) -> AsyncIterator[tuple[str, _Made]]:
    rows = conn.cursor(sql("backfill", "made"), tenant, asset, prefetch=AT_ONCE)
    async for key, at_s, code in rows:
        yield key, _Made(at_s, None if code is None else intern(code))


def _why(asset: Asset, made: _Made | None, key: str, inputs: Iterable[Newest]) -> tuple[str, str] | None:
    if made is None:
        return MISSING, "no backfill has completed it"
    for newest in inputs:
        found = newest(key)
        if found is not None and found[0] > made.at_s:
            return OLDER, f"{found[1]} was made after it"
    if made.code is not None and made.code != asset.version:
        # Half a million partitions may say the same.
        return CODE, intern(f"version {made.code} of the code made it, and it is {asset.version} now")
    return None


async def _input(conn: Connection, tenant: str, assets: Assets, below: Asset, edge: Upstream) -> Newest:
    """Return what finds the newest of the upstream partitions that one of the asset's is made from."""
    above = assets.get(edge.name)
    made = {key: found.at_s async for key, found in _made(conn, tenant, above.name)}

    def named(key: str) -> tuple[float, str] | None:
        at_s = made.get(key)
        return None if at_s is None else (at_s, f"{key} of {above.name}")

    def mapped(key: str) -> tuple[float, str] | None:
        spans = assets.inputs(below, edge, [below.partitions.span(key, key)])
        return max(filter(None, (named(one) for one, _ in above.partitions.listed(spans))), default=None)

    return named if edge.maps is None and below.partitions == above.partitions else mapped
