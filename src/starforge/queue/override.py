"""Overrides: settings that an operator changes at run time, with owner, reason and expiry.

They win over environment and declaration until they expire or are reset. Every worker reads them with its
plan, once a second or when told, and applies them without a restart (F-26, F-32, F-45, F-52, J-33, J-34).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.declare import Rate
from starforge.queue.errors import UnknownOverrideError
from starforge.queue.gate import announce
from starforge.queue.handler import JobType, JobTypes

OverrideScope = Literal["all", "queue", "type", "worker", "key"]


@dataclass(frozen=True, slots=True)
class Overridable:
    """A setting that can be overridden: where, and what it wins over."""

    scopes: tuple[OverrideScope, ...]
    over: str
    """The environment name that `starforge settings` shows, or the words for what a type declares."""

    unit: str
    meaning: str


CATALOGUE: dict[str, Overridable] = {
    "concurrency": Overridable(
        ("worker", "all"), "WORKER_CONCURRENCY", "jobs", "Most jobs that one worker runs at once; 0: none."
    ),
    "batch": Overridable(
        ("worker", "all", "type"),
        "claim batch",
        "jobs",
        "Most jobs that one claim takes, or takes of the type.",
    ),
    "rows": Overridable(
        ("type",),
        "STARFORGE_ETL_BATCH_ROWS",
        "rows",
        "Rows that an attempt of the type sends to the database together.",
    ),
    "attempts": Overridable(
        ("type",), "STARFORGE_MAX_ATTEMPTS", "attempts", "Most attempts of jobs enqueued since."
    ),
    "backoff": Overridable(
        ("type",),
        "STARFORGE_BACKOFF_BASE_S and _MAX_S",
        "seconds",
        "Wait after a failure: first and longest.",
    ),
    "timeout": Overridable(("type",), "timeout of the type", "seconds", "Longest that an attempt may take."),
    "rate": Overridable(("type",), "rate of the type", "starts per second", "Most starts, over all workers."),
    "limit": Overridable(
        ("type", "queue", "key"),
        "limit of the type, queue or key",
        "jobs",
        "Most jobs that run at once, over all workers; of a key: those with this limit key.",
    ),
    "breaker": Overridable(("type",), "STARFORGE_BREAKER_RATIO", "yes/no", "Whether the type has a breaker."),
}
"""Every setting that can be overridden, by name."""


@dataclass(frozen=True, slots=True)
class Override:
    """A setting that was changed at run time."""

    scope: str
    name: str
    setting: str
    value: Any
    owner: str
    reason: str
    created_at: datetime
    expires_at: datetime

    def document(self) -> dict[str, Any]:
        """Return it as an operation's before and after show it."""
        return {
            "value": self.value,
            "owner": self.owner,
            "reason": self.reason,
            "since": self.created_at,
            "until": self.expires_at,
        }


@dataclass(frozen=True, slots=True)
class Lowered:
    """Attempts of a type, for jobs that were enqueued since."""

    attempts: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Overrides:
    """What is overridden for one worker now."""

    concurrency: int | None = None
    batch: int | None = None
    batches: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    attempts: dict[str, Lowered] = field(default_factory=dict)
    backoff: dict[str, tuple[float, float]] = field(default_factory=dict)
    """First and longest wait in seconds."""

    timeout_s: dict[str, float] = field(default_factory=dict)
    rate: dict[str, Rate] = field(default_factory=dict)
    limit: dict[tuple[str, str], int] = field(default_factory=dict)
    """By scope (queue, type or key) and name."""

    @classmethod
    def of(cls, rows: Iterable[Override]) -> Overrides:
        """Put rows together: those of the worker itself win over those of all."""
        found = {(row.scope, row.name if row.scope != "worker" else "", row.setting): row for row in rows}

        def one(setting: str) -> Any:
            row = found.get(("worker", "", setting)) or found.get(("all", "", setting))
            return None if row is None else row.value

        def types(setting: str) -> dict[str, Override]:
            return {
                name: row
                for (scope, name, which), row in found.items()
                if (scope, which) == ("type", setting)
            }

        return cls(
            concurrency=one("concurrency"),
            batch=one("batch"),
            batches={name: row.value for name, row in types("batch").items()},
            rows={name: row.value for name, row in types("rows").items()},
            attempts={name: Lowered(row.value, row.created_at) for name, row in types("attempts").items()},
            backoff={
                name: (row.value["base_s"], row.value["max_s"]) for name, row in types("backoff").items()
            },
            timeout_s={name: row.value for name, row in types("timeout").items()},
            rate={name: Rate(row.value["per_s"], row.value["burst"]) for name, row in types("rate").items()},
            limit={
                (scope, name): row.value for (scope, name, which), row in found.items() if which == "limit"
            },
        )


