"""What the queue looks like now: the reads behind the first page and the gauges. Nothing here locks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.gate import Gate, closed_gates
from starforge.queue.known import known_types
from starforge.telemetry.metrics import State

WORKERS_SHOWN_MAX = 50


@dataclass(frozen=True, slots=True)
class Depth:
    """The jobs of one queue, type and status."""

    queue: str
    type: str
    status: str
    jobs: int
    due: int
    """Those whose time to run has come: of pending jobs, the ones that wait."""

    oldest_due_s: float | None
    """Seconds since the oldest of them could have started."""

    retrying: int
    """Those that failed before: of pending jobs, the ones that wait for another attempt."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Completed jobs per second, over two spans."""

    last_minute_per_s: float
    last_5_minutes_per_s: float


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker whose lease holds."""

    id: UUID
    host: str
    pid: int
    version: str
    state: str
    queues: list[str]
    concurrency: int
    started_at: datetime
    heartbeat_age_s: float
    holds: int
    """Jobs that it has claimed and not finished."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What one queue holds of one type."""

    queue: str
    type: str
    waiting: int
    delayed: int
    """Pending jobs whose time to run has not come."""

    running: int
    paused: int
    failed: int
    quarantined: int
    oldest_waiting_s: float | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What `starforge queue ls` shows."""

    queues: list[Contents]
    pauses: list[Gate]
    workers: list[LiveWorker]


async def listing(conn: Connection) -> Listing:
    """Read the queues' contents, the pauses and the live workers; of one moment in a transaction that is."""
    return Listing(contents(await depths(conn)), await closed_gates(conn), await live_workers(conn))


async def depths(conn: Connection) -> list[Depth]:
    """Count the jobs of the hot table by queue, type and status."""
    return [Depth(**row) for row in await conn.fetch(sql("queue", "depths"))]


async def throughput(conn: Connection) -> Throughput:
    """Return how fast jobs were completed lately."""
    row = await conn.fetchrow(sql("queue", "throughput"))
    assert row is not None
    return Throughput(row["last_60_s"] / 60, row["last_300_s"] / 300)


async def live_workers(conn: Connection) -> list[LiveWorker]:
    """Return the live workers, newest first, at most WORKERS_SHOWN_MAX."""
    return [LiveWorker(**row) for row in await conn.fetch(sql("queue", "live_workers"), WORKERS_SHOWN_MAX)]


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The dead letters of one type and class of error."""

    type: str
    error_class: str
    letters: int
    archived: int
    """Those whose job has left the queue."""


async def letters(conn: Connection) -> list[DeadLetters]:
    """Count the dead letters by type and class of error."""
    return [DeadLetters(**row) for row in await conn.fetch(sql("queue", "dead_letters"))]


async def dead_letters(conn: Connection) -> dict[str, int]:
    """Count the dead letters by type."""
    counted: dict[str, int] = {}
    for found in await letters(conn):
        counted[found.type] = counted.get(found.type, 0) + found.letters
    return counted


def waiting(found: Iterable[Depth]) -> dict[tuple[str, str], int]:
    """Return the waiting jobs by (queue, type): pending, and due.

    A queue and type that has jobs, but none that waits, is there with 0.
    """
    counted: dict[tuple[str, str], int] = {}
    for depth in found:
        due = depth.due if depth.status == "pending" else 0
        counted[depth.queue, depth.type] = counted.get((depth.queue, depth.type), 0) + due
    return counted


def contents(found: Iterable[Depth]) -> list[Contents]:
    """Put the statuses of each queue and type together, in the order of the depths."""
    grouped: dict[tuple[str, str], dict[str, Depth]] = {}
    for depth in found:
        grouped.setdefault((depth.queue, depth.type), {})[depth.status] = depth
    made = []
    for (queue, job_type), of in grouped.items():
        jobs = {status: depth.jobs for status, depth in of.items()}
        pending = of.get("pending")
        made.append(
            Contents(
                queue=queue,
                type=job_type,
                waiting=pending.due if pending else 0,
                delayed=pending.jobs - pending.due if pending else 0,
                running=jobs.get("running", 0),
                paused=jobs.get("paused", 0),
                failed=jobs.get("failed", 0),
                quarantined=jobs.get("quarantined", 0),
                oldest_waiting_s=pending.oldest_due_s if pending else None,
            )
        )
    return made


async def state(conn: Connection) -> State:
    """Read what the gauges show; of one moment in a transaction that is. What is known starts at 0."""
    at = await conn.fetchval("SELECT extract(epoch FROM sf_now())::float8")
    known = await known_types(conn)
    found = await depths(conn)
    pending = {(depth.queue, depth.type): depth for depth in found if depth.status == "pending"}
    lanes = dict.fromkeys([*known, *((depth.queue, depth.type) for depth in found)], 0)
    dead = await letters(conn)
    return State(
        at_s={(): at},
        waiting=lanes | waiting(found),
        oldest_s=lanes | {lane: depth.oldest_due_s or 0.0 for lane, depth in pending.items()},
        retrying=lanes | {lane: depth.retrying for lane, depth in pending.items()},
        dead_letters={(job_type, ""): 0 for _, job_type in known}
        | {(letter.type, letter.error_class): letter.letters for letter in dead},
        archived={(job_type,): 0 for _, job_type in known} | _archived(dead),
    )


def _archived(dead: Iterable[DeadLetters]) -> dict[tuple[str], int]:
    counted: dict[tuple[str], int] = {}
    for letter in dead:
        counted[(letter.type,)] = counted.get((letter.type,), 0) + letter.archived
    return counted
