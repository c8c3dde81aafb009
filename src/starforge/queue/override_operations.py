"""Operations on overrides: settings changed at run time, each with its `reset`.

What is set here wins over environment and declaration, has an owner, a reason and an end, and reaches
every live worker within seconds, without a restart.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from msgspec import Meta

from starforge.operation import Act, Caller, Change, operation
from starforge.queue import gate, override
from starforge.queue.errors import UnknownWorkerError
from starforge.queue.gate import Scope
from starforge.queue.gate_operations import Minutes, Name, WhyNot, minutes_or_default, until
from starforge.queue.override import Override, OverrideScope, said

Why = Annotated[str, "Why; it is shown wherever the override is."]
Worker = Annotated[UUID | None, "Only this worker; else every one."]
Jobs = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=7 * 86_400)]


@operation("worker concurrency", role="operator", inverse="worker concurrency reset")
async def concurrency(
    caller: Caller,
    jobs: Annotated[int, Meta(ge=0, le=1000), "Most jobs that a worker runs at once; 0: it starts none."],
    *,
    reason: Why,
    worker: Worker = None,
    minutes: Minutes = None,
) -> Change:
    """Have workers run at most JOBS at once; those that run too many start none until enough have ended."""
    return await _set(caller, *await _whose(caller, worker), "concurrency", jobs, reason, minutes)


@operation("worker batch", role="operator", inverse="worker batch reset")
async def batch(
    caller: Caller,
    jobs: Annotated[Jobs, "Most jobs that one claim takes."],
    *,
    reason: Why,
    worker: Worker = None,
    minutes: Minutes = None,
) -> Change:
    """Have workers claim at most JOBS at a time."""
    return await _set(caller, *await _whose(caller, worker), "batch", jobs, reason, minutes)


@operation("type batch", role="operator", inverse="type batch reset")
async def type_batch(
    caller: Caller,
    name: Name,
    jobs: Annotated[Jobs, "Most jobs of the type that one claim takes."],
    *,
    reason: Why,
    minutes: Minutes = None,
) -> Change:
    """Have workers claim at most JOBS of type NAME at a time."""
    return await _set(caller, "type", name, "batch", jobs, reason, minutes)


@operation("type rows", role="operator", inverse="type rows reset")
async def type_rows(
    caller: Caller,
    name: Name,
    rows: Annotated[int, Meta(ge=1, le=100_000), "Most rows that are sent to the database together."],
    *,
    reason: Why,
    minutes: Minutes = None,
) -> Change:
    """Have attempts of type NAME send at most ROWS rows to the database together: it takes less memory."""
    return await _set(caller, "type", name, "rows", rows, reason, minutes)


@operation("type attempts", role="operator", inverse="type attempts reset")
async def attempts(
    caller: Caller,
    name: Name,
    attempts: Annotated[int, Meta(ge=1, le=1000), "Failures after which such a job is given up."],
    *,
    reason: Why,
    minutes: Minutes = None,
) -> Change:
    """Give up jobs of type NAME that are enqueued from now on after ATTEMPTS failures, if they allow more.

    It is looked at when an attempt fails, so that it holds for jobs however they are enqueued; no job
    is changed, and when it ends every job has its own number of attempts again.
    """
    return await _set(caller, "type", name, "attempts", attempts, reason, minutes)


@operation("type backoff", role="operator", inverse="type backoff reset")
async def backoff(
    caller: Caller,
    name: Name,
    *,
    base_s: Annotated[
        float, Meta(ge=0, le=86_400), "Wait after the first failure; doubles with each further."
    ],
    max_s: Annotated[float, Meta(ge=0, le=7 * 86_400), "Longest wait."],
    reason: Why,
    minutes: Minutes = None,
) -> Change:
    """Have jobs of type NAME that fail from now on wait otherwise before their next attempt."""
    return await _set(caller, "type", name, "backoff", {"base_s": base_s, "max_s": max_s}, reason, minutes)


@operation("type timeout", role="operator", inverse="type timeout reset")
async def timeout(
    caller: Caller,
    name: Name,
    seconds: Annotated[Seconds, "Longest that an attempt may take."],
    *,
    reason: Why,
    minutes: Minutes = None,
) -> Change:
    """End attempts on jobs of type NAME that start from now on after SECONDS."""
    return await _set(caller, "type", name, "timeout", seconds, reason, minutes)


@operation("type rate", role="operator", inverse="type rate reset")
async def rate(
    caller: Caller,
    name: Name,
    per_s: Annotated[float, Meta(gt=0, le=1_000_000), "Starts per second, over all workers."],
    *,
    reason: Why,
    burst: Annotated[
        Jobs | None, "Starts that may come at once; else a tenth of a second's, at least 1."
    ] = None,
    minutes: Minutes = None,
) -> Change:
    """Start at most PER_S jobs of type NAME a second, over all workers."""
    value = {"per_s": per_s, "burst": burst or max(1, int(per_s / 10))}
    return await _set(caller, "type", name, "rate", value, reason, minutes)


@operation("type limit", role="operator", inverse="type limit reset")
async def type_limit(
    caller: Caller,
    name: Name,
    jobs: Annotated[int, Meta(ge=0, le=1_000_000), "Jobs of the type that run at once, over all workers."],
    *,
    reason: Why,
    minutes: Minutes = None,
) -> Change:
    """Run at most JOBS of type NAME at once, over all workers; what runs too many ends first."""
    return await _set(caller, "type", name, "limit", jobs, reason, minutes)


@operation("queue limit", role="operator", inverse="queue limit reset")
async def queue_limit(
    caller: Caller,
    name: Name,
    jobs: Annotated[int, Meta(ge=0, le=1_000_000), "Jobs of the queue that run at once, over all workers."],
    *,
    reason: Why,
    minutes: Minutes = None,
) -> Change:
    """Run at most JOBS of queue NAME at once, over all workers; what runs too many ends first."""
    return await _set(caller, "queue", name, "limit", jobs, reason, minutes)


def _declare_resets() -> None:
    """Declare `… reset` for each of the operations above."""

    def of_name(scope: OverrideScope, setting: str) -> Act:
        async def reset(caller: Caller, name: Name, *, reason: WhyNot = "") -> Change:
            return await _reset(caller, scope, name, setting)

        reset.__doc__ = f"End the override of the {setting} of {scope} NAME."
        return reset

    def of_workers(setting: str) -> Act:
        async def reset(caller: Caller, *, worker: Worker = None, reason: WhyNot = "") -> Change:
            if worker is None:
                return await _reset(caller, "all", "", setting)
            return await _reset(caller, "worker", str(worker), setting)

        reset.__doc__ = f"End the override of the {setting} of every worker, or of one."
        return reset

    resets = {
        "worker concurrency": of_workers("concurrency"),
        "worker batch": of_workers("batch"),
        "queue limit": of_name("queue", "limit"),
    }
    for setting in ("batch", "rows", "attempts", "backoff", "timeout", "rate", "limit"):
        resets[f"type {setting}"] = of_name("type", setting)
    for name, act in resets.items():
        operation(f"{name} reset", role="operator", inverse=name)(act)


_declare_resets()


async def _whose(caller: Caller, worker: UUID | None) -> tuple[OverrideScope, str]:
    """Return scope and name of an override of one worker, or of all; raise UnknownWorkerError."""
    if worker is None:
        return "all", ""
    if not await override.lives(caller.conn, worker):
        raise UnknownWorkerError(f"no live worker is {worker}")
    return "worker", str(worker)


async def _set(
    caller: Caller,
    scope: OverrideScope,
    name: str,
    setting: str,
    value: object,
    reason: str,
    minutes: int | None,
) -> Change:
    before = await override.overridden(caller.conn, scope, name, setting)
    now, changed = await override.override(
        caller.conn,
        scope,
        name,
        setting,
        value,
        owner=caller.actor,
        reason=reason,
        minutes=minutes_or_default(minutes),
    )
    unknown = await _unknown(caller, scope, name)
    return Change(
        summary=f"{setting} of {_of(scope, name)} is {said(value)} until {until(now.expires_at)}{unknown}",
        matched=1,
        changed=int(changed),
        sample=(name or "all workers",),
        before=_document(before),
        after=now.document(),
    )


async def _reset(caller: Caller, scope: OverrideScope, name: str, setting: str) -> Change:
    before = await override.reset(caller.conn, scope, name, setting)
    return Change(
        summary=(
            f"{setting} of {_of(scope, name)} is as it was before;"
            f" {before.owner} had set it to {said(before.value)}: {before.reason}"
        ),
        matched=1,
        changed=1,
        sample=(name or "all workers",),
        before=before.document(),
        after={},
        undo={**_as_set(setting, before.value), "reason": before.reason},
    )


def _as_set(setting: str, value: Any) -> dict[str, Any]:
    """Return a value as the arguments that set it."""
    if isinstance(value, dict):
        return value
    return {{"rows": "rows", "attempts": "attempts", "timeout": "seconds"}.get(setting, "jobs"): value}


async def _unknown(caller: Caller, scope: OverrideScope, name: str) -> str:
    of: Scope
    if scope == "queue":
        of = "queue"
    elif scope == "type":
        of = "type"
    else:
        return ""
    known = (await gate.held(caller.conn, of, name)).known
    return "" if known else f"; no job and no live worker names this {scope}"


def _document(found: Override | None) -> dict[str, Any]:
    return {} if found is None else found.document()


def _of(scope: str, name: str) -> str:
    return f"{scope} {name!r}" if name else "every worker"
