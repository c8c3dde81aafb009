"""Metrics: the catalogue of names first, then the objects that others count with, then the page.

Counters and histograms belong to a process tree: with PROMETHEUS_MULTIPROC_DIR set before this module is
imported (`starforge.telemetry.tree`) every process of the tree counts into files of one folder and the
page shows their sum, counts of dead processes included. Gauges of the database's state are never kept:
each page gets the state that was read for it, and none at all while the database cannot be read. Gauges of
memory are set by whoever measures a process tree, and leave the page with that process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from starforge.settings import Settings, setting
from starforge.telemetry.named import Named
from starforge.telemetry.process import Memory
from starforge.telemetry.state import DATABASE_UP, LABEL_SETS_MAX, STATE_GAUGES, State, StateGauges
from starforge.telemetry.tree import FOLDER_ENV, usable_files

__all__ = ["LABEL_SETS_MAX", "State"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class LabelSettings(Settings):
    """What tells this deployment's series from another's."""

    env: str = setting(
        "dev",
        env="STARFORGE_ENV",
        unit="name",
        meaning="Value of the label `env` of the failure metrics: which deployment this is.",
        min_length=1,
        max_length=64,
    )
    service: str = setting(
        "etl-worker",
        env="STARFORGE_SERVICE",
        unit="name",
        meaning="Value of the label `service` of the failure metrics: which part of the deployment this is.",
        min_length=1,
        max_length=64,
    )


LABELS = LabelSettings.read()


# D-07: every finished attempt counts as processed.
CATALOGUE: dict[str, Named] = {
    named.name: named
    for named in (
        Named(
            "starforge_etl_snapshots_received_total",
            "counter",
            ("source",),
            "Snapshots offered to this process, whatever became of them; not those of the command line.",
        ),
        Named(
            "starforge_etl_snapshots_processed_total",
            "counter",
            ("result",),
            "Finished attempts on snapshots, success and failure.",
        ),
        Named(
            "starforge_etl_snapshots_failed_total",
            "counter",
            ("error_type", "env", "service"),
            "Failed attempts on snapshots by class of error.",
        ),
        Named(
            "starforge_etl_snapshots_quarantined_total",
            "counter",
            ("source", "cause"),
            "What was offered or stored and is held back since, by what held it; not what people held.",
        ),
        Named(
            "starforge_etl_processing_duration_seconds",
            "histogram",
            (),
            "Time that an attempt on a snapshot took.",
            (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        ),
        Named(
            "job_processed_total",
            "counter",
            ("status", "type"),
            "Finished attempts on jobs by how they ended.",
        ),
        Named(
            "job_duration_seconds",
            "histogram",
            ("type",),
            "Time that an attempt on a job took.",
            (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600),
        ),
        Named(
            "starforge_worker_restarts_total",
            "counter",
            ("cause",),
            "Children of workers that ended without being told to, by what ended them.",
        ),
        Named(
            "starforge_upkeep_runs_total",
            "counter",
            ("task", "result"),
            "Runs of the leader's tasks.",
        ),
        Named(
            "starforge_schedule_ticks_total",
            "counter",
            ("result",),
            "Ticks of schedules: run as jobs, held by a unique key, skipped as missed or paused.",
        ),
        Named(
            "servo_backfill_partition_completion_total",
            "counter",
            ("status",),
            "Partitions of backfills that are over, by how they ended.",
        ),
        Named(
            "servo_backfill_partition_duration_seconds",
            "histogram",
            ("status",),
            "Time that the last attempt at a partition took, by how it ended.",
            (0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14_400),
        ),
        Named(
            "servo_backfill_pause_duration_seconds",
            "histogram",
            (),
            "Time that a backfill was paused before it was resumed.",
            (1, 10, 60, 300, 900, 3600, 14_400, 86_400, 604_800),
        ),
        Named(
            "servo_backfill_eta_distribution_seconds",
            "histogram",
            (),
            "Time left of running backfills, as each of their looks estimated it.",
            (1, 10, 60, 300, 900, 3600, 14_400, 86_400, 604_800),
        ),
        DATABASE_UP,
        *STATE_GAUGES.values(),
        Named(
            "memory_usage_bytes",
            "gauge",
            ("process",),
            "Resident memory: of a server, or of a worker with all that it started.",
        ),
        Named(
            "heap_used_bytes",
            "gauge",
            ("process",),
            "The anonymous part of it: objects, buffers and stacks, without program text and files.",
        ),
        Named(
            "memory_limit_bytes", "gauge", ("process",), "What the worker may use, where a limit is known."
        ),
    )
}
"""Every metric that StarForge exposes, by name."""

RESULTS = ("success", "failure")
ERROR_TYPES = ("PARSE_ERROR", "MAPPING_ERROR", "DB_ERROR", "FK_VIOLATION", "OOM", "TIMEOUT", "UNKNOWN")
QUARANTINE_CAUSES = ("size", "poison", "malformed")
JOB_STATUSES = ("completed", "failed", "quarantined", "cancelled")
RESTART_CAUSES = ("exit", "signal", "oom", "stalled", "unknown")
TICK_RESULTS = ("run", "held", "skipped")
PARTITION_STATUSES = ("completed", "failed", "cancelled")

disable_created_metrics()
_REGISTRY = CollectorRegistry()


def _counter(name: str) -> Counter:
    named = CATALOGUE[name]
    return Counter(name, named.meaning, named.labels, registry=_REGISTRY)


def _histogram(name: str) -> Histogram:
    named = CATALOGUE[name]
    return Histogram(name, named.meaning, named.labels, buckets=named.buckets, registry=_REGISTRY)


def _gauge_of(name: str) -> Gauge:
    """A gauge that each process sets for itself; the page adds up those of the living."""
    named = CATALOGUE[name]
    return Gauge(name, named.meaning, named.labels, registry=_REGISTRY, multiprocess_mode="livesum")


SNAPSHOTS_RECEIVED = _counter("starforge_etl_snapshots_received_total")
SNAPSHOTS_PROCESSED = _counter("starforge_etl_snapshots_processed_total")
SNAPSHOTS_FAILED = _counter("starforge_etl_snapshots_failed_total")
SNAPSHOTS_QUARANTINED = _counter("starforge_etl_snapshots_quarantined_total")
PROCESSING_DURATION = _histogram("starforge_etl_processing_duration_seconds")
JOBS_PROCESSED = _counter("job_processed_total")
JOB_DURATION = _histogram("job_duration_seconds")
WORKER_RESTARTS = _counter("starforge_worker_restarts_total")
UPKEEP_RUNS = _counter("starforge_upkeep_runs_total")
SCHEDULE_TICKS = _counter("starforge_schedule_ticks_total")
PARTITIONS_ENDED = _counter("servo_backfill_partition_completion_total")
PARTITION_DURATION = _histogram("servo_backfill_partition_duration_seconds")
PAUSE_DURATION = _histogram("servo_backfill_pause_duration_seconds")
ETA_DISTRIBUTION = _histogram("servo_backfill_eta_distribution_seconds")
MEMORY_USAGE = _gauge_of("memory_usage_bytes")
HEAP_USED = _gauge_of("heap_used_bytes")
MEMORY_LIMIT = _gauge_of("memory_limit_bytes")


def start_at_zero(
    *, types: Iterable[str] = (), sources: Iterable[str] = (), tasks: Iterable[str] = ()
) -> None:
    """Make every known label set exist: a rate needs its zero before the first event.

    Args:
        types: Job types that this process knows.
        sources: Sources of snapshots that this process knows.
        tasks: Tasks that this process does when it leads.
    """
    for result in RESULTS:
        SNAPSHOTS_PROCESSED.labels(result=result)
    for error_type in ERROR_TYPES:
        SNAPSHOTS_FAILED.labels(error_type=error_type, env=LABELS.env, service=LABELS.service)
    for cause in RESTART_CAUSES:
        WORKER_RESTARTS.labels(cause=cause)
    for status in PARTITION_STATUSES:
        PARTITIONS_ENDED.labels(status=status)
        PARTITION_DURATION.labels(status=status)
    for outcome in TICK_RESULTS:
        SCHEDULE_TICKS.labels(result=outcome)
    for task in tasks:
        for result in RESULTS:
            UPKEEP_RUNS.labels(task=task, result=result)
    for source in sources:
        SNAPSHOTS_RECEIVED.labels(source=source)
        for cause in QUARANTINE_CAUSES:
            SNAPSHOTS_QUARANTINED.labels(source=source, cause=cause)
    for job_type in types:
        JOB_DURATION.labels(type=job_type)
        for status in JOB_STATUSES:
            JOBS_PROCESSED.labels(status=status, type=job_type)


start_at_zero()


def tell_memory(process: str, used: Memory, limit_bytes: int | None = None) -> None:
    """Set the gauges of memory: `process` is "server" or "worker", never an id."""
    MEMORY_USAGE.labels(process=process).set(used.rss_bytes)
    HEAP_USED.labels(process=process).set(used.heap_bytes)
    if limit_bytes is not None:
        MEMORY_LIMIT.labels(process=process).set(limit_bytes)


def page(state: State | None) -> bytes:
    """Return the page of metrics in Prometheus' text format.

    Args:
        state: The database's state; None while it cannot be read, and its gauges are then absent.
    """
    gauges = CollectorRegistry()
    gauges.register(StateGauges(state))
    return _counted() + generate_latest(gauges)


def _counted() -> bytes:
    folder = os.environ.get(FOLDER_ENV)
    if not folder:
        return generate_latest(_REGISTRY)
    registry = CollectorRegistry()
    registry.register(_TreeCollector(folder))
    return generate_latest(registry)


class _TreeCollector(Collector):
    """The sum over the files of a process tree, save those that a process is only just making."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        files = [str(file) for file in usable_files(self._folder)]
        yield from MultiProcessCollector.merge(files, accumulate=True)
