"""Gathering: what concurrent requests offer is taken together, one transaction for many of them.

Nobody waits for others to come: a request that finds a free lane is taken at once, and those that come while
its transaction runs are the next. One offer that fails fails no other: `receive.take` sees to that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from starforge.db.pool import Pool, explained
from starforge.errors import StarForgeError
from starforge.etl.ingest.receive import BATCH_BYTES_MAX, BATCH_OFFERS_MAX, Taken, Taking, take
from starforge.ops.errors import OutcomeUnknownError
from starforge.ops.request import LOST
from starforge.web.errors import ServerBusyError
from starforge.web.settings import MIB, WebSettings

LANES = 2
"""Transactions at once: one is made ready and sent while the other waits for the disk."""

WAITING_BYTES_MAX = 256 * MIB
"""Offers that may wait for a transaction; a database that is slow is not a reason to run out of memory."""


@dataclass(slots=True)
class _Unit:
    """What one request offers: taken in its order, never divided."""

    takings: Sequence[Taking]
    size: int
    answer: asyncio.Future[list[Taken]]


class Gather:
    """Takes offers for all requests of a server.

    Args:
        pool: Where to.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: dict[str, deque[_Unit]] = {}
        self._waiting_bytes = 0
        self._lanes: set[asyncio.Task[None]] = set()

    async def take(self, tenant: str, takings: Sequence[Taking]) -> list[Taken]:
        """Take these offers of a tenant, soon and together with those of others.

        Raises: IngestPausedError; ServerBusyError; DatabaseUnreachableError; OutcomeUnknownError where they
            may or may not have been taken: offering them again does no harm.
        """
        size = sum(taking.judged.size for taking in takings)
        if self._waiting_bytes + size > WAITING_BYTES_MAX and self._waiting_bytes:
            raise ServerBusyError("too many snapshots wait for the database")
        unit = _Unit(takings, size, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(tenant, deque()).append(unit)
        self._waiting_bytes += size
        if len(self._lanes) < LANES:
            self._lanes.add(asyncio.create_task(self._run()))
        limit_s = WebSettings.read().operation_s
        try:
            async with asyncio.timeout(limit_s):
                return await unit.answer
        except TimeoutError:
            raise OutcomeUnknownError(f"the database did not answer within {limit_s:g} s") from None

    async def _run(self) -> None:
        lane = asyncio.current_task()
        assert lane is not None
        try:
            await self._groups()
        finally:
            self._lanes.discard(lane)  # before anybody else comes and takes it for one that still looks

    async def _groups(self) -> None:
        """Take what waits, a tenant after the other, until nothing does."""
        while self._waiting:
            tenant, units = self._next()
            try:
                takings = [taking for unit in units for taking in unit.takings]
                taken = iter(await take(self._pool, takings, tenant=tenant))
            except BaseException as error:
                told = _told(error)
                for unit in units:
                    if not unit.answer.done():
                        unit.answer.set_exception(told)
                        unit.answer.exception()  # seen, also where nobody waits any more
                if not isinstance(error, Exception):
                    raise
                continue
            for unit in units:
                answers = [next(taken) for _ in unit.takings]
                if not unit.answer.done():
                    unit.answer.set_result(answers)

    def _next(self) -> tuple[str, list[_Unit]]:
        """Take the next transaction's units of the tenant whose turn it is out of the line."""
        tenant = next(iter(self._waiting))
        line = self._waiting.pop(tenant)
        units: list[_Unit] = []
        offers = size = 0
        while line and (
            not units
            or (offers + len(line[0].takings) <= BATCH_OFFERS_MAX and size + line[0].size <= BATCH_BYTES_MAX)
        ):
            unit = line.popleft()
            self._waiting_bytes -= unit.size
            if unit.answer.done():
                continue  # who offered it has given up before it was its turn
            units.append(unit)
            offers, size = offers + len(unit.takings), size + unit.size
        if line:
            self._waiting[tenant] = line  # at the end: every tenant has its turn
        return tenant, units


def _told(error: BaseException) -> BaseException:
    """Return an error as those who wait are told it."""
    if isinstance(error, StarForgeError):
        return error
    if isinstance(error, LOST):
        said = (str(error) or type(error).__name__).splitlines()[0]
        return OutcomeUnknownError(f"the connection to the database was lost: {said}")
    if isinstance(error, (asyncpg.PostgresError, OSError)):
        return explained(error)
    return error if isinstance(error, Exception) else ServerBusyError("the server ends")
