"""What is kept by the day: partitions are made ahead and dropped whole (docs/decisions/0004)."""

from __future__ import annotations

from typing import Literal

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.settings import Settings, setting

DAYS_AHEAD = 3
STRAYS_BATCH = 5000

Daily = Literal["job_history", "log_lines"]


class HistorySettings(Settings):
    """How long what is kept by the day is kept."""

    history_days: int = setting(
        30,
        env="STARFORGE_HISTORY_DAYS",
        unit="days",
        meaning="How long completed and cancelled jobs can be looked up.",
        ge=1,
        le=3650,
    )
    log_days: int = setting(
        7,
        env="STARFORGE_LOG_DAYS",
        unit="days",
        meaning="How long the log lines of workers and jobs can be read.",
        ge=1,
        le=365,
    )

    def days(self, table: Daily) -> int:
        """Return how many days of a table are kept."""
        return self.history_days if table == "job_history" else self.log_days


async def make_partitions(conn: Connection, table: Daily = "job_history", *, days: int = DAYS_AHEAD) -> int:
    """Make the daily partitions from today to `days` ahead that lack; return how many were made."""
    return int(await conn.fetchval("SELECT sf_daily_partitions($1, $2)", table, days))


async def drop_partitions(conn: Connection, table: Daily, *, kept_days: int) -> list[str]:
    """Drop the partitions whose day ended more than `kept_days` ago, all or none; return their names.

    Raises: asyncpg.LockNotAvailableError while somebody reads the table for longer than the drop waits.
    """
    rows = await conn.fetch("SELECT sf_drop_partitions($1, $2) AS name", table, kept_days)
    failpoint("partitions_dropped")
    return [row["name"] for row in rows]


async def drop_strays(conn: Connection, table: Daily, *, kept_days: int) -> int:
    """Delete a batch of old rows that found no partition of their day; return how many.

    Fewer than STRAYS_BATCH means that there are no more.
    """
    verb = "strays_history" if table == "job_history" else "strays_logs"
    return int((await conn.execute(sql("queue", verb), kept_days, STRAYS_BATCH)).rpartition(" ")[2])
