"""Schedules: jobs that come by the clock. An app declares them, its workers write them down at their start.

A schedule's row holds the first tick that was not dealt with (`next_at`). The leader makes one job of each
tick (queue/tick.py). What an app declares no more stays, and goes on, until somebody removes it: a worker
of an older version may still be there to declare it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from uuid import UUID

import msgspec
import structlog

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.errors import MisusedError
from starforge.queue.cron import cron
from starforge.queue.errors import ScheduleError, SchedulePausedError, UnknownScheduleError
from starforge.queue.handler import JobType
from starforge.queue.job import Key, NewJob
from starforge.settings import HomeSettings, Settings, setting

log = structlog.get_logger("schedule")

NAME_CHARS_MAX = 200
SCHEDULED_AT = "scheduled_at"
KEY_S = 7 * 86400.0
"""A tick's key outlasts its job: nobody can be at one tick for a week."""

Missed = Literal["skip", "latest", "all"]


class ScheduleSettings(Settings):
    """What becomes of ticks that nobody was there for."""

    grace_s: float = setting(
        60.0,
        env="STARFORGE_SCHEDULE_GRACE_S",
        unit="seconds",
        meaning="A tick that no leader came to within this time is missed: its schedule says what then.",
        ge=1,
        le=86400,
    )
    catch_up_max: int = setting(
        100,
        env="STARFORGE_SCHEDULE_CATCH_UP_MAX",
        unit="jobs",
        meaning="Most jobs that one schedule makes of the ticks it missed; the newest ones are kept.",
        ge=1,
        le=10_000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule as an app declares it.

    Raises: ScheduleError with what is wrong, here and not at its first tick.
    """

    name: str
    cron: str
    type: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    timezone: str = "UTC"
    missed: Missed = "latest"
    """Ticks that nobody was there for: skip them, run the latest, or run all (bounded by a setting)."""

    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    limit_key: str = ""
    passes_time: bool = False
    """The handler takes `scheduled_at`: the tick's time goes into the payload."""

    same: Key | None = None
    """The type's unique key: while it holds, ticks become no jobs of their own. None: each tick is one."""

    tenant: str | None = None
    """Tenant of its jobs; None means TENANT_ID."""

    def __post_init__(self) -> None:
        what = f"schedule {self.name!r}"
        if not 0 < len(self.name) <= NAME_CHARS_MAX:
            raise ScheduleError(f"{what}: a name has 1 to {NAME_CHARS_MAX} characters")
        if self.missed not in get_args(Missed):
            raise ScheduleError(f"{what}: missed={self.missed!r} is none of {', '.join(get_args(Missed))}")
        try:
            cron(self.cron, self.timezone)
        except ScheduleError as error:
            raise ScheduleError(f"{what}: {error}") from None
        try:
            msgspec.json.encode(dict(self.payload))
        except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise ScheduleError(f"{what}: its payload is not JSON: {error}") from None

    def of_type(self, job_type: JobType | None) -> Schedule:
        """Return the schedule with what its job type says where it says nothing itself.

        Raises: ScheduleError where its payload does not fit the handler.
        """
        if job_type is None:
            return self
        signature, payload = job_type.signature, dict(self.payload)
        passes_time = signature is not None and SCHEDULED_AT in signature.fields
        if signature is not None:
            try:
                signature.encode({**payload, SCHEDULED_AT: datetime.now(UTC)} if passes_time else payload)
            except MisusedError as error:
                raise ScheduleError(f"schedule {self.name!r}: {error}") from None
        return replace(
            self,
            queue=job_type.queue if self.queue is None else self.queue,
            priority=job_type.priority if self.priority is None else self.priority,
            max_attempts=job_type.max_attempts if self.max_attempts is None else self.max_attempts,
            limit_key=job_type.limit.key_of(payload) if job_type.limit else "",
            same=job_type.unique.of(payload) if job_type.unique else None,
            passes_time=passes_time,
        )


class Schedules:
    """The schedules of an app; two of one name are refused."""

    def __init__(self) -> None:
        self._by_name: dict[str, Schedule] = {}

    def add(self, schedule: Schedule) -> None:
        """Take a schedule in; raise ScheduleError where its name is taken."""
        if schedule.name in self._by_name:
            raise ScheduleError(f"there are two schedules {schedule.name!r}: give one another name")
        self._by_name[schedule.name] = schedule

    def __iter__(self) -> Iterator[Schedule]:
        return iter(self._by_name.values())


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A schedule as the database has it."""

    tenant_id: str
    name: str
    type: str
    payload: dict[str, Any]
    passes_time: bool
    queue: str
    priority: int
    max_attempts: int | None
    limit_key: str
    same: dict[str, Any] | None
    cron: str
    timezone: str
    missed: str
    next_at: datetime
    last_at: datetime | None
    last_job_id: UUID | None
    fault: str | None
    paused_by: str | None
    pause_reason: str | None
    paused_at: datetime | None
    paused_until: datetime | None
    declared_by: str
    declared_at: datetime
    now: datetime
    """The database's time when this was read."""

    @property
    def paused(self) -> bool:
        """Whether a pause holds now."""
        return self.paused_until is not None and self.paused_until > self.now

    @property
    def declared_s_ago(self) -> float:
        """Seconds since a worker that knows it started."""
        return (self.now - self.declared_at).total_seconds()

    def job(self, tick: datetime) -> NewJob:
        """Make the job of a tick, with what makes it the only one; a tag finds it again."""
        same = Key(f"schedule:{self.name}:{tick:%Y-%m-%dT%H:%M:%SZ}", within_s=KEY_S)
        return replace(self.job_now(tick), unique=same if self.same is None else Key(**self.same))

    def job_now(self, tick: datetime) -> NewJob:
        """Make a job beside the ticks."""
        told = {SCHEDULED_AT: tick} if self.passes_time else {}
        return NewJob(
            type=self.type,
            payload={**self.payload, **told},
            queue=self.queue,
            priority=self.priority,
            max_attempts=self.max_attempts,
            limit_key=self.limit_key,
            tenant=self.tenant_id,
            tags=(f"schedule:{self.name}",),
        )

    def terms(self) -> dict[str, Any]:
        """Return what a person decides on: all of it that does not move by itself from tick to tick."""
        shown: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "queue": self.queue,
            "cron": self.cron,
            "timezone": self.timezone,
            "missed": self.missed,
            "declared_by": self.declared_by,
            "paused": self.paused,
        }
        if self.paused:
            shown |= {"owner": self.paused_by, "reason": self.pause_reason, "until": self.paused_until}
        return shown

    def document(self) -> dict[str, Any]:
        """Return the schedule as lists show it."""
        return {
            **self.terms(),
            "next_at": self.next_at,
            "last_at": self.last_at,
            "last_job_id": self.last_job_id,
            "fault": self.fault,
            "declared_at": self.declared_at,
            "declared_s_ago": round(self.declared_s_ago),
        }


