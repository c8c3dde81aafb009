"""`starforge bench etl`: snapshots through real workers, from stored bytes to rows, on a database of its own.

Times are the database's, from the claim to the completion; memory is the child's, by the kernel's own mark.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from starforge.clock import monotonic_s, new_id
from starforge.db.pool import Pool
from starforge.db.server import Database
from starforge.db.statement import sql
from starforge.dev.bench.bomb import peak_bytes
from starforge.dev.bench.documents import Heroes, small_documents
from starforge.dev.bench.figures import Report, conditions, percentiles, spread
from starforge.dev.bench.fleet import Fleet, fleet, started, until
from starforge.dev.bench.huge import bench_huge
from starforge.dev.bench.load import hold, release
from starforge.dev.bench.place import Place, place
from starforge.dev.errors import BenchStalledError
from starforge.etl.document.guard import GUARD
from starforge.etl.document.parse import read_document
from starforge.etl.ingest.offers import Offer
from starforge.etl.ingest.receive import batches, receive
from starforge.etl.load.write import write
from starforge.etl.snapshot.snapshot import JOB_TYPE
from starforge.heroes.mapping import HERO
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob

TENANT = "default"
UPSERT_ROWS = 5_000
UPSERT_SUBJECTS = 6
WARM, WARM_SMALL = 3, 300
SETTLE_S = 0.3
STALL_S = 60.0
POLL_S = 0.02
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

ENDED = "SELECT count(*) FROM job_history WHERE type = $1 AND status = 'completed'"
TOOK = """
SELECT extract(epoch FROM completed_at - started_at)::float8 * 1000 AS ms FROM job_history WHERE id = $1
"""
DRAINED = """
SELECT count(*) / extract(epoch FROM max(completed_at) - min(started_at))::float8 AS per_s, count(*) AS jobs
FROM job_history WHERE type = $1 AND started_at >= $2
"""
WAL = "SELECT sum(record_size)::float8 FROM pg_get_wal_stats($1, $2)"
UNFINISHED = "SELECT count(*) FROM hero_snapshots WHERE status NOT IN ('processed', 'superseded')"


@dataclass(slots=True)
class Measured:
    """The figures of every round."""

    first_ms: list[float] = field(default_factory=list)
    replay_ms: list[float] = field(default_factory=list)
    wal_ratio: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    small_per_s: dict[int, list[float]] = field(default_factory=dict)
    inserts_per_s: list[float] = field(default_factory=list)
    updates_per_s: list[float] = field(default_factory=list)


async def bench_etl(
    server: Database,
    *,
    heroes: int,
    small: int,
    processes: Sequence[int],
    rounds: int,
    role: str,
    report: Report,
    huge_mb: int = 500,
) -> dict[str, Any]:
    """Measure and return the figures.

    Args:
        server: Where to make the benchmark's own databases; they are dropped again.
        heroes: Profiles of 2.8 MB written and replayed in each round.
        small: Snapshots of 50 kB drained in each round.
        processes: Numbers of worker processes that drain the small ones.
        rounds: How often each is measured.
        role: Database role of the workers.
        report: Called with a line about each phase.
        huge_mb: Size of the document for the high-memory lane, in MB; 0: none.
    """
    found = Measured(small_per_s={number: [] for number in processes})
    about: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        report(f"round {number} of {rounds}: {heroes} heroes of 2.8 MB")
        about = await _large(server, role, heroes, found)
        for workers in processes:
            report(f"  {small} snapshots of 50 kB, {workers} worker process(es)")
            found.small_per_s[workers].append(await _small(server, role, workers, small))
        report(f"  upserts of {UPSERT_ROWS} rows")
        await _upserts(server, role, found)
    huge: dict[str, Any] = {}
    if huge_mb:
        report(f"a document of {huge_mb} MB on the high-memory lane")
        huge = await bench_huge(server, role, huge_mb)
    report("a bomb of 120 kB")
    bombs = [await _bomb() for _ in range(max(3, rounds))]
    return {
        "hero_ms": _quantiles(found.first_ms),
        "replay_ms": _quantiles(found.replay_ms),
        "wal_ratio": spread(found.wal_ratio),
        "peak_mb": spread(found.peak_mb),
        "small_per_s": {str(workers): spread(rates) for workers, rates in found.small_per_s.items()},
        "upserts_per_s": spread(
            [
                2 / (1 / new + 1 / old)
                for new, old in zip(found.inserts_per_s, found.updates_per_s, strict=True)
            ]
        ),
        "inserts_per_s": spread(found.inserts_per_s),
        "updates_per_s": spread(found.updates_per_s),
        **huge,
        "bomb_ms": spread([each["ms"] for each in bombs]),
        "bomb_mb": spread([each["mb"] for each in bombs]),
        "heroes": heroes * rounds,
        "rounds": rounds,
        "role": role,
        "server": about,
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    told = percentiles(values)
    return {name: told[name] for name in ("p50", "p95", "max", "n")}


async def _large(server: Database, role: str, heroes: int, found: Measured) -> dict[str, Any]:
    """Write each hero once and once more, one at a time, on one worker process."""
    made = Heroes()
    async with place(server, role) as here, fleet(here.url, processes=1, concurrency=4) as workers:
        await started(here.admin, 1)
        await here.admin.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
        for number in range(WARM + heroes):
            snapshot_id = await _stored(here, made.document(number))
            first = await _processed(here, workers, snapshot_id)
            again = await _processed(here, workers, snapshot_id)
            if number < WARM:
                continue
            found.first_ms.append(first.ms)
            found.replay_ms.append(again.ms)
            found.wal_ratio.append(again.wal_bytes / first.wal_bytes)
            found.peak_mb.append(first.peak_mb)
        return await conditions(here.admin)


@dataclass(frozen=True, slots=True)
class Run:
    """One snapshot's way through a worker."""

    ms: float
    wal_bytes: float
    peak_mb: float


