"""Gears: the ways from a document's bytes to rows, without a database; `reproduce` measures each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starforge.etl.entities import Entities
from starforge.etl.guard import Guard
from starforge.etl.mapping import Mapping
from starforge.etl.parse import read_document
from starforge.etl.process import process_settings
from starforge.etl.stream import Streamed

Gear = Callable[[Path, Mapping], int]
"""Reads the document of a file, maps it and returns the number of rows; writes nothing."""

CHUNK_BYTES = 1 << 20


def gears() -> dict[str, Gear]:
    """Return the gears by name: whole-document first."""
    return {"whole": _whole, "streamed": _streamed}


def _whole(path: Path, mapping: Mapping) -> int:
    mapped = mapping.read(read_document(path.read_bytes()))
    return sum(rows.count for rows in mapped.tables.values())


def _streamed(path: Path, mapping: Mapping) -> int:
    async def opened() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    async def count() -> int:
        entities = await Entities.of(mapping, await Streamed.of(mapping.layout, opened, Guard()))
        batch, rows = process_settings().batch_rows, 0
        for table in mapping.tables.values():
            async for piece in entities.rows(table, batch):
                rows += piece.count
        return rows

    return asyncio.run(count())
