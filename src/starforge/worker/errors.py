"""The errors of the worker room."""

from __future__ import annotations

from starforge.errors import MisusedError, RefusedError, UnreachableError


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
