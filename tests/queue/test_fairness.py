"""Fairness between tenants: none waits behind another's backlog, and nobody's unused share is wasted."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest

from starforge.db.pool import Connection, Pool
from starforge.queue.claim import claim
from starforge.queue.enqueue import enqueue_many
from starforge.queue.job import LeasedJob, NewJob
from starforge.queue.plan import Plan
from tests.covers import covers
from tests.queue.jobs import TYPES, a_worker

BACKLOG = """
INSERT INTO queue_jobs (type, tenant_id, limit_key, run_after)
SELECT 't', $1, CASE WHEN $3 THEN 'k' || n % 50 ELSE '' END,
       sf_now() - make_interval(secs => $4) + n * interval '1 microsecond'
FROM generate_series(1, $2::int) AS n
"""


async def _rounds(conn: Connection, plan: Plan, worker_id: UUID, n: int, tenant: str, jobs: int) -> list[int]:
    """Claim until the tenant's jobs are all claimed; return how many jobs each claim took."""
    taken: list[int] = []
    found: list[LeasedJob] = []
    while sum(job.tenant == tenant for job in found) < jobs:
        got = await claim(conn, plan, n=n, worker_id=worker_id)
        found += got
        taken.append(len(got))
        assert len(taken) < 100
    return taken


@pytest.mark.parametrize("n", [1, 8, 500])
@pytest.mark.parametrize("keyed", [False, True], ids=["one lane", "many lanes"])
@pytest.mark.parametrize("old_s", [10, 3600], ids=["new", "aged"])
@covers("Q-47")
async def test_a_tenant_with_a_hundred_thousand_jobs_delays_anothers_by_a_few_claims(
    pool: Pool, n: int, keyed: bool, old_s: int
) -> None:
    """Also where its jobs lie in many lanes, and although all of them are older."""
    async with pool.connection() as conn:
        worker_id, plan = await a_worker(conn, lease_s=600), Plan(["default"], TYPES)
        await conn.execute(BACKLOG, "big", 100_000, keyed, old_s)
        for _ in range(5):
            assert len(await claim(conn, plan, n=n, worker_id=worker_id)) == n
        await enqueue_many(conn, [NewJob("t", tenant="small") for _ in range(10)])
        plan.announce(None)
        taken = await _rounds(conn, plan, worker_id, n, "small", 10)
        # It has every other turn, and of those one in four is for what waits for long.
        assert len(taken) <= 3 * -(-10 // n) + 2
        assert all(got == n for got in taken), "nothing was left for a tenant that does not need it"


async def test_tenants_with_much_to_do_get_about_as_much_each_and_an_idle_ones_share(pool: Pool) -> None:
    async with pool.connection() as conn:
        worker_id, plan = await a_worker(conn, lease_s=600), Plan(["default"], TYPES)
        for tenant, keyed in (("a", False), ("b", True), ("c", False)):
            await conn.execute(BACKLOG, tenant, 3000, keyed, 10)
        await enqueue_many(conn, [NewJob("t", tenant="idle")])
        counted: Counter[str] = Counter()
        for _ in range(60):
            jobs = await claim(conn, plan, n=20, worker_id=worker_id)
            assert len(jobs) == 20
            counted.update(job.tenant for job in jobs)
        assert counted["idle"] == 1
        assert max(counted[name] for name in "abc") - min(counted[name] for name in "abc") <= 60
