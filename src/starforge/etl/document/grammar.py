"""The grammar of a document that comes in chunks, checked by yajl without keeping anything of it.

It costs 10 ms per MB, five times what the guard costs, and tells the producer of half a gigabyte at once what
its high-memory worker would find out much later. Only the C backend does it at this speed and in constant
memory, so it is required. Even that holds a string whole: a document with a longer one than TEXT_BYTES_MAX is
left to whoever processes it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ijson

from starforge.etl.document.gulps import Gulps
from starforge.etl.errors import MalformedError, NoFastParserError

SIP_BYTES = 512
"""yajl shows some bytes around a fault and not where they are; within so few they are found again."""

LONG_BYTES = 1 << 14
LONG_SIP_BYTES = 1 << 16
"""Within a token that is long already yajl gets so much at once."""

TEXT_BYTES_MAX = 1 << 23
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
        self._gulps = Gulps()
        self._position, self._line, self._newline = 0, 1, -1
        self._silent_bytes = 0  # since a token ended
        self.gave_up = False
        """Whether a string was too long; all before it was sound."""

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk, of any size."""
        for first in range(0, len(chunk), LONG_SIP_BYTES):
            for gulp, is_text in self._gulps.feed(chunk[first : first + LONG_SIP_BYTES]):
                self._take(gulp, is_text=is_text)

    def end(self) -> None:
        """Say that the document is over."""
        if rest := self._gulps.rest():
            self._take(rest, is_text=True)
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

    def _take(self, gulp: bytes, *, is_text: bool) -> None:
        at = 0
        self.gave_up = self.gave_up or self._silent_bytes + len(gulp) * is_text > TEXT_BYTES_MAX
        while at < len(gulp) and not self.gave_up:
            size = LONG_SIP_BYTES if self._silent_bytes > LONG_BYTES else SIP_BYTES
            sip = gulp if is_text else gulp[at : at + size]
            try:
                self._parser.send(sip)
            except (ijson.JSONError, ValueError) as error:
                raise self._fault(sip, error, is_text=is_text) from None
            self._silent_bytes = 0 if self._events else self._silent_bytes + len(sip)
            self._events.clear()
            self._pass(sip)
            at += len(sip)

    def _pass(self, sip: bytes) -> None:
        newline = sip.rfind(b"\n")
        if newline >= 0:
            self._line += sip.count(b"\n")
            self._newline = self._position + newline
        self._position += len(sip)

    def _fault(self, sip: bytes, error: Exception, *, is_text: bool) -> MalformedError:
        reason = words(error)
        if is_text:
            sound = _sound_text(sip)
        else:
            # A byte that is in no token was not consumed; the token that stands in a wrong place was.
            lexical = _told(error).startswith("lexical error") and not reason.startswith("invalid char in")
            sound = _consumed(sip, _told(error).partition("\n")[2]) - (not lexical)
        self._pass(sip[: max(0, sound)])
        position = self._position - (sound < 0)  # the last byte of a number is in the sip before
        return MalformedError(position, self._line, position - self._newline, reason)


def words(error: Exception) -> str:
    """Return why yajl refuses, without what it shows of the document."""
    first = _told(error).partition("\n")[0]
    return first.removeprefix("lexical error: ").removeprefix("parse error: ").rstrip(".")


CONTINUATION = bytes(range(0x80, 0xC0))
"""What is not the first byte of a character."""


@cache
def parser() -> Any:
    """Return ijson's C backend; raise NoFastParserError where this machine has none."""
    try:
        return ijson.get_backend("yajl2_c")
    except Exception as error:
        raise NoFastParserError(f"ijson's yajl2_c backend cannot be loaded: {error}") from None


def _told(error: Exception) -> str:
    """Return yajl's words; where what it shows is cut within a character, ijson leaves them bytes."""
    told = error.args[0] if error.args else ""
    return told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)


def _sound_text(sip: bytes) -> int:
    """Return how many bytes from within a string are sound; none where its fault began before them."""
    text = sip.lstrip(CONTINUATION)
    least, most = 0, len(text) + 1
    while most - least > 1:
        tried = (least + most) // 2
        try:
            parser().basic_parse_coro(ijson.sendable_list()).send(b'"' + text[:tried])
            least = tried
        except (ijson.JSONError, ValueError):
            most = tried
    return len(sip) - len(text) + least if least < len(text) else 0


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
