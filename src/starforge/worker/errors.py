"""The errors of the worker room."""

from __future__ import annotations

from starforge.errors import MisusedError, NotFoundError, RefusedError, UnreachableError


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
