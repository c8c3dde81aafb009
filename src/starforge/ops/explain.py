"""Explain: why a job, a queue, a worker or a backfill is as it is, and which operation would move it. (X-19)

It reads and changes nothing. The first sentence that is true of the rows is the answer: what stands nearest
to the job comes first (its own status), then what withholds it (gates), then who could take it (workers),
and last who is before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from starforge.backfill.show.status import explanation
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.errors import shortened
from starforge.ops.errors import UnknownThingError
from starforge.queue.gate import Gate, closed_gates
from starforge.queue.handler import HIGH_MEMORY_SUFFIX
from starforge.queue.reads import Depth, depths, live_workers

REASON_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer to "why is it so?"."""

    subject: str
    state: str
    why: str
    moves: str
    """What would move it."""

    command: str = ""
    """The command that does so; empty where waiting is all there is to do."""


async def explain_job(conn: Connection, job_id: UUID) -> Explanation:
    """Explain one job; raise UnknownThingError where the caller's tenant has none of this id."""
    row = await conn.fetchrow(sql("ops", "explain_job"), job_id)
    if row is None:
        dead = await conn.fetchrow(sql("ops", "explain_dead"), job_id)
        if dead is None:
            raise UnknownThingError(f"there is no job {job_id}")
        state = "archived" if dead["archived_at"] else "dead letter"
        return Explanation(
            f"job {job_id}",
            state,
            f"it left the queue for the dead letters at {_at(dead['created_at'])}: {dead['reason']}",
            "a replay of its dead letter",
        )
    told = _EXPLAINED[row["status"]](row, await closed_gates(conn))
    return Explanation(f"job {job_id} ({row['type']}, queue {row['queue']!r})", row["status"], *told)


def _pending(row: asyncpg.Record, gates: Iterable[Gate]) -> tuple[str, ...]:
    if not row["due"]:
        if row["attempts"]:
            why = f"attempt {row['attempts']} of {row['max_attempts']} failed: {_reason(row)}"
            return f"{why}; the next starts at {_at(row['run_after'])}", "its time"
        return f"it is scheduled for {_at(row['run_after'])}", "its time"
    if gate := _withheld(row, gates):
        return gate
    if not row["serving"]:
        return (
            f"no live worker serves queue {row['queue']!r}",
            "a worker for the queue",
            f"starforge worker --queue {row['queue']}",
        )
    if not row["knowing"]:
        many = (
            "the live worker does" if row["serving"] == 1 else f"none of {row['serving']} live workers does"
        )
        not_known = " not" if row["serving"] == 1 else ""
        return (
            f"no worker knows type {row['type']!r}: {many}{not_known}",
            *_who_knows([row["type"]]),
        )
    alone = "it may have killed a worker, so it is run alone; " if row["alone"] else ""
    ahead = (
        f"{row['ahead']} jobs of its kind are due before it" if row["ahead"] else "it is the next of its kind"
    )
    return f"{alone}{ahead}, and the workers that know its type are busy or held by a limit", "a free slot"


def _who_knows(types: list[str]) -> tuple[str, str]:
    """Return which worker would run jobs of these types, and how to start it."""
    if all(type_.endswith(HIGH_MEMORY_SUFFIX) for type_ in types):
        return "a worker with --high-memory whose app has this job type", (
            "starforge worker --high-memory --app MODULE:ATTR"
        )
    return (
        "a worker whose app has this job type (a high-memory type needs --high-memory)",
        "starforge worker --app MODULE:ATTR",
    )


def _withheld(row: asyncpg.Record, gates: Iterable[Gate]) -> tuple[str, ...]:
    names = {("queue", row["queue"]), ("type", row["type"]), ("tenant", row["tenant_id"])}
    names |= {("tag", tag) for tag in row["tags"] or ()}
    for gate in gates:
        if (gate.scope, gate.name) not in names or (gate.cause == "retries" and not row["attempts"]):
            continue
        until = _at(gate.expires_at)
        return (
            f"{gate.scope} {gate.name!r} {gate.told} until {until} by {gate.owner}: {gate.reason}",
            "the end of that",
            gate.undo,
        )
    return ()


def _running(row: asyncpg.Record, _gates: Iterable[Gate]) -> tuple[str, ...]:
    who = f"worker {row['worker_id']} ({row['worker_host']}, pid {row['worker_pid']})"
    if not row["lease_holds"]:
        return f"{who} held it and its lease is over", "the next sweep, which makes it pending again"
    since = f"{who} has had it since {_at(row['updated_at'])}, attempt {row['attempts'] + 1}"
    if row["done"] is not None:
        since += f", {row['done']:g} of {row['total']:g} done" if row["total"] else f", {row['done']:g} done"
    if row["message"]:
        since += f": {row['message']}"
    if row["cancel_reason"] is not None:
        return f"{since}; it was asked to cancel: {row['cancel_reason']}", "its handler's next await"
    return since, "its end, or its timeout", f"starforge job cancel {row['id']}"


def _paused(_row: asyncpg.Record, _gates: Iterable[Gate]) -> tuple[str, ...]:
    return "it was paused itself, by hand or by an operation", "a resume of the job"


def _failed(row: asyncpg.Record, _gates: Iterable[Gate]) -> tuple[str, ...]:
    tried = (
        f"its last attempt ({row['attempts']} of {row['max_attempts']}) failed at {_at(row['updated_at'])}"
    )
    return f"{tried}: {_reason(row)}", "a replay of its dead letter"


