"""Run as a program: take one large document in and print the peak of memory over idle, in bytes.

python -m tests.etl.large_peak DATABASE_URL FILE FOLDER_OF_THE_STORE
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from starforge.db.pool import Pool
from starforge.etl.ingest.large import take_large
from starforge.etl.ingest.offers import snapshots
from starforge.etl.store.raw import open_raw
from starforge.etl.store.store import store_at
from starforge.heroes.mapping import HERO
from tests.etl.peaks import resident


async def peak(url: str, path: Path, folder: Path) -> int:
    """Take the same file in after a first small one, which loads what both need; then read it back."""
    pool, store = await Pool.open(url, size=2), store_at(folder.as_uri())
    for name in (path.with_name("small.json"), path):
        if name != path:
            name.write_bytes(b'{"NameCode": "A_1", "pad": "' + b"x" * 6_000_000 + b'"}')
        Path("/proc/self/clear_refs").write_text("5")
        idle = resident("VmRSS")
        [offer] = snapshots(name)
        receipt = await take_large(pool, offer, mapping=HERO, tenant="default", store=store)
        assert receipt.fate == "oversized", receipt
        assert receipt.snapshot_id is not None
        size = 0
        async for chunk in open_raw(pool, receipt.snapshot_id, tenant="default", store=store):
            size += len(chunk)
        assert size == receipt.size_bytes
    await pool.close()
    return resident("VmHWM") - idle


if __name__ == "__main__":
    print(asyncio.run(peak(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
