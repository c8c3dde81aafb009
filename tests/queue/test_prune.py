"""Prune: what holds nothing any more is forgotten, and nothing else."""

from __future__ import annotations

from uuid import uuid4

from starforge.db.pool import Connection
from starforge.ops.plan import prune_plans
from starforge.queue import prune
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob
from tests.conftest import Travel

KEY = (
    "INSERT INTO job_keys (tenant_id, type, key, job_id, states, expires_at)"
    " VALUES ('default', 't', $1, $2, $3, $4)"
)
LIVE = ["pending", "running"]
EVER = ["pending", "running", "completed"]


async def test_keys_that_hold_nothing_any_more_are_forgotten_and_no_others(
    conn: Connection, travel: Travel
) -> None:
    async def keys() -> set[str]:
        return {row["key"] for row in await conn.fetch("SELECT key FROM job_keys")}

    later = await conn.fetchval("SELECT sf_now() + interval '1 hour'")
    failed = (await enqueue(conn, NewJob("t"))).id
    await conn.execute("UPDATE queue_jobs SET status = 'failed'")
    waiting = (await enqueue(conn, NewJob("t"))).id
    await conn.execute(KEY, "of a job that waits", waiting, LIVE, None)
    await conn.execute(KEY, "of a job that failed and may be redriven", failed, LIVE, None)
    await conn.execute(KEY, "of a job that ended", uuid4(), LIVE, None)
    await conn.execute(KEY, "of a job that ended, for as long as it is known", uuid4(), EVER, None)
    await conn.execute(KEY, "of a job that ended, for an hour", uuid4(), LIVE, later)
    await prune.prune_keys(conn)
    known = {"of a job that waits", "of a job that failed and may be redriven"}
    ended = {"of a job that ended, for as long as it is known", "of a job that ended, for an hour"}
    assert await keys() == known | ended
    await travel(conn, days=31)
    await prune.prune_keys(conn)
    assert await keys() == known


async def test_records_are_kept_for_a_while_and_then_forgotten(conn: Connection, travel: Travel) -> None:
    job = (await enqueue(conn, NewJob("t"))).id
    await conn.execute(
        "INSERT INTO gates (scope, name, cause, owner, reason, expires_at)"
        " VALUES ('queue', 'q', 'pause', 'ann', 'why', sf_now() + interval '1 day')"
    )
    await conn.execute(
        "INSERT INTO setting_overrides (scope, setting, value, owner, reason, expires_at)"
        " VALUES ('all', 's', '1', 'ann', 'why', sf_now() + interval '1 day')"
    )
    await conn.execute(
        "INSERT INTO operation_plans (id, actor, operation, arguments, fingerprint, change, expires_at)"
        " VALUES (gen_random_uuid(), 'ann', 'o', '{}', 'f', '{}', sf_now() + interval '1 day')"
    )
    await conn.execute(
        "INSERT INTO job_progress (job_id, tenant_id, lease_epoch) VALUES ($1, 'default', 1),"
        " (gen_random_uuid(), 'default', 1)",
        job,
    )
    counts = (
        "SELECT ARRAY[(SELECT count(*) FROM gates), (SELECT count(*) FROM setting_overrides),"
        " (SELECT count(*) FROM operation_plans), (SELECT count(*) FROM job_progress)]"
    )

    async def forget() -> list[int]:
        await prune.prune_gates(conn)
        await prune_plans(conn)
        await prune.prune_progress(conn)
        return list(await conn.fetchval(counts))

    assert await forget() == [1, 1, 1, 2]
    await travel(conn, days=2)
    assert await forget() == [1, 1, 1, 1]
    await travel(conn, days=7)
    assert await forget() == [0, 0, 0, 1]
