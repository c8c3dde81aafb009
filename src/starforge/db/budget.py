"""The budget of connections: workers take shares of what the server has, before they take connections.

What it has is max_connections less what it reserves, less a headroom for operators and whatever comes; of
that, what others hold is gone, and each live worker's share, used or not. A worker that asks for more than
is left gets what is left, down to two; below that it is refused, with the arithmetic (Q-62). Behind a pooler
the pooler bounds the connections, and nothing is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from starforge.db.errors import BudgetError
from starforge.db.pool import Connection, behind_pooler
from starforge.db.statement import sql
from starforge.settings import Settings, setting

SHARE_MIN = 2
"""A worker needs one connection to live and one to work."""

HEADROOM_SHARE_MAX = 5
"""The default headroom is at most one part in this many of the server's connections."""

HOLDERS_SHOWN = 10


class BudgetSettings(Settings):
    """What StarForge leaves of the server's connections."""

    headroom: int = setting(
        20,
        env="STARFORGE_CONNECTION_HEADROOM",
        unit="connections",
        meaning="Connections that workers leave to others; unless set, at most a fifth of max_connections.",
        ge=0,
    )


@dataclass(frozen=True, slots=True)
class Budget:
    """The terms of the capacity formula (D-06), with what is used of it."""

    max_connections: int
    reserved: int
    """Kept by the server for superusers and roles of its choice."""

    headroom: int
    used: int
    """Connections that clients hold now."""

    others: int
    """Those of them that no live worker's share covers: servers, other programs, people."""

    shares: int
    """What live workers may hold, used or not."""

    workers: int

    @property
    def capacity(self) -> int:
        """Connections that all workers and others together may hold."""
        return max(0, self.max_connections - self.reserved - self.headroom)

    @property
    def free(self) -> int:
        """What is left for another worker."""
        return max(0, self.capacity - self.others - self.shares)

    def fit(self, pool_max: int) -> int:
        """How many workers of this size the server could carry if nobody else were there (D-06)."""
        return self.capacity // pool_max

    def more(self, pool_max: int) -> int:
        """How many more workers of this size it carries now."""
        return self.free // pool_max

    def arithmetic(self) -> str:
        """Return the whole sum in words."""
        return f"{self._terms()}; {self.remainder()}"

    def formula(self, pool_max: int) -> str:
        """Return the capacity formula with its terms (D-06)."""
        return f"{self._terms()}; / PG_POOL_MAX {pool_max} = {self.fit(pool_max)} workers"

    def remainder(self) -> str:
        """Return what is left of the capacity, in words."""
        workers = f"{self.workers} worker{'' if self.workers == 1 else 's'}"
        return (
            f"{self.capacity} - others {self.others} - shares of {workers} {self.shares} = {self.free} free"
        )

    def _terms(self) -> str:
        return (
            f"max_connections {self.max_connections} - reserved {self.reserved}"
            f" - headroom {self.headroom} = {self.capacity}"
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds connections."""

    role: str
    application: str
    address: str
    connections: int
    idle: int


async def read_budget(conn: Connection, *, machine: str | None = None, pid: int | None = None) -> Budget:
    """Read the terms; the share of the worker that process `pid` of `machine` leads is not counted."""
    row = await conn.fetchrow(sql("db", "budget"), machine, pid)
    assert row is not None
    settings = BudgetSettings.read()
    headroom = settings.headroom
    if "headroom" not in settings.model_fields_set:
        headroom = min(headroom, row["max_connections"] // HEADROOM_SHARE_MAX)
    return Budget(headroom=headroom, **row)


async def share(conn: Connection, wanted: int, *, machine: str, pid: int) -> int:
    """Return how many connections a worker may hold; its registration belongs into the same transaction.

    Raises: BudgetError where fewer than two are left.
    """
    if await behind_pooler(conn):
        return wanted
    await conn.execute(sql("db", "budget_lock"))
    budget = await read_budget(conn, machine=machine, pid=pid)
    if budget.free < SHARE_MIN:
        raise BudgetError(
            f"a worker with PG_POOL_MAX {wanted} needs {SHARE_MIN} connections or more: {budget.arithmetic()}"
        )
    return min(wanted, budget.free)


async def holders(conn: Connection) -> list[Holder]:
    """Return who holds the most connections."""
    return [Holder(**row) for row in await conn.fetch(sql("db", "holders"), HOLDERS_SHOWN)]
