"""Burial: a worker whose process died is declared dead, and its jobs are judged, in one transaction.

The supervisor buries its own child, having seen it die. What it knows it first notes in the in-flight
record, so that nothing is lost where the database is away. A worker whose supervisor died too is buried by
its heirs: any worker that shares its home, by its record; any worker of its machine, by its process number.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from time import monotonic_ns
from typing import Any
from uuid import UUID

import msgspec
import structlog

from starforge import __version__
from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.errors import storable
from starforge.queue.kill import Blamed, Cause, Death, blame
from starforge.worker import registry
from starforge.worker.inflight import InFlight, left_alive, left_behind
from starforge.worker.memory import Governor
from starforge.worker.outcome import CodeSettings
from starforge.worker.process import SIGKILL, in_words

log = structlog.get_logger("worker")

STACKS_CHARS_MAX = 8000
LOG_LINES_MAX = 50
LIKELY_SHARE = 0.9
"""A worker that was killed with this much of its memory in use was likely killed for that."""

LOCKED_LOOKS = 10
LOCKED_S = 0.05
"""A process that died may have left a statement behind that holds its jobs for an instant."""


class Ending(msgspec.Struct, frozen=True):
    """How a worker's child ended, and what ran in it then; None: nobody knows what ran."""

    cause: Cause
    words: str
    evidence: dict[str, Any] = {}
    running: dict[str, float] | None = {}


def killed_by_us(words: str) -> Ending:
    """Return the ending of a child that its supervisor killed for no fault of its jobs."""
    return Ending("unknown", words)


def ending_of(
    status: int,
    record: InFlight,
    governor: Governor,
    *,
    killed_for_memory: bool,
    stalled_s: float | None,
    log_lines: list[str],
) -> Ending:
    """Say how a child ended that its supervisor did not want to end.

    Args:
        status: Its exit status, or a signal's number with a minus.
        record: What it marked.
        governor: What was measured of its memory.
        killed_for_memory: Whether the kernel has just killed somebody for want of memory.
        stalled_s: For how long it had made no progress; None where that is not why it ended.
        log_lines: The last that it wrote.
    """
    said, _ = record.noted()
    cause: Cause = "exit" if status >= 0 else "signal"
    words = in_words(status)
    if stalled_s is not None:
        cause, words = "stalled", f"made no progress for {stalled_s:g} s and was killed"
    elif status == -SIGKILL and killed_for_memory:
        cause, words = "oom", f"{words}, out of memory by the kernel's count"
    elif status == -SIGKILL and (share := _memory_share(governor)) >= LIKELY_SHARE:
        cause, words = "oom", f"{words}, likely out of memory: {share:.0%} of its limit was in use"
    elif status == -SIGKILL:
        words = f"{words}, by whom is not known"
    evidence = {
        "exit_status": status,
        "memory": governor.curve(),
        "log": [storable(line) for line in log_lines[-LOG_LINES_MAX:]],
        "stacks": storable(said[-STACKS_CHARS_MAX:]),
        **_place(),
    }
    # A job with a process to itself may have filled the memory and had the child killed in its stead.
    return Ending(cause, words, evidence, _running(record, monotonic_ns(), apart=cause == "oom"))


def _memory_share(governor: Governor) -> float:
    """Return how much of its limit the worker used when it was last measured; 0 where there is none."""
    if governor.limit is None:
        return 0.0
    return governor.limit.used(governor.memory.rss_bytes) / governor.limit.bytes


def _place() -> dict[str, str]:
    code = CodeSettings.read().version
    return {"version": __version__, "code_version": code, "host": socket.gethostname()}


def _running(record: InFlight, until_ns: int, *, apart: bool) -> dict[str, float]:
    return {str(mark.job_id): mark.ran_s(until_ns) for mark in record.marks() if apart or not mark.apart}


async def bury(conn: Connection, worker_id: UUID, ending: Ending) -> Blamed | None:
    """Declare a worker dead and judge its jobs; None where its lease was over already."""
    running = None if ending.running is None else {UUID(job): ran_s for job, ran_s in ending.running.items()}
    async with conn.transaction():
        if not await registry.bury(conn, worker_id, f"its process {ending.words}"):
            return None
        death = Death(ending.cause, ending.words, ending.evidence)
        buried = await _judge(conn, worker_id, death, running)
        failpoint("before_burial_commit")
    failpoint("burial_committed")
    _report(worker_id, ending, buried)
    return buried


async def _judge(
    conn: Connection, worker_id: UUID, death: Death, running: Mapping[UUID, float] | None
) -> Blamed:
    """Blame as often as it takes; what stays locked is left to the next sweep."""
    found = Blamed()
    for _ in range(LOCKED_LOOKS):
        more = await blame(conn, worker_id, death, running)
        found = Blamed(
            found.jobs + more.jobs,
            found.guilty + more.guilty,
            found.suspects + more.suspects,
            found.quarantined + more.quarantined,
            more.locked,
        )
        if not more.locked:
            break
        await asyncio.sleep(LOCKED_S)
    return found


def _report(worker_id: UUID, ending: Ending, buried: Blamed) -> None:
    blamed = buried.guilty or buried.suspects
    (log.error if blamed else log.warning)(
        "worker.buried",
        worker_id=str(worker_id),
        cause=ending.cause,
        reason=ending.words,
        jobs=buried.jobs,
        guilty=buried.guilty,
        suspects=buried.suspects,
        quarantined=buried.quarantined,
    )


async def bury_the_gone(conn: Connection, url: str) -> int:
    """Bury the workers of this home and of this machine whose processes are gone; return how many.

    So the jobs of a killed worker need not wait for its lease. Should such a process live on in some
    way, its writes are refused all the same: reclaiming raises the epoch.
    """
    buried = 0
    for record in left_behind(url):
        try:
            buried += await bury(conn, record.worker_id, _left_ending(record)) is not None
        except BaseException:
            record.close()
            raise
        record.remove()
    for worker_id in await registry.gone(conn):
        if not left_alive(worker_id):
            nobody_knows = Ending("unknown", registry.GONE, running=None)
            buried += await bury(conn, worker_id, nobody_knows) is not None
    return buried


def _left_ending(record: InFlight) -> Ending:
    """Say how a worker ended of which nothing is left but its record."""
    said, noted = record.noted()
    if noted is not None:
        try:
            return msgspec.json.decode(noted, type=Ending)
        except msgspec.MsgspecError as error:
            log.warning("inflight.unreadable", worker_id=str(record.worker_id), error=str(error))
    if record.stopping:
        return Ending("unknown", f"{registry.GONE}; it was told to stop before")
    if record.rebooted:
        return Ending("unknown", "ended with its machine", running=None)
    evidence = {"stacks": storable(said[-STACKS_CHARS_MAX:]), **_place()}
    running = _running(record, record.beat_ns, apart=True)
    return Ending("unknown", f"{registry.GONE}, supervisor and all", evidence, running)
