"""A document of half a gigabyte through a high-memory worker: what it takes in memory, and how long."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starforge.clock import monotonic_s
from starforge.db.server import Database
from starforge.dev.bench.bomb import peak_bytes
from starforge.dev.bench.documents import Heroes, write_huge
from starforge.dev.bench.fleet import fleet, started
from starforge.dev.bench.place import place
from starforge.dev.errors import BenchStalledError
from starforge.etl.snapshot.snapshot import HIGHMEM_TYPE
from starforge.etl.store.objects import new_key
from starforge.etl.store.store import store_at
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob

TENANT = "default"
CHUNK_BYTES = 1 << 20
STALL_S = 900.0
POLL_S = 0.25
IDLE_S = 2.0

STORE = """
INSERT INTO hero_snapshots (tenant_id, source, raw_key, size_bytes, sha256, captured_at)
VALUES ($1, 'hero', $2::text, $3, sha256(convert_to($2::text, 'UTF8')), sf_now()) RETURNING id
"""
ENDED = """
SELECT extract(epoch FROM completed_at - started_at)::float8 AS s FROM job_history WHERE id = $1
"""
FAILED = "SELECT last_error ->> 'reason' FROM hero_snapshots WHERE id = $1 AND error_count > 0"
ROWS = "SELECT rows_written FROM hero_snapshots WHERE id = $1"


async def bench_huge(server: Database, role: str, size_mb: int) -> dict[str, Any]:
    """Have one generated document processed and return the child's peak over idle in MB, and the seconds."""
    with tempfile.TemporaryDirectory(prefix="starforge-bench-") as folder:
        file, objects = Path(folder, "huge.json"), Path(folder, "objects").as_uri()
        write_huge(file, size_mb * 1_000_000, made=Heroes())
        key = new_key(TENANT)
        size = await store_at(objects).put(key, _chunks(file))
        file.unlink()
        environment = {"STARFORGE_OBJECT_STORE": objects}
        async with (
            place(server, role) as here,
            fleet(
                here.url, processes=1, concurrency=2, environment=environment, flags=("--high-memory",)
            ) as workers,
        ):
            await started(here.admin, 1)
            await asyncio.sleep(IDLE_S)
            [child] = workers.children()
            Path(f"/proc/{child.pid}/clear_refs").write_text("5")
            idle_bytes = child.memory_info().rss
            snapshot_id = await here.admin.fetchval(STORE, TENANT, key, size)
            job = await enqueue(here.conn, NewJob(HIGHMEM_TYPE, {"snapshot_id": str(snapshot_id)}))
            ended_s = monotonic_s() + STALL_S
            while (seconds := await here.admin.fetchval(ENDED, job.id)) is None:
                if (reason := await here.admin.fetchval(FAILED, snapshot_id)) or monotonic_s() > ended_s:
                    raise BenchStalledError(
                        f"the huge snapshot is not processed: {reason or 'it takes too long'}"
                    )
                await asyncio.sleep(POLL_S)
            return {
                "huge_peak_mb": round((peak_bytes(child.pid) - idle_bytes) / 1e6, 1),
                "huge_mb": round(size / 1e6),
                "huge_s": round(seconds, 1),
                "huge_rows": await here.admin.fetchval(ROWS, snapshot_id),
            }


async def _chunks(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            yield chunk
