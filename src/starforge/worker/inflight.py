"""The in-flight record: which handlers run right now, in a file that outlives the process that writes it.

A claim says who holds a job; of the hundreds that a child holds only a few run. The child marks start and
end of every handler in a file that is mapped into its memory: a mark costs no system call, and what was
marked when the process was killed is still there. Its supervisor reads it, or whoever starts on this home
after the whole group was killed.

Supervisor and child each hold a shared lock on the file for as long as they live. Who gets the lock for
itself alone knows that both are dead, whatever process numbers and namespaces say.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns, time
from typing import Final, Self
from urllib.parse import urlsplit
from uuid import UUID

import structlog

from starforge.queue.job import LeasedJob
from starforge.settings import HomeSettings

log = structlog.get_logger("worker")

MAGIC = b"SFRUN\x001\n"
HEADER = struct.Struct("<8s16s16s40s")
"""Magic, worker, digest of the database's address, boot of the machine."""

HEADER_BYTES = 512
BEAT_AT, PRESSURE_AT, STOPPING_AT = 256, 264, 265
BEAT = struct.Struct("<q")

SLOT = struct.Struct("<16sqqB")
"""Job, lease epoch, start on the monotonic clock, state: last, so that half a mark is none."""

_mark = SLOT.pack_into
SLOT_BYTES = 64
STATE_AT = SLOT.size - 1
SLOTS_MAX = 2040
"""Handlers that can be marked at once; what runs beyond that is run unmarked."""

SIZE = HEADER_BYTES + SLOTS_MAX * SLOT_BYTES

FREE, RUNNING, OVERDUE, APART = range(4)
"""Overdue: its time is over and it could not be stopped. Apart: it runs in a process of its own."""

NOTE = b"ending "
LAST_WORDS_BYTES_MAX = 256 * 1024
FORGOTTEN_S = 7 * 86400.0
"""A dead worker's file of another database goes after this time; that database's own workers go first."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A handler that was running."""

    job_id: UUID
    lease_epoch: int
    started_ns: int
    apart: bool
    overdue: bool = False

    def ran_s(self, until_ns: int) -> float:
        """Seconds from its start to a moment on the same clock."""
        return max(0, until_ns - self.started_ns) / 1e9


