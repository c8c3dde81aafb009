"""Row 35: corrupt, doubtful and huge input is kept or becomes rows, within bounds, and the worker lives."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from starforge.db.pool import Pool
from starforge.dev.bench.bomb import peak_bytes
from starforge.dev.bench.documents import Heroes, write_huge
from starforge.etl.ingest.large import take_large
from starforge.etl.ingest.offers import Offer, snapshots
from starforge.etl.ingest.receive import receive
from starforge.etl.store.store import store_at
from starforge.heroes.mapping import HERO
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob
from tests.covers import covers
from tests.faults.scene import WAIT_S_MAX, Scene, Worker

pytestmark = pytest.mark.once("its statements are prepared on both versions by tests/db/test_statement.py")

HUGE_BYTES = 200_000_000
OVER_IDLE_BYTES_MAX = 64 * 2**20

DOUBTFUL = {
    "escaped NUL": rb'{"NameCode": "N\u0000L", "Level": 1}',
    "lone surrogates": rb'{"NameCode": "S", "Name": "\ud800x\udc00", "Teams": [{"Name": "\udfff"}]}',
    "names twice": b'{"NameCode": "D", "NameCode": "D_2", "Troops": {"1": {"Level": 2}, "1": {"Level": 3}}}',
    "an integer of 500 digits": b'{"NameCode": "I", "Log": ' + b"7" * 500 + b"}",
}
"""Well-formed: each becomes rows."""

CORRUPT = {
    "raw NUL": b'{"NameCode": "N\x00L"}',
    "1e400": b'{"NameCode": "E", "Level": 1e400}',
    "depth 10 000": b'{"NameCode": "B", "Log": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "not UTF-8": b'{"NameCode": "\xff\xfe"}',
    "cut": b'{"NameCode": "C", "Troops": {"1": {"Lev',
}
"""Kept as the bytes that they are."""


@covers("O-33", "O-34", "O-52")
async def test_corrupt_and_huge_documents_are_kept_or_become_rows_and_the_worker_lives(
    scene: Scene, tmp_path: Path
) -> None:
    objects = (tmp_path / "objects").as_uri()
    pool = await Pool.open(scene.database, size=2)
    async with scene.worker("--high-memory", STARFORGE_OBJECT_STORE=objects) as worker:
        child = await the_child(scene, worker)
        offers = [Offer(name, data) for name, data in (DOUBTFUL | CORRUPT).items()]
        receipts = {one.name: one for one in await receive(pool, offers, mapping=HERO, tenant="default")}
        assert {receipts[name].fate for name in DOUBTFUL} == {"accepted"}
        assert {receipts[name].fate for name in CORRUPT} == {"malformed"}
        await scene.drained()
        huge = tmp_path / "huge.json"
        write_huge(huge, HUGE_BYTES, made=Heroes())
        [offer] = snapshots(huge)
        taken = await take_large(pool, offer, mapping=HERO, tenant="default", store=store_at(objects))
        assert taken.fate == "oversized"
        await enqueue(scene.conn, NewJob("process_snapshot_highmem", {"snapshot_id": str(taken.snapshot_id)}))
        Path(f"/proc/{child.pid}/clear_refs").write_text("5")
        idle_bytes = child.memory_info().rss
        await scene.drained()
        assert peak_bytes(child.pid) - idle_bytes < OVER_IDLE_BYTES_MAX
        assert await the_child(scene, worker) == child, "nobody died"
    await pool.close()
    kept = {row["name"]: bytes(row["bytes"]) for row in await scene.conn.fetch(KEPT)}
    assert kept == CORRUPT
    stored = {bytes(row["sha256"]): row["status"] for row in await scene.conn.fetch(STORED)}
    assert {stored[hashlib.sha256(data).digest()] for data in DOUBTFUL.values()} == {"processed"}
    assert stored[digest_of(huge)] == "processed"
    users = {row["namecode"] for row in await scene.conn.fetch("SELECT namecode FROM users")}
    assert users == {"N\ufffdL", "S", "D_2", "I", "BENCH_0"}
    assert (
        await scene.conn.fetchval(
            "SELECT level FROM user_troops JOIN users ON id = user_id AND namecode = 'D_2'"
        )
        == 3
    )
    extra: Any = await scene.conn.fetchval("SELECT extra -> 'Log' FROM users WHERE namecode = 'I'")
    assert json.dumps(extra).strip('"') == "7" * 500


KEPT = "SELECT name, bytes FROM snapshot_quarantine WHERE bytes IS NOT NULL"
STORED = "SELECT sha256, status FROM hero_snapshots"


async def the_child(scene: Scene, worker: Worker) -> psutil.Process:
    """Return the process that runs the worker's jobs, once it runs."""
    await scene.until("SELECT count(*) FROM workers WHERE state = 'running'", 1)
    async with asyncio.timeout(WAIT_S_MAX):
        while not (children := worker.children()):
            await asyncio.sleep(0.01)
    [child] = children
    return child


def digest_of(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
