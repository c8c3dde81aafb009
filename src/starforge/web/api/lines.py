"""The lines of a batch as they arrive, none held that is longer than allowed."""

from __future__ import annotations

from collections.abc import Iterator


class Lines:
    """Cuts pieces of NDJSON into lines, numbered from 1; blank ones are counted and passed over."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held: list[bytes] = []
        self._size = self._number = 0
        self._too_long = False

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Give the lines that end in this piece: number and text, None where it is too long."""
        *ended, rest = piece.split(b"\n")
        for part in ended:
            self._add(part)
            yield from self._end()
        self._add(rest)

    def end(self) -> Iterator[tuple[int, bytes | None]]:
        """Give the last line, where no line end follows it."""
        if self._size or self._too_long:
            yield from self._end()

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._bytes_max + 1:  # a carriage return may be the one too many
            self._held.clear()
            self._too_long = True
        elif part and not self._too_long:
            self._held.append(part)

    def _end(self) -> Iterator[tuple[int, bytes | None]]:
        self._number += 1
        line, too_long = b"".join(self._held).removesuffix(b"\r"), self._too_long
        self._held, self._size, self._too_long = [], 0, False
        if too_long or len(line) > self._bytes_max:
            yield self._number, None
        elif line.strip():
            yield self._number, line
