"""Run: one attempt at a partition, as a job of the queue.

The partition's row is completed in the transaction that holds its effects and completes the job: an attempt
that another has followed commits nothing of what it did. Where the handler takes no part in that transaction,
partitions that are ready at the same time share one, as those that begin at the same time share a statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from starforge.backfill.asset.asset import Asset, Assets
from starforge.backfill.errors import PartitionOverError
from starforge.backfill.partition.partition import QUEUE, Cursor, Partition
from starforge.clock import failpoint, monotonic_s
from starforge.db.fingerprint import fingerprint
from starforge.db.group_commit import GroupCommit
from starforge.db.pool import DATABASE_AWAY, Connection, Pool
from starforge.db.statement import sql
from starforge.errors import shortened, told
from starforge.queue.context import Context, complete_together
from starforge.queue.handler import Discard, JobType, PermanentError
from starforge.queue.job import LeasedJob

ERROR_CHARS_MAX = 2000
TOGETHER_MAX = 64
"""Most attempts that begin, or partitions that are completed, together."""


def partition_types(assets: Assets) -> Iterator[JobType]:
    """Make the job types whose jobs make the partitions of these assets; some assets share one."""
    made: set[str] = set()
    for asset in assets:
        if asset.job_type not in made:
            made.add(asset.job_type)
            yield partition_type(assets, asset)


def partition_type(assets: Assets, asset: Asset) -> JobType:
    """Return the job type that makes partitions of an asset, and of all that share it."""
    return JobType(
        name=asset.job_type,
        run=partial(run_partition, assets),
        queue=QUEUE,
        timeout_s=asset.timeout_s,
        retry=asset.retry,
        limit=asset.limit,
        owner=asset.owner,
        failed=_failed,
        lost=_lost,
    )


async def run_partition(assets: Assets, context: Context, payload: Mapping[str, Any]) -> None:
    """Make one partition.

    Raises: Discard where its backfill does not run, or the partition is over; PartitionOverError where
        another attempt followed this one; whatever the handler raises.
    """
    attempt = _Attempt(context, *_which(payload))
    groups = _groups_of(context.pool)
    row = await groups.begin.take(attempt, kind=None, key=context.job.id)
    if row is None:
        [row] = await _begin([attempt], lambda: None)
    if isinstance(row, bool):
        raise Discard(f"backfill {attempt.backfill_id} does not run, or partition {attempt.key} is over")
    attempt.number = row["attempt_count"]
    asset = assets.get(row["asset_name"])
    attempt.version = asset.version
    given = _partition(attempt, asset, row["cursor"])
    failpoint("partition_started")
    if asset.takes_connection:
        async with context.transaction() as conn:
            await _call(asset, context, given, conn)
            await _complete(conn, [attempt])
            failpoint("partition_before_commit")
        return
    await _call(asset, context, given, None)
    if not await groups.complete.take(attempt, kind=context.tenant, key=context.job.id):
        async with context.transaction() as conn:
            await _complete(conn, [attempt])


@dataclass(slots=True)
class _Attempt:
    context: Context
    backfill_id: UUID
    key: str
    ordinal: int
    number: int = 0
    version: str = ""
    began_s: float = field(default_factory=monotonic_s)

    async def advance(self, cursor: Any, conn: Connection | None = None) -> None:
        """Keep a cursor, by itself or in a transaction of the handler's; raise PartitionOverError."""
        values = self.backfill_id, self.ordinal, self.context.job.id, self.number, cursor
        if conn is None:
            async with self.context.pool.transaction(tenant=self.context.tenant, probing=True) as own:
                kept = await own.fetchrow(sql("backfill", "advance"), *values)
        else:
            kept = await conn.fetchrow(sql("backfill", "advance"), *values)
        if kept is None:
            raise PartitionOverError(self.key, self.number)


async def _call(asset: Asset, context: Context, given: Partition[Any], conn: Connection | None) -> None:
    assert asset.handler is not None  # a worker knows the code of what it runs
    await asset.handler.call(context, given, conn)
    if asset.validate is not None:
        await asset.validate.call(context, given, conn)


def _partition(attempt: _Attempt, asset: Asset, cursor: Any) -> Partition[Any]:
    return Partition(
        asset=asset.name,
        key=attempt.key,
        ordinal=attempt.ordinal,
        bounds=asset.partitions.bounds(attempt.key),
        attempt=attempt.number,
        resume=Cursor(cursor, attempt.advance),
    )


