"""The folder in which the processes of one tree count together.

prometheus_client decides at its import whether it counts in memory or in files, so this module comes
first, imports none of it, and is what the root of the tree calls before it starts anything.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import structlog

log = structlog.get_logger("telemetry")

FOLDER_ENV = "PROMETHEUS_MULTIPROC_DIR"
ROOM_BYTES = 512 * 1024
"""What the files of one process may come to need."""


def share_counters(folder: Path) -> None:
    """Let this process and every child that it starts count into `folder`, from zero.

    Args:
        folder: A folder of this tree's own; made where it lacks, emptied of an earlier tree's files.
    Raises: RuntimeError when the metrics were imported already: what they count would be missing.
    """
    if "prometheus_client" in sys.modules:
        raise RuntimeError("share_counters comes too late: prometheus_client is imported")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink(missing_ok=True)
    os.environ[FOLDER_ENV] = str(folder)


def count_as(name: str) -> None:
    """Let this process count where an earlier one of that name stopped; there is one of a name at a time.

    Short-lived processes would leave files behind without end otherwise.
    Raises: RuntimeError when the metrics were imported already.
    """
    if not os.environ.get(FOLDER_ENV):
        return
    if "prometheus_client" in sys.modules:
        raise RuntimeError("count_as comes too late: prometheus_client is imported")
    from prometheus_client import values

    values.ValueClass = values.MultiProcessValue(lambda: name)


def inherited() -> dict[str, str]:
    """Return this process's environment for one that it starts: without the folder where its disk is full.

    A mapped file that finds no room kills whoever writes to it (SIGBUS). Such a process works, and what it
    counts is missing from the page.
    """
    environment = dict(os.environ)
    folder = environment.get(FOLDER_ENV)
    if not folder:
        return environment
    probe = Path(folder) / f"room_{os.getpid()}"
    try:
        fd = os.open(probe, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(fd, 0, ROOM_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        log.warning("metrics.uncounted", folder=folder, error=str(error))
        del environment[FOLDER_ENV]
    probe.unlink(missing_ok=True)
    return environment


def usable_files(folder: str) -> list[Path]:
    """Return the files that count: one that a process has just created is still empty.

    What the dead have counted stays; what they measured last is true no longer.
    Raises: OSError where the folder is gone.
    """
    files = sorted(file for file in Path(folder).iterdir() if file.suffix == ".db")
    return [file for file in files if file.stat().st_size and not _stale(file)]


def _stale(file: Path) -> bool:
    """Tell whether a file holds the gauges of a process that has ended: `gauge_livesum_<pid>.db`."""
    kind, _, pid = file.stem.rpartition("_")
    return kind.startswith("gauge_live") and not Path(f"/proc/{pid}").exists()
