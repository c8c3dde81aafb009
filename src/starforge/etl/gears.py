"""Gears: the ways from a document's bytes to rows, without a database; `reproduce` measures each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starforge.etl.mapping import Mapping
from starforge.etl.parse import read_document

Gear = Callable[[Path, Mapping], int]
"""Reads the document of a file, maps it and returns the number of rows; writes nothing."""

STREAMED_BYTES = 8_000_000
"""From this size on a document is read in pieces, where there is a gear that does so."""


def gears() -> dict[str, Gear]:
    """Return the gears by name: whole-document first."""
    return {"whole": _whole}


def _whole(path: Path, mapping: Mapping) -> int:
    mapped = mapping.read(read_document(path.read_bytes()))
    return sum(rows.count for rows in mapped.tables.values())
