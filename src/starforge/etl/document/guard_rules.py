"""The guard's rules on one piece of a document: what stands in its bytes, and where.

Everything runs in C over the whole piece; the only loops in Python are over numbers that look doubtful, over
steps of a thousand bytes, over brackets, and log2(piece) steps to find a position to report.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import NamedTuple

from starforge.etl.errors import MalformedError

BRACKETS = b"[]{}"
CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\r")
OUTLINE = b'"' + BRACKETS + CONTROLS
NOT_OUTLINE = bytes(byte for byte in range(256) if byte not in OUTLINE)
STEPS = bytes.maketrans(BRACKETS, b"\x01\xff\x01\xff")

NUMBER_CHARS = b"0123456789.eE+-"
NUMBER = re.compile(rb"[0-9.eE+-]*+")
FLAT = bytes.maketrans(b"123456789E", b"000000000e")
LONG_RUN = 200
"""Digits in a row from which a number is looked at. Below it, and with an exponent of at most two
digits, a number is less than 1e299 and shorter than any allowed limit."""
DOUBTFUL = (b"0e000", b"0e+000", b"0" * LONG_RUN)
"""What such a number holds once every digit is written as 0."""

SPACE = re.compile(rb"[ \t\n\r]*+")
NOT_CONTINUED = bytes(byte for byte in range(256) if byte & 0xC0 != 0x80)
"""All bytes but those that continue a character of UTF-8."""


class Place(NamedTuple):
    """A byte of the document, as people are told of it."""

    position: int
    line: int
    column: int

    def fault(self, reason: str) -> MalformedError:
        """Make the error for this byte."""
        return MalformedError(self.position, self.line, self.column, reason)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a document that cut no character, no escape, no pair of surrogates and no number."""

    data: bytes
    text: bytes
    """The same length, without escaped quotes: every quote begins or ends a string."""
    start: int
    """Position of its first byte in the document."""
    lines: int
    """Newlines before it."""
    newline: int
    """Position of the last of those, -1 where there is none."""
    inside: bool
    """Whether a string is open where it begins."""

    def place(self, at: int) -> Place:
        """Return where byte `at` of the piece is in the document."""
        before = self.data.rfind(b"\n", 0, at)
        newline = self.newline if before < 0 else self.start + before
        position = self.start + at
        return Place(position, self.lines + self.data.count(b"\n", 0, at) + 1, position - newline)

    def fault(self, at: int, reason: str) -> MalformedError:
        """Make the error for byte `at` of the piece."""
        return self.place(at).fault(reason)


def outline_of(piece: Piece) -> bytes:
    """Return the piece's quotes and brackets; refuse a control character."""
    outline = piece.text.translate(None, NOT_OUTLINE)
    if outline.translate(None, b'"' + BRACKETS):
        found = CONTROL.search(piece.data)
        at = found.start() if found else 0
        raise piece.fault(at, f"control character 0x{piece.data[at]:02x}")
    return outline


def nesting(outline: bytes, depth: int, inside: bool) -> tuple[int, int, bool]:
    """Follow the brackets outside strings through an outline of nothing but quotes and brackets.

    Args:
        outline: The quotes and brackets.
        depth: Brackets that are open where it begins.
        inside: Whether a string is open there.
    Returns: the greatest depth in it, and depth and open string where it ends.
    """
    # Taking out two neighbouring quotes leaves every other byte inside or outside as it was, so nearly
    # all strings vanish in one pass; what is left are strings that hold brackets.
    parts = outline.replace(b'""', b"").split(b'"')
    outside = b"".join(parts[1::2] if inside else parts[::2])
    steps = memoryview(outside.translate(STEPS)).cast("b")
    inside ^= len(parts) % 2 == 0
    return max(accumulate(steps, initial=depth)), depth + sum(steps), inside


def first_too_deep(text: bytes, depth: int, inside: bool, depth_max: int) -> int:
    """Find the first bracket that goes deeper than allowed, by halving: each step looks at half as much."""
    start, end = 0, len(text)
    while end - start > 1:
        middle = (start + end) // 2
        outline = text[start:middle].translate(None, NOT_OUTLINE)
        reached, depth_after, inside_after = nesting(outline, depth, inside)
        if reached > depth_max:
            end = middle
        else:
            start, depth, inside = middle, depth_after, inside_after
    return start


