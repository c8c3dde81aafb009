"""`starforge demo`: up, two hundred generated snapshots through the whole path, and what became of them."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from starforge.clock import monotonic_s
from starforge.db.pool import Pool
from starforge.dev.errors import DemoStalledError
from starforge.dev.seed import write_heroes
from starforge.etl.ingest.offers import snapshots
from starforge.etl.ingest.receive import Receipt, batches, receive
from starforge.etl.snapshot.tally import Reason, Tally, reasons, tally
from starforge.heroes.mapping import HERO
from starforge.settings import HomeSettings

COUNT = 200
SIZE_MB = (0.05, 3.0)
STALL_S = 180.0
LOOK_S = 0.2

Show = Callable[[str, int, int], None]
"""Called with (phase, done, total): generate, ingest or process."""


@dataclass(slots=True)
class Result:
    """What the demo did. Every ingested snapshot is processed, failed or quarantined.

    `waiting` is 0 unless the demo was interrupted.
    """

    ingested: int = 0
    processed: int = 0
    failed: int = 0
    quarantined: int = 0
    waiting: int = 0
    rows_written: int = 0
    seconds: float = 0.0
    offered: int = 0
    duplicates: int = 0
    seed: int = 0
    why: list[Reason] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Return the figures as the JSON document of `--json`."""
        names = (
            "ingested", "processed", "failed", "quarantined", "rows_written", "seconds", "offered",
            "duplicates", "seed", "waiting",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


async def demo(pool: Pool, *, seed: int, show: Show, stop: asyncio.Event) -> Result:
    """Generate, ingest and wait until every snapshot has ended.

    Raises: DemoStalledError when none ends for three minutes.
    """
    started_s = monotonic_s()
    with tempfile.TemporaryDirectory(prefix="starforge-demo-") as folder:
        receipts = await _ingest(pool, Path(folder), seed, show, stop)
    ids, bytes_kept, bad = sort_receipts(receipts)
    ended = await _follow(pool, ids, len(bytes_kept), show, stop)
    async with pool.connection() as conn:
        why = await reasons(conn, ids)
    why += [Reason("quarantined", reason, n, "") for reason, n in bad.most_common()]
    return Result(
        ingested=len(ids) + len(bytes_kept),
        processed=ended.processed,
        failed=ended.failed,
        quarantined=ended.quarantined + len(bytes_kept),
        waiting=ended.waiting,
        rows_written=ended.rows_written,
        seconds=round(monotonic_s() - started_s, 2),
        offered=len(receipts),
        duplicates=len(receipts) - len(ids) - len(bytes_kept),
        seed=seed,
        why=why,
    )


async def _ingest(pool: Pool, folder: Path, seed: int, show: Show, stop: asyncio.Event) -> list[Receipt]:
    written = 0

    def one_more(_generated: object) -> None:
        nonlocal written
        written += 1
        show("generate", written, COUNT)

    await asyncio.to_thread(
        write_heroes, folder, count=COUNT, size_mb=SIZE_MB, seed=seed, faults=True, progress=one_more
    )
    receipts: list[Receipt] = []
    tenant = HomeSettings.read().tenant
    for batch in batches(snapshots(folder)):
        receipts += await receive(pool, batch, mapping=HERO, tenant=tenant)
        show("ingest", len(receipts), COUNT)
        if stop.is_set():
            break
    return receipts


def sort_receipts(receipts: list[Receipt]) -> tuple[list[UUID], set[bytes], Counter[str]]:
    """Return the distinct snapshots, the distinct contents kept as bytes, and why those were kept."""
    ids = list(dict.fromkeys(r.snapshot_id for r in receipts if r.snapshot_id is not None))
    kept: set[bytes] = set()
    bad: Counter[str] = Counter()
    for receipt in receipts:
        if receipt.fate == "malformed" and receipt.sha256 is not None and receipt.sha256 not in kept:
            kept.add(receipt.sha256)
            bad[str(receipt.error)] += 1
    return ids, kept, bad


async def _follow(pool: Pool, ids: list[UUID], held: int, show: Show, stop: asyncio.Event) -> Tally:
    """Wait until none of these snapshots waits any more."""
    seen, since_s = -1, monotonic_s()
    while True:
        async with pool.connection() as conn:
            now = await tally(conn, ids)
        show("process", now.ended + held, len(ids) + held)
        if now.waiting == 0 or stop.is_set():
            return now
        if now.ended != seen:
            seen, since_s = now.ended, monotonic_s()
        elif monotonic_s() - since_s > STALL_S:
            raise DemoStalledError(
                f"{now.waiting} of {len(ids)} snapshots made no progress for {STALL_S:g} s"
            )
        await asyncio.sleep(LOOK_S)
