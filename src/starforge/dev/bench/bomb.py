"""Run as a program: offer the nesting bomb to the guard; print its milliseconds and its peak over idle."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from starforge.clock import monotonic_s
from starforge.dev.bench.documents import bomb
from starforge.etl.document.parse import read_document
from starforge.etl.errors import MalformedError


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had resident, since the mark was reset."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"process {pid} shows no VmHWM")


def main() -> None:
    """Measure once, after a small document has loaded what every document needs."""
    read_document(b'{"a": [1, 2.5, "\\u00e9"]}')
    data = bomb()
    Path("/proc/self/clear_refs").write_text("5")
    idle, started_s = peak_bytes(os.getpid()), monotonic_s()
    try:
        read_document(data)
    except MalformedError:
        ms, mb = (monotonic_s() - started_s) * 1000, (peak_bytes(os.getpid()) - idle) / 1e6
        sys.stdout.write(msgspec.json.encode({"ms": ms, "mb": mb}).decode())
        return
    raise SystemExit("the bomb was taken for a document")


if __name__ == "__main__":
    main()
