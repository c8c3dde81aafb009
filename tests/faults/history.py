"""What every client did and was told, and the checker that holds it against the tables.

Lines go to one file, appended whole, so that a process that is killed has said all that it did.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from starforge.db.errors import DatabaseUnreachableError
from starforge.db.pool import CONNECT_ERRORS, Connection
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.job import NewJob

AWAY: tuple[type[Exception], ...] = (*CONNECT_ERRORS, DatabaseUnreachableError)
"""After these nobody can tell whether the server did what it was asked."""

FILE_ENV = "FAULTS_HISTORY"
_files: dict[str, int] = {}


def note(what: str, *, path: str = "", **more: object) -> None:
    """Append one line: what happened, when on the machine's monotonic clock, and to what."""
    path = path or os.environ[FILE_ENV]
    if path not in _files:
        _files[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    line = json.dumps({"at": time.monotonic(), "what": what, **more}, default=str)
    os.write(_files[path], line.encode() + b"\n")


@dataclass(frozen=True, slots=True)
class Start:
    """A handler that was started."""

    at: float
    job: UUID
    epoch: int
    attempt: int
    worker: UUID


@dataclass
class Verdict:
    """What became of every job that was ever asked for."""

    lost: set[UUID] = field(default_factory=set)
    """Acknowledged, and nowhere."""

    duplicated: set[UUID] = field(default_factory=set)
    """In two places, or finished more than once."""

    unexpected: set[UUID] = field(default_factory=set)
    """There, and never asked for or refused."""

    recovered: set[UUID] = field(default_factory=set)
    """Their enqueue had an unknown outcome, and they are there."""

    ran_again: set[UUID] = field(default_factory=set)
    """Started more than once: allowed after a fault."""

    leases_used_twice: set[UUID] = field(default_factory=set)
    """Started twice under one lease."""

    effects_missing: set[UUID] = field(default_factory=set)
    """Completed jobs of an effect's type without an effect."""

    effects_doubled: set[UUID] = field(default_factory=set)
    """Effects in transactions of their own that were written again: allowed after a fault."""

    promises_broken: set[UUID] = field(default_factory=set)
    """Jobs of `ctx.transaction()` whose effect and completion are not there together, once."""

    attempts: Counter[int] = field(default_factory=Counter)
    """How many jobs have burnt how many attempts."""

    statuses: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        table = "  ".join(f"{status} {count}" for status, count in sorted(self.statuses.items()))
        counts: dict[str, set[UUID]] = {
            "lost": self.lost,
            "duplicated": self.duplicated,
            "unexpected": self.unexpected,
            "recovered": self.recovered,
            "ran again": self.ran_again,
            "leases used twice": self.leases_used_twice,
            "effects missing": self.effects_missing,
            "effects doubled": self.effects_doubled,
            "promises broken": self.promises_broken,
        }
        told = [
            f"{name} {len(found)}: {sorted(map(str, found))[:3]}" for name, found in counts.items() if found
        ]
        return "\n".join([table, f"attempts burnt {dict(self.attempts)}", *told])

    def assert_sound(self) -> None:
        """Fail, with the whole table, where a guarantee does not hold."""
        broken = (
            self.lost or self.duplicated or self.unexpected or self.leases_used_twice or self.effects_missing
        )
        assert not broken, str(self)


class History:
    """The history of one test: its own enqueues, and what the workers' handlers noted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: dict[UUID, NewJob] = {}
        self.acknowledged: set[UUID] = set()
        self.unknown: set[UUID] = set()
        self.refused: set[UUID] = set()

    def note(self, what: str, **more: object) -> None:
        """Note what the test itself did."""
        note(what, path=str(self.path), **more)

    async def enqueue(self, conn: Connection, *jobs: NewJob) -> list[UUID]:
        """Enqueue, and note what was asked and answered; an unknown outcome raises nothing."""
        ids = [job.id for job in jobs]
        self.asked.update((job.id, job) for job in jobs)
        self.note("asked", jobs=len(ids))
        try:
            if len(jobs) == 1:
                await enqueue(conn, jobs[0])
            else:
                await enqueue_many(conn, jobs)
        except AWAY as error:
            self.unknown.update(ids)
            self.note("unknown", error=repr(error))
        except asyncpg.PostgresError as error:
            self.refused.update(ids)
            self.note("refused", error=repr(error))
        else:
            self.acknowledged.update(ids)
            self.note("acknowledged", jobs=len(ids))
        return ids

    def events(self) -> list[dict[str, Any]]:
        """Return what was noted so far, in order."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def starts(self) -> list[Start]:
        """Return the handlers that were started, in order."""
        return [
            Start(e["at"], UUID(e["job"]), e["epoch"], e["attempt"], UUID(e["worker"]))
            for e in self.events()
            if e["what"] == "started"
        ]

    async def check(self, conn: Connection) -> Verdict:
        """Hold what was asked and answered against the tables."""
        verdict = Verdict()
        history = await conn.fetch("SELECT id, status, attempts FROM job_history")
        live = await conn.fetch("SELECT id, status, attempts FROM queue_jobs")
        found = Counter(row["id"] for row in (*history, *live))
        verdict.statuses.update(row["status"] for row in (*history, *live))
        verdict.attempts.update(row["attempts"] for row in (*history, *live))
        verdict.lost = self.acknowledged - found.keys()
        verdict.duplicated = {job_id for job_id, count in found.items() if count > 1}
        verdict.unexpected = found.keys() - (self.asked.keys() - self.refused)
        verdict.recovered = self.unknown & found.keys()
        self._check_starts(verdict, self.starts())
        done = {row["id"] for row in history if row["status"] == "completed"}
        self._check_effects(verdict, done, await conn.fetch("SELECT job_id FROM effects"))
        return verdict

    def _check_starts(self, verdict: Verdict, starts: Sequence[Start]) -> None:
        leases: defaultdict[UUID, list[int]] = defaultdict(list)
        for start in starts:
            leases[start.job].append(start.epoch)
        for job_id, epochs in leases.items():
            if len(epochs) > 1:
                verdict.ran_again.add(job_id)
            if len(epochs) > len(set(epochs)):
                verdict.leases_used_twice.add(job_id)

    def _check_effects(self, verdict: Verdict, done: set[UUID], rows: Iterable[Any]) -> None:
        effects = Counter(row["job_id"] for row in rows)
        types: defaultdict[str, set[UUID]] = defaultdict(set)
        for job in self.asked.values():
            types[job.type].add(job.id)
        verdict.effects_missing = (types["faults.effect"] & done) - effects.keys()
        verdict.promises_broken = {
            job_id for job_id in types["faults.once"] if effects[job_id] != (job_id in done)
        }
        verdict.effects_doubled = {job_id for job_id in types["faults.effect"] if effects[job_id] > 1}
