"""Unpacking: gzip and zstd piece by piece, so that a bomb is stopped while it unpacks.

What comes over the network is fed to an unpacker as it comes; what lies in a file is read through `unpacked`.
No piece is larger than PIECE_BYTES for gzip; for zstd none is larger than what SIP_BYTES can hold: a block of
it, 128 KiB unpacked, takes four bytes at least.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

import zstandard

from starforge.etl.errors import MalformedError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Packing = Literal["gzip", "zstd"]
MAGIC: dict[Packing, bytes] = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
MAGIC_BYTES = max(map(len, MAGIC.values()))
PACKED_SUFFIXES = (".gz", ".zst")

PIECE_BYTES = 1 << 17
SIP_BYTES = 128
READ_BYTES = 1 << 16

FILE_WINDOW_BYTES_MAX = 32 << 20
"""Memory that a zstd file may ask for to be unpacked."""

GZIP_FORMAT = 16 + zlib.MAX_WBITS
"""How zlib is told to expect the head and the checksum of gzip."""


def packing_of(stream: io.BufferedReader) -> Packing | None:
    """Look how a stream is packed; nothing of it is consumed."""
    head = stream.peek(MAGIC_BYTES)
    return next((packing for packing, magic in MAGIC.items() if head.startswith(magic)), None)


def unpacked(stream: BinaryIO, packing: Packing | None) -> BinaryIO:
    """Return a stream of what a file unpacks to; its reads raise MalformedError."""
    if packing is None:
        return stream
    return io.BufferedReader(_File(stream, Packed(packing, FILE_WINDOW_BYTES_MAX)), READ_BYTES)


class Unpacker(Protocol):
    """Takes bytes as they come and gives them as they were before they were packed."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give what these bytes unpack to; raise MalformedError."""

    def end(self) -> None:
        """Say that this was all; raise MalformedError where it ends too early."""


def unpacker(packing: Packing | None, window_bytes_max: int) -> Unpacker:
    """Return what unpacks such bytes; a zstd frame that asks for a larger window is malformed."""
    return Plain() if packing is None else Packed(packing, window_bytes_max)


class Plain:
    """Bytes that are not packed."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give the bytes as they are."""
        if data:
            yield data

    def end(self) -> None:
        """Any end will do: the parser says where a document is cut short."""


class Packed:
    """gzip or zstd: members one after the other, each with an end, and zeros after those of gzip.

    The position of its errors counts packed bytes: all that came where they end too early, otherwise those
    that were good.
    """

    def __init__(self, packing: Packing, window_bytes_max: int) -> None:
        self._packing, self._taken = packing, 0
        self._begin: Callable[[], _Member] = _Gzip
        if packing == "zstd":
            self._begin = partial(_Zstd, zstandard.ZstdDecompressor(max_window_size=window_bytes_max))
        self._member: _Member | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give what these bytes unpack to; raise MalformedError."""
        left = memoryview(data)
        while left:
            piece, used = self._step(left)
            left = left[used:]
            self._taken += used
            if piece:
                yield piece

    def end(self) -> None:
        """Raise MalformedError where a member is open, or there was none."""
        if self._member is not None or not self._taken:
            raise self._malformed("truncated")

    def _step(self, data: memoryview) -> tuple[bytes, int]:
        """Unpack a little; return it, and how many bytes that took."""
        if self._member is None:
            if self._packing == "gzip" and self._taken and not data[0]:
                return b"", _leading_zeros(data)
            self._member = self._begin()
        try:
            piece, used = self._member.step(data)
        except (zlib.error, zstandard.ZstdError) as error:
            raise self._malformed(f"damaged: {error}") from None
        if self._member.is_over:
            self._member = None
        return piece, used

    def _malformed(self, why: str) -> MalformedError:
        return MalformedError(self._taken, 1, self._taken + 1, f"the {self._packing} stream is {why}")


def _leading_zeros(data: memoryview) -> int:
    return len(data) - len(bytes(data).lstrip(b"\0"))


class _Member(Protocol):
    @property
    def is_over(self) -> bool: ...

    def step(self, data: memoryview) -> tuple[bytes, int]:
        """Unpack a little; return it, and how many bytes that took."""


class _Gzip:
    """A member of gzip (RFC 1952)."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(GZIP_FORMAT)

    @property
    def is_over(self) -> bool:
        return self._stream.eof

    def step(self, data: memoryview) -> tuple[bytes, int]:
        piece = self._stream.decompress(data, PIECE_BYTES)
        if len(piece) == PIECE_BYTES and not self._stream.unconsumed_tail:
            # All was read and not all was given: at most one copy within the window is held back.
            piece += self._stream.decompress(b"", PIECE_BYTES)
        left = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        return piece, len(data) - len(left)


class _Zstd:
    """A frame of zstd (RFC 8878)."""

    def __init__(self, unpacks: zstandard.ZstdDecompressor) -> None:
        self._stream = unpacks.decompressobj()

    @property
    def is_over(self) -> bool:
        return self._stream.eof

    def step(self, data: memoryview) -> tuple[bytes, int]:
        sip = data[:SIP_BYTES]
        piece = self._stream.decompress(sip)
        return piece, len(sip) - len(self._stream.unused_data)


class _File(io.RawIOBase):
    """A packed file that is read as if it were plain."""

    def __init__(self, stream: BinaryIO, unpacks: Unpacker) -> None:
        self._stream, self._unpacks = stream, unpacks
        self._pieces: Iterator[bytes] = iter(())
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer with what comes next; raise MalformedError."""
        while not self._ready:
            piece = next(self._pieces, None)
            if piece is not None:
                self._ready = memoryview(piece)
            elif data := self._stream.read(READ_BYTES):
                self._pieces = self._unpacks.feed(data)
            else:
                self._unpacks.end()
                return 0
        target = memoryview(buffer)
        given = min(len(target), len(self._ready))
        target[:given], self._ready = self._ready[:given], self._ready[given:]
        return given
