"""Control groups: where the kernel counts whom it killed for want of memory."""

from __future__ import annotations

from functools import cache
from pathlib import Path


def memory_folder(pid: int | str = "self") -> Path | None:
    """Return the folder of the control group that bounds the process's memory; None where there is none."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    groups = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    # Version 1 where its memory controller is mounted, version 2 (number 0, no controllers) otherwise.
    for number, controllers, path in sorted(groups, key=lambda group: group[0] == "0"):
        kind = "memory" if "memory" in controllers.split(",") else "" if number == "0" else None
        for folder in _mounted(kind) if kind is not None else ():
            found = folder[1] / path.removeprefix(folder[0]).lstrip("/")
            # A container may see its own group as the root of the mount, whatever its path says.
            for place in (found, folder[1]):
                if (place / "memory.oom_control").exists() or (place / "memory.events").exists():
                    return place
    return None


@cache
def _mounted(controller: str) -> list[tuple[str, Path]]:
    """Return (root, mount point) of the hierarchies with this controller, "" for version 2."""
    found = []
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        mount, _, system = line.partition(" - ")
        kind, _, options = (*system.split(" ", 2), "", "")[:3]
        fields = mount.split(" ")
        wanted = (
            kind == "cgroup2" if not controller else kind == "cgroup" and controller in options.split(",")
        )
        if wanted and len(fields) > 4:
            found.append((fields[3].rstrip("/"), Path(fields[4])))
    return found


def oom_kills(folder: Path | None) -> int:
    """Return how many processes the kernel has killed for memory in this group, or on this machine."""
    files = [folder / "memory.events", folder / "memory.oom_control"] if folder else []
    for file in (*files, Path("/proc/vmstat")):
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.strip().isdigit():
                return int(count)
    return 0
