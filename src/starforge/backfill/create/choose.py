"""Choose: from a request to partitions, those of a range or a list, or only the stale ones among them."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter

from starforge.backfill.asset.asset import Asset, Assets
from starforge.backfill.errors import NothingSelectedError
from starforge.backfill.scheme.keyed import Static
from starforge.backfill.select.select import Facts, Request, select
from starforge.backfill.select.selection import Frozen, Selection, counted
from starforge.backfill.show.stale import stale_partitions
from starforge.db.pool import Connection


async def choose(
    conn: Connection, assets: Assets, request: Request, facts: Facts, *, tenant: str
) -> Selection:
    """Return the partitions that a request asks for.

    Raises: what `select` raises; NothingSelectedError also where none is stale.
    """
    if not request.stale:
        return await select(assets, request, facts)
    found = await stale_partitions(
        conn, assets, facts, request.asset, tenant=tenant, first=request.first, last=request.last
    )
    if not found.partitions:
        raise NothingSelectedError(
            f"asset {request.asset}: none of {counted(found.total)} is stale; `starforge backfill stale"
            f" {request.asset}` says what counts"
        )
    asset = assets.get(request.asset)
    listed = await frozen(asset, ((one.key, one.ordinal) for one in found.partitions), facts)
    return Selection((Frozen(asset, listed, request.canary),), tuple(found.notes))


async def frozen(
    asset: Asset, partitions: Iterable[tuple[str, int]], facts: Facts
) -> tuple[tuple[str, int], ...]:
    """Return partitions in the order of their ordinals, each once, with ordinals that are the database's."""
    found: Iterable[tuple[str, int]] = partitions
    scheme = asset.partitions
    if isinstance(scheme, Static):
        registered = await facts.ordinals(asset.name, scheme.names)
        found = ((key, registered.get(key, ordinal)) for key, ordinal in partitions)
    ordered = sorted(found, key=itemgetter(1))
    return tuple(one for one, before in zip(ordered, [None, *ordered], strict=False) if one != before)
