"""The chunk: what one statement of a bulk carries, with what is alike said once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from starforge.queue.entry import Kind, as_told, kind_of, payload_text
from starforge.queue.job import JobSettings, NewJob

BULK_ROWS = 2000
"""Jobs in one statement of a bulk: the next are encoded while the server is at these."""

BULK_BYTES_MAX = 8_000_000
"""Payloads in one statement of a bulk, and a last one."""


@dataclass(slots=True)
class Chunk:
    """The jobs of one statement: an id, a payload and the number of its kind for each, and the kinds."""

    ids: list[UUID] = field(default_factory=list)
    payloads: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)

    def parameters(self) -> tuple[Any, ...]:
        """Return them in the order of enqueue_many."""
        return (self.ids, self.payloads, self.numbers, *map(list, zip(*self.kinds, strict=True)))


def chunks(jobs: Sequence[NewJob]) -> Iterator[Chunk]:
    """Encode the jobs, BULK_ROWS at a time."""
    bytes_max = JobSettings.read().payload_bytes_max
    chunk, size = Chunk(), 0
    known: dict[object, int] = {}
    for job in jobs:
        text = payload_text(job, bytes_max)
        chunk.ids.append(job.id)
        chunk.payloads.append(text)
        chunk.numbers.append(_number(job, chunk.kinds, known))
        size += len(text)
        if len(chunk.ids) == BULK_ROWS or size >= BULK_BYTES_MAX:
            yield chunk
            chunk, known, size = Chunk(), {}, 0
    if chunk.ids:
        yield chunk


def _number(job: NewJob, kinds: list[Kind], known: dict[object, int]) -> int:
    """Return the number of the job's kind, from 1; what is seen for the first time is checked and added."""
    told = (as_told(job), *job.tags) if job.tags else as_told(job)
    try:
        number = known.get(told)
    except TypeError:  # a list where a text belongs, or the like: refused with its field
        number = None
    if number is None:
        kinds.append(kind_of(job))
        number = known[told] = len(kinds)
    return number
