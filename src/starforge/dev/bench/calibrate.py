"""Calibration: what this server does in the same run with nothing but claim and delete on a plain table.

One connection claims 500 rows by UPDATE and SKIP LOCKED, deletes them, and goes on; each is a commit. There
is no handler, no history and no statement of StarForge's in it. A figure over it is free of the machine.
"""

from __future__ import annotations

from starforge.clock import monotonic_s
from starforge.db.pool import Connection, connect
from starforge.db.server import Database
from starforge.dev.bench.place import empty_database

JOBS = 50_000
"""Always as many: the more rows a run has deleted, the slower it gets."""

TABLE = """
CREATE TABLE plain (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    status text NOT NULL DEFAULT 'pending',
    run_after timestamptz NOT NULL DEFAULT clock_timestamp(),
    payload jsonb NOT NULL
);
CREATE INDEX plain_ready ON plain (run_after) WHERE status = 'pending'
"""
FILL = """INSERT INTO plain (payload) SELECT '{"n": 0}' FROM generate_series(1, $1::int)"""
CLAIM = """
UPDATE plain SET status = 'running' WHERE id = ANY (ARRAY (
    SELECT id FROM plain WHERE status = 'pending' AND run_after <= now() ORDER BY run_after LIMIT 500
    FOR UPDATE SKIP LOCKED
)) RETURNING id, payload
"""
DELETE = "DELETE FROM plain WHERE id = ANY ($1::uuid[])"


async def calibrate(server: Database, jobs: int = JOBS) -> float:
    """Return how many rows per second one connection claims and deletes, 500 at a time."""
    async with empty_database(server) as url:
        conn = await connect(url, application="starforge bench calibration")
        try:
            await conn.execute(TABLE)
            await conn.execute(FILL, jobs)
            await conn.execute("ANALYZE plain")
            await conn.execute("CHECKPOINT")
            return await _drain(conn, jobs)
        finally:
            await conn.close()


async def _drain(conn: Connection, jobs: int) -> float:
    claim, delete = await conn.prepare(CLAIM), await conn.prepare(DELETE)
    started_s, taken = monotonic_s(), 0
    while rows := await claim.fetch():
        await delete.fetch([row["id"] for row in rows])
        taken += len(rows)
    assert taken == jobs
    return jobs / (monotonic_s() - started_s)
