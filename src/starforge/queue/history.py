"""History: finished jobs by day; partitions are made ahead and dropped whole."""

from __future__ import annotations

from starforge.db.pool import Connection


async def make_partitions(conn: Connection, *, days: int) -> int:
    """Make the daily partitions from today to `days` ahead that lack; return how many were made."""
    return int(await conn.fetchval("SELECT sf_history_partitions($1)", days))
