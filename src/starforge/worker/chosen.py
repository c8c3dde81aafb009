"""Chosen: a worker for debugging claims the jobs that it was given, no others, and ends with them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

import structlog

from starforge.db.pool import MAY_PASS, Connection, Pool
from starforge.queue.claim_these import Named, claim_these, these
from starforge.queue.job import LeasedJob

log = structlog.get_logger("worker")

LOOK_S = 0.3


class Chosen:
    """The jobs of one debug worker."""

    def __init__(self, ids: Collection[UUID], types: Sequence[str]) -> None:
        self._ids, self._types = frozenset(ids), types
        self._tried: set[UUID] = set()

    async def claim(self, conn: Connection, *, n: int, worker_id: UUID) -> list[LeasedJob]:
        """Claim what is pending of them: each at once for the first time, then when its retry is due."""
        jobs = await claim_these(conn, self._ids, self._types, n=n, worker_id=worker_id, only_due=self._tried)
        self._tried.update(job.id for job in jobs)
        return jobs

    async def over(self, pool: Pool, worker_id: UUID) -> bool:
        """Tell whether nothing is left to do: none is pending with a type that is known, or runs here."""
        try:
            async with pool.connection() as conn:
                found = await these(conn, self._ids)
        except MAY_PASS as error:
            log.warning("chosen.unseen", error=str(error) or repr(error))
            return False
        return not any(self._is_ours(job, worker_id) for job in found)

    def _is_ours(self, job: Named, worker_id: UUID) -> bool:
        if job.status == "pending":
            return job.type in self._types
        return job.status == "running" and job.worker_id == worker_id


def told(ids: Collection[UUID], found: Collection[Named], types: Collection[str]) -> list[str]:
    """Say of each of the named jobs what stands in the way of running it now; [] where nothing does."""
    known = {job.id: job for job in found}
    lines = []
    for job_id in ids:
        job = known.get(job_id)
        if job is None:
            lines.append(f"job {job_id} does not exist, or its history is pruned")
        elif job.status != "pending":
            lines.append(
                f"job {job_id} ({job.type}) is {job.status}{f': {job.reason}' if job.reason else ''}"
            )
        elif job.type not in types:
            hint = " without --high-memory" if job.type.endswith("_highmem") else ""
            lines.append(f"job {job_id} has type {job.type!r}, which this worker does not know{hint}")
    return lines
