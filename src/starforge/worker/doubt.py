"""Doubt: after the database failed a worker, which jobs are its own by the database's word alone?

The answer to a claim may be lost, or a result that was answered: a server with asynchronous commit forgets
the newest when it crashes, and the jobs are running again then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import UUID

import structlog

from starforge.clock import monotonic_s
from starforge.db.pool import Connection
from starforge.queue.retry import give_back_unknown

log = structlog.get_logger("worker")

DOUBT_S = (0.0, 5.0, 130.0)
"""After the database failed it the worker asks so many seconds later which jobs it holds: at once, and for a
claim that the server was still at, once more, and after the engine role's statement_timeout."""


class Doubt:
    """When to ask which jobs are a worker's."""

    def __init__(self, worker_id: UUID, known: Callable[[], Iterable[UUID]]) -> None:
        self._worker_id, self._known = worker_id, known
        self._at_s: list[float] = []

    def arise(self) -> None:
        """The database has failed the worker: ask soon, and again."""
        self._at_s = [monotonic_s() + after_s for after_s in DOUBT_S]

    @property
    def due(self) -> bool:
        """Whether it is time to ask."""
        return bool(self._at_s) and monotonic_s() >= self._at_s[0]

    async def settle(self, conn: Connection) -> None:
        """Give back the jobs that are the worker's and that it does not know of."""
        jobs = await give_back_unknown(conn, list(self._known()), worker_id=self._worker_id)
        self._at_s.pop(0)
        if jobs:
            log.warning("job.unknown", jobs=jobs)
