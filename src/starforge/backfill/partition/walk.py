"""Walk: the rows of a key range, batch by batch, each in a transaction that also keeps how far the walk is.

An attempt that is killed leaves whole batches behind it and the next one begins after the last of them: no
row is changed twice, none is left out. Batches are cut by the keys that exist, sized by time, and halved
where one does not get through, until the row at fault is alone: that one is kept as poison and stepped over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from starforge.backfill.errors import WalkError
from starforge.backfill.pace.pace import BATCH_LEAST, PaceSettings
from starforge.backfill.partition.batch import Batch
from starforge.backfill.partition.blame import blame
from starforge.backfill.partition.poison import drop, keep
from starforge.backfill.scheme.scheme import KeySpan
from starforge.clock import failpoint, monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import quoted, sql
from starforge.loop import backoff_s
from starforge.queue.context import Context
from starforge.queue.outcome import PermanentError
from starforge.settings import Settings, setting

if TYPE_CHECKING:
    from starforge.backfill.partition.partition import Partition

log = structlog.get_logger("backfill")

Change = Callable[[Connection, KeySpan], Awaitable[object]]
"""Changes the rows with `keys.first` <= key < `keys.end`, on the connection that it is given."""

ROW_TRIES = 4
"""How often a row that is alone is tried where a lock, a deadlock or the time was in its way."""

PACE_S = 1.0
"""The pace of the backfill is read this often at most."""


class WalkSettings(Settings):
    """What a walk over rows bears."""

    timeout_factor: float = setting(
        10.0,
        env="STARFORGE_BACKFILL_BATCH_TIMEOUT_FACTOR",
        unit="times STARFORGE_BACKFILL_BATCH_S",
        meaning="How long a statement of a key range may take before its batch is halved.",
        ge=2,
        le=1000,
    )
    poison_rows_max: int = setting(
        100,
        env="STARFORGE_BACKFILL_POISON_ROWS_MAX",
        unit="rows",
        meaning="Poison rows that a partition may step over; with one more it fails.",
        ge=0,
        le=10_000,
    )


@dataclass(frozen=True, slots=True)
class Walked:
    """What a partition's attempts have done together."""

    rows: int
    """Rows in the batches that got through."""

    poison: int
    """Rows that were stepped over and are kept as poison."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The next rows of a walk."""

    rows: int
    first: int
    """Key of the first one."""

    keys: KeySpan
    """From where the walk is to behind the last one: gaps between keys belong to a batch too."""


async def walk(ctx: Context, partition: Partition[KeySpan], change: Change) -> Walked:
    """Change all rows of a partition; see `Partition.walk`."""
    return await _Walk(ctx, partition, change).run()


async def cut(conn: Connection, ahead: KeySpan, rows: int) -> Cut:
    """Find the next `rows` rows, or what is left of them; with none, the keys reach to the end."""
    found = await conn.fetchrow(_cut_statement(ahead.table, ahead.key), ahead.first, ahead.end, rows)
    assert found is not None  # it counts
    end = ahead.end if found["rows"] < rows else found["last"] + 1
    first = ahead.first if found["first"] is None else found["first"]
    return Cut(found["rows"], first, _between(ahead, ahead.first, end))


