"""The grammar of a document that comes in chunks, checked by yajl without keeping anything of it.

It costs 10 ms per MB, five times what the guard costs, and tells the producer of half a gigabyte at once what
its high-memory worker would find out much later. Only the C backend does it at this speed and in constant
memory, so it is required. Even that holds a string whole and reads it from its beginning with every chunk
that it gets: a document with a longer one than TEXT_BYTES_MAX is left to whoever processes it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ijson

from starforge.etl.errors import MalformedError, NoFastParserError

SIP_BYTES = 512
"""yajl shows some bytes around a fault and not where they are; within so few they are found again."""

LONG_BYTES = 1 << 14
LONG_SIP_BYTES = 1 << 16
"""Within a token that is long already yajl gets so much at once."""

TEXT_BYTES_MAX = 1 << 20
"""A longer string is not checked, and nothing behind it."""

CARET, SHOWN = 40, 30
"""It shows so many bytes before and after the fault, which stands in this column of its message."""


class Grammar:
    """Takes a document in chunks; `feed` and `end` raise MalformedError at the byte at fault.

    Of a token that stands in a wrong place that is the last byte.
    """

    def __init__(self) -> None:
        self._events = ijson.sendable_list()
        self._parser = parser().basic_parse_coro(self._events)
        self._position, self._line, self._newline = 0, 1, -1
        self._silent_bytes = 0  # since a token ended
        self.gave_up = False
        """Whether a string was too long; all before it was sound."""

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk, of any size."""
        at = 0
        while at < len(chunk) and not self.gave_up:
            size = LONG_SIP_BYTES if self._silent_bytes > LONG_BYTES else SIP_BYTES
            sip = chunk[at : at + size]
            try:
                self._parser.send(sip)
            except (ijson.JSONError, ValueError) as error:
                raise self._fault(sip, str(error)) from None
            self._silent_bytes = 0 if self._events else self._silent_bytes + len(sip)
            self._events.clear()
            self._pass(sip)
            at += len(sip)
            self.gave_up = self._silent_bytes > TEXT_BYTES_MAX

    def end(self) -> None:
        """Say that the document is over."""
        if self.gave_up:
            return
        try:
            # A newline ends every token but a string, which may hold none: yajl forgets a string that is
            # open behind a whole document.
            self._parser.send(b"\n")
            self._parser.close()
        except (ijson.JSONError, ValueError):
            column = self._position - self._newline
            raise MalformedError(self._position, self._line, column, "the document ends too early") from None

    def _pass(self, sip: bytes) -> None:
        newline = sip.rfind(b"\n")
        if newline >= 0:
            self._line += sip.count(b"\n")
            self._newline = self._position + newline
        self._position += len(sip)

    def _fault(self, sip: bytes, told: str) -> MalformedError:
        reason, _, shown = told.partition("\n")
        kind, _, reason = reason.partition(": ")
        # A byte that is in no token was not consumed; the token that stands in a wrong place was.
        consumed = _consumed(sip, shown) - (kind != "lexical error" or reason.startswith("invalid char in"))
        self._pass(sip[: max(0, consumed)])
        position = self._position - (consumed < 0)  # the last byte of a number is in the sip before
        return MalformedError(position, self._line, position - self._newline, reason.rstrip("."))


@cache
def parser() -> Any:
    """Return ijson's C backend; raise NoFastParserError where this machine has none."""
    try:
        return ijson.get_backend("yajl2_c")
    except Exception as error:
        raise NoFastParserError(f"ijson's yajl2_c backend cannot be loaded: {error}") from None


def _consumed(sip: bytes, shown: str) -> int:
    """Find how much of the sip yajl had consumed when it showed this; all of it where that is not clear."""
    line = shown.partition("\n")[0]
    flat = sip.replace(b"\n", b" ").replace(b"\r", b" ")
    for consumed in range(len(sip) + 1):
        begin = max(0, consumed - SHOWN)
        around = flat[begin : consumed + SHOWN].decode("utf-8", "replace")
        if line == " " * (CARET - consumed + begin) + around:
            return consumed
    return len(sip)
