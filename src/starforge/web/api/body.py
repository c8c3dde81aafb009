"""The body of an ingest request: read as it comes, never longer, larger or later than allowed.

Nothing of a body is held in memory above SPOOL_BYTES while it arrives: a body that is refused in the end, for
its size or because its sender has gone, has cost no more than that.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from starforge.etl.ingest.unpack import Packing, unpacker
from starforge.web.errors import BodyTooSlowError, EncodingError, SnapshotTooLargeError
from starforge.web.settings import IngestSettings

PACKINGS: dict[str, Packing | None] = {
    "": None, "identity": None, "gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd",
}  # fmt: skip
"""What is unpacked here, by its Content-Encoding."""

WINDOW_BYTES_MAX = 8 << 20
"""The window that RFC 9659 lets a zstd body ask for; a larger one is memory on somebody else's word."""

SPOOL_BYTES = 1 << 20
TURN_BYTES = 1 << 18
"""How much of a large body is unpacked before others have their turn."""

LINGER_BYTES = 16 << 20
LINGER_S = 2.0
"""A sender that was refused in mid-sentence is listened to a little longer: else it may never see why."""


class Body:
    """A request's body, read once.

    Args:
        headers: The request's; the Content-Encoding is refused here where it is unknown.
        receive: The rest of the request.
        bytes_max: The most that is taken, as it comes and unpacked.
        keeps_packed: Hold on to the bytes as they come, too: for whoever keeps what cannot be unpacked.
    Raises: EncodingError, SnapshotTooLargeError.
    """

    def __init__(
        self, headers: Headers, receive: Receive, *, bytes_max: int, keeps_packed: bool = False
    ) -> None:
        self._receive, self._bytes_max = receive, bytes_max
        packing = packing_said(headers.get("content-encoding", ""))
        self._unpacker = unpacker(packing, WINDOW_BYTES_MAX)
        limits = IngestSettings.read()
        self._patience_s, self._pace = limits.body_s, limits.body_bytes_per_s
        self.is_over = False
        self._came = self._unpacked = 0
        self._first = b""
        self._spool: tempfile.SpooledTemporaryFile[bytes] | None = None
        self._packed: tempfile.SpooledTemporaryFile[bytes] | None = None
        if keeps_packed and packing is not None:
            self._packed = _spool()
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) > bytes_max:
            raise SnapshotTooLargeError(f"the body has {declared} bytes; at most {bytes_max} are taken")

    async def arrive(self) -> None:
        """Take the unpacked body in, for `data`; raise what `pieces` raises."""
        async for piece in self.pieces():
            if self._spool is None and not self._first:
                self._first = piece  # a small body comes in one piece, and needs no file
                continue
            if self._spool is None:
                self._spool = _spool()
                self._spool.write(self._first)
                self._first = b""
            self._spool.write(piece)

    @property
    def size(self) -> int:
        """Bytes that have come, unpacked."""
        return self._unpacked

    def data(self) -> bytes:
        """Return what has arrived."""
        if self._spool is None:
            return self._first
        self._spool.seek(0)
        return self._spool.read()

    def close(self) -> None:
        """Let go of what has arrived."""
        for file in (self._spool, self._packed):
            if file is not None:
                file.close()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Give the unpacked body piece by piece.

        Raises: SnapshotTooLargeError, BodyTooSlowError; MalformedError where it cannot be unpacked;
            ClientDisconnect.
        """
        turn = SPOOL_BYTES
        while not self.is_over:
            chunk = await self._next()
            if self._packed is not None:
                self._packed.write(chunk)
            for piece in self._unpacker.feed(chunk):
                self._unpacked += len(piece)
                if self._unpacked > self._bytes_max:
                    raise SnapshotTooLargeError(f"the body unpacks to more than {self._bytes_max} bytes")
                yield piece
                if self._unpacked > turn:
                    turn = self._unpacked + TURN_BYTES
                    await asyncio.sleep(0)
        self._unpacker.end()

    def packed(self) -> bytes:
        """Return the bytes as they came, as far as they came."""
        if self._packed is None:
            return b""
        self._packed.seek(0)
        return self._packed.read()

    async def rest(self) -> None:
        """Read on to the end, so that `packed` has all of it; raise what `pieces` raises."""
        while not self.is_over:
            chunk = await self._next()
            if self._packed is not None:
                self._packed.write(chunk)

    async def _next(self) -> bytes:
        """Return what came next, as long as the body keeps to the pace."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            async with asyncio.timeout(max(0.0, self._patience_s)):
                message = await self._receive()
        except TimeoutError:
            raise BodyTooSlowError(
                f"the body did not go on: {self._came} bytes of it came, slower than {self._pace} bytes/s"
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        self.is_over = not message.get("more_body", False)
        self._came += len(chunk)
        # Only the time that the sender takes counts, not what is done between two pieces.
        self._patience_s += len(chunk) / self._pace - (loop.time() - began_s)
        if self._came > self._bytes_max:
            raise SnapshotTooLargeError(f"the body is larger than {self._bytes_max} bytes")
        return chunk


def _spool() -> tempfile.SpooledTemporaryFile[bytes]:
    return tempfile.SpooledTemporaryFile(SPOOL_BYTES)


def packing_said(encoding: str) -> Packing | None:
    """Return how a body of this Content-Encoding is packed; raise EncodingError where it is not known."""
    name = encoding.strip().lower()
    if name not in PACKINGS:
        raise EncodingError(f"the Content-Encoding {name[:40]!r} is not known here")
    return PACKINGS[name]


async def linger(receive: Receive) -> None:
    """Listen a little longer to a sender that was answered already."""
    heard = 0
    try:
        async with asyncio.timeout(LINGER_S):
            while heard < LINGER_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                heard += len(message.get("body", b""))
    except TimeoutError:
        return