def check_numbers(piece: Piece, chars_max: int) -> None:
    """Refuse a number outside strings that is too long or too large for a double.

    With all digits written as 0 a few substring searches tell which numbers need a look: usually none.
    """
    flat = piece.text.translate(FLAT)
    for sign in DOUBTFUL:
        counted, quotes = 0, int(piece.inside)
        at = flat.find(sign)
        while at >= 0:
            quotes += flat.count(b'"', counted, at)
            counted = at
            if quotes % 2 == 0:
                _check_number(piece, at, chars_max)
            at = flat.find(sign, at + len(sign))


def number_at_end(text: bytes, chars_max: int) -> int:
    """Return how many characters at the end of a text may belong to a number, `chars_max` + 1 at most."""
    tail = text[-chars_max - 1 :]
    return len(tail) - len(tail.rstrip(NUMBER_CHARS))


def _check_number(piece: Piece, at: int, chars_max: int) -> None:
    """Judge the number around this place, which is outside strings."""
    before = piece.text[max(0, at - chars_max) : at]
    begin = at - (len(before) - len(before.rstrip(NUMBER_CHARS)))
    found = NUMBER.match(piece.text, begin)
    number = found.group() if found else b""
    if len(number) > chars_max:
        raise piece.fault(begin, f"number longer than {chars_max} characters")
    if _is_infinite(number):
        raise piece.fault(begin, "number out of range")


def _is_infinite(number: bytes) -> bool:
    if number.lstrip(b"-").isdigit():
        return False
    try:
        return math.isinf(float(number))
    except ValueError:
        return False  # not a number at all: the parser says where


class Keys:
    """Finds keys that are too long: strings above the limit with a colon behind, across pieces."""

    def __init__(self, chars_max: int) -> None:
        self._chars_max = chars_max
        self._open: Place | None = None  # the quote that began the string which goes on after the piece
        self._chars = 0  # of that string, so far
        self._ended: Place | None = None  # the quote that began a long string behind which only space came

    def check(self, piece: Piece) -> None:
        """Refuse a key that is too long, at the quote that begins it."""
        text, at, inside = piece.text, -1, False
        if self._ended is not None:
            ended = self._ended
            self._colon(piece, -1, lambda: ended)
        if self._open is not None:
            at = text.find(b'"')
            self._chars += _chars(text if at < 0 else text[:at])
            if at < 0:
                return
            began, self._open = self._open, None
            if self._chars > self._chars_max:
                self._colon(piece, at, lambda: began)
        counted, step = at + 1, self._chars_max + 2
        while True:
            # Only where so many bytes hold no quote can a string be that long: nearly always one step
            # of this length finds one.
            last = text.rfind(b'"', at + 1, at + step)
            if last >= 0:
                at = last
                continue
            inside ^= text.count(b'"', counted, at + 1) % 2 == 1
            counted = at + 1
            end = text.find(b'"', at + 1)
            if end < 0:
                break
            if inside and _chars(text[at + 1 : end]) > self._chars_max:
                self._colon(piece, end, partial(piece.place, at))
            at = end
        if inside:
            self._open, self._chars = piece.place(at), _chars(text[at + 1 :])

    def _colon(self, piece: Piece, end: int, began: Callable[[], Place]) -> None:
        """Look for the colon behind a long string that ends at byte `end`; where it began is seldom asked."""
        self._ended = None
        found = SPACE.match(piece.text, end + 1)
        after = found.end() if found else end + 1
        if after == len(piece.text):
            self._ended = began()
        elif piece.text.startswith(b":", after):
            raise began().fault(f"key longer than {self._chars_max} characters")


def _chars(text: bytes) -> int:
    """Count the characters of UTF-8 text."""
    return len(text) if text.isascii() else len(text) - len(text.translate(None, NOT_CONTINUED))


def whole_characters(data: bytes, *, last: bool) -> int:
    """Return how many bytes of the data are whole characters; raise UnicodeDecodeError for what is none."""
    return len(data) if data.isascii() else codecs.utf_8_decode(data, "strict", last)[1]
