"""WAL: how many bytes a job writes from its enqueue to its place in the history.

Taken from the log itself by pg_walinspect, so that full-page images, which depend on when the last checkpoint
was and not on the job, can be left out without touching the server's settings.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from starforge.clock import new_id
from starforge.dev.bench.fleet import Fleet
from starforge.dev.bench.load import drain, enqueue_all, hold
from starforge.dev.bench.place import Place
from starforge.dev.bench.setup import Setup
from starforge.queue.job import NewJob

WAL_JOBS = 20_000
PAYLOAD_BYTES = 100
QUIET_S = 0.5

TOTAL = """
SELECT sum(record_size)::float8 AS records, sum(fpi_size)::float8 AS images
FROM pg_get_wal_stats($1, $2)
"""
KINDS = """
SELECT "resource_manager/record_type" AS kind, record_size::float8 AS bytes
FROM pg_get_wal_stats($1, $2, true) ORDER BY record_size DESC LIMIT 8
"""


async def wal_per_job(here: Place, workers: Fleet, setup: Setup, jobs: int = WAL_JOBS) -> dict[str, Any]:
    """Enqueue and drain jobs with a payload of 100 bytes and return the WAL of each, in bytes.

    Where the role may not read the log the figures say so.
    """
    text = "x" * (PAYLOAD_BYTES - len('{"n":0,"text":""}'))

    def make(number: int) -> NewJob:
        job = setup.job(number)
        job.id, job.payload = new_id(), {"n": 0, "text": text}
        return job

    try:
        await here.admin.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
    except asyncpg.PostgresError as error:
        return {"wal_bytes_per_job": None, "why": str(error)}
    await hold(here.admin)
    before = await here.admin.fetchval("SELECT pg_current_wal_insert_lsn()")
    await enqueue_all(here.conn, jobs, make)
    enqueued = await here.admin.fetchval("SELECT pg_current_wal_insert_lsn()")
    await drain(here, workers, jobs)
    await asyncio.sleep(QUIET_S)
    after = await here.admin.fetchval("SELECT pg_current_wal_flush_lsn()")
    enqueuing = await here.admin.fetchrow(TOTAL, before, enqueued)
    draining = await here.admin.fetchrow(TOTAL, enqueued, after)
    kinds = await here.admin.fetch(KINDS, before, after)
    assert enqueuing is not None
    assert draining is not None
    return {
        "wal_bytes_per_job": round((enqueuing["records"] + draining["records"]) / jobs),
        "enqueue_bytes": round(enqueuing["records"] / jobs),
        "drain_bytes": round(draining["records"] / jobs),
        "full_page_image_bytes": round((enqueuing["images"] + draining["images"]) / jobs),
        "wal_bytes_by_record": {row["kind"]: round(row["bytes"] / jobs) for row in kinds},
        "payload_bytes": PAYLOAD_BYTES,
        "wal_jobs": jobs,
    }
