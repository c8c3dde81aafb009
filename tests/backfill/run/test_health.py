"""The health that backfills heed: what is read of it, and what is normal for live jobs."""

from __future__ import annotations

from typing import Any

import pytest

from starforge.backfill.pace.pace import Health
from starforge.backfill.run.coordinate import STOPPED_S, Coordinator
from starforge.backfill.run.health import HealthReader
from starforge.db.pool import Connection, Pool
from tests.backfill.rows import a_backfill, now
from tests.covers import covers

LIVE = """
INSERT INTO job_history (id, tenant_id, queue, type, payload, priority, status, attempts, max_attempts,
                         run_after, lease_epoch, created_at, started_at, completed_at, ran_ms)
SELECT gen_random_uuid(), 'default', $1, $2, '{}', 0, 'completed', 0, 5, sf_now() - $3 * interval '1 ms', 1,
       sf_now(), sf_now(), sf_now(), 1
FROM generate_series(1, 100)
"""


WAITED = """
INSERT INTO job_history (id, tenant_id, queue, type, payload, priority, status, attempts, max_attempts,
                         run_after, started_at, lease_epoch, created_at, completed_at, ran_ms)
SELECT gen_random_uuid(), 'default', 'mail', 'send', '{}', 0, 'completed', 0, 5,
       sf_now() - make_interval(secs => $1::float8 + $2), sf_now() - make_interval(secs => $1::float8), 1,
       sf_now(), sf_now() - make_interval(secs => $1::float8), 1
"""


@covers("B-69")
async def test_live_jobs_tell_how_long_they_waited_and_backfills_and_limited_types_do_not(
    conn: Connection,
) -> None:
    assert (await HealthReader().read(conn)).live_p95_ms is None
    limited = "INSERT INTO job_types (name, queue, limits) VALUES ('slow', 'default', $1)"
    await conn.execute(limited, {"rate_per_s": 1})
    await conn.execute(LIVE, "backfill", "asset:a", 9_000.0)
    await conn.execute(LIVE, "default", "slow", 9_000.0)
    await conn.execute(LIVE, "default", "mail", 40.0)
    health = await HealthReader().read(conn)
    assert health.live_p95_ms is not None
    assert 39 < health.live_p95_ms < 41
    assert health.live_normal_ms is not None, "no backfill was at work"
    assert 39 < health.live_normal_ms < 41
    assert (health.lock_waits, health.replication_lag_s, health.wal_bytes_per_s) == (0, None, None)
    assert health.connections_budget is not None
    assert health.connections_used is not None
    assert 0 < health.connections_used <= health.connections_budget


async def test_the_second_reading_tells_how_much_is_written(conn: Connection) -> None:
    reader = HealthReader()
    await reader.read(conn)
    await conn.execute("CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)")
    written = (await reader.read(conn)).wal_bytes_per_s
    assert written is not None
    assert written > 0


@covers("B-69")
async def test_a_stop_that_changes_nothing_for_live_jobs_ends(pool: Pool) -> None:
    """They wait longer than the limit by themselves: waiting for that to pass would take for ever."""
    coordinator, slow = Coordinator(pool.connection, lambda: None), Health(live_p95_ms=500.0)
    coordinator._heed(slow, 0.0)
    assert coordinator._pace.share == 0
    coordinator._heed(slow, STOPPED_S - 1)
    assert coordinator._health._normal_ms is None
    coordinator._heed(slow, STOPPED_S)
    assert coordinator._health._normal_ms == 500


async def normal_ms(conn: Connection) -> Any:
    """Read what is normal for live jobs, as somebody does who has not read it before."""
    return (await HealthReader().read(conn)).live_normal_ms


@covers("Q-59", "B-69")
async def test_what_is_normal_is_seen_where_no_backfill_was_at_work(conn: Connection) -> None:
    assert await normal_ms(conn) is None
    await conn.execute(WAITED, 300, 0.004)
    await conn.execute(WAITED, 60, 2.0)
    times = {"started_at": await now(conn, -100), "closed_at": await now(conn, -30)}
    await a_backfill(conn, state="completed", **times)
    assert await normal_ms(conn) == pytest.approx(4)


@covers("Q-59", "B-69", "B-19")
async def test_a_backfill_that_was_paused_and_resumed_is_at_work(conn: Connection) -> None:
    """The time of its pause stays in its row: what live jobs suffer since its resume is not normal."""
    await conn.execute(WAITED, 595, 0.004)
    await conn.execute(WAITED, 60, 2.0)
    times = {"started_at": await now(conn, -400), "paused_at": await now(conn, -200)}
    backfill_id = await a_backfill(conn, state="running", **times)
    assert await normal_ms(conn) == pytest.approx(4)
    await conn.execute("UPDATE backfill_jobs SET state = 'paused' WHERE id = $1", backfill_id)
    assert await normal_ms(conn) == pytest.approx(1900.2), "since its pause it does nothing"
