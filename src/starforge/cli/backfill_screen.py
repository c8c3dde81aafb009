"""How one backfill looks on a terminal: a bar, its partitions by place, and what else is to know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from starforge.backfill.show.cause import WHAT_TO_DO
from starforge.backfill.show.reads import Failures
from starforge.backfill.show.status import POISON_MAX, Estimate, Status
from starforge.cli.history import duration
from starforge.cli.render import plain
from starforge.errors import shortened

BAR_COLUMNS = 60
FULL, SOME, NONE, FAILED, CANCELLED = "█▄·!×"
STYLES = {FULL: "green", SOME: "green", NONE: "dim", FAILED: "red", CANCELLED: "yellow"}
STATES = {
    "completed": "green",
    "failed": "red",
    "cancelled": "red",
    "paused": "yellow",
    "resuming": "yellow",
}
LEGEND = f"{FULL} completed  {SOME} in part  {NONE} not yet  {FAILED} with failed  {CANCELLED} cancelled"
FAILURES_SHOWN = 5
KEYS_SHOWN = 3
MESSAGE_CHARS_MAX = 300


def screen(one: Status, *, width: int) -> RenderableType:
    """Return all that is to show of a backfill, for a terminal so wide."""
    head = plain(f"backfill {one.id} of {one.asset} is {one.state}")
    head.stylize(f"bold {STATES.get(one.state, '')}".strip())
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True, style="bold")
    facts.add_column(overflow="fold")
    for name, text in _facts(one):
        facts.add_row(name, text if isinstance(text, Text) else plain(text))
    columns = min(BAR_COLUMNS, max(width - 8, 10))
    parts: list[RenderableType] = [head, _indented(plain(one.why)), Text(), _indented(_bar(one, columns))]
    if one.strip:
        parts += [_indented(_strip(one.strip, columns)), _indented(Text(LEGEND, style="dim"))]
    parts += [Text(), facts]
    if one.poison:  # in a cell it would be broken, and could not be copied
        parts += [Text(), Text(f"→ starforge backfill poison {one.id}", no_wrap=True, overflow="ignore")]
    if one.failures:
        parts += [Text(), *_failures(one.failures, one)]
    return Group(*parts)


def line(one: Status) -> str:
    """Return a backfill in one line, without the time."""
    words = [f"{one.state:<9} {share(one)}"]
    if one.failed:
        words.append(f"{one.failed} failed")
    if one.cancelled:
        words.append(f"{one.cancelled} cancelled")
    if one.state == "running":
        words.append(rate(one.rate_per_s) or "no rate yet")
        words.append(f"ends in {left(one.eta)}" if one.eta.at else f"no estimate: {one.eta.basis}")
        if one.throttle.pace < 1:
            words.append(f"slots {throttled(one)}")
    else:
        words.append(one.why)
    return " · ".join(words)


def share(one: Status) -> str:
    """Return how much of it is completed: 12/50 24 %."""
    return progress(one.completed, one.total)


def progress(completed: int, total: int) -> str:
    """Return how many of all partitions are completed, and their share."""
    return f"{completed}/{total} {percent(completed, total)}"


def percent(part: int, total: int) -> str:
    """Return a share, rounded down: 100 % is said of the whole, and of nothing else."""
    return f"{part * 1000 // total / 10 if total else 0:g} %"


def left(eta: Estimate) -> str:
    """Return the time left as an interval: 4–6 min."""
    return interval(eta.low_s, eta.high_s)


def interval(low_s: float | None, high_s: float | None) -> str:
    """Return a length of time that is not known exactly."""
    if low_s is None or high_s is None:
        return "an unknown time"
    low, high = duration(low_s), duration(high_s)
    if low == high:
        return low
    least, unit = low.split(" ")
    return f"{least}–{high}" if high.endswith(f" {unit}") else f"{low}–{high}"


def rate(per_s: float | None) -> str | None:
    """Return how many partitions end: per second, and per minute."""
    if per_s is None:
        return None
    each = f"{per_s:.3g}" if per_s < 1000 else f"{per_s:.0f}"
    return f"{each}/s, {per_s * 60:.0f}/min"


def throttled(one: Status) -> str:
    """Return how much of its concurrency it may use, and why."""
    throttle = one.throttle
    reason = f": {throttle.reason}" if throttle.reason else ""
    return f"{throttle.slots} of {throttle.concurrency} ({throttle.pace:.0%}){reason}"


def at(time: datetime | None) -> str | None:
    """Return a time for people."""
    return None if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _facts(one: Status) -> Iterator[tuple[str, Text | str]]:
    if one.state != "completed" or one.failed:
        yield "moved by", one.moves
    yield "checkpoint", one.checkpoint or "none: its first partition has not ended"
    if one.state == "running":
        each = f" · {took(one.average_ms)} each" if one.average_ms is not None else ""
        yield "rate", f"{rate(one.rate_per_s) or 'not known yet'}{each}"
        yield "ends", _ends(one.eta)
    elif one.average_ms is not None:
        yield "took", f"{took(one.average_ms)} each"
    if one.in_flight:
        yield "with the queue", str(one.in_flight)
    if one.closed_at is None and (one.executor is not None or one.state not in ("pending", "paused")):
        yield "coordinator", _coordinator(one)
    if one.state == "running":
        yield "slots", throttled(one)
    if one.canary:
        judged = _judged(one)
        yield "sample", f"{one.canary} partitions first: {judged}"
    if one.poison:
        rows = f"{one.poison} rows" if one.poison < POISON_MAX else f"{POISON_MAX} rows or more"
        yield "stepped over", Text(rows, style="yellow")
    if one.sla is not None:
        danger = one.sla.verdict in ("at-risk", "late", "missed")
        text = plain(f"{at(one.sla.at)}: {one.sla.verdict.replace('-', ' ')}, {one.sla.told}")
        text.stylize("red" if danger else "")
        yield "to be done by", text
    for upstream in one.waits_for:
        yield (
            "waits for",
            f"{upstream.asset}: {upstream.state}, {upstream.completed}/{upstream.total} ({upstream.id})",
        )
    if one.parent_id is not None:
        yield "made from", str(one.parent_id)
    if one.state_by and one.state in ("running", "pending"):
        reason = f": {one.state_reason}" if one.state_reason else ""
        yield "last told by", f"{one.state_by}{reason}"
    if one.error_message and not _is_told(one.error_message, one):
        yield "error", shortened(one.error_message, MESSAGE_CHARS_MAX)
    if one.completed_at is not None:
        yield "ended", at(one.completed_at) or ""
    by = f" by {one.created_by}" if one.created_by else ""
    yield "created", f"{at(one.created_at)}{by}"


def _is_told(error: str, one: Status) -> bool:
    """Tell whether an error says no more than why the backfill is in its state."""
    return error in one.why or (
        one.state == "cancelled" and bool(one.state_by) and error.startswith("cancelled by")
    )


def _judged(one: Status) -> str:
    if one.canary_judged_at is None:
        return "not judged yet"
    # That it did not pass is known while its pause lasts; who resumed it since may have known better.
    passed = "it did not pass, " if one.state == "paused" and one.state_by == "canary" else ""
    return f"{passed}judged at {at(one.canary_judged_at)}"


def _ends(eta: Estimate) -> str:
    if eta.at is None:
        return f"not known: {eta.basis}"
    return f"in {left(eta)}, about {at(eta.at)}; {eta.basis}"


def _coordinator(one: Status) -> str:
    sign = "" if one.heartbeat_age_s is None else f"; its heartbeat is {one.heartbeat_age_s:.0f} s old"
    if one.executor is None:
        return f"none{sign}"
    return f"{one.executor.told}{sign}"


def took(average_ms: float) -> str:
    """Return how long a partition took."""
    return f"{average_ms:.3g} ms" if average_ms < 1000 else f"{average_ms / 1000:.3g} s"


def _bar(one: Status, columns: int) -> Text:
    filled = one.done * columns // one.total if one.total else 0
    text = Text()
    text.append("━" * filled, style=STATES.get(one.state, "green"))
    text.append("╌" * (columns - filled), style="dim")
    text.append(f"\n{one.completed} of {one.total} completed", style="bold")
    if one.failed:
        text.append(f" · {one.failed} failed", style="red")
        text.append(f" (it tolerates {one.failed_max})", style="dim")
    if one.cancelled:
        text.append(f" · {one.cancelled} cancelled", style="yellow")
    text.append(f" · {percent(one.done, one.total)} is over")
    return text


def _strip(parts: Sequence[Sequence[int]], columns: int) -> Text:
    """Draw the partitions by their place, first to last."""
    text = Text()
    for sign in map(_sign, _merged(parts, columns)):
        text.append(sign, style=STYLES[sign])
    return text


def _merged(parts: Sequence[Sequence[int]], columns: int) -> Iterator[list[int]]:
    """Put neighbours together where there are more parts than columns."""
    each = -(-len(parts) // columns)
    for start in range(0, len(parts), each):
        yield [sum(column) for column in zip(*parts[start : start + each], strict=True)]


def _sign(part: Sequence[int]) -> str:
    completed, failed, cancelled, total = part
    if failed:
        return FAILED
    if cancelled:
        return CANCELLED
    if total and completed >= total:
        return FULL
    return SOME if completed else NONE


def _failures(found: Sequence[Failures], one: Status) -> Iterator[RenderableType]:
    yield Text("failed attempts, the last ones", style="bold")
    for failure in found[:FAILURES_SHOWN]:
        yield failed(failure, all_known=False)
    more = len(found) - FAILURES_SHOWN
    if more > 0:
        yield Text(f"  and {more} more: starforge backfill failures {one.id}", style="dim")


def failed(failure: Failures, *, all_known: bool = True) -> RenderableType:
    """Return failures that look alike in a few lines; `all_known`: they are partitions, not attempts."""
    last = "" if failure.last_at is None else f", last at {failure.last_at:%H:%M:%S}"
    head = Text(f"{failure.count} × {failure.cause}", style="red")
    head = Text.assemble(
        head, plain(f"{last}: {shortened(failure.message, MESSAGE_CHARS_MAX) or 'no message'}")
    )
    shown = failure.keys[:KEYS_SHOWN]
    more = f" and {failure.count - len(shown)} more" if all_known and failure.count > len(shown) else ""
    mark = f" · fingerprint {failure.fingerprint}" if failure.fingerprint else ""
    keys = plain(f"partitions {', '.join(shown)}{more}{mark}")
    hint = Text(f"→ {WHAT_TO_DO[failure.cause]}", style="dim")
    return Group(_indented(head), _indented(keys, 4), _indented(hint, 4))


def _indented(told: Text, by: int = 2) -> Padding:
    return Padding(told, (0, 0, 0, by), expand=False)
