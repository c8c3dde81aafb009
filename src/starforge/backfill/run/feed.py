"""Feed: what a running backfill is given to the queue, how much of it at once, and what stops it."""

from __future__ import annotations

import structlog

from starforge.backfill.pace.pace import Pace
from starforge.backfill.partition.partition import QUEUE
from starforge.backfill.run.caps import capped
from starforge.backfill.run.known import Known, Row
from starforge.backfill.run.read import BEFORE_ALL
from starforge.backfill.state.slots import set_slots, slots_of
from starforge.clock import failpoint, monotonic_s, new_id
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.enqueue import enqueue_all
from starforge.queue.job import NewJob

log = structlog.get_logger("backfill")

AHEAD = 4
"""So many partitions are with the queue for each that may run; or what ends in AHEAD_S, if that is more."""

AHEAD_S = 0.25
FED_MAX = 2_000
TOGETHER_MAX = 30
"""So many are given to the queue with one statement."""

RETRIED_MAX = 1_000
"""So many that wait for their next attempt take no place of those that could run meanwhile."""

DROPPED_MAX = 5_000
SWEEP_S = 10.0
"""How often it is looked whether more of an ended backfill waits, once nothing did: that reads all of it."""


async def drive(conn: Connection, known: Known, row: Row, pace: Pace) -> None:
    """Stop by a rule, or give the queue the next partitions."""
    known.hungry = False
    if reason := known.breaker.tripped(monotonic_s()):
        known.breaker.reset()
        await _pause(conn, known, "breaker", reason)
        return
    canary = row["canary_partitions"] > 0 and row["canary_judged_at"] is None
    if canary and not known.in_flight and not await _judge(conn, known):
        return
    if known.slots < 0 or known.due:
        await _throttle(conn, known, row, pace)
    await _feed(conn, known, row, _ahead(known, row["concurrency"], known.slots), canary=canary)


async def _throttle(conn: Connection, known: Known, row: Row, pace: Pace) -> None:
    """Work out how many may run at once, and have workers heed it: what is with the queue already too."""
    concurrency = row["concurrency"]
    slots, known.reason, known.cause = await capped(
        conn, pace, tenant=row["tenant_id"], concurrency=concurrency
    )
    if slots == known.slots:
        return
    now = await slots_of(conn, known.id)
    if slots < concurrency or (now is not None and now != slots):
        reason = known.reason or "its own concurrency"
        await set_slots(conn, known.id, slots, owner="coordinator", reason=reason)
    known.slots, known.fresh = slots, True


def _ahead(known: Known, concurrency: int, slots: int) -> int:
    if slots < concurrency:
        return slots  # throttled: what is with the queue may all run at once
    now_s = monotonic_s()
    known.ended = [(at_s, count) for at_s, count in known.ended if now_s - at_s < AHEAD_S]
    return max(AHEAD * concurrency, sum(count for _, count in known.ended))


async def _feed(conn: Connection, known: Known, row: Row, ahead: int, *, canary: bool) -> None:
    ready = len(known.in_flight) - min(len(known.retried), RETRIED_MAX)
    room = min(ahead - ready, FED_MAX)
    # A few at a time cost as much as many.
    if room <= 0 or (room < ahead / 4 and ready > row["concurrency"]):
        return
    statement = sql("backfill", "feed_canary" if canary else "feed")
    # Where it looks again from an earlier place, what is in hand may lie between.
    between = len(known.in_flight) if known.fed_upto < known.fed_most else 0
    rows = await conn.fetch(statement, known.id, known.fed_upto, room + between)
    fed = [each for each in rows if each["ordinal"] not in known.in_flight][:room]
    if not fed:
        known.fed_upto = rows[-1]["ordinal"] if rows else known.fed_upto
        if not rows and not known.in_flight and known.due:
            await _begin_again(conn, known)
        return
    # In parts: who has the processor for long keeps live jobs from it.
    for at in range(0, len(fed), TOGETHER_MAX):
        await enqueue_all(conn, [_job(known, row, each) for each in fed[at : at + TOGETHER_MAX]])
    failpoint("backfill_fed")
    known.fed_upto = fed[-1]["ordinal"]
    known.fed_most = max(known.fed_most, known.fed_upto)
    known.in_flight.update(each["ordinal"] for each in fed)
    known.hungry = len(fed) == room


async def _begin_again(conn: Connection, known: Known) -> None:
    """Look from the beginning for what was given back; where there is nothing, trust the rows' counts."""
    if known.fed_upto != BEFORE_ALL:
        known.fed_upto = BEFORE_ALL
    else:
        await recount(conn, known)


async def recount(conn: Connection, known: Known) -> None:
    """Have the counters say what the partitions' rows say, where somebody changed one of the two by hand."""
    counts = await conn.fetchrow(sql("backfill", "count_anew"), known.id)
    if counts is not None:
        known.tell(log.warning, "backfill.recounted", **dict(counts))
        known.recounted = True


def _job(known: Known, row: Row, partition: Row) -> NewJob:
    payload = {
        "backfill_id": str(known.id),
        "key": partition["partition_key"],
        "ordinal": partition["ordinal"],
    }
    # Who has it run again after it was given up gives it all its attempts once more.
    spent = 0 if partition["reopened"] else partition["attempt_count"]
    return NewJob(
        row["job_type"],
        payload,
        queue=QUEUE,
        priority=row["priority"],
        max_attempts=max(1, row["attempts_max"] - spent),
        tenant=row["tenant_id"],
        limit_key=str(known.id),
        id=new_id(),
    )


async def _judge(conn: Connection, known: Known) -> bool:
    """Judge the canary once it is over; return whether the rest may run now."""
    found = await conn.fetchrow(sql("backfill", "canary"), known.id)
    if found is None or found["open"]:
        return True  # there are some to be fed
    await conn.execute(sql("backfill", "canary_judged"), known.id)
    known.fed_upto = BEFORE_ALL
    if not found["failed"]:
        known.tell(log.info, "backfill.canary_passed")
        return False  # the row that is in hand still says otherwise; the next tick feeds the rest
    keys = ", ".join(found["keys"])
    await _pause(
        conn,
        known,
        "canary",
        f"{found['failed']} partitions of the canary failed ({keys}); a resume runs all the others",
    )
    return False


async def drop(conn: Connection, known: Known) -> int:
    """Cancel some of what waits of a backfill that was ended; return how many."""
    if monotonic_s() - known.swept_s < SWEEP_S:
        return 0
    rows = await conn.fetch(sql("backfill", "drop_pending"), known.id, known.fed_upto, DROPPED_MAX)
    if not rows and known.fed_upto == BEFORE_ALL:
        known.swept_s = monotonic_s()
    elif not rows:
        known.fed_upto = BEFORE_ALL  # once more from the beginning: what was given back
        return await drop(conn, known)
    dropped = sorted(row["ordinal"] for row in rows)
    if dropped:
        known.fed_upto = dropped[-1]
        known.frontier.fold(dropped)
        for ordinal in dropped:
            known.look.end(known.frontier.position(ordinal), "cancelled")
        known.in_flight.difference_update(dropped)
        known.retried.difference_update(dropped)
        known.cancelled += len(dropped)
    return len(dropped)


async def _pause(conn: Connection, known: Known, by: str, reason: str) -> None:
    known.tell(log.warning, "backfill.paused", by=by, reason=reason)
    await conn.execute(sql("backfill", "pause_itself"), known.id, by, reason)
