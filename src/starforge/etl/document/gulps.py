"""Gulps: how much of a document a parser gets at once, where a string in it is long.

yajl keeps a string that is open and reads it from its beginning with all it gets: 64 MB given in pieces of
64 kB are 32 GB of reading. So within a string it gets more and more at once, and elsewhere what comes.
"""

from __future__ import annotations

from collections.abc import Iterator

HELD_BYTES_MIN = 1 << 16
HELD_BYTES_MAX = 1 << 24
"""Of a string that goes on so much is held back at least, as much as was given of it, and at most."""


class Gulps:
    """Takes a document in parts and gives it in gulps."""

    def __init__(self) -> None:
        self._open, self._escaped = False, False
        """We are in a string; its next byte belongs to an escape."""
        self._held: list[bytes] = []
        self._held_bytes = self._given_bytes = 0

    def feed(self, part: bytes) -> Iterator[tuple[bytes, bool]]:
        """Yield what to parse now, and whether it lies in one string, its last quote aside."""
        if not part:
            return
        inside, goes_on = self._pass(part)
        if inside:
            self._held.append(part[:inside])
            self._held_bytes += inside
            if not goes_on or self._held_bytes >= min(max(HELD_BYTES_MIN, self._given_bytes), HELD_BYTES_MAX):
                self._given_bytes += self._held_bytes
                yield self.rest(), True
        if inside < len(part):
            self._given_bytes = len(part) - inside
            yield part[inside:], False

    def rest(self) -> bytes:
        """Return what is held back."""
        rest = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        return rest

    def _pass(self, part: bytes) -> tuple[int, bool]:
        """Return how much of a part belongs to the string that is open as it begins, and if that goes on."""
        # Escapes are hidden behind NUL bytes, so that every quote left begins or ends a string.
        told = b"\0" + part[1:] if self._escaped else part
        if b"\\" in told:
            told = told.replace(b"\\\\", b"\0\0").replace(b'\\"', b"\0\0")
        self._escaped = told.endswith(b"\\")
        quotes = told.count(b'"')
        was_open, self._open = self._open, self._open ^ bool(quotes & 1)
        if not was_open:
            return 0, False
        return (told.index(b'"') + 1, False) if quotes else (len(part), True)
