"""Tick: due schedules become jobs, exactly one per tick, whoever leads and whenever it dies.

The jobs of a schedule, their keys and the step of `next_at` are one transaction. The step is a
compare-and-set under the leader's lease, and each job's key names its tick: a leader that is killed in
between leaves nothing, and of two that think they lead one is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg
import structlog

from starforge.clock import failpoint
from starforge.db.leader import Lease
from starforge.db.pool import MAY_PASS, Connection
from starforge.db.statement import sql
from starforge.errors import StarForgeError, told
from starforge.queue.cron import cron
from starforge.queue.enqueue import enqueue_many
from starforge.queue.schedule import Scheduled, ScheduleSettings
from starforge.telemetry.metrics import SCHEDULE_TICKS

log = structlog.get_logger("schedule")

SCHEDULES_MAX = 100
"""Most schedules that one round deals with; the rest is due again at once."""

SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Reckoning:
    """What becomes of a schedule's due ticks."""

    run: list[datetime]
    """The ticks that become jobs, oldest first."""

    skipped: int
    """Missed or paused ticks that become none, as far as they were counted."""

    next_at: datetime


def reckon(schedule: Scheduled, *, grace_s: float, catch_up_max: int) -> Reckoning:
    """Decide what becomes of the ticks from `next_at` to now.

    Ticks of a pause become no jobs. Those no older than the grace always do. Of older ones, the missed:
    none ("skip"), the latest where nothing newer runs ("latest"), or all ("all"); never more than
    `catch_up_max` in all, the newest of them.
    """
    clock, now = cron(schedule.cron, schedule.timezone), schedule.now
    due = clock.newest(schedule.next_at - SECOND, now, most=catch_up_max)
    open_ticks = [tick for tick in due if not _in_pause(schedule, tick)]
    on_time = [tick for tick in open_ticks if tick >= now - timedelta(seconds=grace_s)]
    run = {"skip": on_time, "latest": on_time or open_ticks[-1:], "all": open_ticks}[schedule.missed]
    return Reckoning(run, len(due) - len(run), clock.next(now))


def _in_pause(schedule: Scheduled, tick: datetime) -> bool:
    if schedule.paused_at is None or schedule.paused_until is None:
        return False
    return schedule.paused_at <= tick < schedule.paused_until


async def tick(conn: Connection, lease: Lease) -> bool:
    """Make jobs of the ticks that are due; return whether there may be more.

    A schedule whose ticks cannot become jobs says why in its row and keeps none of the others.
    """
    settings = ScheduleSettings.read()
    due = [Scheduled(**row) for row in await conn.fetch(sql("queue", "schedules_due"), SCHEDULES_MAX)]
    failpoint("schedules_fetched")
    for schedule in due:
        try:
            found = reckon(schedule, grace_s=settings.grace_s, catch_up_max=settings.catch_up_max)
            async with conn.transaction():
                made = await _advance(conn, lease, schedule, found)
                failpoint("schedule_before_commit")
            failpoint("schedule_after_commit")
        except (StarForgeError, asyncpg.PostgresError) as error:
            if isinstance(error, MAY_PASS):
                raise
            log.error("schedule.faulty", schedule=schedule.name, error=told(error))
            await conn.execute(sql("queue", "schedule_fault"), schedule.tenant_id, schedule.name, told(error))
            continue
        if made is None:
            log.warning("schedule.moved_already", schedule=schedule.name, epoch=lease.epoch)
            continue
        SCHEDULE_TICKS.labels(result="run").inc(made)
        SCHEDULE_TICKS.labels(result="held").inc(len(found.run) - made)
        if found.skipped:
            SCHEDULE_TICKS.labels(result="skipped").inc(found.skipped)
            told_of = {"schedule": schedule.name, "missed": schedule.missed, "paused": schedule.paused}
            log.warning("schedule.skipped", ticks=found.skipped, **told_of)
    return len(due) == SCHEDULES_MAX


async def _advance(conn: Connection, lease: Lease, schedule: Scheduled, found: Reckoning) -> int | None:
    """Move the schedule on, enqueue its jobs and return how many are new.

    None where another has done so, or leads now. A job whose key is held is not new: its tick has a job,
    or the type's unique key says that the one before is not over.
    """
    jobs = [schedule.job(tick) for tick in found.run]
    moved = await conn.fetchval(
        sql("queue", "schedule_advance"),
        schedule.tenant_id,
        schedule.name,
        schedule.next_at,
        schedule.cron,
        schedule.timezone,
        found.next_at,
        found.run[-1] if found.run else None,
        jobs[-1].id if jobs else None,
        lease.name,
        lease.holder,
        lease.epoch,
    )
    if moved is None:
        return None
    failpoint("schedule_advanced")
    return sum(answer.new for answer in await enqueue_many(conn, jobs))
