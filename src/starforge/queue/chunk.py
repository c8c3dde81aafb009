"""The chunk: what one statement of a bulk carries, with what is alike said once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from starforge.queue.entry import Kind, as_told, checked_key, encoded_states, kind_of, payload_text, trace_of
from starforge.queue.job import JobSettings, Key, NewJob

BULK_ROWS = 2000
"""Jobs in one statement of a bulk: the next are encoded while the server is at these."""

BULK_BYTES_MAX = 8_000_000
"""Payloads in one statement of a bulk, and a last one."""


@dataclass(slots=True)
class Chunk:
    """The jobs of one statement: id, payload, trace and the number of its kind for each, and the kinds."""

    ids: list[UUID] = field(default_factory=list)
    payloads: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    traces: list[str | None] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    """Of jobs with keys: the key of each."""

    holds: list[tuple[str, float | None]] = field(default_factory=list)
    """Of jobs with keys: for each kind, in which states the key holds, and for how long besides."""

    def parameters(self) -> tuple[Any, ...]:
        """Return them in the order of enqueue_many, or of enqueue_fresh where they have keys."""
        traces = self.traces if any(self.traces) else None  # most have none, and so nothing is sent
        each = (self.ids, self.payloads, self.numbers, traces, *map(list, zip(*self.kinds, strict=True)))
        if not self.keys:
            return each
        return (*each, *map(list, zip(*self.holds, strict=True)), [key.text for key in self.keys])


def chunks(jobs: Sequence[NewJob]) -> Iterator[Chunk]:
    """Encode the jobs, BULK_ROWS at a time; either all of them have keys or none has."""
    bytes_max = JobSettings.read().payload_bytes_max
    chunk, size = Chunk(), 0
    known: dict[object, int] = {}
    for job in jobs:
        text = payload_text(job, bytes_max)
        chunk.ids.append(job.id)
        chunk.payloads.append(text)
        chunk.numbers.append(_number(job, chunk, known))
        chunk.traces.append(trace_of(job))
        size += len(text)
        if len(chunk.ids) == BULK_ROWS or size >= BULK_BYTES_MAX:
            yield chunk
            chunk, known, size = Chunk(), {}, 0
    if chunk.ids:
        yield chunk


def _number(job: NewJob, chunk: Chunk, known: dict[object, int]) -> int:
    """Return the number of the job's kind, from 1; what is seen for the first time is checked and added."""
    told: object = (as_told(job), *job.tags) if job.tags else as_told(job)
    key = job.unique
    if key is not None:
        told = told, key.states, key.within_s, key.on_conflict
        chunk.keys.append(checked_key(job, key))
    try:
        number = known.get(told)
    except TypeError:  # a list where a text belongs, or the like: refused with its field
        number = None
    if number is None:
        chunk.kinds.append(kind_of(job))
        if key is not None:
            chunk.holds.append((encoded_states(key), key.within_s))
        number = known[told] = len(chunk.kinds)
    return number
