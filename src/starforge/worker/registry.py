"""The registry of workers: who lives, under which lease, and who is known to be gone."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import UUID

import psutil

from starforge import __version__
from starforge.clock import new_id
from starforge.db.budget import share
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.machine import Machine
from starforge.settings import Settings, setting

WORKER = Machine.of(
    "worker",
    [
        # verb       from                 to
        ("register", "", "running"),
        ("stop", "running", "stopping"),
        ("end", "running stopping", "stopped"),
        ("bury", "running stopping", "dead"),
    ],
)


CONCURRENCY_MAX = 1000

GONE = "is gone"

SAME_START_S = 2.0
"""Two looks at one process agree within this; another process with its number started longer ago or later."""


class WorkerSettings(Settings):
    """How a worker behaves."""

    concurrency: int = setting(
        8,
        env="WORKER_CONCURRENCY",
        unit="jobs",
        meaning="Most jobs that one worker runs at once.",
        ge=1,
        le=CONCURRENCY_MAX,
    )
    lease_s: float = setting(
        30.0,
        env="STARFORGE_LEASE_S",
        unit="seconds",
        meaning="A worker that gives no sign for this long is dead and its jobs are run again.",
        ge=1,
        le=3600,
    )
    kept_days: float = setting(
        7.0,
        env="STARFORGE_WORKERS_KEPT_DAYS",
        unit="days",
        meaning="How long a worker that has ended stays in the registry.",
        gt=0,
    )
    grace_s: float = setting(
        25.0,
        env="STARFORGE_GRACE_S",
        unit="seconds",
        meaning="Time that running jobs have to end after a stop was asked for.",
        ge=0,
        le=3600,
    )
    progress_s: float = setting(
        60.0,
        env="STARFORGE_PROGRESS_S",
        unit="seconds",
        meaning="A child whose event loop stands still for this long is killed and its jobs are judged.",
        ge=1,
        le=86400,
    )
    isolated_max: int = setting(
        4,
        env="STARFORGE_ISOLATED_MAX",
        unit="processes",
        meaning="Most processes that one worker keeps for jobs of isolated types.",
        ge=1,
        le=100,
    )
    poll_s: float = setting(
        0.5,
        env="STARFORGE_POLL_S",
        unit="seconds",
        meaning="Longest time between two looks for work while nothing is announced.",
        gt=0,
        le=60,
    )
    metrics_port: int = setting(
        0,
        env="METRICS_PORT",
        unit="port",
        meaning="Port on 127.0.0.1 where `starforge worker` shows its and its children's metrics; 0: none.",
        ge=0,
        le=65535,
    )


@dataclass(frozen=True, slots=True)
class Registration:
    """A worker as it registers."""

    queues: tuple[str, ...]
    types: tuple[str, ...]
    concurrency: int
    high_memory: bool = False
    memory_limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a heartbeat says of the worker beside that it lives."""

    rss_bytes: int = 0
    asked_age_s: float | None = None
    """Seconds since it last asked for work and was answered; None before the first time."""

    finished: int = 0
    """Jobs that its child has finished."""


@cache
def machine_key() -> str:
    """Name the place where a process id means something: this boot, this process namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    if boot.exists() and namespace.exists():
        return f"{boot.read_text().strip()}:{namespace.stat().st_ino}"
    return f"{socket.gethostname()}:{int(psutil.boot_time())}"


async def admit(
    conn: Connection,
    registration: Registration,
    *,
    lease_s: float,
    wanted: int,
    previous_id: UUID | None = None,
) -> tuple[UUID, int]:
    """Enter a new worker with its share of the connections; return its id and how many it may hold.

    Raises: BudgetError where the server has fewer than two left for it.
    """
    async with conn.transaction():
        connections = await share(conn, wanted, machine=machine_key(), pid=os.getpid())
        worker_id = await register(
            conn, registration, lease_s=lease_s, connections=connections, previous_id=previous_id
        )
    return worker_id, connections


async def register(
    conn: Connection,
    registration: Registration,
    *,
    lease_s: float,
    connections: int = 0,
    previous_id: UUID | None = None,
) -> UUID:
    """Enter a new worker, led by this process, and return its id.

    Args:
        registration: What it is there for.
        lease_s: How long it lives without a sign.
        connections: Its share of the server's.
        previous_id: The worker of this supervisor whose child ended before.
    """
    worker_id = new_id()
    await conn.execute(
        sql("worker", "register"),
        worker_id,
        socket.gethostname(),
        machine_key(),
        os.getpid(),
        _started_s(psutil.Process()),
        __version__,
        list(registration.queues),
        list(registration.types),
        registration.concurrency,
        lease_s,
        connections,
        registration.high_memory,
        registration.memory_limit_bytes,
        previous_id,
    )
    return worker_id


async def extend(conn: Connection, worker_id: UUID, *, lease_s: float, vitals: Vitals | None = None) -> bool:
    """Renew the lease and write down how the worker fares; return False when it is over."""
    told = vitals or Vitals()
    renewed = await conn.fetchval(
        sql("worker", "extend"), worker_id, lease_s, told.rss_bytes, told.asked_age_s, told.finished
    )
    return renewed is not None


async def stop(conn: Connection, worker_id: UUID, *, ended: bool, reason: str) -> None:
    """Say that the worker drains (`ended` False) or has ended."""
    await conn.execute(sql("worker", "stop"), worker_id, "stopped" if ended else "stopping", reason)


async def bury(conn: Connection, worker_id: UUID, reason: str) -> bool:
    """Declare dead a worker whose process is known to be gone; return whether it held a lease."""
    return await conn.fetchval(sql("worker", "bury"), worker_id, reason) is not None


async def expire(conn: Connection) -> int:
    """Declare dead every worker whose lease ran out; return how many."""
    return len(await conn.fetch(sql("worker", "expire")))


async def prune(conn: Connection) -> int:
    """Forget the workers that ended longer ago than they are kept; return how many."""
    return len(await conn.fetch(sql("worker", "prune"), WorkerSettings.read().kept_days))


async def gone(conn: Connection) -> list[UUID]:
    """Return the workers of this machine that hold a lease and whose process no longer exists."""
    rows = await conn.fetch(sql("worker", "living"), machine_key())
    return [row["id"] for row in rows if not _lives(row["pid"], row["pid_started_s"])]


def _lives(pid: int, started_s: float) -> bool:
    try:
        process = psutil.Process(pid)
        return (
            process.status() != psutil.STATUS_ZOMBIE and abs(_started_s(process) - started_s) < SAME_START_S
        )
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        # Where /proc hides other users' processes, only a signal tells that one is there.
        return psutil.pid_exists(pid)


def _started_s(process: psutil.Process) -> float:
    """Return when the process started, in seconds since boot: the wall clock may be set, its boot may not."""
    return process.create_time() - psutil.boot_time()