# ---- together


@dataclass(frozen=True, slots=True)
class _Groups:
    """What a process's attempts do together."""

    begin: GroupCommit[_Attempt, Mapping[str, Any] | bool]
    complete: GroupCommit[_Attempt, bool]


_GROUPS: WeakKeyDictionary[Pool, _Groups] = WeakKeyDictionary()


def _groups_of(pool: Pool) -> _Groups:
    groups = _GROUPS.get(pool)
    if groups is None:
        begin = GroupCommit(_begin, DATABASE_AWAY, TOGETHER_MAX)
        groups = _GROUPS[pool] = _Groups(begin, GroupCommit(_complete_group, DATABASE_AWAY, TOGETHER_MAX))
    return groups


async def _begin(attempts: Sequence[_Attempt], _stay: Callable[[], None]) -> list[Mapping[str, Any] | bool]:
    """Begin attempts with one statement; False for those that may not."""
    async with attempts[0].context.pool.connection(probing=True) as conn:
        rows = await conn.fetch(
            sql("backfill", "start"),
            [one.backfill_id for one in attempts],
            [one.ordinal for one in attempts],
            [one.context.job.id for one in attempts],
            [one.context.tenant for one in attempts],
        )
    began: dict[UUID, Mapping[str, Any] | bool] = {row["queue_job_id"]: dict(row) for row in rows}
    return [began.get(one.context.job.id, False) for one in attempts]


async def _complete_group(attempts: Sequence[_Attempt], stay: Callable[[], None]) -> list[bool]:
    context = attempts[0].context
    async with context.pool.transaction(tenant=context.tenant, probing=True) as conn:
        await _complete(conn, attempts)
        await complete_together(conn, [one.context for one in attempts])
        stay()
        failpoint("partition_before_commit")
    # Before anybody is told: a cancellation may come on the way.
    for one in attempts:
        one.context.written = True
    return [True] * len(attempts)


async def _complete(conn: Connection, attempts: Sequence[_Attempt]) -> None:
    now_s = monotonic_s()
    rows = await conn.fetch(
        sql("backfill", "complete"),
        [one.backfill_id for one in attempts],
        [one.ordinal for one in attempts],
        [one.context.job.id for one in attempts],
        [one.number for one in attempts],
        [one.version for one in attempts],
        [(now_s - one.began_s) * 1000 for one in attempts],
    )
    if len(rows) < len(attempts):
        done = {row["queue_job_id"] for row in rows}
        over = next(one for one in attempts if one.context.job.id not in done)
        raise PartitionOverError(over.key, over.number)


# ---- failures


async def _failed(conn: Connection, job: LeasedJob, error: BaseException, final: bool) -> None:
    """Write the failure to the partition, in the transaction of the job's own retry or end."""
    await _note(conn, job, told(error), fingerprint(error), final=final)


async def _lost(conn: Connection, job: LeasedJob, evidence: Mapping[str, Any]) -> None:
    """Write down that the attempt ended with its process; the guilty one's third ends the partition."""
    if evidence.get("verdict") == "guilty":
        if await conn.fetchval(sql("backfill", "again"), job.id) == "running":
            return  # told late: what is to be seen now is the attempt that follows
        cause = str(evidence.get("cause", "exit"))
        words = f"its worker's process ended while it ran: {cause}"
        await _note(conn, job, words, f"killed:{cause}", final=bool(evidence.get("quarantined")))


async def _note(conn: Connection, job: LeasedJob, words: str, mark: str, *, final: bool) -> None:
    try:
        backfill_id, _key, ordinal = _which(job.payload)
    except PermanentError:
        return  # it says so itself, as a dead letter
    message = shortened(words, ERROR_CHARS_MAX)
    await conn.fetchrow(sql("backfill", "fail"), backfill_id, ordinal, job.id, final, message, mark)


def _which(payload: Mapping[str, Any]) -> tuple[UUID, str, int]:
    try:
        return UUID(str(payload["backfill_id"])), str(payload["key"]), int(payload["ordinal"])
    except (KeyError, ValueError, TypeError):
        raise PermanentError(f"the payload names no partition: {payload!r:.200}") from None
