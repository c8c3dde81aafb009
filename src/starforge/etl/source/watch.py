"""Watch: what a worker looks at before it maps a document of a source, and what it remembers of that."""

from __future__ import annotations

from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import asyncpg
import structlog

from starforge.clock import monotonic_s
from starforge.db.pool import Connection, Pool
from starforge.etl.document.shape import shape
from starforge.etl.mapping import Mapping
from starforge.etl.source.catalogue import Entries
from starforge.etl.source.drift import Shapes
from starforge.etl.source.fit import Fits
from starforge.etl.source.mode import Modes, modes
from starforge.queue.override import Overrides, overrides

log = structlog.get_logger("source")

MODES_S = 2.0
"""How long the switches of modes are remembered: a new one reaches every worker in this time."""


class Watch:
    """What one process knows of the sources in one database."""

    def __init__(self) -> None:
        self._fits, self._shapes = Fits(), Shapes()
        self._modes, self._modes_s = Modes([]), -MODES_S
        self._rows: dict[str, int] = {}
        self.entries = Entries()

    async def fit(self, pool: Pool, mapping: Mapping, tenant: str) -> Mapping:
        """Return the mapping as it is to be used now, strict or tolerant; raise MappingUnfitError."""
        if monotonic_s() - self._modes_s >= MODES_S or not self._fits.sure(mapping):
            async with pool.transaction(tenant=tenant) as conn:
                await self._read(conn, mapping)
        return self._modes.applied(mapping, tenant)

    def rows(self, job_type: str) -> int | None:
        """Return how many rows a job of the type is to send together, where an operator said so."""
        return self._rows.get(job_type)

    async def look(
        self, pool: Pool, source: str, document: Any, *, tenant: str, snapshot_id: UUID | None
    ) -> None:
        """Note what a document has that none of its source had before; that never fails the document."""
        found = shape(document)
        if not self._shapes.is_news(tenant, source, found):
            return
        try:
            async with pool.transaction(tenant=tenant) as conn:
                await self._shapes.note(conn, tenant, source, found, snapshot_id)
        except asyncpg.PostgresError as error:
            log.warning("source.shape_unnoted", source=source, error=str(error))

    async def _read(self, conn: Connection, mapping: Mapping) -> None:
        await self._fits.require(conn, mapping)
        self._rows = Overrides.of(await overrides(conn)).rows
        self._modes, self._modes_s = await modes(conn), monotonic_s()


_WATCHES: WeakKeyDictionary[Pool, Watch] = WeakKeyDictionary()


def watch_of(pool: Pool) -> Watch:
    """Return what this process knows of the sources in a pool's database."""
    found = _WATCHES.get(pool)
    if found is None:
        found = _WATCHES[pool] = Watch()
    return found