NONE = Overrides()


def overlaid(types: JobTypes, chosen: Overrides) -> dict[str, JobType]:
    """Return the types that run otherwise than they declare, as they are to run now."""
    changed = {}
    for name in (*chosen.backoff, *chosen.timeout_s, *chosen.rate):
        declared = types.declared(name)
        if declared is None:
            continue
        base_s, max_s = chosen.backoff.get(name, (declared.retry.base_s, declared.retry.max_s))
        changed[name] = replace(
            declared,
            retry=replace(declared.retry, base_s=base_s, max_s=max_s),
            timeout_s=chosen.timeout_s.get(name, declared.timeout_s),
            timeout_set=name in chosen.timeout_s,
            rate=chosen.rate.get(name, declared.rate),
        )
    return changed


async def overrides(conn: Connection) -> list[Override]:
    """Return everything that is overridden now."""
    return [Override(**row) for row in await conn.fetch(sql("queue", "overrides"), None)]


async def overrides_for(conn: Connection, worker_id: UUID) -> Overrides:
    """Return what is overridden for this worker, and for its lives before under the same supervisor."""
    return Overrides.of(Override(**row) for row in await conn.fetch(sql("queue", "overrides"), worker_id))


async def overridden(conn: Connection, scope: OverrideScope, name: str, setting: str) -> Override | None:
    """Return one override, locked until the transaction ends, or None where there is none."""
    row = await conn.fetchrow(sql("queue", "overridden"), scope, name, setting)
    return None if row is None else Override(**row)


async def override(
    conn: Connection,
    scope: OverrideScope,
    name: str,
    setting: str,
    value: object,
    *,
    owner: str,
    reason: str,
    minutes: int,
) -> tuple[Override, bool]:
    """Override a setting; return the override and whether it is different from what it was.

    Overriding again renews it: value, owner, reason and expiry are the new ones, its beginning stays.
    """
    assert scope in CATALOGUE[setting].scopes
    row = await conn.fetchrow(sql("queue", "override"), scope, name, setting, value, owner, reason, minutes)
    await announce(conn)
    if row is not None:
        return Override(**row), True
    as_before = await overridden(conn, scope, name, setting)
    assert as_before is not None
    return as_before, False


async def reset(conn: Connection, scope: OverrideScope, name: str, setting: str) -> Override:
    """Let a setting be again what it is without the override; return the override that ended.

    Raises: UnknownOverrideError when there is none, or it has expired.
    """
    row = await conn.fetchrow(sql("queue", "reset"), scope, name, setting)
    if row is None:
        whose = f"{scope} {name!r}" if name else "all workers"
        raise UnknownOverrideError(f"{setting} of {whose} is not overridden")
    await announce(conn)
    return Override(**row)


async def reset_keys(conn: Connection, names: Iterable[str], setting: str) -> None:
    """Let a setting of limit keys be again what it is without overrides, where there are any."""
    if await conn.fetch(sql("queue", "reset_keys"), list(names), setting):
        await announce(conn)


async def lives(conn: Connection, worker_id: UUID) -> bool:
    """Tell whether a worker holds its lease."""
    return await conn.fetchval(sql("queue", "lives"), worker_id) is not None


async def enqueued_since(conn: Connection, job_ids: Sequence[UUID], since: datetime) -> set[UUID]:
    """Return those of these live jobs that were enqueued at `since` or later."""
    return {row["id"] for row in await conn.fetch(sql("queue", "enqueued_since"), job_ids, since)}


def said(value: object) -> str:
    """Return an override's value in words: base_s 2, max_s 60."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {part:g}" for name, part in value.items())
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
