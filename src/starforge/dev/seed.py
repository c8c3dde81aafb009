"""Generated hero snapshots in the true shape, for the demo, the tests and the benchmarks.

Everything follows from the seed: the same arguments give the same bytes on any machine, and a run of
fewer documents gives the first ones of a longer run. One document is in memory at a time.
"""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

from starforge import clock
from starforge.dev import faults as fault_kinds
from starforge.dev.catalogue import catalogue
from starforge.dev.dice import Dice
from starforge.dev.errors import FolderInUseError, FolderUnwritableError
from starforge.dev.faults import Expect
from starforge.dev.profile import Subject, World
from starforge.errors import InvalidInputError

__all__ = ["Generated", "Summary", "catalogue", "heroes", "write_heroes"]

MB = 1_000_000
SIZE_MB_MIN, SIZE_MB_MAX = 0.02, 256.0
GUARD_BYTES = 5 * MB
"""Above this a document is expected to be held back as oversized."""
REPEATED_SHARE = 0.04
REPEATABLE_MAX = 64
"""How many of the latest subjects are remembered, so that one can come again."""
NDJSON_NAME = "heroes.ndjson"


@dataclass(frozen=True, slots=True)
class Generated:
    """One document: the stem of its file name, its bytes, its fault and what ingest should make of it.

    `fault` is one of the kinds of faults.EXPECTED, or None; `detail` says which form of it this is.
    """

    name: str
    data: bytes
    fault: str | None
    expect: Expect
    detail: str = ""


@dataclass(slots=True)
class Summary:
    """What a run of `write_heroes` wrote."""

    folder: Path
    documents: int = 0
    bytes: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    expected: Counter[str] = field(default_factory=Counter)


def heroes(
    *, count: int, size_mb: float | tuple[float, float], seed: int, faults: bool = False
) -> Iterator[Generated]:
    """Generate `count` snapshots, one at a time.

    Args:
        count: Documents, 0 or more.
        size_mb: Megabytes (10**6 bytes) of each document within 5 %, or the bounds between which the
            sizes are drawn log-uniformly; 0.02 to 256. Documents above 5 MB are expected to be oversized.
        seed: What everything follows from, 0 or more.
        faults: Give one document of every ten a fault, each kind in turn (see faults.EXPECTED).
    Returns: The documents. About one in 25 is a later capture of an earlier hero.
    Raises: InvalidInputError when an argument is outside these bounds.
    """
    least, most = size_mb if isinstance(size_mb, tuple) else (size_mb, size_mb)
    if count < 0:
        raise InvalidInputError(f"count is {count}; it must be 0 or more")
    if seed < 0:
        raise InvalidInputError(f"seed is {seed}; it must be 0 or more")
    if not SIZE_MB_MIN <= least <= most <= SIZE_MB_MAX:
        raise InvalidInputError(
            f"size_mb is {size_mb}; it must be {SIZE_MB_MIN} to {SIZE_MB_MAX:g}, the lower bound first"
        )
    return _documents(count, least, most, seed, faults)


def write_heroes(
    folder: Path,
    *,
    count: int,
    size_mb: float | tuple[float, float],
    seed: int,
    faults: bool = False,
    ndjson: bool = False,
    force: bool = False,
    progress: Callable[[Generated], None] | None = None,
) -> Summary:
    """Write generated snapshots into `folder`: hero-000001.json …, or one per line of heroes.ndjson.

    The folder is made where it is missing. NDJSON leaves out documents of 0 bytes, which no line can hold.

    Args:
        force: Write although the folder holds other files; they are left as they are.
        progress: Called with each document once it is written.
    Raises: InvalidInputError as `heroes` does; FolderInUseError when the folder holds anything that this
        run does not write anew; FolderUnwritableError when it cannot be written.
    """
    documents = heroes(count=count, size_mb=size_mb, seed=seed, faults=faults)
    summary = Summary(folder)
    began = clock.monotonic_s()
    for document in _written(documents, folder, ndjson, None if force else count):
        summary.documents += 1
        summary.bytes += len(document.data)
        summary.expected[document.expect] += 1
        if document.fault:
            summary.faults[document.fault] += 1
        if progress:
            progress(document)
    summary.seconds = clock.monotonic_s() - began
    return summary


def _documents(count: int, least: float, most: float, seed: int, faults: bool) -> Iterator[Generated]:
    dice = Dice(seed)
    world = World(dice, seed)
    plan = fault_kinds.planned(dice) if faults else repeat(None)
    known: deque[Subject] = deque(maxlen=REPEATABLE_MAX)
    for number in range(1, count + 1):
        fault = next(plan)
        if fault is None and known and dice.chance(REPEATED_SHARE):
            subject = dice.pick(known)
        else:
            subject = world.subject(number, _size_bytes(dice, least, most, fault))
            # Only the envelope carries the server's time, without which no capture is the later one.
            if fault is None and subject.envelope == "result":
                known.append(subject)
        yield _document(f"hero-{number:06d}", world, subject, fault, dice)


def _document(name: str, world: World, subject: Subject, fault: str | None, dice: Dice) -> Generated:
    if fault == "empty":
        return Generated(name, b"", fault, fault_kinds.EXPECTED[fault])
    profile = world.capture(subject)
    detail = fault_kinds.alter(profile, fault, dice) if fault else ""
    data = world.document(profile)
    expect = fault_kinds.EXPECTED[fault]
    if fault == "malformed":
        detail = dice.pick(list(fault_kinds.MALFORMED))
        data = fault_kinds.corrupt(data, detail)
    elif len(data) > GUARD_BYTES:
        expect = "oversized"
    return Generated(name, data, fault, expect, detail)


def _size_bytes(dice: Dice, least: float, most: float, fault: str | None) -> int:
    if fault == "oversized":
        return dice.between(*fault_kinds.OVERSIZED_BYTES)
    return int(least * MB * math.pow(most / least, dice.random()))


def _written(
    documents: Iterable[Generated], folder: Path, ndjson: bool, alone: int | None
) -> Iterator[Generated]:
    """Write the documents and pass on each that was; `alone`: refuse what this many do not overwrite."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if alone is not None:
            _refuse_other_content(folder, alone, ndjson)
        if ndjson:
            with (folder / NDJSON_NAME).open("wb") as lines:
                for document in documents:
                    if document.data:
                        lines.write(document.data + b"\n")
                        yield document
        else:
            for document in documents:
                (folder / f"{document.name}.json").write_bytes(document.data)
                yield document
    except OSError as error:
        reason = error.strerror or str(error)
        raise FolderUnwritableError(f"cannot write {error.filename or folder}: {reason}") from error


def _refuse_other_content(folder: Path, count: int, ndjson: bool) -> None:
    for path in sorted(folder.iterdir()):
        numbered = re.fullmatch(r"hero-(\d{6,})\.json", path.name)
        ours = path.name == NDJSON_NAME if ndjson else bool(numbered) and 1 <= int(path.stem[5:]) <= count
        if not ours:
            raise FolderInUseError(f"{folder} holds {path.name}, which this run would not write anew")
