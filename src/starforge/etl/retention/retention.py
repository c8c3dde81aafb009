"""Retention: how long raw snapshots, captures, quarantine and errors are kept, and what goes after that.

A snapshot goes only when it is through: never one that waits for a worker, has a live job, or is held. What
its rows became stays; so do the tables that its mapping fills.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.etl.errors import NoRetentionRuleError
from starforge.etl.store.store import object_store
from starforge.queue.naming import jobs_naming
from starforge.settings import Settings, setting

Kind = Literal["snapshots", "captures", "quarantine", "errors"]
KINDS: tuple[Kind, ...] = ("snapshots", "captures", "quarantine", "errors")
BATCH = 500
OBJECTS_BATCH = 100
NAMED = "snapshot_id"


class RetentionSettings(Settings):
    """How long what is kept, where no rule in the database says otherwise (`starforge retention set`)."""

    snapshots: int = setting(
        0,
        env="STARFORGE_SNAPSHOT_DAYS",
        unit="days",
        meaning="Raw snapshots are deleted when nothing has happened to them for so long; 0: never.",
        ge=0,
    )
    captures: int = setting(
        0,
        env="STARFORGE_CAPTURE_DAYS",
        unit="days",
        meaning="Captures are deleted after so long, but the latest of each subject and snapshot; 0: never.",
        ge=0,
    )
    quarantine: int = setting(
        180,
        env="STARFORGE_QUARANTINE_DAYS",
        unit="days",
        meaning="Bytes that are no JSON, and holds that were released, are deleted after so long; 0: never.",
        ge=0,
    )
    errors: int = setting(
        90,
        env="STARFORGE_ETL_ERRORS_DAYS",
        unit="days",
        meaning="Rows of etl_errors are deleted after so long; 0: never.",
        ge=0,
    )

    def days(self, kind: Kind) -> int:
        """How long a kind is kept; 0: for ever."""
        return int(getattr(self, kind))


@dataclass(frozen=True, slots=True)
class Rule:
    """How long a tenant keeps a kind of one source, or ("") of all that have no rule of their own."""

    tenant: str
    source: str
    kind: str
    days: int
    owner: str
    reason: str
    created_at: datetime

    def document(self) -> dict[str, Any]:
        """Return it as an operation's before and after show it."""
        return {"days": self.days, "owner": self.owner, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted, and what was left though it is old."""

    snapshots: int = 0
    bytes: int = 0
    captures: int = 0
    holds: int = 0
    waiting: int = 0
    """Left: a job of it waits or runs."""
    sample: tuple[str, ...] = ()

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(
            self.snapshots + other.snapshots,
            self.bytes + other.bytes,
            self.captures + other.captures,
            self.holds + other.holds,
            self.waiting + other.waiting,
            (self.sample + other.sample)[:10],
        )


async def prune_snapshots(conn: Connection) -> int:
    """Delete a batch of snapshots that no rule keeps any longer; return how many."""
    days = RetentionSettings.read().days("snapshots")
    async with conn.transaction():
        least = await conn.fetchval(sql("etl", "retention_least"), "snapshots", days)
        if least is None:
            return 0
        rows = await conn.fetch(sql("etl", "expired_snapshots"), days, least, BATCH)
        return (await _delete(conn, [row["id"] for row in rows])).snapshots


async def prune_captures(conn: Connection) -> int:
    """Delete a batch of old captures; return how many."""
    return await _expire(conn, "captures", "expire_captures")


async def prune_quarantine(conn: Connection) -> int:
    """Delete a batch of old bytes and of holds that ended; return how many."""
    return await _expire(conn, "quarantine", "expire_quarantine")


async def prune_errors(conn: Connection) -> int:
    """Delete a batch of old errors; return how many."""
    return await _expire(conn, "errors", "expire_errors")


async def prune_before(
    conn: Connection, before: datetime, *, tenant: str, source: str | None, most: int
) -> tuple[Pruned, bool]:
    """Delete a tenant's snapshots to which nothing has happened since `before`; say whether more are left."""
    pruned, after, looked = Pruned(), UUID(int=0), 0
    while looked < most:
        rows = await conn.fetch(
            sql("etl", "old_snapshots"), tenant, source, before, after, min(BATCH, most - looked)
        )
        if not rows:
            return pruned, False
        after, looked = rows[-1]["id"], looked + len(rows)
        pruned += await _delete(conn, [row["id"] for row in rows])
    return pruned, bool(await conn.fetch(sql("etl", "old_snapshots"), tenant, source, before, after, 1))


async def drop_objects(conn: Connection) -> int:
    """Delete a batch of objects that no row names any more; return how many.

    Raises: the store's errors; what was not deleted is tried again.
    """
    rows = await conn.fetch(sql("etl", "dropped"), OBJECTS_BATCH)
    for row in rows:
        await object_store().delete(row["raw_key"])
        await conn.execute(sql("etl", "dropped_done"), row["raw_key"])
    return len(rows)


async def rules(conn: Connection, tenant: str) -> list[Rule]:
    """Return a tenant's rules."""
    return [Rule(**row) for row in await conn.fetch(sql("etl", "retention_rules"), tenant)]


async def set_rule(
    conn: Connection, kind: Kind, days: int, *, tenant: str, source: str, owner: str, reason: str
) -> tuple[Rule | None, Rule]:
    """Keep a kind for so many days from now on; return the rule before and the rule now."""
    before = await _rule(conn, kind, tenant, source)
    row = await conn.fetchrow(sql("etl", "retention_set"), tenant, source, kind, days, owner, reason)
    assert row is not None
    return before, Rule(**row)


async def reset_rule(conn: Connection, kind: Kind, *, tenant: str, source: str) -> Rule:
    """Let the settings decide again; return the rule that ended, raise NoRetentionRuleError without one."""
    row = await conn.fetchrow(sql("etl", "retention_reset"), tenant, source, kind)
    if row is None:
        raise NoRetentionRuleError(kind, source)
    return Rule(**row)


async def drop_raw(conn: Connection, raw_keys: Sequence[tuple[str, str]]) -> None:
    """Have objects deleted once this transaction has committed: pairs of key and tenant."""
    if raw_keys:
        keys, tenants = zip(*raw_keys, strict=True)
        await conn.execute(sql("etl", "drop"), list(keys), list(tenants))


async def _rule(conn: Connection, kind: Kind, tenant: str, source: str) -> Rule | None:
    found = [one for one in await rules(conn, tenant) if (one.kind, one.source) == (kind, source)]
    return found[0] if found else None


async def _expire(conn: Connection, kind: Kind, statement: str) -> int:
    days = RetentionSettings.read().days(kind)
    least = await conn.fetchval(sql("etl", "retention_least"), kind, days)
    if least is None:
        return 0
    return int((await conn.execute(sql("etl", statement), days, least, BATCH)).rpartition(" ")[2])


async def _delete(conn: Connection, ids: Sequence[UUID]) -> Pruned:
    """Delete those of these snapshots, locked by the caller's transaction, of which no job waits or runs."""
    if not ids:
        return Pruned()
    live = await jobs_naming(conn, NAMED, [str(one) for one in ids], None)
    waiting = {job.named for job in live if job.status != "failed"}
    through = [one for one in ids if str(one) not in waiting]
    row = await conn.fetchrow(sql("etl", "delete_snapshots"), through)
    assert row is not None
    await drop_raw(conn, list(zip(row["raw_keys"] or [], row["tenants"] or [], strict=True)))
    return Pruned(
        snapshots=row["snapshots"],
        bytes=row["bytes"],
        captures=row["captures"],
        holds=row["holds"],
        waiting=len(ids) - len(through),
        sample=tuple(str(one) for one in through[:10]),
    )
