"""Unpacking: gzip and zstd bodies piece by piece, so that a bomb is stopped while it unpacks.

No piece is larger than PIECE_BYTES for gzip; for zstd none is larger than what SIP_BYTES can hold: a block of
it, 128 KiB unpacked, takes four bytes at least.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

import zstandard

from starforge.etl.errors import MalformedError
from starforge.web.errors import EncodingError

PIECE_BYTES = 1 << 17
SIP_BYTES = 128
WINDOW_BYTES_MAX = 8 << 20
"""The window that RFC 9659 lets a zstd body ask for; a larger one is memory on somebody else's word."""

ENCODINGS = ("gzip", "zstd")
GZIP_WINDOW = 31


class Unpacker(Protocol):
    """Takes a body as it comes and gives it as it was before it was packed."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give what these bytes unpack to; raise MalformedError."""

    def end(self) -> None:
        """Say that the body is over; raise MalformedError where it ends too early."""


def unpacker(encoding: str) -> Unpacker:
    """Return what unpacks a Content-Encoding; raise EncodingError where nothing here does."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return Plain()
    if name in ("gzip", "x-gzip"):
        return Gzip()
    if name == "zstd":
        return Zstd()
    raise EncodingError(f"the Content-Encoding {name[:40]!r} is not known here")


class Plain:
    """A body that is not packed."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give the bytes as they are."""
        if data:
            yield data

    def end(self) -> None:
        """Any end will do: the parser says where a document is cut short."""


class _Members:
    """What gzip and zstd share: members one after the other, each with an end."""

    name = ""

    def __init__(self) -> None:
        self._taken, self._open = 0, False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give what these bytes unpack to; raise MalformedError."""
        left = memoryview(data)
        while left:
            self._open = True
            piece, used, over = self._step(left)
            left = left[used:]
            self._taken += used
            if piece:
                yield piece
            if over:
                self._open = False
                self._begin()

    def end(self) -> None:
        """Raise MalformedError where a member is open, or there was none."""
        if self._open or not self._taken:
            raise self._broken("truncated")

    def _broken(self, why: str) -> MalformedError:
        return MalformedError(self._taken, 1, self._taken + 1, f"the {self.name} stream is {why}")

    def _begin(self) -> None:
        raise NotImplementedError

    def _step(self, data: memoryview) -> tuple[bytes, int, bool]:
        """Unpack a little; return it, how many bytes that took, and whether the member is over."""
        raise NotImplementedError


class Gzip(_Members):
    """gzip (RFC 1952), of one member or several."""

    name = "gzip"

    def __init__(self) -> None:
        super().__init__()
        self._begin()

    def _begin(self) -> None:
        self._stream = zlib.decompressobj(GZIP_WINDOW)

    def _step(self, data: memoryview) -> tuple[bytes, int, bool]:
        try:
            piece = self._stream.decompress(data, PIECE_BYTES)
            if len(piece) == PIECE_BYTES and not self._stream.unconsumed_tail:
                # All was read and not all was given: at most one copy within the window is held back.
                piece += self._stream.decompress(b"", PIECE_BYTES)
        except zlib.error as error:
            raise self._broken(f"damaged: {error}") from None
        left = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        return piece, len(data) - len(left), self._stream.eof


class Zstd(_Members):
    """zstd (RFC 8878), of one frame or several."""

    name = "zstd"

    def __init__(self) -> None:
        super().__init__()
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
        self._begin()

    def _begin(self) -> None:
        self._stream = self._unpacker.decompressobj()

    def _step(self, data: memoryview) -> tuple[bytes, int, bool]:
        sip = data[:SIP_BYTES]
        try:
            piece = self._stream.decompress(sip)
        except zstandard.ZstdError as error:
            raise self._broken(f"damaged: {error}") from None
        return piece, len(sip) - len(self._stream.unused_data), self._stream.eof
