"""What became of a job: its state, its result, and waiting for it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from starforge.clock import monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.errors import JobFailedError, JobUnfinishedError, UnknownJobError
from starforge.queue.job import RESULT_BYTES_SMALL, JobSettings
from starforge.queue.outcome import PermanentError

NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""An escaped NUL, and not an escaped backslash before the letters u0000."""

POLL_S = 0.02
POLL_S_MAX = 1.0

ENDED_BADLY = ("failed", "quarantined", "cancelled")
"""Statuses in which nobody needs to wait any longer; a failed or quarantined job may be run again by hand."""


class BadResultError(PermanentError):
    """What a handler returned cannot be kept; running it again would return the same."""


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as it is now, wherever its row is."""

    id: UUID
    type: str
    queue: str
    status: str
    attempts: int
    max_attempts: int
    run_after: datetime
    created_at: datetime
    completed_at: datetime | None
    reason: str | None
    """Why it failed, is held back, or was cancelled; of a pending job, why its last attempt failed."""

    result: Any
    cancelling: bool
    """It runs, and was asked to end."""

    done: float | None
    total: float | None
    message: str | None


def plain(value: Any) -> Any:
    """Return a pydantic model as JSON values; raise TypeError for what has no JSON form."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"a {type(value).__name__} has no JSON form")


_encode = msgspec.json.Encoder(enc_hook=plain).encode


def encode_result(value: Any, *, what: str = "result") -> str:
    """Return a result or checkpoint as the JSON that is kept; raise BadResultError where it cannot be."""
    try:
        text = _encode(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        if asyncio.iscoroutine(value):
            value.close()  # a plain function made it, and nobody is going to await it
        raise BadResultError(f"the {what} is not JSON: {error}") from None
    if len(text) > RESULT_BYTES_SMALL and len(text) > (limit_bytes := JobSettings.read().result_bytes_max):
        raise BadResultError(
            f"the {what} has {len(text)} bytes; at most {limit_bytes} are kept: store it elsewhere and return"
            " a reference"
        )
    told = text.decode()
    if "\\u0000" in told and NUL.search(told):
        raise BadResultError(f"the {what} holds a NUL character, which Postgres cannot keep")
    return told


async def job_state(conn: Connection, job_id: UUID) -> JobState:
    """Return what became of a job; raise UnknownJobError where there is none, or none any more."""
    row = await conn.fetchrow(sql("queue", "job_state"), job_id)
    if row is None:
        raise UnknownJobError(job_id)
    fields: Mapping[str, Any] = dict(row)
    return JobState(**{**fields, "result": _decoded(fields["result"])})


async def result(conn: Connection, job_id: UUID) -> Any:
    """Return what a completed job returned.

    Raises: JobUnfinishedError; JobFailedError, also where it is held back or was cancelled;
        UnknownJobError.
    """
    return _result(await job_state(conn, job_id))


async def wait_for(look: Callable[[], Awaitable[JobState]], *, timeout_s: float) -> Any:
    """Wait until a job has ended and return its result; `look` tells its state, and holds nothing in between.

    Raises: JobUnfinishedError when it has not ended in time, and what `result` raises.
    """
    until_s, pause_s = monotonic_s() + timeout_s, POLL_S
    while True:
        state = await look()
        left_s = until_s - monotonic_s()
        if state.status == "completed" or state.status in ENDED_BADLY or left_s <= 0:
            return _result(state)
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, POLL_S_MAX)


def _result(state: JobState) -> Any:
    if state.status == "completed":
        return state.result
    if state.status in ENDED_BADLY:
        raise JobFailedError(state.id, state.status, state.reason or "no reason was given")
    raise JobUnfinishedError(f"job {state.id} is {state.status}")


def _decoded(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)
