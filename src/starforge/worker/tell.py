"""Tell: a job's own type hears that a process died while the job ran in it.

A process that dies cannot tell, and a supervisor runs no user code: a child that lives does it, in the
transaction that notes that it was told. So it is told exactly once, whoever buried the worker.
"""

from __future__ import annotations

import asyncio

import asyncpg
import structlog

from starforge.db.pool import MAY_PASS, Connection, Pool
from starforge.errors import told as told_of
from starforge.loop import wait
from starforge.queue.handler import JobTypes
from starforge.queue.kill import told, untold

log = structlog.get_logger("worker")

TELL_EVERY_S = 2.0
TELL_S_MAX = 10.0
"""Longest that a type's own record of a loss may take."""


async def tell_losses(pool: Pool, types: JobTypes, stop: asyncio.Event) -> None:
    """Look every two seconds until `stop` whether there is something to tell."""
    while not stop.is_set():
        try:
            while await tell_one(pool, types):
                pass
        except MAY_PASS as error:
            log.warning("tell.failed", error=str(error) or repr(error))
        await wait(stop, TELL_EVERY_S)


async def tell_one(pool: Pool, types: JobTypes) -> bool:
    """Tell the oldest loss that was not told to its type; return whether there was one."""
    async with pool.transaction() as conn:
        found = await untold(conn, types.names())
        if found is None:
            return False
        job_type = types.get(found.job.type)
        if job_type is not None and job_type.lost is not None:
            try:
                async with asyncio.timeout(TELL_S_MAX), conn.transaction():
                    await job_type.lost(conn, found.job, found.evidence)
            except Exception as error:
                if _may_pass(conn, error):
                    raise
                # It would fail again for ever: the kill itself is recorded.
                job_id = str(found.job.id)
                log.error("job.loss_unrecorded", job_id=job_id, type=found.job.type, error=told_of(error))
        await told(conn, found.id)
        return True


def _may_pass(conn: Connection, error: Exception) -> bool:
    return conn.is_closed() or isinstance(error, asyncpg.TransactionRollbackError)
