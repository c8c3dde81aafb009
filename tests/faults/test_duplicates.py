"""Row 30: every built-in job may be delivered again, later or at the same time: the tables end the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from starforge.app import app
from starforge.db.pool import Pool
from starforge.etl.ingest.offers import Offer
from starforge.etl.ingest.receive import receive
from starforge.heroes.mapping import HERO
from starforge.queue.enqueue import enqueue_many
from starforge.queue.job import NewJob
from tests.covers import covers
from tests.faults.scene import DRAINED, a_database
from tests.postgres import TestServer
from tests.worker.test_run import until, working

Work = list[tuple[str, dict[str, Any]]]
"""Jobs by type and payload."""

OF_THE_QUEUE = (
    "queue_jobs", "job_history", "job_minutes", "job_progress", "job_types", "workers", "leases", "log_lines",
    "source_shapes",
)  # fmt: skip
"""What is about jobs and not about what they do, and what counts how often a document was looked at."""


def profile(name: str, at_ms: int, troops: dict[str, Any]) -> bytes:
    fields = {"NameCode": name, "Level": len(troops), "Troops": troops, "GuildId": 7, "GuildName": "g"}
    return json.dumps({"result": {"ServerTime": at_ms, "ProfileData": fields}}).encode()


async def snapshots(pool: Pool) -> Work:
    """Three captures of one hero and one of another, the newest of them not the last to come."""
    bodies = [
        profile("A_1", 1_000, {"6024": {"Amount": 1}}),
        profile("A_1", 3_000, {"6024": {"Amount": 3}, "6025": {"Amount": 1}}),
        profile("A_1", 2_000, {"6026": {"Amount": 2}}),
        profile("B_2", 1_000, {"6024": {"Amount": 9}}),
    ]
    offers = [Offer(f"{number}.json", body) for number, body in enumerate(bodies)]
    await receive(pool, offers, mapping=HERO, tenant="default")
    async with pool.connection() as conn:
        rows = await conn.fetch("DELETE FROM queue_jobs RETURNING type, payload")
    assert len(rows) == len(bodies)
    return [(row["type"], row["payload"]) for row in rows]


async def large_snapshots(pool: Pool) -> Work:
    return [("process_snapshot_highmem", payload) for _, payload in await snapshots(pool)]


async def a_probe(_pool: Pool) -> Work:
    return [("starforge.probe", {})]


SCENES: dict[str, Callable[[Pool], Awaitable[Work]]] = {
    "process_snapshot": snapshots,
    "process_snapshot_highmem": large_snapshots,
    "starforge.probe": a_probe,
}
"""Built-in type → what its jobs need, and the jobs."""


def test_each_built_in_type_is_delivered_again_here() -> None:
    assert set(SCENES) == set(app.job_types().names())


@covers("Q-67", "G4")
@pytest.mark.parametrize("name", sorted(SCENES))
async def test_a_job_delivered_again_leaves_the_tables_as_one_delivery_does(
    server: TestServer, name: str
) -> None:
    async with a_database(server) as one, a_database(server) as other:
        once, twice = await Pool.open(one, size=4), await Pool.open(other, size=8)
        for job in await SCENES[name](once):
            await _deliver(once, [job], times=1)
        wanted = await _tables(once)
        work = await SCENES[name](twice)
        for job in work:
            await _deliver(twice, [job], times=5)
        assert await _tables(twice) == wanted, "deliveries at the same time changed something"
        await _deliver(twice, work, times=3)
        assert await _tables(twice) == wanted, "later deliveries changed something"
        await once.close()
        await twice.close()


async def _deliver(pool: Pool, work: Work, *, times: int) -> None:
    """Run the jobs, each of them `times` times at once, on two workers."""
    types = [found for name, _ in work if (found := app.job_types().get(name)) is not None]
    [kind] = {found.name: found for found in types}.values()
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob(name, payload) for name, payload in work for _ in range(times)])
    async with working(pool, kind), working(pool, kind):
        await until(pool, DRAINED, True)
    async with pool.connection() as conn:
        assert await conn.fetch("DELETE FROM queue_jobs RETURNING last_error") == []


async def _tables(pool: Pool) -> dict[str, Counter[str]]:
    """Return what every table of the data holds, without ids that are drawn and times of writing."""
    async with pool.connection() as conn:
        columns = await conn.fetch(
            "SELECT table_name, array_agg(column_name ORDER BY ordinal_position) AS names"
            " FROM information_schema.columns JOIN pg_class ON relname = table_name"
            " WHERE table_schema = current_schema() AND NOT relispartition AND relkind IN ('r', 'p')"
            " AND data_type NOT IN ('uuid', 'timestamp with time zone') GROUP BY table_name"
        )
        found = {}
        for row in columns:
            if row["table_name"] not in OF_THE_QUEUE:
                names = ", ".join(f'"{name}"' for name in row["names"])
                rows = await conn.fetch(f'SELECT {names} FROM "{row["table_name"]}"')
                found[row["table_name"]] = Counter(str(tuple(each)) for each in rows)
    return {name: rows for name, rows in found.items() if rows}
