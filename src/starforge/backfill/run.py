"""Run: one attempt at a partition, as a job of the queue.

The partition's row is completed in the transaction that holds its effects and completes the job: an attempt
that another has followed, or whose backfill has ended, commits nothing of what it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from starforge.backfill.asset import Asset, Assets
from starforge.backfill.errors import PartitionOverError
from starforge.backfill.partition import Cursor, Partition
from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.errors import told
from starforge.queue.handler import Context, Discard, JobType, PermanentError
from starforge.queue.job import LeasedJob

ERROR_CHARS_MAX = 2000


def partition_type(assets: Assets, name: str) -> JobType:
    """Return the job type that makes partitions of the asset, or of all assets that share it."""

    async def run(context: Context, payload: Mapping[str, Any]) -> None:
        await run_partition(context, payload, assets)

    asset = assets.get(name)
    return JobType(
        name=asset.job_type,
        run=run,
        queue=QUEUE,
        timeout_s=asset.timeout_s,
        retry=asset.retry,
        owner=asset.owner,
        failed=_failed,
        lost=_lost,
    )


QUEUE = "backfill"


async def run_partition(context: Context, payload: Mapping[str, Any], assets: Assets) -> None:
    """Make one partition.

    Raises: Discard where its backfill does not run any more; PartitionOverError where another attempt
        followed this one; whatever the handler raises.
    """
    backfill_id, key = _which(payload)
    row = await _start(context, backfill_id, key)
    if row is None:
        await _give_back(context, backfill_id, key)
        raise Discard(f"backfill {backfill_id} does not run: partition {key} waits for it")
    asset = assets.get(row["asset_name"])
    partition = _partition(context, asset, backfill_id, key, row)
    failpoint("partition_started")
    async with context.transaction() as conn:
        await asset.handler.call(context, partition, conn)
        if asset.validate is not None:
            await asset.validate.call(context, partition, conn)
        ended = await conn.fetchrow(
            sql("backfill", "complete"), backfill_id, key, context.job.id, partition.attempt, asset.version
        )
        if ended is None:
            raise PartitionOverError(f"attempt {partition.attempt} at partition {key} of {asset.name} is over")
        failpoint("partition_before_commit")


async def _start(context: Context, backfill_id: UUID, key: str) -> Mapping[str, Any] | None:
    async with context.pool.transaction(tenant=context.tenant, probing=True) as conn:
        return await conn.fetchrow(sql("backfill", "start"), backfill_id, key, context.job.id)


async def _give_back(context: Context, backfill_id: UUID, key: str) -> None:
    async with context.pool.transaction(tenant=context.tenant, probing=True) as conn:
        await conn.execute(sql("backfill", "give_back"), backfill_id, key, context.job.id)


def _partition(
    context: Context, asset: Asset, backfill_id: UUID, key: str, row: Mapping[str, Any]
) -> Partition[Any]:
    async def store(value: Any) -> None:
        async with context.pool.transaction(tenant=context.tenant, probing=True) as conn:
            kept = await conn.fetchrow(
                sql("backfill", "advance"), backfill_id, key, context.job.id, row["attempt_count"], value
            )
        if kept is None:
            raise PartitionOverError(f"attempt {row['attempt_count']} at partition {key} is over")

    return Partition(
        asset=asset.name,
        key=key,
        ordinal=row["ordinal"],
        bounds=asset.partitions.bounds(key),
        attempt=row["attempt_count"],
        resume=Cursor(row["cursor"], store),
    )


async def _failed(conn: Connection, job: LeasedJob, error: BaseException, final: bool) -> None:
    """Write the failure to the partition, in the transaction of the job's own retry or end."""
    await _note(conn, job, told(error), final=final)


async def _lost(conn: Connection, job: LeasedJob, evidence: Mapping[str, Any]) -> None:
    """Write down that the attempt ended with its process; the guilty one's third ends the partition."""
    if evidence.get("verdict") == "guilty":
        words = f"its process {evidence.get('exit', 'died')}"
        await _note(conn, job, words, final=bool(evidence.get("quarantined")))


async def _note(conn: Connection, job: LeasedJob, words: str, *, final: bool) -> None:
    try:
        backfill_id, key = _which(job.payload)
    except PermanentError:
        return
    message = words[:ERROR_CHARS_MAX]
    await conn.fetchrow(sql("backfill", "fail"), backfill_id, key, job.id, final, message, None)


def _which(payload: Mapping[str, Any]) -> tuple[UUID, str]:
    try:
        return UUID(str(payload["backfill_id"])), str(payload["key"])
    except (KeyError, ValueError):
        raise PermanentError(f"the payload names no partition: {payload!r:.200}") from None