def _quarantined(row: asyncpg.Record, _gates: Iterable[Gate]) -> tuple[str, ...]:
    killed = f"it killed {row['kills']} workers; " if row["kills"] else ""
    return f"{killed}it is held back: {_reason(row)}", "a release", f"starforge job release {row['id']}"


def _completed(row: asyncpg.Record, _gates: Iterable[Gate]) -> tuple[str, ...]:
    took = f" after {row['ran_ms'] / 1000:.3g} s" if row["ran_ms"] is not None else ""
    return (
        f"it completed at {_at(row['ended_at'])}{took}, attempt {row['attempts'] + 1}",
        "nothing: it is done",
    )


def _cancelled(row: asyncpg.Record, _gates: Iterable[Gate]) -> tuple[str, ...]:
    return f"it was cancelled at {_at(row['ended_at'])}: {row['reason'] or 'no reason is kept'}", "nothing"


_EXPLAINED: dict[str, Callable[[asyncpg.Record, Iterable[Gate]], tuple[str, ...]]] = {
    "pending": _pending,
    "running": _running,
    "paused": _paused,
    "failed": _failed,
    "quarantined": _quarantined,
    "completed": _completed,
    "cancelled": _cancelled,
}


async def explain_queue(conn: Connection, name: str) -> Explanation:
    """Explain one queue; raise UnknownThingError where no job, gate or live worker names it."""
    held = [depth for depth in await depths(conn) if depth.queue == name]
    gates = [
        gate
        for gate in await closed_gates(conn)
        if (gate.scope, gate.name) == ("queue", name) and gate.cause != "retries"
    ]
    workers = [worker for worker in await live_workers(conn) if name in worker.queues]
    if not (held or gates or workers):
        raise UnknownThingError(f"no job, no pause and no live worker names queue {name!r}")
    due = sum(depth.due for depth in held if depth.status == "pending")
    running = sum(depth.jobs for depth in held if depth.status == "running")
    subject = f"queue {name!r}"
    if gates:
        gate = gates[0]
        return Explanation(
            subject,
            "paused",
            f"{gate.owner} holds it until {_at(gate.expires_at)}: {gate.reason}; {due} jobs wait",
            "a resume",
            gate.undo,
        )
    if not due:
        return Explanation(subject, "drained", f"nothing is due; {running} jobs run", "new jobs")
    if not workers:
        serve = f"starforge worker --queue {name}"
        return Explanation(
            subject, "unserved", f"{due} jobs wait and no live worker serves it", "a worker", serve
        )
    waiting = sorted(depth.type for depth in held if depth.status == "pending" and depth.due)
    if not await conn.fetchval(sql("ops", "explain_queue"), name, waiting):
        named = shortened(", ".join(map(repr, waiting)), REASON_CHARS_MAX)
        return Explanation(
            subject,
            "unknown",
            f"{due} jobs wait, and no live worker knows their type: {named}",
            *_who_knows(waiting),
        )
    slots = sum(worker.concurrency for worker in workers)
    oldest = max((depth.oldest_due_s or 0.0 for depth in held if depth.status == "pending"), default=0.0)
    most = max((depth for depth in held if depth.status == "pending"), key=_due)
    return Explanation(
        subject,
        "working" if running else "waiting",
        f"{due} jobs wait, the oldest for {oldest:.0f} s, most of type {most.type!r};"
        f" {len(workers)} workers with {slots} slots run {running}",
        "time, or more workers",
    )


def _due(depth: Depth) -> int:
    return depth.due


async def explain_worker(conn: Connection, start: str) -> Explanation:
    """Explain the worker whose id begins so; raise UnknownThingError where none or more than one does."""
    rows = await conn.fetch(sql("ops", "explain_worker"), start)
    if len(rows) != 1:
        raise UnknownThingError(
            f"{'no worker' if not rows else 'more than one worker'} has an id that begins with {start!r}"
        )
    row = rows[0]
    subject = f"worker {row['id']} ({row['host']}, pid {row['pid']})"
    if row["state"] in ("stopped", "dead"):
        why = f"it ended at {_at(row['stopped_at'])}: {row['stop_reason'] or 'no reason is kept'}"
        if row["kills"]:
            why += f"; {row['kills']} jobs were running when it was killed"
        return Explanation(subject, row["state"], why, "nothing: a new start is a new worker")
    sign = f"it last gave a sign {row['heartbeat_age_s']:.0f} s ago"
    if not row["lease_holds"]:
        return Explanation(subject, "silent", f"{sign} and its lease is over", "the next sweep buries it")
    works = (
        f"{sign}; it holds {row['holds']} jobs with {row['concurrency']} slots on {', '.join(row['queues'])}"
    )
    if row["state"] == "stopping":
        return Explanation(
            subject, "stopping", f"it was told to stop; {works}", "the end of its running jobs"
        )
    return Explanation(subject, "running", works, "nothing: it works")


async def explain_backfill(conn: Connection, backfill_id: UUID) -> Explanation:
    """Explain one backfill; raise UnknownBackfillError where the caller's tenant has none of this id."""
    asset, state, told, not_resumable = await explanation(conn, backfill_id)
    why = f"{told.why}; a resume would be refused, for {not_resumable}" if not_resumable else told.why
    return Explanation(f"backfill {backfill_id} of {asset}", state, why, told.moves, told.command)


def _reason(row: asyncpg.Record) -> str:
    """Return what last_error says; a string written by hand is the reason itself (D-10)."""
    error: Any = row["last_error"]
    found = error.get("reason") if isinstance(error, dict) else error
    return shortened(str(found or "no reason is kept"), REASON_CHARS_MAX)


def _at(moment: datetime | None) -> str:
    return "an unknown time" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"
