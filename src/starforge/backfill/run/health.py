"""The health of the database, as backfills heed it: read every few seconds by whoever coordinates some."""

from __future__ import annotations

from dataclasses import dataclass

from starforge.backfill.pace.pace import Health
from starforge.db.budget import read_budget
from starforge.db.pool import Connection
from starforge.db.statement import sql

LIVE_S = 10.0
"""How far back the pick-up of the live queues' jobs is looked at."""

NORMAL_S = 60.0
"""How often it is looked what is normal for them; only times without a backfill say that."""


@dataclass(slots=True)
class HealthReader:
    """Reads the health; some of it is told by two readings."""

    _wal: tuple[float, float] | None = None  # when, and how many bytes there were
    _normal_ms: float | None = None
    _normal_at_s: float = -NORMAL_S

    def learn(self, live_p95_ms: float) -> None:
        """Take this as what is normal for live jobs: no backfill has started anything for a while."""
        self._normal_ms = live_p95_ms

    async def read(self, conn: Connection) -> Health:
        """Return how the database fares now; raise asyncpg's errors."""
        row = await conn.fetchrow(sql("backfill", "health"), LIVE_S)
        assert row is not None
        budget = await read_budget(conn)
        at_s = row["at_s"]
        if at_s - self._normal_at_s >= NORMAL_S:
            self._normal_at_s = at_s
            normal_ms = await conn.fetchval(sql("backfill", "live_normal"))
            self._normal_ms = self._normal_ms if normal_ms is None else normal_ms
        return Health(
            connections_used=budget.used,
            connections_budget=budget.capacity,
            lock_waits=row["lock_waits"],
            wal_bytes_per_s=self._wal_per_s(at_s, row["wal_bytes"]),
            replication_lag_s=row["replication_lag_s"],
            live_p95_ms=row["live_p95_ms"],
            live_normal_ms=self._normal_ms,
        )

    def _wal_per_s(self, at_s: float, wal_bytes: float | None) -> float | None:
        before, self._wal = self._wal, None if wal_bytes is None else (at_s, wal_bytes)
        if before is None or wal_bytes is None or at_s - before[0] <= 0 or wal_bytes < before[1]:
            return None  # the first reading, or the clock or the server is another
        return (wal_bytes - before[1]) / (at_s - before[0])