class InFlight:
    """One worker's record; the child marks in it, its supervisor and its heirs read it."""

    def __init__(self, memory: mmap.mmap, fd: int = -1, file: Path | None = None) -> None:
        self._memory, self._fd, self.file = memory, fd, file
        self._free: Final = [HEADER_BYTES + SLOT_BYTES * slot for slot in reversed(range(SLOTS_MAX))]

    @classmethod
    def nowhere(cls) -> Self:
        """Make a record that nobody else can read, for a runner without a supervisor."""
        return cls(mmap.mmap(-1, SIZE))

    @classmethod
    def create(cls, worker_id: UUID, url: str) -> Self:
        """Make the record of a worker, in STARFORGE_HOME; where that cannot be written, in memory.

        In memory its supervisor can still read it, and nobody after the supervisor.
        """
        try:
            return cls._created(worker_id, url)
        except OSError as error:
            log.warning("inflight.in_memory", folder=str(_folder()), error=str(error))
            fd = os.memfd_create("starforge-inflight")
            os.truncate(fd, SIZE)
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
            return cls(mmap.mmap(fd, SIZE), fd)

    @classmethod
    def _created(cls, worker_id: UUID, url: str) -> Self:
        folder = _folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Nobody looks at the name with a dot: the lock is there before the file is.
        draft, file = folder / f".{worker_id}", folder / str(worker_id)
        fd = os.open(draft, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Room on the disk now, and no bus error later.
            os.posix_fallocate(fd, 0, SIZE)
            memory = mmap.mmap(fd, SIZE)
            HEADER.pack_into(memory, 0, MAGIC, worker_id.bytes, _digest(url), _boot())
            draft.rename(file)
        except BaseException:
            draft.unlink(missing_ok=True)
            os.close(fd)
            raise
        return cls(memory, fd, file)

    @property
    def path(self) -> str:
        """Where a child opens it."""
        return str(self.file) if self.file is not None else f"/proc/{os.getpid()}/fd/{self._fd}"

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the record of this process's supervisor, to mark in it."""
        fd = os.open(path, os.O_RDWR | os.O_APPEND)
        with suppress(OSError):  # a file in memory has no lock to share
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return cls(mmap.mmap(fd, SIZE), fd)

    # What the child does.

    def start(self, job: LeasedJob, state: int = RUNNING) -> int:
        """Mark that the handler of `job` starts; return the mark, to end it with."""
        free = self._free
        if not free:
            return 0
        at = free.pop()
        _mark(self._memory, at, job.id.bytes, job.lease_epoch, monotonic_ns(), state)
        return at

    def end(self, mark: int) -> None:
        """Mark that the handler has ended."""
        if mark:
            self._memory[mark + STATE_AT] = FREE
            self._free.append(mark)

    def overdue(self, job_id: UUID) -> None:
        """Mark that a job's handler goes on although it was to end; its mark ends with it all the same."""
        for at in range(HEADER_BYTES, SIZE, SLOT_BYTES):
            marked, _, _, state = SLOT.unpack_from(self._memory, at)
            if state == RUNNING and marked == job_id.bytes:
                self._memory[at + STATE_AT] = OVERDUE

    def clear(self) -> None:
        """Unmark everything: this process ends because it wants to."""
        for at in range(HEADER_BYTES, SIZE, SLOT_BYTES):
            self._memory[at + STATE_AT] = FREE

    def beat(self) -> None:
        """Give a sign of life."""
        BEAT.pack_into(self._memory, BEAT_AT, monotonic_ns())

    def last_words(self) -> int:
        """Return the file descriptor to which a dying process may write its stacks."""
        return self._fd

    # What both do.

    @property
    def pressure(self) -> int:
        """How short of memory the worker is, 0 to 255: the supervisor's word to its child."""
        return self._memory[PRESSURE_AT]

    @pressure.setter
    def pressure(self, level: int) -> None:
        self._memory[PRESSURE_AT] = level

    # What the supervisor and the heirs do.

    @property
    def beat_ns(self) -> int:
        """The child's last sign of life on the monotonic clock; 0 before the first."""
        return int(BEAT.unpack_from(self._memory, BEAT_AT)[0])

    @property
    def stopping(self) -> bool:
        """Whether the worker was told to stop: what ends it after that is nobody's fault."""
        return self._memory[STOPPING_AT] != 0

    def stop(self) -> None:
        """Note that the worker was told to stop."""
        self._memory[STOPPING_AT] = 1

    @property
    def rebooted(self) -> bool:
        """Whether the machine was started anew since."""
        return bool(HEADER.unpack_from(self._memory)[3] != _boot())

    @property
    def worker_id(self) -> UUID:
        """Whose record this is."""
        return UUID(bytes=HEADER.unpack_from(self._memory)[1])

    def marks(self) -> list[Mark]:
        """Return the handlers that were running."""
        marks = []
        for at in range(HEADER_BYTES, SIZE, SLOT_BYTES):
            job_id, lease_epoch, started_ns, state = SLOT.unpack_from(self._memory, at)
            if state != FREE:
                job = UUID(bytes=job_id)
                marks.append(Mark(job, lease_epoch, started_ns, state == APART, state == OVERDUE))
        return marks

    def note(self, ending: bytes) -> None:
        """Keep what is known of the end of the child, for whoever gets to tell the database."""
        with suppress(OSError):
            os.write(self._fd, b"\n" + NOTE + ending)

    def noted(self) -> tuple[str, bytes | None]:
        """Return what the child said when it died (its stacks), and what was noted about its end."""
        tail = os.pread(self._fd, LAST_WORDS_BYTES_MAX, SIZE)
        said, noted, ending = tail.partition(b"\n" + NOTE)
        return said.decode(errors="replace"), ending if noted else None

    def close(self) -> None:
        """Let go of the record; the file stays for whoever comes."""
        self._memory.close()
        os.close(self._fd)

    def remove(self) -> None:
        """Let go of the record and remove its file: nothing in it is of use any more."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)
        self.close()


def left_behind(url: str) -> Iterator[InFlight]:
    """Yield the records of this database's workers whose processes are all dead, locked against other heirs.

    The caller closes or removes each.
    """
    folder = _folder()
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            fd = os.open(file, os.O_RDWR | os.O_APPEND)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stat = os.fstat(fd)
            header = os.pread(fd, HEADER.size, 0)
            ours = len(header) == HEADER.size and stat.st_size >= SIZE and header.startswith(MAGIC)
            if ours and HEADER.unpack(header)[2] == _digest(url) and stat.st_nlink:
                yield InFlight(mmap.mmap(fd, SIZE), fd, file)
                continue
            if time() - stat.st_mtime > FORGOTTEN_S:
                file.unlink(missing_ok=True)
        except OSError:
            pass  # somebody lives in it
        os.close(fd)


def left_alive(worker_id: UUID) -> bool:
    """Tell whether the worker has a record that its heirs could not get: something of it lives."""
    return (_folder() / str(worker_id)).exists()


def _folder() -> Path:
    return HomeSettings.read().home / "run" / "inflight"


def _digest(url: str) -> bytes:
    """Name the database: one home may serve several."""
    parts = urlsplit(url)
    place = f"{parts.hostname}:{parts.port or 5432}{parts.path}"
    return hashlib.sha256(place.encode()).digest()[:16]


def _boot() -> bytes:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return (boot.read_bytes().strip() if boot.exists() else b"?").ljust(40, b"\0")
