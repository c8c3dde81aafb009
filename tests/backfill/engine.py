"""A backfill engine in this process: a coordinator, and a worker's loop that makes partitions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from starforge.backfill.asset.asset import Asset, Assets, asset
from starforge.backfill.partition.partition import QUEUE
from starforge.backfill.run.coordinate import Coordinator
from starforge.backfill.run.run import partition_types
from starforge.backfill.scheme.scheme import Scheme
from starforge.backfill.scheme.window import Daily, TimeScheme
from starforge.db.pool import Pool
from starforge.queue.handler import JobTypes
from starforge.worker.registry import Registration, register
from starforge.worker.run import Runner

DAYS = Daily("2024-01-01")
LEASE_S = 86_400.0
"""Of the engine's workers: longer than any test moves the clock."""


class Engine:
    """What a test asks of a running engine."""

    first = DAYS.first
    """The ordinal of the first partition that `create` makes."""

    def __init__(self, pool: Pool, assets: Assets) -> None:
        self.pool, self.assets = pool, assets
        self.worker_id: UUID | None = None
        self.stop = asyncio.Event()
        self.coordinating: list[asyncio.Task[None]] = []

    async def enter(self) -> UUID:
        """Register one more worker, for who coordinates beside the others."""
        types = tuple(known.job_type for known in self.assets)
        async with self.pool.connection() as conn:
            return await register(conn, Registration((QUEUE,), types, 1), lease_s=LEASE_S)

    def coordinate(self, worker_id: UUID | None = None) -> Coordinator:
        """Start one more coordinator, as this worker or as the engine's own."""
        made = Coordinator(self.pool.connection, lambda: worker_id or self.worker_id)
        self.coordinating.append(asyncio.create_task(made.run(self.stop)))
        return made

    async def create(self, name: str, days: int, *, concurrency: int | None = None, **columns: Any) -> UUID:
        """Create a backfill of the first so many partitions, as the rows that creation leaves."""
        known = self.assets.get(name)
        scheme = known.partitions
        assert isinstance(scheme, TimeScheme)
        listed = list(scheme.listed([(scheme.first, scheme.first + days)]))
        return await planned(self.pool, known, listed, concurrency=concurrency, **columns)

    async def row(self, backfill_id: UUID) -> dict[str, Any]:
        async with self.pool.connection() as conn:
            [row] = await conn.fetch("SELECT * FROM backfill_jobs WHERE id = $1", backfill_id)
        return dict(row)

    async def until(
        self, backfill_id: UUID, reached: Callable[[dict[str, Any]], bool], within_s: float = 20
    ) -> dict[str, Any]:
        """Wait until the row fulfils something, and return it."""
        try:
            async with asyncio.timeout(within_s):
                while not reached(row := await self.row(backfill_id)):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            print(row)
            raise
        return row

    async def over(self, backfill_id: UUID, within_s: float = 20) -> dict[str, Any]:
        """Wait until nothing more is written of it, and return its row."""
        return await self.until(backfill_id, lambda row: row["closed_at"] is not None, within_s)


async def planned(
    pool: Pool, known: Asset, listed: list[tuple[str, int]], *, concurrency: int | None = None, **columns: Any
) -> UUID:
    """Write a backfill's rows."""
    ordinals = [ordinal for _, ordinal in listed]
    spans = ",".join(f"[{ordinal},{ordinal + 1})" for ordinal in ordinals)
    values = {
        "asset_name": known.name,
        "job_type": known.job_type,
        "concurrency": concurrency or known.limit.per_key,
        "attempts_max": known.attempts_max,
        "total_partitions": len(listed),
        **columns,
    }
    names = ", ".join(values)
    places = ", ".join(f"${at}" for at in range(2, len(values) + 2))
    canary = columns.get("canary_partitions", 0)
    async with pool.connection() as conn, conn.transaction():
        backfill_id: UUID = await conn.fetchval(
            f"INSERT INTO backfill_jobs (covers, {names})"
            f" VALUES ($1::text::int8multirange, {places}) RETURNING id",
            "{" + spans + "}",
            *values.values(),
        )
        await conn.execute(
            "INSERT INTO backfill_partitions (backfill_job_id, tenant_id, partition_key, ordinal, is_canary)"
            " SELECT $1, (SELECT tenant_id FROM backfill_jobs WHERE id = $1), k, o, n <= $4"
            " FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS u (k, o, n)",
            backfill_id,
            [key for key, _ in listed],
            ordinals,
            canary,
        )
    return backfill_id


@asynccontextmanager
async def engine(
    pool: Pool, assets: Iterable[Asset], *, concurrency: int = 8, coordinators: int = 1
) -> AsyncIterator[Engine]:
    """Run an engine for the length of the block."""
    known = Assets(assets)
    known.bind()
    types = JobTypes(partition_types(known))
    made = Engine(pool, known)
    async with pool.connection() as conn:
        made.worker_id = await register(
            conn, Registration((QUEUE,), types.names(), concurrency), lease_s=LEASE_S
        )
    runner = Runner(pool, types, made.worker_id, queues=(QUEUE,), concurrency=concurrency, poll_s=0.05)
    working = asyncio.create_task(runner.run(grace_s=5, hurry=asyncio.Event()))
    for _ in range(coordinators):
        made.coordinate()
    try:
        yield made
    finally:
        made.stop.set()
        await asyncio.gather(*made.coordinating)
        runner.stop()
        await working


def daily(name: str, handler: Callable[..., Any], partitions: Scheme = DAYS, **options: Any) -> Asset:
    """An asset of days."""
    return asset(name, handler, partitions=partitions, **options)
