"""The queue as a dictionary: what each verb may do, and what other transactions may see of it.

A transaction's changes lie over the committed rows until it ends. A row that a transaction has changed is
locked for the others: claims and reclaims pass it by, whatever waits for it gives up after the lock timeout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Row:
    """One live job."""

    queue: str
    priority: int
    due_s: float
    status: str = "pending"
    epoch: int = 0
    attempts: int = 0
    worker: UUID | None = None
    asked: bool = False
    """Somebody asked for its cancellation while it ran."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One row of history."""

    job: UUID
    status: str
    epoch: int
    worker: UUID | None


@dataclass(frozen=True, slots=True)
class Lease:
    """What a claim handed out."""

    job: UUID
    epoch: int
    worker: UUID


@dataclass
class Changes:
    """What one open transaction has done, and nobody else sees."""

    rows: dict[UUID, Row | None] = field(default_factory=dict)
    """None: it left for history."""

    ended: list[Ended] = field(default_factory=list)
    letters: Counter[tuple[UUID, int | None]] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    leases: list[Lease] = field(default_factory=list)


@dataclass
class Model:
    """Everything that is committed, and the transactions that are open."""

    now_s: float = 0.0
    rows: dict[UUID, Row] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    letters: Counter[tuple[UUID, int | None]] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    leases: list[Lease] = field(default_factory=list)
    """Every lease that a claim ever handed out; the old ones are what zombies hold."""

    workers: dict[UUID, float] = field(default_factory=dict)
    """When each worker's lease ends."""

    closed: set[str] = field(default_factory=set)
    """Queues that are paused."""

    open: dict[str, Changes] = field(default_factory=dict)
    """The transaction of each session that has one."""

    def begin(self, session: str) -> None:
        self.open[session] = Changes()

    def rollback(self, session: str) -> None:
        self.open.pop(session, None)

    def commit(self, session: str) -> None:
        """Let everybody see what the session's transaction did."""
        changes = self.open.pop(session)
        for job, row in changes.rows.items():
            if row is None:
                self.rows.pop(job, None)
            else:
                self.rows[job] = row
        self.ended += changes.ended
        self.leases += changes.leases
        self.letters += changes.letters
        self.counted += changes.counted

    def seen(self, session: str) -> dict[UUID, Row]:
        """Return the live jobs as the session sees them."""
        rows: dict[UUID, Row | None] = {**self.rows, **self.open[session].rows}
        return {job: row for job, row in rows.items() if row is not None}

    def locked(self, session: str) -> set[UUID]:
        """Return the jobs that another session's transaction has changed."""
        others = (changes for name, changes in self.open.items() if name != session)
        return {job for changes in others for job in changes.rows}

    def lives(self, worker: UUID | None) -> bool:
        return worker is not None and self.workers.get(worker, -1.0) > self.now_s

    def claimable(self, session: str, queues: Iterable[str]) -> dict[UUID, Row]:
        """Return what a claim may take."""
        wanted, locked = set(queues) - self.closed, self.locked(session)
        return {
            job: row
            for job, row in self.seen(session).items()
            if row.status == "pending"
            and row.due_s <= self.now_s
            and row.queue in wanted
            and job not in locked
        }

    def orphans(self, session: str) -> dict[UUID, Row]:
        """Return what a reclaim takes."""
        locked = self.locked(session)
        return {
            job: row
            for job, row in self.seen(session).items()
            if row.status == "running" and not self.lives(row.worker) and job not in locked
        }

    def held(self, session: str, leases: Iterable[Lease], worker: UUID) -> dict[UUID, Row]:
        """Return the jobs of these leases that an acknowledging write by `worker` may change."""
        rows = self.seen(session)
        return {
            lease.job: row
            for lease in leases
            if (row := rows.get(lease.job)) is not None
            and (row.status, row.epoch, row.worker) == ("running", lease.epoch, worker)
        }

    def change(self, session: str, jobs: dict[UUID, Row], to: Callable[[Row], Row]) -> None:
        """Let the session's transaction change these jobs."""
        self.open[session].rows.update({job: to(row) for job, row in jobs.items()})

    def let_go(self, session: str, jobs: dict[UUID, Row], to: Callable[[Row], Row]) -> None:
        """Let a worker let go of these jobs: those that were asked to end are cancelled instead."""
        self.change(session, jobs, to)
        rows = self.seen(session)
        self.end(session, {job: rows[job] for job in jobs if rows[job].asked}, "cancelled")

    def end(self, session: str, jobs: dict[UUID, Row], status: str) -> None:
        """Let these jobs leave for history."""
        changes = self.open[session]
        changes.ended += [Ended(job, status, row.epoch, row.worker) for job, row in jobs.items()]
        changes.rows.update(dict.fromkeys(jobs))


def given_back(row: Row) -> Row:
    """Pending again, unburnt, under a new epoch."""
    return replace(row, status="pending", worker=None, epoch=row.epoch + 1)
