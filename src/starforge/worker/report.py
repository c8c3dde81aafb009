"""The allocation report: what a child holds when memory is short, before the kernel ends it (O-24, O-51)."""

from __future__ import annotations

import gc
import os
import sys
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from starforge.settings import HomeSettings

FOLDER = "reports"
KEPT_MAX = 50
SHOWN_MAX = 20
LOOKED_AT_MAX = 300_000
"""So many objects are looked at, evenly spread over all of them; the figures are scaled up from these."""

LARGE_BYTES = 64 * 1024
"""What is as large as this is rare: it counts for itself."""

HELD_MAX = 200
"""And so many of what each of them holds: a list of a million is judged by its first ones."""

FRAMES_MAX = 12


def allocation() -> dict[str, Any]:
    """Return the types that hold most, by an estimate, and tracemalloc's lines where it is on."""
    # What was there when the child was ready is the collector's again: a module may hold what jobs left.
    gc.unfreeze()
    gc.collect()
    objects = gc.get_objects()
    step = max(1, len(objects) // LOOKED_AT_MAX)
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for held in islice(objects, 0, None, step):
        _add(held, counts, sizes, step)
        # Text, bytes and numbers are not the collector's: they are counted where they are held.
        for inner in islice(gc.get_referents(held), HELD_MAX):
            if not gc.is_tracked(inner):
                _add(inner, counts, sizes, step)
    found: dict[str, Any] = {
        "objects": len(objects),
        "types": [
            {"type": name, "count": counts[name], "bytes": size}
            for name, size in sizes.most_common(SHOWN_MAX)
        ],
        "collector": gc.get_stats(),
    }
    if tracemalloc.is_tracing():
        lines = tracemalloc.take_snapshot().statistics("lineno")[:SHOWN_MAX]
        found["lines"] = [
            {"line": str(line.traceback[0]), "count": line.count, "bytes": line.size} for line in lines
        ]
    return found


def _add(held: object, counts: Counter[str], sizes: Counter[str], step: int) -> None:
    try:
        size = sys.getsizeof(held)
    except Exception:  # whatever an object's own __sizeof__ raises
        return
    name = f"{type(held).__module__}.{type(held).__qualname__}".removeprefix("builtins.")
    scale = 1 if size >= LARGE_BYTES else step
    counts[name] += scale
    sizes[name] += size * scale


def stacks() -> list[list[str]]:
    """Return where each thread of this process is, the caller's own left out."""
    mine = sys._getframe()
    shown = []
    for frame in sys._current_frames().values():
        if frame.f_code is mine.f_code or frame is mine:
            continue
        found = traceback.extract_stack(frame, limit=FRAMES_MAX)
        shown.append([f"{at.filename}:{at.lineno} {at.name}" for at in found])
    return shown


def write(document: Mapping[str, Any], name: str) -> Path:
    """Write a report under STARFORGE_HOME, readable by nobody else, and return its file; old ones go.

    Raises: OSError where it cannot be written.
    """
    folder = HomeSettings.read().home / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{name}.json"
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as opened:
        opened.write(msgspec.json.format(msgspec.json.encode(document), indent=2))
    for old in sorted(folder.glob("*.json"))[:-KEPT_MAX]:
        old.unlink(missing_ok=True)
    return file