async def declare(conn: Connection, schedules: Iterable[Schedule], *, by: str) -> int:
    """Write down the schedules of an app; return how many are new or different now.

    A changed cron or time zone starts from now: the next tick is the first of the new kind. Otherwise the
    row keeps its place in time, and a pause stays.
    """
    changed = 0
    for schedule in schedules:
        now = await conn.fetchval("SELECT sf_now()")
        row = await conn.fetchrow(
            sql("queue", "schedule_declare"),
            HomeSettings.read().tenant if schedule.tenant is None else schedule.tenant,
            schedule.name,
            schedule.type,
            dict(schedule.payload),
            schedule.passes_time,
            "default" if schedule.queue is None else schedule.queue,
            schedule.priority or 0,
            schedule.max_attempts,
            schedule.limit_key,
            None if schedule.same is None else asdict(schedule.same),
            schedule.cron,
            schedule.timezone,
            schedule.missed,
            cron(schedule.cron, schedule.timezone).next(now),
            by,
        )
        assert row is not None
        if row["was_by"] not in (None, by):
            log.warning("schedule.declared_by_another", schedule=schedule.name, was=row["was_by"], now=by)
        changed += row["changed"]
    return changed


async def schedules(conn: Connection) -> list[Scheduled]:
    """Return every schedule that the connection's role and tenant may see, by name."""
    return [Scheduled(**row) for row in await conn.fetch(sql("queue", "schedules"))]


async def find(conn: Connection, tenant: str, name: str) -> Scheduled:
    """Return a schedule, locked until the transaction ends; raise UnknownScheduleError for no such one."""
    row = await conn.fetchrow(sql("queue", "schedule"), tenant, name)
    if row is None:
        raise UnknownScheduleError(f"there is no schedule {name!r}")
    return Scheduled(**row)


async def pause(
    conn: Connection, tenant: str, name: str, *, owner: str, reason: str, minutes: int
) -> Scheduled:
    """Let no tick become a job from now on for `minutes`; return the schedule as it is then.

    A pause of a paused schedule renews it. Raises: UnknownScheduleError.
    """
    await conn.execute(sql("queue", "schedule_pause"), tenant, name, owner, reason, minutes)
    return await find(conn, tenant, name)


async def resume(conn: Connection, tenant: str, name: str) -> Scheduled:
    """End the pause; ticks of its time are not caught up. Return the schedule as it is then.

    Raises: UnknownScheduleError; SchedulePausedError when it is not paused.
    """
    if await conn.fetchval(sql("queue", "schedule_resume"), tenant, name) is None:
        await find(conn, tenant, name)
        raise SchedulePausedError(f"schedule {name!r} is not paused")
    return await find(conn, tenant, name)


async def remove(conn: Connection, tenant: str, name: str) -> None:
    """Forget a schedule; raise UnknownScheduleError where there is none."""
    if await conn.fetchval(sql("queue", "schedule_remove"), tenant, name) is None:
        raise UnknownScheduleError(f"there is no schedule {name!r}")
