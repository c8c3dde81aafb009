"""The limit: how much memory a worker may use with all its children, and who says so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from starforge.errors import InvalidInputError, InvalidSettingError
from starforge.settings import Settings, setting

GROUPS_ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
NO_LIMIT_BYTES = 1 << 60
"""What version 1 of control groups says instead of no limit is about eight times this."""

LIMIT_ENV = "STARFORGE_MEMORY_LIMIT"
UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
BINARY = {"ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4}
SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(k|m|g|t|ki|mi|gi|ti)?(?:b|bytes)?", re.IGNORECASE)
LIMIT_BYTES_MIN = 1024**2


class MemorySettings(Settings):
    """What a worker may use of memory, and what it does near the end of it."""

    limit: str = setting(
        "",
        env=LIMIT_ENV,
        unit="size",
        meaning="Memory of a worker with its children, as 2GiB or 4096MB; empty: its control group's limit.",
    )
    mark: float = setting(
        0.85,
        env="STARFORGE_MEMORY_MARK",
        unit="share of the limit",
        meaning="Above this a worker claims nothing, gives back what waits and reports what it holds.",
        gt=0.1,
        lt=1,
    )
    peak_half_life_h: float = setting(
        24.0,
        env="STARFORGE_PEAK_HALF_LIFE_H",
        unit="hours",
        meaning="What a job type was seen to need counts half after this time.",
        gt=0,
    )


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit in bytes, and where it comes from."""

    bytes: int
    source: str
    group: Path | None = None
    """The control group whose limit it is: everything in it counts, not only this worker."""

    def used(self, tree_bytes: int) -> int:
        """Return what counts against the limit where the worker's own processes use `tree_bytes`."""
        return tree_bytes if self.group is None else max(tree_bytes, _unreclaimable(self.group) or 0)


def parse_size(text: str) -> int:
    """Return the bytes of `4096MB`, `2GiB`, `2Gi`, `512 m` or a plain number.

    Raises: InvalidInputError for anything else, and for less than a mebibyte.
    """
    match = SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * {**UNITS, **BINARY}[(match[2] or "").lower()]) if match else 0
    if size < LIMIT_BYTES_MIN:
        raise InvalidInputError(f"{text!r} is no size of memory: write 4096MB, 2GiB or 512Mi")
    return size


def find_limit(option: str | None = None) -> Limit | None:
    """Return what bounds this process: `--memory-limit`, STARFORGE_MEMORY_LIMIT, its group, or None."""
    if option:
        return Limit(parse_size(option), "--memory-limit")
    if set_to := MemorySettings.read().limit:
        try:
            return Limit(parse_size(set_to), LIMIT_ENV)
        except InvalidInputError as error:
            raise InvalidSettingError(LIMIT_ENV, set_to, str(error)) from None
    return group_limit()


def group_limit(root: Path = GROUPS_ROOT, membership: Path = MEMBERSHIP) -> Limit | None:
    """Return the tightest limit of this process's control group and those above it; versions 1 and 2."""
    found: Limit | None = None
    for folder in _groups(root, membership):
        size = _limit_of(folder)
        if size is not None and (found is None or size < found.bytes):
            found = Limit(size, f"control group {folder.relative_to(root).as_posix()}", folder)
    return found


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups, innermost first.

    A container may be told the path that its group has outside; then only the root that it sees is its own.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        inside = Path(*(part for part in path.split("/") if part not in ("", "..")))
        folder = top / inside
        while folder != top:
            if folder.is_dir():
                yield folder
            folder = folder.parent
        yield top


def _limit_of(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        size = _number(folder / name)
        if size is not None and size < NO_LIMIT_BYTES:
            return size
    return None


def _unreclaimable(folder: Path) -> int | None:
    """Return what a group uses and the kernel cannot take back: all of it less its page cache."""
    used = _number(folder / "memory.current")
    prefix = "" if used is not None else "total_"
    used = _number(folder / "memory.usage_in_bytes") if used is None else used
    if used is None:
        return None
    try:
        stat = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
        cache = sum(int(stat.get(f"{prefix}{kind}_file", "0")) for kind in ("active", "inactive"))
    except (OSError, ValueError):
        return None
    return max(0, used - cache)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None  # not there, or "max"
