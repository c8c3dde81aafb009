"""Keys: jobs that are one job. Whether a key still holds is decided by whoever enqueues with it.

Claim and completion never touch a key, so it costs them nothing. What is asked of the database is said
here once for every driver: a conversation of documents and rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from starforge.queue.entry import checked_key, kind_of, payload_text, trace_of
from starforge.queue.errors import KeyContestedError
from starforge.queue.job import Accepted, JobSettings, NewJob
from starforge.settings import HomeSettings

ASKED_MAX = 1000
"""Jobs with keys in one statement."""

ASKED_BYTES_MAX = 8_000_000
"""Payloads in one statement, and a last one."""

TRIES_MAX = 10
"""A key that changed hands so often between two statements of ours is somebody's mistake."""

Rows = Sequence[Any]
Talk = Generator[str, Rows, list[Accepted]]
"""Yields documents for enqueue_unique, is sent the rows that it gave, and returns the answers."""


class Wanted(msgspec.Struct, gc=False):
    """One job with a key, as enqueue_unique reads it."""

    place: int
    id: UUID
    payload: msgspec.Raw
    tenant_id: str
    queue: str
    type: str
    priority: int
    max_attempts: int
    run_after: datetime | None
    delay_s: float | None
    limit_key: str
    tags: msgspec.Raw | None
    timeout_s: float | None
    trace: str | None
    hint: str | None
    key: str
    states: tuple[str, ...]
    within_s: float | None
    on_conflict: str


@dataclass(slots=True)
class Same:
    """The jobs of one enqueue that have one key, in their order; `places` are theirs in the answer."""

    places: list[int] = field(default_factory=list)
    jobs: list[Wanted] = field(default_factory=list)


def ask(jobs: Sequence[NewJob], hint: str | None = None) -> Talk:
    """Enqueue jobs that all have keys, as if one after the other; the answers come in their order.

    Raises: PayloadError and JobOptionError before anything is asked, KeyContestedError.
    """
    bytes_max = JobSettings.read().payload_bytes_max
    sames: dict[tuple[str, str, str], Same] = {}
    for place, job in enumerate(jobs):
        wanted = _wanted(job, bytes_max, hint)
        same = sames.setdefault((wanted.tenant_id, wanted.type, wanted.key), Same())
        same.places.append(place)
        same.jobs.append(wanted)
    answers: list[Accepted | None] = [None] * len(jobs)
    firsts = yield from _settled([same.jobs[0] for same in sames.values()])
    for same, first in zip(sames.values(), firsts, strict=True):
        answers[same.places[0]] = first
        for place in same.places[1:]:
            answers[place] = Accepted(first.id, False)
    yield from _changed(sames.values(), answers)
    return [answer for answer in answers if answer is not None]


def met_once(jobs: Sequence[NewJob]) -> Sequence[NewJob]:
    """Return those of these jobs, which all have keys, whose key no other of them has."""
    mine = HomeSettings.read().tenant
    named = [(mine if job.tenant is None else job.tenant, job.type, _key_text(job)) for job in jobs]
    met = Counter(named)
    if len(met) == len(jobs):
        return jobs
    return [job for job, name in zip(jobs, named, strict=True) if met[name] == 1]


def _key_text(job: NewJob) -> str:
    """Return the key of a job that has one."""
    assert job.unique is not None  # the caller has sorted them
    return job.unique.text


def _changed(sames: Collection[Same], answers: list[Accepted | None]) -> Generator[str, Rows, None]:
    """Replace and reschedule what an earlier job of the same enqueue made or found: the last word counts."""
    for word in ("replace", "reschedule"):
        said = [(same, at) for same in sames if (at := _last(same, word))]
        found = yield from _settled([same.jobs[at] for same, at in said])
        for (same, _), answer in zip(said, found, strict=True):
            for place, job in zip(same.places[1:], same.jobs[1:], strict=True):
                if job.on_conflict in (word, "reschedule"):
                    answers[place] = answer


def _last(same: Same, word: str) -> int:
    """Return where this was last said after the first job; 0 where it was not, or a replacement undid it."""
    words = [job.on_conflict for job in same.jobs]
    last = max((at for at, said in enumerate(words) if said == word), default=0)
    return 0 if "replace" in words[last + 1 :] else last


def _settled(jobs: list[Wanted]) -> Talk:
    """Ask until every key is settled; in each round those that others were faster with are asked again."""
    answers: dict[UUID, Accepted] = {}
    for _ in range(TRIES_MAX):
        left = [job for job in jobs if job.id not in answers]
        if not left:
            return [answers[job.id] for job in jobs]
        for chunk in _chunks(left):
            for place, job in enumerate(chunk, 1):
                job.place = place
            rows = yield msgspec.json.encode(chunk).decode()
            for place, job_id, new, changed, *_ in rows:
                if job_id is not None:
                    answers[chunk[place - 1].id] = Accepted(UUID(str(job_id)), new, changed)
    contested = next(job for job in jobs if job.id not in answers)
    raise KeyContestedError(
        f"the key {contested.key!r} of a {contested.type} job changed hands {TRIES_MAX} times"
    )


def _chunks(jobs: Sequence[Wanted]) -> Iterable[list[Wanted]]:
    chunk: list[Wanted] = []
    size = 0
    for job in jobs:
        chunk.append(job)
        size += len(bytes(job.payload))
        if len(chunk) == ASKED_MAX or size >= ASKED_BYTES_MAX:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _wanted(job: NewJob, bytes_max: int, hint: str | None) -> Wanted:
    assert job.unique is not None  # the caller has sorted them
    key, kind = checked_key(job, job.unique), kind_of(job)
    text = payload_text(job, bytes_max)
    return Wanted(
        0, job.id, msgspec.Raw(text.encode()), kind.tenant_id, kind.queue, kind.type, kind.priority,
        kind.max_attempts, kind.run_after, kind.delay_s, kind.limit_key,
        None if kind.tags is None else msgspec.Raw(kind.tags.encode()), kind.timeout_s, trace_of(job), hint,
        key.text, tuple(key.states), key.within_s, key.on_conflict,
    )  # fmt: skip
