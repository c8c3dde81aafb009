"""Packed files: gzip and zstd, known by their first bytes and unpacked while they are read."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import BinaryIO, Literal, cast

import zstandard

from starforge.etl.errors import MalformedError

Packing = Literal["gzip", "zstd"]
MAGIC: dict[Packing, bytes] = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
MAGIC_BYTES = max(map(len, MAGIC.values()))
SUFFIXES = (".gz", ".zst")

WINDOW_BYTES_MAX = 32 << 20
"""Memory that a zstd file may ask for to be unpacked."""

SIP_BYTES = 128
"""zstd is unpacked in sips: a block of it, 128 KiB unpacked, takes four bytes at least."""

READ_BYTES = 1 << 16

BROKEN: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
"""What reading a broken file raises."""


def packing_of(stream: io.BufferedReader) -> Packing | None:
    """Look how a stream is packed; nothing of it is consumed."""
    head = stream.peek(MAGIC_BYTES)
    return next((packing for packing, magic in MAGIC.items() if head.startswith(magic)), None)


def unpacked(stream: BinaryIO, packing: Packing | None) -> BinaryIO:
    """Return a stream of what a packed one unpacks to; several members are one after the other."""
    if packing == "gzip":
        return cast("BinaryIO", gzip.GzipFile(fileobj=stream))
    return io.BufferedReader(_Zstd(stream), READ_BYTES) if packing == "zstd" else stream


def broken(packing: Packing | None, size_bytes: int, error: Exception) -> MalformedError:
    """Say what is wrong with a packed file of this size."""
    truncated = isinstance(error, EOFError)
    position = size_bytes if truncated else 0
    reason = f"the {packing} stream is {'truncated' if truncated else f'damaged: {error}'}"
    return MalformedError(position, 1, position + 1, reason)


class _Zstd(io.RawIOBase):
    """zstd (RFC 8878) of one frame or several; unlike the library's own reader it misses a frame's end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left, self._ready = stream, memoryview(b""), memoryview(b"")
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        """Fill the buffer with what comes next; raise EOFError where the file ends within a frame."""
        target = memoryview(buffer)  # type: ignore[arg-type] # any buffer; typeshed's name is not at runtime
        while not self._ready:
            if not self._left:
                self._left = memoryview(self._stream.read(READ_BYTES))
            if not self._left:
                if self._frame is not None:
                    raise EOFError("the zstd frame does not end")
                return 0
            self._sip()
        given = min(len(target), len(self._ready))
        target[:given], self._ready = self._ready[:given], self._ready[given:]
        return given

    def _sip(self) -> None:
        self._frame = self._frame or self._unpacker.decompressobj()
        sip, self._left = self._left[:SIP_BYTES], self._left[SIP_BYTES:]
        self._ready = memoryview(self._frame.decompress(sip))
        if self._frame.eof:
            self._left = memoryview(self._frame.unused_data + bytes(self._left))
            self._frame = None