class _Walk:
    """One attempt's way through a partition."""

    def __init__(self, ctx: Context, partition: Partition[KeySpan], change: Change) -> None:
        if not isinstance(partition.bounds, KeySpan):
            raise WalkError(f"partition {partition.key} of {partition.asset} is no range of a table's keys")
        self.ctx, self.partition, self.change = ctx, partition, change
        self.keys = partition.bounds
        self.backfill_id = _backfill_of(ctx)
        self.settings, self.pace = WalkSettings.read(), PaceSettings.read()
        self.batch = Batch(self.pace)
        self.at, self.rows = self._begin()
        self.poison = 0
        self.tries = 0
        self.share = 1.0
        self.share_read_s = -PACE_S

    def _begin(self) -> tuple[int, int]:
        """Return from which key on, and how many rows there were before it."""
        kept = self.partition.cursor
        if kept is None:
            return self.keys.first, 0
        try:
            at, rows, attempt = int(kept["next_key"]), int(kept["rows"]), int(kept["attempt"])
        except (KeyError, TypeError, ValueError):
            raise WalkError(
                f"partition {self.partition.key} of {self.partition.asset} keeps {kept!r:.100}, which no walk"
                " wrote: a handler that walks leaves `advance` to the walk"
            ) from None
        if attempt == self.partition.attempt:
            raise WalkError(f"partition {self.partition.key} of {self.partition.asset} is walked twice")
        return min(max(at, self.keys.first), self.keys.end), rows

    async def run(self) -> Walked:
        for row_key in await self._known():
            while not await self._once_more(row_key):
                pass
        self._bear()
        while self.at < self.keys.end:
            self.ctx.check()
            await self._step()
            self.ctx.progress(self.at - self.keys.first, self.keys.end - self.keys.first)
        return Walked(self.rows, self.poison)

    async def _step(self) -> None:
        """Change the next batch, or learn from it that it is to be a smaller one."""
        wanted, found = self.batch.rows(await self._target_s()), None
        ahead = _between(self.keys, self.at, self.keys.end)
        began_s = 0.0
        try:
            async with self.ctx.pool.transaction(tenant=self.ctx.tenant) as conn:
                found = await cut(conn, ahead, wanted)
                began_s = monotonic_s()
                if found.rows:
                    await self._change(conn, found.keys)
                await self._keep(conn, found.keys.end, self.rows + found.rows)
                failpoint("walk_before_commit")
        except Exception as error:
            if found is None or not found.rows or blame(error) == "elsewhere":
                raise
            await self._broke(found, error)
            return
        self.batch.took(found.rows, monotonic_s() - began_s)
        self.at, self.rows, self.tries = found.keys.end, self.rows + found.rows, 0
        failpoint("walk_after_commit")

    async def _broke(self, found: Cut, error: Exception) -> None:
        if found.rows == 1 and await self._again(error):
            return
        if not self.batch.broke(found.rows):
            return
        await self._poison(found.first, error, at=found.first + 1)

    async def _once_more(self, row_key: int) -> bool:
        """Try a row that was poison before the partition was reopened; False: it is to be tried again."""
        try:
            async with self.ctx.pool.transaction(tenant=self.ctx.tenant) as conn:
                await drop(conn, self.backfill_id, row_key)
                await self._change(conn, _between(self.keys, row_key, row_key + 1))
                await self._keep(conn, self.at, self.rows + 1)
        except Exception as error:
            if blame(error) == "elsewhere":
                raise
            if await self._again(error):
                return False
            self.poison -= 1
            await self._poison(row_key, error, at=self.at)
            return True
        self.rows, self.poison, self.tries = self.rows + 1, self.poison - 1, 0
        return True

    async def _again(self, error: Exception) -> bool:
        """Tell whether a row that is alone is to be tried again, after a pause that grows."""
        self.tries += 1
        if blame(error) != "moment" or self.tries >= ROW_TRIES:
            return False
        await asyncio.sleep(backoff_s(self.tries, first_s=self.pace.batch_s, most_s=self.pace.batch_s * 8))
        return True

    async def _poison(self, row_key: int, error: Exception, *, at: int) -> None:
        """Keep a row as poison and go on behind it; raise PermanentError where it is one too many."""
        async with self.ctx.pool.transaction(tenant=self.ctx.tenant) as conn:
            await keep(
                conn,
                self.backfill_id,
                row_key,
                error,
                tenant=self.ctx.tenant,
                asset=self.partition.asset,
                ordinal=self.partition.ordinal,
            )
            await self._keep(conn, at, self.rows)
        log.warning(
            "backfill.row_poisoned",
            job_id=str(self.backfill_id),
            partition=self.partition.key,
            row_key=row_key,
            error=type(error).__name__,
        )
        self.at, self.poison, self.tries = at, self.poison + 1, 0
        self._bear()

    def _bear(self) -> None:
        most = self.settings.poison_rows_max
        if self.poison > most:
            raise PermanentError(
                f"{self.poison} poison rows in partition {self.partition.key}, where"
                f" STARFORGE_BACKFILL_POISON_ROWS_MAX bears {most}:"
                f" `starforge backfill poison {self.backfill_id}` lists them"
            )

    async def _known(self) -> list[int]:
        """Learn how many poison rows there are; return those that are to be tried again."""
        keys = self.keys
        async with self.ctx.pool.transaction(tenant=self.ctx.tenant) as conn:
            row = await conn.fetchrow(
                sql("backfill", "walk_begin"), self.backfill_id, self.partition.ordinal, keys.first, keys.end
            )
        if row is None:
            raise WalkError(f"backfill {self.backfill_id} has no partition {self.partition.key}")
        self.poison = row["poison"]
        return list(row["again"])

    async def _change(self, conn: Connection, keys: KeySpan) -> None:
        """Have the rows changed, within the time that a statement and a lock of it may take.

        A lock is waited for no longer than a batch should take: others wait for what the batch holds.
        """
        statement_ms = max(1, round(self.pace.batch_s * self.settings.timeout_factor * 1000))
        lock_ms = max(1, round(self.pace.batch_s * 1000))
        await conn.execute(sql("backfill", "walk_limits"), str(statement_ms), str(lock_ms))
        await self.change(conn, keys)

    async def _keep(self, conn: Connection, at: int, rows: int) -> None:
        """Keep how far the walk is, with what was changed; raises where another attempt follows this one."""
        kept = {"next_key": at, "rows": rows, "attempt": self.partition.attempt}
        await self.partition.advance(kept, conn)

    async def _target_s(self) -> float:
        """Return how long the next batch should take, as the pace of the backfill has it."""
        now_s = monotonic_s()
        if now_s - self.share_read_s >= PACE_S:
            async with self.ctx.pool.transaction(tenant=self.ctx.tenant) as conn:
                share = await conn.fetchval(sql("backfill", "pace_of"), self.backfill_id)
            self.share, self.share_read_s = 1.0 if share is None else share, now_s
        return self.pace.batch_s * max(self.share, BATCH_LEAST)


def _cut_statement(table: str, key: str) -> str:
    # The names are a user's, so it is no file. It reads as many entries of the key's index as it finds rows.
    column, name = quoted(key), quoted(*table.split("."))
    return (
        "SELECT count(*)::int AS rows, min(key)::bigint AS first, max(key)::bigint AS last FROM ("  # noqa: S608 - all quoted
        f"SELECT {column} AS key FROM {name} WHERE {column} >= $1::bigint AND {column} < $2::bigint"
        f" ORDER BY {column} LIMIT $3) AS ahead"
    )


def _between(keys: KeySpan, first: int, end: int) -> KeySpan:
    return KeySpan(first, end, keys.table, keys.key)


def _backfill_of(ctx: Context) -> UUID:
    try:
        return UUID(str(ctx.job.payload["backfill_id"]))
    except (KeyError, TypeError, ValueError):
        raise WalkError(f"job {ctx.job.id} is of no backfill: only its partitions are walked") from None
