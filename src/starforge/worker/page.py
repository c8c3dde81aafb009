"""The page: a piece of memory that a supervisor and one child share, so that neither has to ask the other.

The supervisor writes one flag, *rest*: claim nothing, give back what waits. The child writes how it fares:
when it last asked for work, what it has finished, which jobs run. It is read without a lock: where a write
is in the way, what was told before holds until the next look. It lives in no file system, and ends with the
two processes.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from typing import Self

import msgspec

SIZE_BYTES = 64 * 1024
RUNNING_TOLD_MAX = 200
"""Most running jobs that a child names; `running` counts them all."""

_HEAD = struct.Struct("<II")
"""The number of what was told, and its length; 0 while it is being written."""

_REST_AT, _HEAD_AT, _BODY_AT = 0, 8, 16


class RunningJob(msgspec.Struct, frozen=True, array_like=True):
    """A job that a child is at."""

    job_id: str
    type: str
    seen_s: float
    """Since when on the machine's monotonic clock, to half a second."""


class Fare(msgspec.Struct, frozen=True, array_like=True):
    """How a child fares; times are of the machine's monotonic clock, which all its processes share."""

    told_s: float
    asked_s: float
    """When it last asked for work and was answered, or had no room for any."""

    answered_s: float
    """When it last asked and was answered; 0 before the first time."""

    finished: int
    running: int
    waiting: int
    """Jobs that it has claimed and not started."""

    rss_bytes: int
    idle_bytes: int
    """What it used when it was ready, before its first job."""

    needs: dict[str, int]
    """What a job of each type was seen to use of memory, where that is learned."""

    jobs: list[RunningJob]


class Page:
    """One shared page; the supervisor makes it, the child opens it by the number of its descriptor."""

    def __init__(self, fd: int, *, owned: bool) -> None:
        self.fd = fd
        self._owned = owned
        self._memory = mmap.mmap(fd, SIZE_BYTES)
        self._told = 0
        self._heard: Fare | None = None

    @classmethod
    def make(cls) -> Self:
        """Make an empty page."""
        fd = os.memfd_create("starforge-page")
        os.ftruncate(fd, SIZE_BYTES)
        return cls(fd, owned=True)

    @classmethod
    def open(cls, fd: int) -> Self:
        """Open the page that the supervisor passed on."""
        return cls(fd, owned=False)

    @property
    def rest(self) -> bool:
        """Whether the child is to claim nothing."""
        return self._memory[_REST_AT] != 0

    @rest.setter
    def rest(self, wanted: bool) -> None:
        self._memory[_REST_AT] = wanted

    def tell(self, fare: Fare) -> None:
        """Say how the child fares; of too much to say, jobs and needs are left out."""
        body = msgspec.msgpack.encode(fare)
        if len(body) > SIZE_BYTES - _BODY_AT:
            body = msgspec.msgpack.encode(msgspec.structs.replace(fare, jobs=[], needs={}))
        self._told += 1
        self._memory[_HEAD_AT:_BODY_AT] = _HEAD.pack(self._told, 0)
        self._memory[_BODY_AT : _BODY_AT + len(body)] = body
        self._memory[_HEAD_AT:_BODY_AT] = _HEAD.pack(self._told, len(body))

    def fare(self) -> Fare | None:
        """Return what the child said last; None before its first word."""
        head = self._memory[_HEAD_AT:_BODY_AT]
        _, length = _HEAD.unpack(head)
        body = self._memory[_BODY_AT : _BODY_AT + length]
        if length and head == self._memory[_HEAD_AT:_BODY_AT]:
            with suppress(msgspec.MsgspecError):  # no child of ours writes what cannot be read
                self._heard = msgspec.msgpack.decode(body, type=Fare)
        return self._heard

    def close(self) -> None:
        """Let go of the page."""
        self._memory.close()
        if self._owned:
            os.close(self.fd)
