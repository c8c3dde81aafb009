"""Declared assets: what workers' apps declare is written down, so that any door can make backfills.

The newest declaration holds, and newest is what was first seen last. Workers declare when they start and
every DECLARE_S after. What an asset was before is remembered by its digest: an older worker that declares
it again, in the middle of a roll-out say, changes nothing while some worker still repeats the newer
declaration. Once none has for ALIVE_S, the older one is what there is, and holds: that is a roll-back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import asyncpg
import msgspec

from starforge.backfill.asset.asset import Asset, Assets
from starforge.backfill.asset.upstream import Maps, Upstream
from starforge.backfill.asset.written import read, written
from starforge.backfill.errors import MapsElsewhereError, StoredAssetError
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.declare import Retry

DECLARE_S = 60.0
"""How often a worker says again what its app declares."""

ALIVE_S = 3 * DECLARE_S
AGAIN_S = DECLARE_S / 2
REPLACED_MAX = 20


class Said(NamedTuple):
    """An asset as its row has it."""

    name: str
    job_type: str
    scheme: str
    upstream: str
    concurrency: int
    attempts_max: int
    timeout_s: float | None
    owner: str | None
    code_version: str

    @property
    def digest(self) -> str:
        """The same for the same declaration."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]


async def declare(conn: Connection, assets: Assets) -> list[str]:
    """Write down what an app declares; return the names of those that were.

    Called at a worker's start and every DECLARE_S after.
    Raises: AssetDeclarationError where the assets do not fit one another.
    """
    assets.bind()
    said = [_said(asset) for asset in assets]
    if not said:
        return []
    rows = await conn.fetch(
        sql("backfill", "declare"),
        *(list(column) for column in zip(*said, strict=True)),
        [one.digest for one in said],
        timedelta(seconds=AGAIN_S),
        timedelta(seconds=ALIVE_S),
        REPLACED_MAX,
    )
    return [row["name"] for row in rows]


async def declared_assets(conn: Connection) -> Assets:
    """Return the assets that workers declared, without their code.

    Raises: StoredAssetError for one that this version cannot read.
    """
    return Assets(_asset(row) for row in await conn.fetch(sql("backfill", "declared")))


def _said(asset: Asset) -> Said:
    upstream = [{"name": edge.name, "maps": edge.maps is not None} for edge in asset.upstream]
    return Said(
        name=asset.name,
        job_type=asset.job_type,
        scheme=msgspec.json.encode(written(asset.partitions)).decode(),
        upstream=msgspec.json.encode(upstream).decode(),
        concurrency=asset.slots,
        attempts_max=asset.attempts_max,
        timeout_s=asset.timeout_s,
        owner=asset.owner,
        code_version=asset.version,
    )


def _asset(row: asyncpg.Record) -> Asset:
    name = row["name"]
    try:
        partitions = read(row["scheme"])
        upstream = tuple(_upstream(name, row["upstream"]))
    except (StoredAssetError, KeyError, TypeError) as error:
        raise StoredAssetError(f"asset {name}: {error}") from None
    return Asset(
        name=name,
        handler=None,
        partitions=partitions,
        upstream=upstream,
        concurrency=row["concurrency"],
        timeout_s=row["timeout_s"],
        retry=Retry(attempts=row["attempts_max"]),
        owner=row["owner"],
        version=row["code_version"],
    )


def _upstream(below: str, kept: Iterable[Mapping[str, Any]]) -> Iterable[Upstream]:
    for edge in kept:
        name = edge["name"]
        yield Upstream(name, _elsewhere(below, name) if edge["maps"] else None)


def _elsewhere(below: str, above: str) -> Maps:
    """Return what stands for a function that is in an app's code."""

    def refuse(key: str) -> Iterable[str]:
        raise MapsElsewhereError(
            f"asset {below}: which partitions of {above} its own are made from, its app alone knows"
            f" (Upstream({above!r}, maps=…)): its upstream cannot be included from here"
        )

    return refuse