async def _stored(here: Place, data: bytes) -> UUID:
    """Store a snapshot without a job: when it is processed is the benchmark's to say."""
    row = await here.conn.fetchrow(
        sql("etl", "receive"), TENANT, [new_id()], [HERO.name], [None], [data.decode()], [len(data)],
        [sha256(data).digest()], [None], ["received"], [GUARD],
    )  # fmt: skip
    assert row is not None
    return UUID(str(row["id"]))


async def _processed(here: Place, workers: Fleet, snapshot_id: UUID) -> Run:
    """Have a stored snapshot processed by the one worker that there is."""
    [child] = workers.children()
    await asyncio.sleep(SETTLE_S)
    Path(f"/proc/{child.pid}/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    idle_bytes = child.memory_info().rss
    before = await here.admin.fetchval("SELECT pg_current_wal_insert_lsn()")
    job = await enqueue(here.conn, NewJob(JOB_TYPE, {"snapshot_id": str(snapshot_id)}))
    ended_s = monotonic_s() + STALL_S
    while (ms := await here.admin.fetchval(TOOK, job.id)) is None:
        if monotonic_s() > ended_s:
            raise BenchStalledError(f"snapshot {snapshot_id} is not processed after {STALL_S:g} s")
        await asyncio.sleep(POLL_S)
    after = await here.admin.fetchval("SELECT pg_current_wal_flush_lsn()")
    wal_bytes = await here.admin.fetchval(WAL, before, after)
    return Run(ms, wal_bytes, (peak_bytes(child.pid) - idle_bytes) / 1e6)


async def _small(server: Database, role: str, processes: int, count: int) -> float:
    """Let so many snapshots of 50 kB drain; return how many per second that were."""
    async with place(server, role) as here, fleet(here.url, processes=processes, concurrency=8) as workers:
        await started(here.admin, processes)
        pool = await Pool.open(here.url, size=1, application="starforge bench")
        try:
            documents = list(small_documents(WARM_SMALL + count))
            await _offered(pool, documents[:WARM_SMALL])
            await until(here.admin, ENDED, WARM_SMALL, JOB_TYPE)
            await hold(here.admin)
            await _offered(pool, documents[WARM_SMALL:])
            await here.admin.execute("CHECKPOINT")
            since = await release(here.admin)
            await until(here.admin, ENDED, len(documents), JOB_TYPE)
        finally:
            await pool.close()
        left = await here.admin.fetchval(UNFINISHED)
        row = await here.admin.fetchrow(DRAINED, JOB_TYPE, since)
        assert row is not None
        if left or row["jobs"] != count:
            raise BenchStalledError(f"{row['jobs']} of {count} snapshots drained, {left} are not processed")
        assert workers.pids
        return float(row["per_s"])


async def _offered(pool: Pool, documents: Sequence[bytes]) -> None:
    offers = [Offer(f"bench-{number}", data) for number, data in enumerate(documents)]
    for batch in batches(offers):
        for receipt in await receive(pool, batch, mapping=HERO, tenant=TENANT):
            if receipt.job_id is None:
                raise BenchStalledError(f"{receipt.name} was not accepted: {receipt.fate}")


async def _upserts(server: Database, role: str, found: Measured) -> None:
    """Write documents of 5 000 troops, new and with every row changed, without a queue around them."""
    made = Heroes()
    async with place(server, role) as here:
        pool = await Pool.open(here.url, size=1, application="starforge bench")
        try:
            for rates, step in ((found.inserts_per_s, 0), (found.updates_per_s, 1)):
                written, spent_s = 0, 0.0
                for number in range(UPSERT_SUBJECTS):
                    data = made.document(number, troops=UPSERT_ROWS, pets=0, size=0)
                    document = read_document(data)
                    for troop in document["result"]["ProfileData"]["Troops"].values():
                        troop["Amount"] += step
                    started_s = monotonic_s()
                    async with pool.transaction(tenant=TENANT) as conn:
                        told = await write(
                            conn, HERO, document, tenant=TENANT,
                            captured_at=EPOCH + timedelta(days=step), only=["users", "user_troops"],
                        )  # fmt: skip
                    if number:  # the first one makes the statements' plans
                        written += told.rows_written
                        spent_s += monotonic_s() - started_s
                rates.append(written / spent_s)
        finally:
            await pool.close()


async def _bomb() -> dict[str, float]:
    """Offer the bomb to the guard in a process of its own."""
    measuring = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge.dev.bench.bomb", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await measuring.communicate()
    if measuring.returncode:
        raise BenchStalledError(f"the bomb's process ended with {measuring.returncode}")
    told: dict[str, float] = msgspec.json.decode(out)
    return told
