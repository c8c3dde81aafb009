"""Create: a backfill per asset with its partitions frozen, in one transaction.

What is in the list at this moment is what the backfill is about: nothing that is declared, stored or becomes
due later is added to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

import asyncpg

from starforge.backfill.asset.asset import SNAPSHOT_JOB_TYPE, Asset, Assets
from starforge.backfill.create.choose import choose, frozen
from starforge.backfill.create.facts import DatabaseFacts
from starforge.backfill.create.options import Options, document
from starforge.backfill.create.overlap import overlaps, refusal
from starforge.backfill.errors import NothingSelectedError, OverlapError, PartitionsRunError
from starforge.backfill.scheme.scheme import ranges
from starforge.backfill.select.select import Request, check_frozen
from starforge.backfill.select.selection import AnyPart, Frozen, Listed, Selection, counted
from starforge.backfill.state.slots import set_slots
from starforge.clock import failpoint, new_id
from starforge.db.pool import Connection
from starforge.db.statement import sql

BATCH = 10_000
"""Partitions that one statement writes, and so many of them are in memory at a time."""

OVERLAP = "backfill_jobs_overlap"


@dataclass(frozen=True, slots=True)
class CreatedBackfill:
    """A backfill that was created: one asset's partitions."""

    id: UUID
    asset: str
    partitions: int
    first: str
    last: str
    canary: int
    waits_for: tuple[UUID, ...]

    def told(self, names: Mapping[UUID, str] | None = None) -> str:
        """Return it in one line; `names`: what those that it waits for are called, where not by their ids."""
        which = self.first if self.partitions == 1 else f"{self.first} to {self.last}"
        line = f"{self.asset}: {counted(self.partitions)}, {which}"
        waits = [(names or {}).get(above, str(above)) for above in self.waits_for]
        return line if not waits else f"{line}, once {', '.join(waits)} is complete"


@dataclass(frozen=True, slots=True)
class Created:
    """What a request came to: the backfills, upstream first, and last the one that was asked for."""

    backfills: tuple[CreatedBackfill, ...]
    notes: tuple[str, ...] = ()

    @property
    def id(self) -> UUID:
        """The id of the backfill that was asked for."""
        return self.backfills[-1].id

    @property
    def partitions(self) -> int:
        """How many partitions there are in all."""
        return sum(each.partitions for each in self.backfills)


async def create(
    conn: Connection, assets: Assets, request: Request, options: Options, *, tenant: str, actor: str
) -> Created:
    """Create what a request asks for.

    Args:
        conn: A connection inside a transaction that speaks for the tenant: all of it is there, or nothing.
        assets: Those that are declared.
        request: Which partitions.
        options: How they are to run.
        tenant: Whose.
        actor: Who asks.
    Raises: what `choose` raises; InvalidInputError, KeyTableError; OverlapError where a live backfill has
        some of the partitions.
    """
    facts = DatabaseFacts(conn, registering=True)
    selection = await choose(conn, assets, request, facts, tenant=tenant)
    return await create_chosen(conn, selection, request, options, tenant=tenant, actor=actor)


async def create_chosen(
    conn: Connection, selection: Selection, request: Request, options: Options, *, tenant: str, actor: str
) -> Created:
    """Create the backfills of a selection whose names have been given their ordinals; else as `create`."""
    now = await DatabaseFacts(conn, registering=False).now()
    maker = _Maker(conn, options, tenant, actor, now)
    made: dict[str, CreatedBackfill] = {}
    for part in selection.parts:
        above = [made[edge.name].id for edge in part.asset.upstream if edge.name in made]
        asked = document(request, options)
        if part is not selection.asked:
            # Asked for once more, it is asked for by itself: its list is in its rows.
            asked = {"asset": part.asset.name, "included_for": request.asset}
        made[part.asset.name] = await maker.make(part, asked, waits_for=above)
    return Created(tuple(made.values()), selection.notes)


