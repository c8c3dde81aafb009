"""The rows of a document, table by table, whichever gear reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from starforge.etl.document.parse import uncollected
from starforge.etl.errors import MalformedError, MappingError, NoFastParserError
from starforge.etl.gears.document import Document, Whole
from starforge.etl.gears.stream import Opened, Streamed
from starforge.etl.mapping import Mapping
from starforge.etl.mapping.layout import Plan
from starforge.etl.mapping.reading import Reading
from starforge.etl.mapping.tables import Rows, Table

ITEMS_AT_ONCE = 1_000


class Entities:
    """What a mapping makes of one document."""

    subject: str
    """Whose state the document is."""

    def __init__(self, mapping: Mapping, document: Document) -> None:
        self.mapping, self._document = mapping, document
        self._reading = Reading(mapping.layout, document.root)
        mapping.captured_at(document.root)  # a wrong time is an error also where the caller knows better
        self._whole: dict[str, Rows] = {}

    @classmethod
    async def of(cls, mapping: Mapping, document: Document) -> Entities:
        """Look at a document; raise MappingError where it does not say whose state it is."""
        found = cls(mapping, document)
        table, key = mapping.subject_key
        plan = mapping.layout.plans[table]
        if plan.container is None or isinstance(document, Whole):
            found.subject = mapping.subject(document.root)
            return found
        keys: list[Any] = []
        async for rows in found._read(plan, ITEMS_AT_ONCE):
            keys += rows[key]
        found.subject = str(found._reading.the_one(plan, keys))
        return found

    async def read_ahead(self) -> None:
        """Read the tables of a document that lies in memory one by one, while the database writes others.

        What is wrong with one is left for `rows` to raise.
        """
        if isinstance(self._document, Whole):
            for table in self.mapping.tables.values():
                with suppress(Exception):
                    async for _ in self.rows(table, ITEMS_AT_ONCE):
                        await asyncio.sleep(0)

    async def rows(self, table: Table, batch: int) -> AsyncIterator[Rows]:
        """Yield the rows of a table, all of them or piece by piece; at least once, if only to say: none.

        Raises: MappingError at the first value that does not fit.
        """
        plan = self.mapping.layout.plans[table.name]
        if table.name in self._whole:
            yield self._whole[table.name]
            return
        async for rows in self._read(plan, batch):
            await self._derive(plan, rows, batch)
            if isinstance(self._document, Whole):
                self._whole[table.name] = rows  # another table may be worked out from it
            yield rows

    async def _read(self, plan: Plan, batch: int) -> AsyncIterator[Rows]:
        if plan.container is None:
            yield self._reading.table(plan)
            return
        before = 0
        async for piece in self._document.pieces((*self._reading.place, *plan.container), items=batch):
            with uncollected():
                told = piece and replace(piece, rows_before=before)
                rows = self._reading.table(plan, told)
            before += rows.count
            yield rows

    async def _derive(self, plan: Plan, rows: Rows, batch: int) -> None:
        for reader, made in plan.derived:
            wanted = rows.columns[reader.name]
            found: list[Any] = [None] * len(wanted)
            if made.over is None:
                found = [made.by(None, value, None) for value in wanted]
            else:
                async for over in self.rows(self.mapping.tables[made.over], batch):
                    found = [made.by(over, value, one) for value, one in zip(wanted, found, strict=True)]
            self._reading.fill(rows, made, found)


async def whose(mapping: Mapping, opened: Opened) -> tuple[str | None, datetime | None]:
    """Return whose state a document is and when it was taken, holding no more of it than that takes.

    What does not say, or is no JSON, has None.
    """
    subject, captured_at = None, None
    with suppress(MappingError, MalformedError, NoFastParserError):
        document = await Streamed.of(mapping.layout, opened, only=mapping.subject_paths())
        with suppress(MappingError):
            captured_at = mapping.captured_at(document.root)
        subject = (await Entities.of(mapping, document)).subject
    return subject, captured_at
