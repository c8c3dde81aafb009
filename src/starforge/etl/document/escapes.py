"""Escapes that no text column can hold: an escaped NUL, and half of a surrogate pair, become U+FFFD."""

from __future__ import annotations

import re

from starforge.etl.document.guard import LONE_SURROGATE

UNSTORABLE = re.compile(rb"\\u0000|" + LONE_SURROGATE.pattern)
HIGH = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
ESCAPE_BYTES = 6
PAIR_BYTES = 2 * ESCAPE_BYTES


def storable(data: bytes) -> bytes:
    """Write U+FFFD for each escaped NUL and lone surrogate; every byte keeps its position.

    Escaped backslashes are hidden meanwhile behind NUL bytes, which the guard lets nobody else bring.
    """
    hidden = data.replace(b"\\\\", b"\0\0")
    return UNSTORABLE.sub(rb"\\ufffd", hidden).replace(b"\0\0", b"\\\\")


class Escapes:
    """Does so to a stream: what may be the beginning of an escape waits for the next chunk."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return what is certain by now; it may be empty."""
        data = self._tail + chunk if self._tail else chunk
        if b"\\" not in data:
            self._tail = b""
            return data
        cut = _certain(data)
        self._tail = data[cut:]
        return storable(data[:cut])

    def end(self) -> bytes:
        """Return the rest."""
        tail, self._tail = self._tail, b""
        return storable(tail)


def _certain(data: bytes) -> int:
    """Return how much of the data has no escape that the next bytes could change."""
    cut = data.find(b"\\", max(0, len(data) - PAIR_BYTES))
    if cut < 0:
        return len(data)
    cut = _run_start(data, cut)
    # The half before it belongs to the pair, too.
    if HIGH.fullmatch(data, max(0, cut - ESCAPE_BYTES), cut):
        cut = _run_start(data, cut - ESCAPE_BYTES)
    return cut


def _run_start(data: bytes, place: int) -> int:
    """Return where the run of backslashes around this one begins."""
    return len(data[:place].rstrip(b"\\"))
