"""What the worst documents cost in memory, measured in a process of their own."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

OVER_IDLE_BYTES_MAX = 64 * 2**20


@pytest.mark.shared
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
async def test_no_file_of_the_minefield_takes_64_mb_over_idle(database: str, shared: Path) -> None:
    measuring = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.etl.peaks", database, str(shared / "data" / "malformed-json"),
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    out, _ = await asyncio.wait_for(measuring.communicate(), 60)
    assert measuring.returncode == 0
    peaks = json.loads(out.splitlines()[-1])  # what is logged comes before it
    assert len(peaks) == 318
    assert {name: peak for name, peak in peaks.items() if peak > OVER_IDLE_BYTES_MAX} == {}
