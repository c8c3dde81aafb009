"""The partition of a backfill: its states, the moves between them, and what its handler is given."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from starforge.backfill.partition.walk import Change, Walked, walk
from starforge.backfill.scheme.scheme import Bounds, KeySpan
from starforge.db.pool import Connection
from starforge.machine import Machine
from starforge.queue.context import Context

QUEUE = "backfill"
"""The queue of the jobs that make partitions."""

PARTITION = Machine.of(
    "partition",
    [
        # verb       from                        to
        ("plan", "", "pending"),
        ("start", "pending", "running"),
        ("complete", "running", "completed"),
        ("fail", "running", "failed"),
        ("return", "running", "pending"),
        ("reopen", "failed", "pending"),
        ("cancel", "pending", "cancelled"),
    ],
)

B = TypeVar("B", bound=Bounds, covariant=True)


class Store(Protocol):
    """Keeps a cursor for the partition's next attempt; whoever runs partitions supplies it."""

    def __call__(self, value: Any, conn: Connection | None = None, /) -> Awaitable[None]: ...


class Cursor:
    """How far inside its partition the work is: a JSON value, and who keeps it."""

    __slots__ = ("_store", "value")

    def __init__(self, value: Any = None, store: Store | None = None) -> None:
        self.value, self._store = value, store

    async def advance(self, value: Any, conn: Connection | None = None) -> None:
        """Keep a value; it counts once it is kept, so an error leaves the one before.

        With `conn` it is kept in the open transaction of that connection, together with what is done there.
        """
        if self._store is not None:
            await self._store(value, conn)
        self.value = value


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition(Generic[B]):
    """One partition, as its handler gets it.

    A handler says what bounds it expects: `Partition[Window]` has `bounds.start` and `bounds.end`,
    `Partition[KeySpan]` has `bounds.first` and `bounds.end`, `Partition[Named]` has `bounds.name`.
    """

    asset: str
    key: str
    ordinal: int
    bounds: B
    attempt: int = 1
    """1 for the first."""

    resume: Cursor = field(default_factory=Cursor, repr=False, compare=False)

    @property
    def cursor(self) -> Any:
        """What `advance` kept last, in this attempt or an earlier one of the same backfill; None without."""
        return self.resume.value

    async def advance(self, cursor: Any, conn: Connection | None = None) -> None:
        """Keep a JSON value that says how far the work is, for an attempt that follows should this one fail.

        With `conn` it is kept in the open transaction of that connection, together with what is done there.
        A plain function, which runs in a thread, calls `ctx.wait(partition.advance(…))`.
        """
        await self.resume.advance(cursor, conn)

    async def walk(self: Partition[KeySpan], ctx: Context, change: Change) -> Walked:
        """Change the rows of a range of keys in batches, each in a transaction of its own.

        async def change(conn, keys):
            await conn.execute("UPDATE orders SET … WHERE id >= $1 AND id < $2", keys.first, keys.end)

        await partition.walk(ctx, change)

        `change` is called with other keys, or the same ones again, until every row got through or is kept as
        poison, so what it does elsewhere than on `conn` may be done twice. It is called for no empty batch.
        Each transaction also keeps how far the walk is: an attempt that follows goes on behind it. A walk is
        the partition's only one, and nothing else advances its cursor.
        Raises: WalkError; PermanentError with more poison rows than are borne; what lies with no row, as
            where the database is away or the statement is wrong.
        """
        return await walk(ctx, self, change)
