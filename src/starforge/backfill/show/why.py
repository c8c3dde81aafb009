"""Why a backfill is in its state, what would move it, and which command does that.      (B-40, B-41, B-46)

The first sentence that is true of its row is the answer. What stands nearest comes first: its own state and
what it waits for, then what withholds its partitions (gates), then who could coordinate and make them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from starforge.backfill.partition.gates import before_partitions, withheld
from starforge.backfill.partition.partition import QUEUE
from starforge.backfill.select.selection import counted
from starforge.backfill.state.ages import AgeSettings
from starforge.backfill.state.author import author
from starforge.errors import shortened
from starforge.queue.gate import Gate

BEATS_S = 30.0
"""A coordinator writes every few seconds: one that is silent for longer is in trouble."""

QUIET_S, QUIET_TIMES = 60.0, 5.0
"""Without an ended partition for this long, and so many mean durations, a running one makes no progress."""

REASON_CHARS_MAX = 300
FAILING = ("breaker", "canary")
"""What pauses a backfill because it fails."""

Row = Mapping[str, Any]
"""A row of `status.sql`, with those of `silent.sql` under `silent`."""


@dataclass(frozen=True, slots=True)
class Why:
    """The answer to "why is it so?"."""

    why: str
    moves: str
    """What would move it."""

    command: str = ""
    """The command that does so; empty where waiting is all there is to do."""

    claimable: bool = False
    """Some worker may begin to coordinate it now."""


def why(row: Row, gates: Iterable[Gate]) -> Why:
    """Explain a row of `status.sql`, with the gates that are closed."""
    told = _TOLD[row["state"]](row, list(gates))
    if row["silent"] and row["state"] != "running":
        told = replace(told, why=f"{told.why}; {_kept(row)}")
    if row["state"] in ("pending", "resuming", "paused"):
        return told
    return replace(told, claimable=row["closed_at"] is None and row["free"])


def not_resumable(row: Row) -> str:
    """Return why a resume would be refused, in words; nothing where it would be done. (B-46)"""
    state = row["state"]
    if state == "paused":
        return ""
    if state in ("completed", "failed", "cancelled"):
        return f"it is {state}, which is final: retry-failed or clone makes a new backfill"
    if state == "resuming":
        return "its resume was asked for already; a worker has to take it"
    return f"it is {state}, not paused"


def _pending(row: Row, gates: list[Gate]) -> Why:
    return _waits(row) or _unclaimed(row, gates, f"it was created at {_at(row['created_at'])}")


def _resuming(row: Row, gates: list[Gate]) -> Why:
    who, _ = author(row)
    by = f" by {who}" if who else ""
    return _waits(row) or _unclaimed(row, gates, f"its resume was asked for{by} {_ago(row['updated_age_s'])}")


def _waits(row: Row) -> Why | None:
    """Tell which upstream backfill it waits for."""
    found = {one["id"]: one for one in row["waits"]}
    if gone := [one for one in row["waits_for"] if str(one) not in found]:
        return Why(
            f"it waits for backfill {gone[0]}, which there is no more",
            "nothing: cancel it and create it anew",
            f"starforge backfill cancel {row['id']} --reason TEXT",
        )
    open_ = [one for one in row["waits"] if one["state"] != "completed"]
    if not open_:
        return None
    for one in open_:
        if one["state"] in ("failed", "cancelled"):
            return Why(
                f"upstream {one['asset']} (backfill {one['id']}) is {one['state']}, so it is cancelled next",
                "nothing: clone it once the upstream is made",
                f"starforge backfill status {one['id']}",
            )
    first = open_[0]
    more = f" and {len(open_) - 1} more" if len(open_) > 1 else ""
    return Why(
        f"it waits for upstream {first['asset']} (backfill {first['id']}), which is {first['state']} with"
        f" {first['completed']} of {first['total']} partitions completed{more}",
        "the completion of what it waits for",
        f"starforge backfill explain {first['id']}",
    )


def _unclaimed(row: Row, gates: list[Gate], since: str) -> Why:
    """Tell why nobody coordinates a backfill that waits to be taken."""
    if not row["free"]:
        free_s = AgeSettings.read().reclaimable_s
        return Why(
            f"{since}, and its last coordinator gave a sign {row['heartbeat_age_s'] or 0:.0f} s ago: another"
            f" may take it {free_s:.0f} s after that",
            "its time",
            f"starforge backfill reclaim {row['id']}",
        )
    if not row["living"]:
        return Why(
            f"{since}, and no worker lives to take it",
            "a worker",
            "starforge worker --app MODULE:ATTR",
            claimable=row["state"] == "resuming",
        )
    held = _held(row, gates)
    if held is not None:
        # A new one waits for a worker that knows its partitions; one that had begun is taken all the same.
        return replace(held, claimable=bool(row["knowing"]) or row["state"] == "resuming")
    workers = "1 worker lives" if row["living"] == 1 else f"{row['living']} workers live"
    return Why(
        f"{since}; {workers} and may take it, those of a higher priority first, resumed ones before new ones",
        "the next look of a worker, within seconds; one that takes nothing says why in its log",
        "starforge worker errors",
        claimable=True,
    )


def _held(row: Row, gates: list[Gate]) -> Why | None:
    """Tell what keeps its partitions from starting: a gate, or that no worker knows them."""
    for gate in before_partitions(gates, row["job_type"], row["tenant_id"]):
        return Why(withheld(gate), "the end of that", gate.undo)
    if row["making"]:
        return None
    if not row["living"]:
        knows = "no worker lives"
    elif not row["knowing"]:
        knows = f"no live worker knows the job type {row['job_type']!r} of asset {row['asset_name']}"
    elif not row["serving"]:
        knows = f"no live worker serves queue {QUEUE!r}"
    else:
        knows = f"no live worker that serves queue {QUEUE!r} knows the job type {row['job_type']!r}"
    return Why(
        f"none of its partitions starts: {knows}",
        "a worker whose app declares the asset",
        "starforge worker --app MODULE:ATTR",
    )


def _running(row: Row, gates: list[Gate]) -> Why:
    if silent := _silent(row):
        return silent
    if held := _held(row, gates):
        return held
    done = _progress(row)
    if row["silent"]:
        return _frozen(row, done)
    shows = f"starforge backfill {'failures' if row['failed_partitions'] else 'status --watch'} {row['id']}"
    if row["pace"] <= 0:
        return Why(
            f"{done}; none starts now: {row['pace_reason'] or 'it is throttled'}", "a calmer database", shows
        )
    quiet_s, average_ms = row["progress_age_s"], row["avg_partition_duration_ms"]
    if quiet_s and average_ms and quiet_s > max(QUIET_S, QUIET_TIMES * average_ms / 1000):
        return Why(
            f"{done}; none has ended for {_span(quiet_s)}, and one takes {_span(average_ms / 1000)}",
            "the end of a partition that runs: see what its job does",
            f"starforge backfill status {row['id']} --partitions --state running",
        )
    if row["canary_partitions"] and row["canary_judged_at"] is None:
        sample = f"a sample of {counted(row['canary_partitions'])} runs first"
        return Why(f"{done}; {sample}, and the rest follows if it passes", "the end of the sample", shows)
    if row["pace"] < 1:
        throttled = f"throttled to {row['pace']:.0%}: {row['pace_reason'] or 'no reason is kept'}"
        return Why(f"{done}; {throttled}", "its partitions' ends", shows)
    return Why(done, "its partitions' ends", shows)


def _silent(row: Row) -> Why | None:
    """Tell that nobody coordinates a running backfill any more."""
    age_s = row["updated_age_s"] if row["heartbeat_age_s"] is None else row["heartbeat_age_s"]
    if row["worker_id"] is None:
        silent = f"its last coordinator let go of it {_ago(row['updated_age_s'])}"
        if row["living"]:
            return Why(f"{silent}, and nobody has taken it yet", "the next look of a worker")
        return Why(
            f"{silent}, and no worker lives to take it", "a worker", "starforge worker --app MODULE:ATTR"
        )
    if age_s <= BEATS_S:
        return None
    who = f"worker {row['worker_id']}"
    if row["host"]:
        who += f" ({row['host']}, pid {row['pid']}, {'alive' if row['alive'] else 'gone'})"
    silent = f"its coordinator, {who}, has given no sign for {age_s:.0f} s"
    if row["silent"]:
        silent += f"; {_kept(row)}"
    if not row["living"]:
        return Why(
            f"{silent}, and no worker lives to take over", "a worker", "starforge worker --app MODULE:ATTR"
        )
    when = "may take over now" if row["free"] else f"does after {AgeSettings.read().reclaimable_s:.0f} s"
    return Why(f"{silent}: another {when}", "the next coordinator", f"starforge backfill reclaim {row['id']}")


def _frozen(row: Row, done: str) -> Why:
    """Tell that some of its slots are with a worker that was not heard of for a while."""
    first, told = row["silent"][0], f"{done}; {_kept(row)}"
    moves = f"the end of that lease; sooner, where its process is frozen, kill -9 {first['pid']} there"
    if any(one["id"] == row["worker_id"] for one in row["silent"]):
        told += "; it coordinates the backfill too, so nothing more is given out meanwhile"
        return Why(told, moves, f"starforge backfill reclaim {row['id']}")
    return Why(told, moves, f"starforge explain worker {first['id']}")


def _kept(row: Row) -> str:
    """Tell whose silence keeps some of its slots, and until when. What they ran is tried again then."""
    first, *others = row["silent"]
    slots = sum(one["slots"] for one in row["silent"])
    who = f"worker {first['id']} ({first['host']}, pid {first['pid']})"
    more = f" and {len(others)} more" if others else ""
    verb = "have" if others else "has"
    if first["over"]:
        until = f"ended at {_at(first['lease_expires_at'])}, and a worker that lives makes that known"
    else:
        until = f"ends at {_at(first['lease_expires_at'])}"
    return (
        f"{slots} of its slots are with {who}{more}, which {verb} not been heard of for"
        f" {_span(first['silent_s'])}; the lease {until}: what it ran is tried again then"
    )


def _paused(row: Row, _gates: list[Gate]) -> Why:
    by, why_so = author(row)
    reason = f": {shortened(why_so, REASON_CHARS_MAX)}" if why_so else ""
    who = by or "somebody who left no name, as SQL does,"
    told = f"{who} paused it at {_at(row['paused_at'])}{reason}; {_progress(row)}"
    resume = f"starforge backfill resume {row['id']}"
    if by in FAILING:
        # What failed and is to be retried is no failed partition yet: the status shows it all the same.
        shown = f"starforge backfill failures {row['id']}" if row["failed_partitions"] else resume
        return Why(told, "a resume, once the cause is mended", shown)
    if row["resume_at"] is None:
        return Why(told, "a resume", resume)
    if row["resume_at"] > row["now"]:
        return Why(
            f"{told}; it resumes by itself at {_at(row['resume_at'])}", "that time, or a resume", resume
        )
    return Why(f"{told}; it was to resume at {_at(row['resume_at'])} and did not", "a resume", resume)


def _completed(row: Row, _gates: list[Gate]) -> Why:
    failed, total = row["failed_partitions"], row["total_partitions"]
    ended = row["completed_partitions"] + failed + row["cancelled_partitions"]
    if ended < total:
        return Why(
            f"it says that it is, with {ended} of its {counted(total)} ended{_closing(row)}",
            "nothing: see what is wrong with it",
            f"starforge backfill verify {row['id']}",
        )
    told = f"all of its {counted(total)} ended, {row['completed_partitions']} completed"
    if not failed:
        return Why(f"{told}{_closing(row)}", "nothing: it is done")
    told = f"{told} and {failed} failed, of which it tolerates {row['failed_max']}"
    return Why(
        f"{told}{_closing(row)}",
        "a new backfill of what failed",
        f"starforge backfill retry-failed {row['id']}",
    )


def _failed(row: Row, _gates: list[Gate]) -> Why:
    failed, most = row["failed_partitions"], row["failed_max"]
    if failed > most:
        told = f"{failed} of its {counted(row['total_partitions'])} failed, and it tolerates {most}"
    else:
        told = row["error_message"] or "no reason is kept"
    return Why(
        f"{shortened(told, REASON_CHARS_MAX)}{_closing(row)}",
        "a new backfill of what failed, once its cause is mended",
        f"starforge backfill failures {row['id']}" if failed else _clone(row),
    )


def _cancelled(row: Row, _gates: list[Gate]) -> Why:
    who, why_so = author(row)
    by = f"{who} cancelled it" if who else "it was cancelled"
    when = f" at {_at(row['completed_at'])}" if row["completed_at"] else ""
    reason = shortened(why_so or row["error_message"] or "", REASON_CHARS_MAX)
    told = f"{by}{when}{f': {reason}' if reason else ''}; {_progress(row)}{_closing(row)}"
    return Why(told, "nothing: a clone makes what is left", _clone(row))


def _clone(row: Row) -> str:
    return f"starforge backfill clone {row['id']} --unfinished --reason TEXT"


def _closing(row: Row) -> str:
    return "" if row["closed_at"] else "; what still runs ends first and is counted"


def _progress(row: Row) -> str:
    return f"{row['completed_partitions']} of {counted(row['total_partitions'])} completed"


def _at(moment: datetime | None) -> str:
    return "an unknown time" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _ago(seconds: float) -> str:
    return f"{_span(seconds)} ago"


def _span(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


_TOLD: dict[str, Callable[[Row, list[Gate]], Why]] = {
    "pending": _pending,
    "running": _running,
    "paused": _paused,
    "resuming": _resuming,
    "completed": _completed,
    "failed": _failed,
    "cancelled": _cancelled,
}
