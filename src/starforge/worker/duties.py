"""What a leader does for the queue and its workers; an app hands upkeep the tasks of other rooms."""

from __future__ import annotations

from functools import partial

import structlog

from starforge.clock import failpoint, monotonic_s
from starforge.db.pool import Connection
from starforge.queue import minutes, prune
from starforge.queue.breaker import watch_breakers
from starforge.queue.history import (
    STRAYS_BATCH,
    Daily,
    HistorySettings,
    drop_partitions,
    drop_strays,
    make_partitions,
)
from starforge.queue.kill import prune_kills
from starforge.queue.reclaim import reclaim
from starforge.queue.tick import tick
from starforge.telemetry.state import State
from starforge.worker import registry
from starforge.worker.state import read_state
from starforge.worker.upkeep import Task, in_batches, unfenced

log = structlog.get_logger("upkeep")

TICK_S = 1.0
RESCUE_S = 2.0
BREAKERS_S = 2.0
SAMPLE_S = 5.0
GAUGES_S = 15.0
GAUGES_S_MAX = 3 * GAUGES_S
"""Gauges that were read longer ago are not shown."""

RECLAIM_S = 30.0
RECLAIM_SHARE_MAX = 0.02
"""It reads the whole table, dead rows and all; who died is seen by `rescue`, which reclaims at once."""

COMPACT_S = 60.0
PRUNE_S = 600.0
HOURLY_S = 3600.0


def duties() -> list[Task]:
    """Return the tasks, the most urgent first."""
    return [
        Task("rescue", RESCUE_S, unfenced(rescue)),
        Task("schedules", TICK_S, tick),
        Task("reclaim", RECLAIM_S, unfenced(sweep), share_max=RECLAIM_SHARE_MAX),
        Task("breakers", BREAKERS_S, unfenced(watch_breakers)),
        Task("depths", SAMPLE_S, unfenced(minutes.sample)),
        *_by_the_day("job_history", "history"),
        *_by_the_day("log_lines", "logs"),
        Task("minutes_compact", COMPACT_S, in_batches(minutes.compact, minutes.COMPACT_BATCH)),
        Task("minutes_prune", HOURLY_S, in_batches(minutes.prune_minutes, minutes.MINUTES_BATCH)),
        Task("keys", PRUNE_S, in_batches(prune.prune_keys, prune.PRUNE_BATCH)),
        Task("progress", PRUNE_S, in_batches(prune.prune_progress, prune.PRUNE_BATCH)),
        Task("gates", PRUNE_S, unfenced(prune.prune_gates)),
        Task("tokens", PRUNE_S, unfenced(prune.prune_tokens)),
        Task("workers", HOURLY_S, unfenced(registry.prune)),
        Task("kills", HOURLY_S, unfenced(prune_kills)),
    ]


def _by_the_day(table: Daily, name: str) -> list[Task]:
    """Return the tasks that keep a table's daily partitions ahead and forget its old days."""
    return [
        Task(f"{name}_ahead", HOURLY_S, unfenced(partial(make_partitions, table=table))),
        Task(f"{name}_retention", HOURLY_S, unfenced(partial(forget, table=table))),
        Task(f"{name}_strays", HOURLY_S, in_batches(partial(strays, table=table), STRAYS_BATCH)),
    ]


class Gauges:
    """The gauges of the database's state on the page of the worker that leads: of one worker at a time."""

    def __init__(self) -> None:
        self._state: State | None = None
        self._read_s = 0.0

    def task(self) -> Task:
        """Return the task that reads them."""
        return Task("gauges", GAUGES_S, unfenced(self._read))

    async def _read(self, conn: Connection) -> None:
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            self._state = await read_state(conn)
        self._read_s = monotonic_s()

    def forget(self) -> None:
        """Another leads now, and shows them."""
        self._state = None

    def shown(self) -> State:
        """Return what to show: nothing where another leads, or where the last reading is too old."""
        state = self._state
        return State() if state is None or monotonic_s() - self._read_s > GAUGES_S_MAX else state


async def rescue(conn: Connection) -> None:
    """Declare dead whose lease ran out, and make their jobs pending in the same transaction."""
    async with conn.transaction():
        dead = await registry.expire(conn)
        failpoint("rescue_expired")
        jobs = await reclaim(conn) if dead else 0
    if dead:
        log.warning("job.reclaimed", workers=dead, jobs=jobs)


async def sweep(conn: Connection) -> None:
    """Make pending what no living worker holds, whatever became of its worker."""
    if jobs := await reclaim(conn):
        log.warning("job.reclaimed", workers=0, jobs=jobs)


async def forget(conn: Connection, table: Daily) -> None:
    """Drop the days that are kept no longer, whole."""
    dropped = await drop_partitions(conn, table, kept_days=HistorySettings.read().days(table))
    if dropped:
        log.info("history.dropped", partitions=dropped)


async def strays(conn: Connection, table: Daily) -> int:
    """Delete old rows that found no partition of their day."""
    return await drop_strays(conn, table, kept_days=HistorySettings.read().days(table))
