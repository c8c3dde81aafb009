"""What the worst documents cost in memory, measured in a process of their own."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once("it measures processes of our own")

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


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("packed", [False, True])
async def test_a_large_document_is_taken_in_a_few_megabytes(
    database: str, tmp_path: Path, *, packed: bool
) -> None:
    """Plain and gzip: 60 MB, and it would be the same for more."""
    path = tmp_path / "large.json"
    item = b'{"Id":1,"Note":"caf\xc3\xa9 \\u00e9","Traits":[1,2,3],"Ratio":0.5},'
    with gzip.open(path, "wb", compresslevel=1) if packed else path.open("wb") as file:
        file.write(b'{"NameCode":"A_2","Troops":[')
        for _ in range(1000):
            file.write(item * 1000)
        file.write(b"{}]}")
    measuring = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.etl.large_peak", database, str(path), str(tmp_path / "objects"),
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        env={**os.environ, "STARFORGE_SNAPSHOT_INLINE_MAX_MB": "5"},
    )  # fmt: skip
    out, _ = await asyncio.wait_for(measuring.communicate(), 60)
    assert measuring.returncode == 0
    assert int(out) < OVER_IDLE_BYTES_MAX / 4
