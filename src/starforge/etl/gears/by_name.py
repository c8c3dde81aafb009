"""Gears: the ways from a document's bytes to rows, without a database; `reproduce` measures each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from starforge.etl.document.guard import MB, Guard
from starforge.etl.document.parse import read_document
from starforge.etl.gears.document import Document, Whole
from starforge.etl.gears.entities import Entities
from starforge.etl.gears.limits import process_settings
from starforge.etl.gears.stream import Opened, Streamed
from starforge.etl.mapping import Mapping

CHUNK_BYTES = 1 << 20

Gear = Callable[[Path, Mapping], Coroutine[Any, Any, int]]
"""Reads the document of a file, maps it and returns the number of rows; writes nothing."""


def gears() -> dict[str, Gear]:
    """Return the gears by name: whole-document first."""
    return {"whole": _whole, "streamed": _streamed}


def streamed_bytes() -> int:
    """Return the size above which a worker reads a document in pieces."""
    return int(process_settings().whole_max_mb * MB)


def opened(path: Path) -> Opened:
    """Return what opens a file's bytes from their beginning, each time it is asked."""

    async def chunks() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    return chunks


async def _whole(path: Path, mapping: Mapping) -> int:
    return await _count(mapping, Whole(read_document(path.read_bytes())))


async def _streamed(path: Path, mapping: Mapping) -> int:
    return await _count(mapping, await Streamed.of(mapping.layout, opened(path), Guard()))


async def _count(mapping: Mapping, document: Document) -> int:
    entities, batch = await Entities.of(mapping, document), process_settings().batch_rows
    count = 0
    for table in mapping.tables.values():
        async for rows in entities.rows(table, batch):
            count += rows.count
    return count
