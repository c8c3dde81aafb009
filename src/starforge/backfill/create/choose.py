"""Choose: from a request to partitions, those of a range or a list, or only the stale ones among them."""

from __future__ import annotations

from collections.abc import Iterable

from starforge.backfill.asset.asset import Asset, Assets
from starforge.backfill.errors import NothingSelectedError
from starforge.backfill.scheme.keyed import Static
from starforge.backfill.select.listing import Columns, Marked
from starforge.backfill.select.select import Facts, Request, select
from starforge.backfill.select.selection import Frozen, Selection, counted
from starforge.backfill.show.stale import Search
from starforge.db.pool import Connection


async def choose(
    conn: Connection, assets: Assets, request: Request, facts: Facts, *, tenant: str
) -> Selection:
    """Return the partitions that a request asks for.

    Raises: what `select` raises; NothingSelectedError also where none is stale.
    """
    if not request.stale:
        return await select(assets, request, facts)
    asset = assets.get(request.asset)
    search = await Search.begin(
        conn, assets, facts, request.asset, tenant=tenant, first=request.first, last=request.last
    )
    marks, last = bytearray(), ""
    async for key, _, why in search.partitions():
        marks.append(why is not None)
        last = key if why else last
    if not last:
        raise NothingSelectedError(
            f"asset {asset.name}: none of {counted(search.part.total)} is stale; `starforge backfill stale"
            f" {asset.name}` says what counts"
        )
    listed = Marked(search.part, marks, last)
    return Selection((Frozen(asset, listed, request.canary),), tuple(search.notes))


async def frozen(asset: Asset, partitions: Iterable[tuple[str, int]], facts: Facts) -> Columns:
    """Return partitions in the order of their ordinals, each once, with ordinals that are the database's."""
    scheme = asset.partitions
    if not isinstance(scheme, Static):
        return Columns.of(partitions)
    registered = await facts.ordinals(asset.name, scheme.names)
    return Columns.of((key, registered.get(key, ordinal)) for key, ordinal in partitions)