async def create_frozen(
    conn: Connection,
    assets: Assets,
    asset: str,
    partitions: Iterable[tuple[str, int]],
    *,
    like: Mapping[str, Any] | None = None,
    options: Options | None = None,
    canary: float | None = None,
    tenant: str,
    actor: str,
    why: str,
) -> Created:
    """Create a backfill of partitions that were chosen one by one.

    Args:
        conn: A connection inside a transaction that speaks for the tenant.
        assets: Those that are declared.
        asset: Name of the asset.
        partitions: Key and ordinal of each, as they are in backfill_partitions. A declared name that has no
            ordinal yet gets one.
        like: A row of backfill_jobs: its priority, concurrency, attempts and tolerance hold where the options
            say nothing, and it becomes the parent.
        options: How they are to run.
        canary: Share of them that runs first.
        tenant: Whose.
        actor: Who asks.
        why: How they were chosen, as "failed" or "unfinished": kept in `request`.
    Raises: UnknownAssetError; NothingSelectedError for an empty list; PartitionKeyError for a key that the
        asset has no more; TooManyPartitionsError; BackfillOptionError; OverlapError.
    """
    assets.bind()
    known = assets.get(asset)
    facts = DatabaseFacts(conn, registering=True)
    listed = await frozen(known, partitions, facts)
    if not listed:
        raise NothingSelectedError(f"asset {asset}: there is no {why} partition; nothing was created")
    check_frozen(known, listed)
    options = _like(options or Options(), like)
    now = await facts.now()
    part = Frozen(known, listed, canary)
    kept = {**document(Request(asset=asset, canary=canary), options), "frozen": why}
    maker = _Maker(conn, options, tenant, actor, now)
    return Created((await maker.make(part, kept, parent_id=None if like is None else like["id"]),))


def _like(options: Options, like: Mapping[str, Any] | None) -> Options:
    if like is None:
        return options

    def chosen(said: int | None, column: str) -> int:
        return like[column] if said is None else said

    return Options(
        concurrency=chosen(options.concurrency, "concurrency"),
        priority=chosen(options.priority, "priority"),
        sla=options.sla,
        attempts=chosen(options.attempts, "attempts_max"),
        failed_max=chosen(options.failed_max, "failed_max"),
    )


@dataclass(frozen=True, slots=True)
class _Maker:
    """Writes backfills in the name of one request."""

    conn: Connection
    options: Options
    tenant: str
    actor: str
    now: datetime

    async def make(
        self,
        part: AnyPart,
        asked: Mapping[str, Any],
        *,
        waits_for: Sequence[UUID] = (),
        parent_id: UUID | None = None,
    ) -> CreatedBackfill:
        """Write one backfill and its partitions; raise OverlapError, PartitionsRunError."""
        made = CreatedBackfill(
            id=new_id(),
            asset=part.asset.name,
            partitions=part.total,
            first=part.first_key,
            last=part.last_key,
            canary=0 if part.canary is None else part.canary.count,
            waits_for=tuple(waits_for),
        )
        await self._require_quiet(part)
        await self._row(made, part, asked, parent_id)
        await self._concurrency(made, part.asset)
        failpoint("backfill_created_row")
        for batch in batches(part.partitions()):
            columns = [list(column) for column in zip(*batch, strict=True)]
            await self.conn.execute(sql("backfill", "freeze"), made.id, self.tenant, *columns)
        return made

    async def _require_quiet(self, part: AnyPart) -> None:
        """Raise PartitionsRunError while attempts of an ended backfill run: two would make one partition."""
        covers = ranges(part.covers)
        for row in await self.conn.fetch(sql("backfill", "still_run"), self.tenant, part.asset.name, covers):
            raise PartitionsRunError(
                f"backfill {row['id']} is {row['state']}, and {counted(row['running'])} that are asked for"
                f" still run there: starforge backfill status {row['id']}"
            )

    async def _row(
        self,
        made: CreatedBackfill,
        part: AnyPart,
        asked: Mapping[str, Any],
        parent_id: UUID | None,
    ) -> None:
        asset, options = part.asset, self.options
        try:
            async with self.conn.transaction():
                await self.conn.execute(
                    sql("backfill", "create"),
                    made.id,
                    self.tenant,
                    parent_id,
                    asset.name,
                    asset.job_type,
                    ranges(part.covers),
                    made.partitions,
                    made.canary,
                    options.priority or 0,
                    options.concurrency or asset.slots,
                    options.attempts or asset.attempts_max,
                    options.failed_max or 0,
                    options.sla_at(self.now),
                    asset.version,
                    asked,
                    list(made.waits_for),
                    self.actor,
                )
        except asyncpg.ExclusionViolationError as error:
            if error.constraint_name != OVERLAP:
                raise
            raise OverlapError(refusal(part, await overlaps(self.conn, part, self.tenant))) from None

    async def _concurrency(self, made: CreatedBackfill, asset: Asset) -> None:
        """Have workers honour the concurrency: they know that of the asset's job type."""
        wanted = self.options.concurrency or asset.slots
        # Assets that share a job type share its limit, whatever each of them declares.
        if wanted == asset.slots and asset.job_type != SNAPSHOT_JOB_TYPE:
            return
        reason = f"backfill {made.id} of {made.asset} was created with concurrency {wanted}"
        await set_slots(self.conn, made.id, wanted, owner=self.actor, reason=reason)


def batches(partitions: Iterator[Listed]) -> Iterator[list[Listed]]:
    """Take the partitions so many at a time."""
    while batch := list(islice(partitions, BATCH)):
        yield batch
