"""Run as a program: receive and process each document of a folder and print its peak of memory over idle.

    python -m tests.etl.peaks DATABASE_URL FOLDER

One JSON object, file name → bytes of resident memory above what the process had before the file.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from starforge.db.pool import Pool
from starforge.etl.ingest.offers import Offer, snapshots
from starforge.etl.ingest.receive import receive
from starforge.etl.load.job import process_snapshot
from starforge.etl.mapping import Mappings
from starforge.heroes.mapping import HERO
from starforge.queue.context import Host
from starforge.queue.handler import Context, PermanentError
from starforge.worker.threads import Threads
from tests.queue.jobs import a_worker, claimed


async def peaks(url: str, folder: Path) -> dict[str, int]:
    """Measure every file; the first document, which loads what all need, is none of them."""
    pool = await Pool.open(url, size=2)
    await through(pool, Offer("warm", b'{"NameCode": "A_1", "Troops": {"1": {}}}'))
    found = {}
    for path in sorted(folder.glob("*.json")):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
        idle = resident("VmRSS")
        for offer in snapshots(path):
            await through(pool, offer)
        found[path.name] = resident("VmHWM") - idle
    await pool.close()
    return found


async def through(pool: Pool, offer: Offer) -> None:
    """Take one document in and, where it was accepted, process it as a worker would."""
    [receipt] = await receive(pool, [offer], mapping=HERO, tenant="default")
    if receipt.fate != "accepted":
        return
    async with pool.connection() as conn:
        worker_id = await a_worker(conn)
        [job] = await claimed(conn, worker_id)
    try:
        await process_snapshot(
            Context(job, Host(pool, worker_id, threads=Threads(1))), job.payload, Mappings([HERO])
        )
    except PermanentError:
        return


def resident(field: str) -> int:
    """Read VmRSS or VmHWM of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


if __name__ == "__main__":
    json.dump(asyncio.run(peaks(sys.argv[1], Path(sys.argv[2]))), sys.stdout)
