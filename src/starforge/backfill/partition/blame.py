"""Blame: whether an error lies with the rows of a batch, or would meet every other batch too."""

from __future__ import annotations

from typing import Literal

import asyncpg

from starforge.backfill.errors import PartitionOverError
from starforge.db.pool import DATABASE_AWAY
from starforge.queue.errors import AttemptEndedError, LeaseLostError
from starforge.queue.outcome import Discard, PermanentError, PutOff, Quarantined

Blame = Literal["rows", "moment", "elsewhere"]
"""With the rows; with the moment, so that the same rows may get through later; or elsewhere."""

ENDINGS: tuple[type[Exception], ...] = (
    PartitionOverError,
    LeaseLostError,
    AttemptEndedError,
    PermanentError,
    PutOff,
    Discard,
    Quarantined,
)
"""What says that the attempt ends, whoever raises it."""

SYSTEM: tuple[type[Exception], ...] = (
    asyncpg.SyntaxOrAccessError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.FeatureNotSupportedError,
)
"""What is wrong with the statement or with the server: each row would meet it."""


def blame(error: BaseException) -> Blame:
    """Tell where an error lies that a batch ended with; what nobody knows is taken to lie with its rows."""
    if isinstance(
        error, (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError, asyncpg.TransactionRollbackError)
    ):
        return "moment"
    if isinstance(error, (*ENDINGS, *DATABASE_AWAY, *SYSTEM, MemoryError)):
        return "elsewhere"
    return "rows"
