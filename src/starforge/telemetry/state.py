"""Gauges of the database's state: what a page was given for itself, and never a figure that was kept.

They say the same on every page that has them, so series of several pages are compared by `max`, not added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from starforge.telemetry.named import Named

LABEL_SETS_MAX = 500
"""Most series of one gauge; the rest is put together under the label `other`."""

OTHER = "other"

DATABASE_UP = Named(
    "starforge_database_up", "gauge", (), "1 when the database answered for this page, else 0."
)

# D-08: the two `_total` gauges keep their names.
STATE_GAUGES: dict[str, Named] = {
    "at_s": Named(
        "starforge_state_timestamp_seconds",
        "gauge",
        (),
        "When the gauges of the database's state were read, on its clock.",
    ),
    "waiting": Named(
        "starforge_queue_jobs_waiting_total",
        "gauge",
        ("queue", "type"),
        "Pending jobs whose time to run has come.",
    ),
    "oldest_s": Named(
        "starforge_queue_oldest_job_age_seconds",
        "gauge",
        ("queue", "type"),
        "Time since the oldest of the waiting jobs could have started.",
    ),
    "retrying": Named(
        "starforge_queue_jobs_retrying",
        "gauge",
        ("queue", "type"),
        "Pending jobs that failed before, waiting for another attempt.",
    ),
    "dead_letters": Named(
        "starforge_queue_jobs_dlq_total",
        "gauge",
        ("type", "reason"),
        "Dead letters by type and class of the last error.",
    ),
    "archived": Named(
        "starforge_queue_jobs_archived",
        "gauge",
        ("type",),
        "Dead letters whose job has left the queue.",
    ),
    "backfills": Named(
        "servo_backfill_jobs_active",
        "gauge",
        ("state",),
        "Backfills that are not over, by state.",
    ),
    "backfill_eta_s": Named(
        "starforge_backfill_eta_seconds",
        "gauge",
        (),
        "Time left of the running backfill that takes longest; 0 where none has an estimate.",
    ),
    "backfill_heartbeat_s": Named(
        "starforge_backfill_oldest_heartbeat_age_seconds",
        "gauge",
        (),
        "Age of the oldest heartbeat of a running backfill.",
    ),
    "backfill_progress_s": Named(
        "starforge_backfill_oldest_progress_age_seconds",
        "gauge",
        (),
        "Time since the running backfill that stands still longest ended a partition.",
    ),
    "backfills_throttled": Named(
        "starforge_backfill_throttled",
        "gauge",
        ("reason",),
        "Running backfills that may not use all of their concurrency, by what the database suffers from.",
    ),
    "upkeep_age_s": Named(
        "starforge_upkeep_last_success_age_seconds",
        "gauge",
        ("task",),
        "Time since each of the leader's tasks succeeded last.",
    ),
}
"""The gauges by the field of `State` that holds them."""

MAX_OF_REST = ("oldest_s", "upkeep_age_s")
"""Ages are not added up."""


@dataclass(frozen=True, slots=True)
class State:
    """What the database said for one page."""

    waiting: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Jobs by (queue, type)."""

    dead_letters: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Dead letters by (type, class of error)."""

    oldest_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    retrying: Mapping[tuple[str, str], int] = field(default_factory=dict)
    archived: Mapping[tuple[str], int] = field(default_factory=dict)
    upkeep_age_s: Mapping[tuple[str], float] = field(default_factory=dict)
    backfills: Mapping[tuple[str], int] = field(default_factory=dict)
    backfill_eta_s: Mapping[tuple[()], float] = field(default_factory=dict)
    backfill_heartbeat_s: Mapping[tuple[()], float] = field(default_factory=dict)
    backfill_progress_s: Mapping[tuple[()], float] = field(default_factory=dict)
    backfills_throttled: Mapping[tuple[str], int] = field(default_factory=dict)
    at_s: Mapping[tuple[()], float] = field(default_factory=dict)


class StateGauges(Collector):
    """The gauges of the state that one page was given; none of them where it was given none."""

    def __init__(self, state: State | None) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Make the gauges."""
        up = 0.0 if self._state is None else 1.0
        yield GaugeMetricFamily(DATABASE_UP.name, DATABASE_UP.meaning, value=up)
        if self._state is None:
            return
        for name, named in STATE_GAUGES.items():
            put_together = max if name in MAX_OF_REST else sum
            yield _family(named, getattr(self._state, name), put_together)


def _family(
    named: Named,
    values: Mapping[tuple[str, ...], float],
    put_together: Callable[[Iterable[float]], float],
) -> Metric:
    family = GaugeMetricFamily(named.name, named.meaning, labels=named.labels)
    series = sorted(values.items())
    for labels, value in series[:LABEL_SETS_MAX]:
        family.add_metric(labels, value)
    if rest := [value for _, value in series[LABEL_SETS_MAX:]]:
        family.add_metric([OTHER] * len(named.labels), put_together(rest))
    return family
