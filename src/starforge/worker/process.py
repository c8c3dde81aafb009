"""What a process of a worker's tree arranges with the kernel, and what its end says in words."""

from __future__ import annotations

import asyncio
import ctypes
import io
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

SIGKILL = signal.SIGKILL.value
PR_SET_PDEATHSIG = 1
REAPED_S = 0.005
ORPHANED = 75
"""Exit status of a process whose parent is gone."""

FIRST_TO_GO = 1000
"""For a process that runs one job, when the machine's memory runs out."""

BEFORE_ITS_PARENT = 200
"""For a child: its supervisor lives on and says what happened."""


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, whoever holds the interpreter's lock then."""
    with suppress(OSError, AttributeError):  # elsewhere than on Linux the parent's pipe has to do
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It ended before the kernel was told.
        os._exit(ORPHANED)


def goes_before_others(points: int) -> None:
    """Offer this process to the kernel first, by so many points, when the machine's memory runs out."""
    file = Path("/proc/self/oom_score_adj")
    with suppress(OSError, ValueError):
        file.write_text(str(min(1000, int(file.read_text()) + points)))


def prints_by_line() -> None:
    """Print a line at a time: into a pipe Python would write a page at a time.

    What a job printed belongs beside what it logged.
    """
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)


async def exit_status(process: asyncio.subprocess.Process) -> int:
    """Wait until a process has ended and return its status, or the number of its signal with a minus.

    asyncio's own wait goes on until the pipes are closed too, and what the process has started may hold
    them open for ever.
    """
    if process.returncode is None:
        ended = asyncio.Event()
        with suppress(ProcessLookupError):
            fd = os.pidfd_open(process.pid)
            loop = asyncio.get_running_loop()
            loop.add_reader(fd, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(fd)
                os.close(fd)
    while process.returncode is None:
        await asyncio.sleep(REAPED_S)  # the loop has yet to ask for the status
    return process.returncode


def in_words(status: int) -> str:
    """Say how a process ended.

    Args:
        status: Its exit status, or the number of the signal that killed it with a minus.
    """
    if status >= 0:
        return f"ended by itself with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    return f"was killed by signal {-status} ({name})"
