"""The errors of the development room."""

from __future__ import annotations

from starforge.errors import MisusedError, RefusedError, UnreachableError


class FolderInUseError(RefusedError):
    """The folder for generated files holds something that this run would not write anew."""

    code = "SF801"
    remedy = "Name an empty folder, or use --force: then what else is there stays, beside the new files."


class FolderUnwritableError(UnreachableError):
    """Generated files could not be written: no permission, no space, or not a folder."""

    code = "SF802"
    remedy = "Free space or mend the permissions where the message says, then run it again."


class BenchStalledError(RefusedError):
    """A benchmark made no progress for too long."""

    code = "SF803"
    remedy = "Look at the workers' lines above; the figures so far are worth nothing."


class DemoStalledError(RefusedError):
    """The demo's snapshots did not all end within the time it waits."""

    code = "SF804"
    remedy = "Look at the worker's lines above and at the first page of the server."


class WorkerMisusedError(MisusedError):
    """The worker of `up` cannot work with what it was started with, such as an app that is not there."""

    code = "SF805"
    remedy = "Correct what its line names, then start again."


class BenchNotPossibleError(UnreachableError):
    """A benchmark lacks something that this machine does not have."""

    code = "SF806"
    remedy = "Install what the message names, or leave the option out."
