"""What must hold of all backfills after every fault: one statement finds those of which it does not."""

from __future__ import annotations

from starforge.db.pool import Connection

UNSOUND = """
SELECT b.id, b.asset_name, b.state, b.total_partitions AS total, b.failed_max, p.*
FROM backfill_jobs AS b, LATERAL (
    SELECT count(*) FILTER (WHERE state IN ('completed', 'failed', 'cancelled')) AS terminal,
           count(*) FILTER (WHERE state = 'failed') AS failed
    FROM backfill_partitions WHERE backfill_job_id = b.id) AS p
WHERE b.state = 'completed' AND (p.terminal < b.total_partitions OR p.failed > b.failed_max)
"""
"""Completed ones with fewer terminal partitions than they have, or more failed ones than they tolerate."""

MISCOUNTED = """
SELECT b.id, b.state, b.completed_partitions, b.failed_partitions, b.cancelled_partitions,
       b.checkpoint_ordinal, p.*, s.*
FROM backfill_jobs AS b, LATERAL (
    SELECT count(*) FILTER (WHERE state = 'completed') AS completed,
           count(*) FILTER (WHERE state = 'failed') AS failed,
           count(*) FILTER (WHERE state = 'cancelled') AS cancelled, max(ordinal) AS last
    FROM backfill_partitions WHERE backfill_job_id = b.id) AS p, LATERAL (
    SELECT sum((part ->> 0)::int) AS shown_completed, sum((part ->> 1)::int) AS shown_failed,
           sum((part ->> 2)::int) AS shown_cancelled
    FROM jsonb_array_elements(b.look -> 'strip') AS part) AS s
WHERE b.closed_at IS NOT NULL
  AND (b.completed_partitions, b.failed_partitions, b.cancelled_partitions, b.total_partitions,
       b.checkpoint_ordinal, s.shown_completed, s.shown_failed, s.shown_cancelled)
      IS DISTINCT FROM
      (p.completed, p.failed, p.cancelled, p.completed + p.failed + p.cancelled, p.last,
       p.completed, p.failed, p.cancelled)
"""
"""Closed ones whose counters, checkpoint or strip are not what their partitions say."""

SKIPPED = """
SELECT p.backfill_job_id, p.ordinal, p.state, b.checkpoint_ordinal
FROM backfill_jobs AS b JOIN backfill_partitions AS p ON p.backfill_job_id = b.id
WHERE p.ordinal <= b.checkpoint_ordinal AND p.state NOT IN ('completed', 'failed', 'cancelled')
  AND p.reopened_at IS NULL
"""
"""Partitions that a checkpoint has passed over: none of them may be open."""


async def assert_sound(conn: Connection) -> None:
    """Fail where a backfill says what its partitions do not."""
    for statement in (UNSOUND, MISCOUNTED, SKIPPED):
        assert [dict(row) for row in await conn.fetch(statement)] == []
