"""The hot statements use their indexes however much waits: 500 000 rows, whatever the statistics say."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from starforge.db.pool import Connection, connect
from starforge.db.probing import plan_by_probes
from starforge.db.statement import sql
from starforge.queue.claim import claim
from starforge.queue.job import Key, LeasedJob, NewJob
from starforge.queue.key import ask
from starforge.queue.plan import Plan
from tests.covers import covers
from tests.postgres import TestServer
from tests.queue.jobs import TYPES, a_worker

ROWS = 500_000
BACKLOG = f"""
INSERT INTO queue_jobs (id, tenant_id, type, payload, priority, status, run_after, worker_id, lease_epoch)
SELECT gen_random_uuid(), 'default', CASE WHEN n % 10 = 9 THEN 'unknown' ELSE 't' END, '{{"n": 1}}',
       n % 3, CASE WHEN n % 50 = 0 THEN 'paused' ELSE 'pending' END,
       sf_now() + make_interval(secs => CASE WHEN n % 3 = 2 THEN 3600 ELSE -60 + n / 10000.0 END), NULL, 0
FROM generate_series(1, {ROWS}) AS n
"""
"""Of priority 2 all is delayed, a tenth is of a type that nobody knows, and some is paused."""


@pytest.fixture(scope="module", params=["fresh", "none", "stale"])
async def backlog(server: TestServer, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The URL of a database with the backlog; its statistics are those of the rows, or of an empty table.

    `stale`: of a table that many rows had gone through and that was nearly empty when somebody looked.
    """
    name = f"backlog_{uuid4().hex[:8]}"
    admin = await connect(server.url())
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template_starforge")
    conn = await connect(server.url(name))
    await conn.execute("ALTER TABLE queue_jobs SET (autovacuum_enabled = false); ANALYZE")
    if request.param == "stale":
        await conn.execute(BACKLOG)
        await conn.execute("DELETE FROM queue_jobs WHERE id <> (SELECT id FROM queue_jobs LIMIT 1)")
        await conn.execute("VACUUM ANALYZE queue_jobs")
    await conn.execute(BACKLOG)
    if request.param == "fresh":
        await conn.execute("ANALYZE queue_jobs")
    await conn.close()
    yield server.url(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def engine(backlog: str) -> AsyncIterator[Connection]:
    """The engine's connection, so that row security is part of the plans; rolled back."""
    conn = await connect(backlog.replace("tester@", "starforge_engine@"))
    transaction = conn.transaction()
    await transaction.start()
    yield conn
    await transaction.rollback()
    await conn.close()


@pytest.fixture
async def worker(engine: Connection) -> Connection:
    """The same as a worker has it for its claims and completions."""
    await engine.execute(plan_by_probes(local=True))
    return engine


async def explained(conn: Connection, name: str, *arguments: Any) -> tuple[set[str], int]:
    """Run a statement; return how the queue was reached ("Index Scan queue_jobs_pkey") and its buffers."""
    text = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {sql('queue', name)}"
    [found] = await conn.fetchval(text, *arguments)
    plan = found["Plan"]
    return set(_ways(plan)), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def _ways(node: dict[str, Any]) -> Iterator[str]:
    if node.get("Relation Name", "").startswith("queue_jobs") and "Scan" in node["Node Type"]:
        yield f"{node['Node Type']} {node.get('Index Name', '')}".strip()
    for part in node.get("Plans", ()):
        yield from _ways(part)


async def leased(conn: Connection) -> tuple[UUID, list[LeasedJob]]:
    worker_id = await a_worker(conn)
    return worker_id, await claim(conn, Plan(["default"], TYPES), n=100, worker_id=worker_id)


LANE = (["default"], ["t"], [1], ["default"], [""])


@pytest.mark.parametrize("n", [1, 500])
@covers("X-16")
async def test_a_claim_reads_the_jobs_it_takes_and_little_else(worker: Connection, n: int) -> None:
    worker_id = await a_worker(worker)
    for since in (-math.inf, 0.0):
        ways, buffers = await explained(
            worker, "claim", *LANE, [since], [math.inf], [n], n, worker_id, None, [False]
        )
        assert ways == {"Index Scan queue_jobs_lane", "Tid Scan"}
        assert buffers < 200 + 40 * n


async def test_a_claim_of_a_lane_where_all_is_delayed_reads_a_handful_of_pages(worker: Connection) -> None:
    worker_id = await a_worker(worker)
    lane = (["default"], ["t"], [2], ["default"], [""])
    ways, buffers = await explained(
        worker, "claim", *lane, [-math.inf], [math.inf], [500], 500, worker_id, None, [False]
    )
    assert ways == {"Index Scan queue_jobs_lane", "Tid Scan"}
    assert buffers < 30


async def test_a_look_probes_each_lane_once_and_walks_through_none(worker: Connection) -> None:
    for known in (([], [], [], [], [], []), ([*LANE[0]], [*LANE[1]], [1], ["default"], [""], [-math.inf])):
        ways, buffers = await explained(worker, "look", ["default", "mail"], ["t", "x"], *known)
        assert ways <= {"Index Scan queue_jobs_lane", "Index Only Scan queue_jobs_lane"}
        assert buffers < 200


@pytest.mark.parametrize("n", [1, 100])
async def test_finishing_probes_the_primary_key_once_a_job(worker: Connection, n: int) -> None:
    worker_id, jobs = await leased(worker)
    jobs = jobs[:n]
    ids, epochs = [job.id for job in jobs], [job.lease_epoch for job in jobs]
    errors = [{"reason": "r"}] * n
    statements: dict[str, tuple[Any, ...]] = {
        "return": (ids, epochs, worker_id),
        "retry": (ids, epochs, errors, [1.0] * n, [None] * n, [1] * n, worker_id, 20),
        "quarantine": (ids, epochs, errors, worker_id),
        "fail": (ids, epochs, errors, worker_id),
        "complete": (ids, epochs, [1.0] * n, [None] * n, worker_id),
    }
    for name, arguments in statements.items():
        again = worker.transaction()
        await again.start()
        ways, buffers = await explained(worker, name, *arguments)
        await again.rollback()
        assert ways == {"Index Scan queue_jobs_pkey"}, name
        assert buffers < 300 + 60 * n, name


@pytest.mark.parametrize("n", [1, 100])
async def test_enqueueing_with_keys_probes_each_key_and_its_job_once(engine: Connection, n: int) -> None:
    await engine.execute(
        "INSERT INTO job_keys (tenant_id, type, key, job_id, states)"
        " SELECT 'default', 't', row_number() OVER (), id, '{pending}' FROM queue_jobs LIMIT 50000"
    )
    for keys in ("new", ""):
        jobs = [
            NewJob("t", {"n": place}, unique=Key(f"{keys}{place}", on_conflict="replace"))
            for place in range(1, n + 1)
        ]
        ways, buffers = await explained(engine, "enqueue_unique", next(ask(jobs)))
        assert ways == {"Index Scan queue_jobs_pkey"}
        assert buffers < 300 + 60 * n


async def test_pruning_keys_probes_the_primary_key_once_a_key(engine: Connection) -> None:
    await engine.execute(
        "INSERT INTO job_keys (tenant_id, type, key, job_id, states)"
        " SELECT 'default', 't', n, gen_random_uuid(), '{pending}' FROM generate_series(1, 1000) AS n"
    )
    ways, buffers = await explained(engine, "prune_keys", 7, 5000)
    assert ways <= {"Index Scan queue_jobs_pkey", "Index Only Scan queue_jobs_pkey"}
    assert buffers < 300 + 20 * 1000
