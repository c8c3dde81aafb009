"""Postgres's protocol, as far as a proxy must read it: where a message ends, and what is asked.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", Message Formats.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import AsyncIterator

CANCEL, SSL, GSSENC = 80877102, 80877103, 80877104
"""What a first message asks for by its code, where it is not a login."""

WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE|COPY|CREATE|ALTER|DROP|pg_notify)\b", re.IGNORECASE)
COMMENT = re.compile(r"--.*")
CHUNK_BYTES = 65536
MESSAGE_BYTES_MAX = 2**30
"""What is longer is no message: the two ends no longer speak the protocol."""


async def first_message(reader: asyncio.StreamReader) -> bytes:
    """Return a connection's first message, the one without a type; b"" where the client hangs up."""
    try:
        head = await reader.readexactly(4)
        return head + await reader.readexactly(struct.unpack("!I", head)[0] - 4)
    except asyncio.IncompleteReadError:
        return b""


def code_of(first: bytes) -> int:
    """Return what a first message asks for: a protocol version, or one of the codes above."""
    return int(struct.unpack("!I", first[4:8])[0])


def application_of(first: bytes) -> str:
    """Return the application_name of a login, or ""."""
    words = first[8:].split(b"\0")
    named = dict(zip(words[::2], words[1::2], strict=False))
    return named.get(b"application_name", b"").decode(errors="replace")


async def messages(reader: asyncio.StreamReader) -> AsyncIterator[list[bytes]]:
    """Give whole messages, type and length included, in lists as they come in together."""
    held = b""
    while chunk := await reader.read(CHUNK_BYTES):
        held += chunk
        whole: list[bytes] = []
        at = 0
        while len(held) - at >= 5:
            length = struct.unpack_from("!I", held, at + 1)[0]
            assert length < MESSAGE_BYTES_MAX, held[at : at + 40]
            if len(held) - at <= length:
                break
            whole.append(held[at : at + 1 + length])
            at += 1 + length
        held = held[at:]
        if whole:
            yield whole


class Texts:
    """What a client asks for, by the names that it gave to what it had parsed."""

    def __init__(self) -> None:
        self._parsed: dict[bytes, str] = {}
        self._bound: dict[bytes, bytes] = {}

    def read(self, message: bytes) -> tuple[str, bool] | None:
        """Return the text that a frontend message is about, and whether it is run; None for the others."""
        kind, body = message[:1], message[5:]
        if kind == b"Q":
            return body.rstrip(b"\0").decode(errors="replace"), True
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._parsed[name] = text.decode(errors="replace")
            return self._parsed[name], False
        if kind == b"B":
            portal, name, _ = body.split(b"\0", 2)
            self._bound[portal] = name
            return self._parsed.get(name, ""), False
        if kind == b"E":
            name = self._bound.get(body.split(b"\0", 1)[0], b"")
            return self._parsed.get(name, ""), True
        return None
