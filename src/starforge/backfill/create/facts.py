"""The facts that a selection rests on, read from the database over one connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import asyncpg

from starforge.backfill.errors import KeyTableError
from starforge.backfill.scheme.keyed import KEY_MAX, KEY_MIN, KeyRange
from starforge.db.pool import Connection
from starforge.db.statement import quoted, sql
from starforge.errors import told

WHOLE_NUMBERS = ("smallint", "integer", "bigint")


class DatabaseFacts:
    """What `select` asks for; see `Facts` there.

    Args:
        conn: A connection inside a transaction.
        registering: Names get ordinals that stay. Without it they are told those that they would get, and
            nothing is written.
    """

    def __init__(self, conn: Connection, *, registering: bool) -> None:
        self._conn, self._registering = conn, registering

    async def now(self) -> datetime:
        """Return the database's time."""
        found: datetime = await self._conn.fetchval("SELECT sf_now()")
        return found

    async def keys(self, scheme: KeyRange) -> tuple[int, int] | None:
        """Return the lowest and the highest key that a table holds; raise KeyTableError."""
        table, key = quoted(*scheme.table_parts), quoted(scheme.key)
        try:
            async with self._conn.transaction():
                await self._check(scheme, table)
                row = await self._conn.fetchrow(
                    f"SELECT min({key})::int8 AS low, max({key})::int8 AS high FROM {table}"  # noqa: S608 - both quoted
                )
        except asyncpg.PostgresError as error:
            reader = await self._conn.fetchval("SELECT current_user")
            what = f"the keys of {scheme.told()} cannot be read as {reader}"
            raise KeyTableError(f"{what}: {told(error)}") from None
        assert row is not None
        if row["low"] is None:
            return None
        if (row["low"] < KEY_MIN and scheme.start is None) or (row["high"] > KEY_MAX and scheme.end is None):
            raise KeyTableError(
                f"{scheme.table} has {scheme.key} {row['low']} to {row['high']}, and ranges reach from"
                f" {KEY_MIN} to {KEY_MAX}: declare start= or end= to leave the outermost out"
            )
        return row["low"], row["high"]

    async def ordinals(self, asset: str, names: Sequence[str]) -> Mapping[str, int]:
        """Return the ordinal of each name; what has none gets the next one, in the order given."""
        known = await self._named(asset)
        fresh = [name for name in names if name not in known]
        if fresh and self._registering:
            await self._conn.execute(sql("backfill", "names_lock"), asset)
            known = await self._named(asset)
            fresh = [name for name in names if name not in known]
        first = max(known.values(), default=-1) + 1
        given = dict(zip(fresh, range(first, first + len(fresh)), strict=True))
        if given and self._registering:
            await self._conn.execute(sql("backfill", "name"), asset, list(given), list(given.values()))
        known |= given
        return {name: known[name] for name in names}

    async def _named(self, asset: str) -> dict[str, int]:
        rows = await self._conn.fetch(sql("backfill", "names"), asset)
        return {row["partition_key"]: row["ordinal"] for row in rows}

    async def _check(self, scheme: KeyRange, table: str) -> None:
        row = await self._conn.fetchrow(sql("backfill", "key_column"), table, scheme.key)
        assert row is not None
        if not row["found"]:
            raise KeyTableError(f"there is no table {scheme.table} for {row['reader']} to walk")
        if row["type"] is None:
            raise KeyTableError(f"table {scheme.table} has no column {scheme.key}")
        if row["type"] not in WHOLE_NUMBERS:
            raise KeyTableError(
                f"column {scheme.key} of {scheme.table} is {row['type']}, and a key range walks whole numbers"
            )
