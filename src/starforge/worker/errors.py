"""The errors of the worker room."""

from __future__ import annotations

from starforge.errors import MisusedError, NotFoundError, RefusedError, UnreachableError
from starforge.queue.kill import Death


class AppNotFoundError(MisusedError):
    """The module or attribute that should hold the app does not exist."""

    code = "SF301"
    remedy = "Name it as module:attribute, for example --app shop.jobs:app, from a folder where it imports."


class ChildKeepsDyingError(RefusedError):
    """The child process ends again and again right after its start."""

    code = "SF303"
    remedy = (
        "Read the lines above for why it ended; start it alone with `starforge worker --log-level debug`."
    )


class MetricsPortError(UnreachableError):
    """The port on which the worker was told to show its metrics cannot be had."""

    code = "SF304"
    remedy = "Choose another METRICS_PORT for each worker of a machine, or 0 for none."


class UnknownWorkerError(NotFoundError):
    """No worker, or more than one, is called so."""

    code = "SF331"
    remedy = "`starforge worker ls` lists them: give an id, the start of one, or host:pid."


class NothingChosenError(RefusedError):
    """None of the jobs that a debug worker was given can be run by it."""

    code = "SF332"
    remedy = (
        "The lines above say of each job why not; a failed one is redriven first, a quarantined one released."
    )


class ProcessKilledError(RefusedError):
    """A job's own process died while the job ran in it."""

    code = "SF310"
    remedy = "Read the evidence in job_kills; after STARFORGE_KILLS_MAX of them the job is quarantined."

    def __init__(self, death: Death) -> None:
        super().__init__(f"its process {death.words}")
        self.death = death


class ProcessNotStartedError(UnreachableError):
    """A process for a job of its own could not be started, or did not get as far as its app."""

    code = "SF311"
    remedy = "Read what the process wrote; memory, process numbers or a file that the app imports may lack."


class JobMemoryError(MisusedError, MemoryError):
    """A job took all the memory that its type may take."""

    code = "SF312"
    remedy = "Let the handler take less at a time, or raise memory_bytes_max of its job type."

    def __init__(self, bytes_max: int, largest: dict[str, list[str]]) -> None:
        super().__init__(f"out of memory: the job may take {bytes_max / 1e6:.1f} MB")
        self.evidence = {"error_type": "OOM", "memory_bytes_max": bytes_max, "largest": largest}
