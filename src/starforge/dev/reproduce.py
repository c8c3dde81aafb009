"""Reproduce: what a document costs in memory, by each gear, measured in processes of their own.

    python -m starforge.dev.reproduce GEAR APP SOURCE FILE [--profile]

One JSON object on standard output. Resident memory is measured without the profiler, whose own records
would count; a second run with it tells which lines of code hold how much at the highest point.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starforge.clock import monotonic_s
from starforge.errors import told
from starforge.telemetry.process import Memory, forget_peak, memory_of

OOM_SCORE = Path("/proc/self/oom_score_adj")
LINES_MAX = 10
LOOK_S = 0.02
GREW = 1.2
"""The profiler looks closer each time that memory has grown by this factor."""

MEASURE_S_MAX = 900.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What one gear cost; figures are None where its process died."""

    gear: str
    peak_bytes: int | None
    """Resident memory over what the process had before the document."""
    took_s: float | None
    rows: int | None
    error: str | None
    traced_peak_bytes: int | None
    lines: tuple[dict[str, Any], ...]
    """Where Python's memory came from at the highest point: line, bytes, blocks; the most first."""


async def reproduce(path: Path, source: str, app: str) -> list[Measured]:
    """Measure every gear on the document of a file, one after the other."""
    from starforge.etl.gears.by_name import gears

    found = []
    for gear in gears():
        plain = await _run(gear, app, source, str(path))
        traced = await _run(gear, app, source, str(path), "--profile")
        found.append(
            Measured(
                gear=gear,
                peak_bytes=plain.get("peak_bytes"),
                took_s=plain.get("took_s"),
                rows=plain.get("rows"),
                error=plain.get("error"),
                traced_peak_bytes=traced.get("traced_peak_bytes"),
                lines=tuple(traced.get("lines", ())),
            )
        )
    return found


async def _run(*words: str) -> dict[str, Any]:
    """Run one measurement; what kills its process is its error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge.dev.reproduce", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), MEASURE_S_MAX)
    except TimeoutError:
        return {"error": f"no result within {MEASURE_S_MAX:g} s"}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        code = process.returncode
        if code < 0:
            return {"error": f"its process was killed by signal {-code}"}
        last = err.decode("utf-8", "replace").strip().splitlines()
        return {"error": f"its process ended with exit code {code}: {last[-1] if last else ''}"}
    document: dict[str, Any] = json.loads(out)
    return document


def measure(gear: str, app: str, source: str, path: Path, *, profile: bool) -> dict[str, Any]:
    """Run one gear on a document in this process and return what it cost."""
    from starforge.app import load
    from starforge.etl.gears.by_name import gears

    mapping, run = load(app).mappings.get(source), gears()[gear]
    with suppress(OSError):
        OOM_SCORE.write_text("1000")  # should the machine run out, this goes first
    found: dict[str, Any] = {}
    with over_idle() as peak, _profiled(found) if profile else nullcontext():
        began_s = monotonic_s()
        try:
            found["rows"] = asyncio.run(run(path, mapping))
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {told(error)}"
        found["took_s"] = round(monotonic_s() - began_s, 4)
    return {**found, "peak_bytes": peak()}


@contextmanager
def over_idle() -> Iterator[Callable[[], int]]:
    """Give a function that, after the block, returns by how much resident memory rose at most within it."""
    before, after = Memory(), Memory()

    def rose() -> int:
        return max(0, after.peak_bytes - before.rss_bytes)

    gc.collect()
    forget_peak()
    before = memory_of(os.getpid()) or before
    try:
        yield rose
    finally:
        after = memory_of(os.getpid()) or after


@contextmanager
def _profiled(found: dict[str, Any]) -> Iterator[None]:
    """Keep the allocations of the highest point that was looked at."""
    tracemalloc.start()
    stop = threading.Event()
    seen: list[tuple[int, tracemalloc.Snapshot]] = []

    def look() -> None:
        while not stop.wait(LOOK_S):
            now, _ = tracemalloc.get_traced_memory()
            if not seen or now > seen[0][0] * GREW:
                seen[:] = [(now, tracemalloc.take_snapshot())]

    watching = threading.Thread(target=look, name="profile", daemon=True)
    watching.start()
    try:
        yield
    finally:
        stop.set()
        watching.join()
        snapshot = seen[0][1] if seen else tracemalloc.take_snapshot()
        found["traced_peak_bytes"] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        found["lines"] = [
            {
                "line": _line(stat.traceback[0]),
                "bytes": stat.size,
                "blocks": stat.count,
            }
            for stat in snapshot.statistics("lineno")[:LINES_MAX]
        ]


def _line(frame: tracemalloc.Frame) -> str:
    """Name a line as far as it tells: below site-packages, or below the sources."""
    file = frame.filename.rpartition("site-packages/")[2].rpartition("/src/")[2]
    return f"{file}:{frame.lineno}"


def main(words: list[str]) -> None:
    """Measure what the command line names and print it."""
    gear, app, source, file = words[:4]
    json.dump(measure(gear, app, source, Path(file), profile="--profile" in words[4:]), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
