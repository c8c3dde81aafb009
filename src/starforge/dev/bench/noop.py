"""The app that the queue benchmark's workers run: jobs that do nothing, and jobs that tell the time."""

from __future__ import annotations

import os
import struct
import time

from starforge.app import StarForge

PICKUP_FILE_ENV = "STARFORGE_BENCH_PICKUPS"
RECORD = struct.Struct("<Id")

app = StarForge("bench")


@app.job("bench.noop")
async def noop(n: int) -> None:
    """Do nothing: what is left is the queue's own cost."""


@app.job("bench.pickup")
async def pickup(n: int) -> None:
    """Write down (number, wall-clock seconds) at the handler's first instruction."""
    now = time.time()
    file = os.open(os.environ[PICKUP_FILE_ENV], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, RECORD.pack(n, now))
    os.close(file)
