"""The one rule about what JSON is accepted, decided on the bytes before any parser runs.

Parsers agree on the grammar of RFC 8259 and differ on what is doubtful in it. The doubtful cases are
settled here, once, for every parser; the grammar itself is the parser's. What is accepted by both can
be stored as Postgres' `json` byte for byte.

Refused as malformed, with the position of the byte at fault:
  - a byte order mark: it is no part of JSON and Postgres refuses it;
  - bytes that are not UTF-8 (UTF-16, overlong forms, surrogates written as UTF-8, truncation);
  - a control character, in a string or between tokens, other than tab, newline and carriage return
    (so a raw NUL, a form feed, a vertical tab); these three are refused inside a string by the parser;
  - brackets nested deeper than STARFORGE_JSON_DEPTH_MAX, at the first bracket too deep;
  - a number longer than STARFORGE_JSON_NUMBER_CHARS_MAX characters;
  - a number with a fraction or an exponent that is too large for a double (1e400). The document is
    kept as bytes, so nothing is lost; a value of infinity could be written nowhere.

Accepted:
  - integers of any size within that length, exactly; a number too small for a double, as zero;
  - an escaped NUL and an escaped lone surrogate: the raw text keeps them, each becomes U+FFFD when
    parsed; a pair of surrogate escapes is one character;
  - a key that appears twice in an object: the last one wins, as in Postgres' `jsonb`;
  - any document at the top, also a bare string or number;
  - a document above the size guard: it is well-formed, and `Verdict.oversized` says so.

The work is a few passes that run in C over pieces of about a megabyte; the only loops in Python are
over pieces, over numbers that look doubtful, and log2(piece) steps to find a position to report.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

from starforge.etl.errors import MalformedError
from starforge.settings import Settings, setting

MB = 1_000_000
PIECE_BYTES = 1 << 20

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

_HIGH = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!%b)|[c-fC-F][0-9a-fA-F]{2}(?<!%b%b))" % (_LOW, _HIGH, _LOW)
)
"""An escaped surrogate without its other half, in text whose escaped backslashes were taken out."""


class GuardSettings(Settings):
    """How large, how deep and how long what a snapshot holds may be."""

    size_max_mb: float = setting(
        5.0,
        env="STARFORGE_SNAPSHOT_SIZE_MAX_MB",
        unit="MB (1 000 000 bytes)",
        meaning="Size guard: a larger snapshot is stored and quarantined instead of processed.",
        gt=0,
    )
    inline_max_mb: float = setting(
        64.0,
        env="STARFORGE_SNAPSHOT_INLINE_MAX_MB",
        unit="MB (1 000 000 bytes)",
        meaning="Largest raw document kept in the database and read into memory.",
        gt=0,
        le=256,
    )
    depth_max: int = setting(
        512,
        env="STARFORGE_JSON_DEPTH_MAX",
        unit="levels",
        meaning="Deepest nesting of arrays and objects; Python's parsers stop working at about 1 000.",
        ge=8,
        le=512,
    )
    number_chars_max: int = setting(
        1000,
        env="STARFORGE_JSON_NUMBER_CHARS_MAX",
        unit="characters",
        meaning="Longest number; Python refuses integers above 4 300 digits.",
        ge=LONG_RUN,
        le=4300,
    )

    key_chars_max: int = setting(
        1024,
        env="STARFORGE_JSON_KEY_CHARS_MAX",
        unit="characters",
        meaning="Longest key of an object, counted as it is written.",
        ge=64,
        le=1_000_000,
    )
    time_max_s: float = setting(
        60.0,
        env="STARFORGE_JSON_TIME_MAX_S",
        unit="seconds",
        meaning="Longest time to judge and parse one document, and as much again per 100 MB of it.",
        gt=0,
    )

    @property
    def size_bytes_max(self) -> int:
        """The size guard in bytes."""
        return int(self.size_max_mb * MB)

    @property
    def inline_bytes_max(self) -> int:
        """The most that is kept inline and read into memory, in bytes."""
        return int(self.inline_max_mb * MB)


@cache
def guard_settings() -> GuardSettings:
    """Read the guard's settings once per process."""
    return GuardSettings.read()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard found in a document that it lets pass."""

    size_bytes: int
    depth: int
    """Deepest nesting: 0 for a bare value, 1 for `{}`."""
    oversized: bool
    """Above the size guard: store it, do not process it."""
    inline: bool
    """Small enough to be kept in the database."""
    has_lone_surrogates: bool
    has_nul_escapes: bool


def check(data: bytes, settings: GuardSettings | None = None) -> Verdict:
    """Judge a document by the rule above.

    Args:
        data: The whole document. Up to one more copy of it is held while it is judged.
        settings: The limits; those of the process where not given.
    Returns: What was found. The grammar is not checked yet: that is `parse`.
    Raises: MalformedError with the position of the byte at fault.
    """
    limits = settings or guard_settings()
    if data.startswith(codecs.BOM_UTF8):
        raise MalformedError.at(data, 0, "byte order mark")
    _check_utf8(data)
    text = without_escaped_quotes(data)
    depth = _check_pieces(data, text, limits)
    escapes = b"\\u" in text
    return Verdict(
        size_bytes=len(data),
        depth=depth,
        oversized=len(data) > limits.size_bytes_max,
        inline=len(data) <= limits.inline_bytes_max,
        has_lone_surrogates=escapes and LONE_SURROGATE.search(text) is not None,
        has_nul_escapes=escapes and b"\\u0000" in text,
    )


def without_escaped_quotes(data: bytes) -> bytes:
    r"""Return the same length of text in which every quote begins or ends a string.

    Escaped backslashes go first, from left to right: the quote in `\\"` ends its string.
    """
    if b"\\" not in data:
        return data
    return data.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def _check_utf8(data: bytes) -> None:
    if data.isascii():
        return
    position = 0
    while position < len(data):
        piece = data[position : position + PIECE_BYTES]
        last = position + len(piece) == len(data)
        try:
            position += codecs.utf_8_decode(piece, "strict", last)[1]
        except UnicodeDecodeError as error:
            raise MalformedError.at(data, position + error.start, f"not UTF-8: {error.reason}") from None


def _check_pieces(data: bytes, text: bytes, limits: GuardSettings) -> int:
    """Check control characters, numbers and depth piece by piece; return the greatest depth."""
    deepest, depth, inside = 0, 0, False
    for start, end in _pieces(text):
        piece = text[start:end]
        outline = piece.translate(None, NOT_OUTLINE)
        if outline.translate(None, b'"' + BRACKETS):
            raise _control_character(data, start)
        _check_numbers(data, start, piece, inside, limits.number_chars_max)
        reached, depth_after, inside_after = _nesting(outline, depth, inside)
        if reached > limits.depth_max:
            position = start + _first_too_deep(piece, depth, inside, limits.depth_max)
            raise MalformedError.at(data, position, f"nested deeper than {limits.depth_max} levels")
        deepest, depth, inside = max(deepest, reached), depth_after, inside_after
    return deepest


def _pieces(text: bytes) -> Iterator[tuple[int, int]]:
    """Cut the text into pieces of about a megabyte that do not end inside a number."""
    start = 0
    while start < len(text):
        number = NUMBER.match(text, min(start + PIECE_BYTES, len(text)))
        end = number.end() if number else len(text)
        yield start, end
        start = end


def _control_character(data: bytes, start: int) -> MalformedError:
    found = CONTROL.search(data, start)
    position = found.start() if found else start
    return MalformedError.at(data, position, f"control character 0x{data[position]:02x}")


def _nesting(outline: bytes, depth: int, inside: bool) -> tuple[int, int, bool]:
    """Follow the brackets outside strings through an outline of nothing but quotes and brackets.

    Args: the depth, and whether a string is open, where the outline begins.
    Returns: the greatest depth in it, and depth and open string where it ends.
    """
    # Taking out two neighbouring quotes leaves every other byte inside or outside as it was, so nearly
    # all strings vanish in one pass; what is left are strings that hold brackets.
    parts = outline.replace(b'""', b"").split(b'"')
    outside = b"".join(parts[1::2] if inside else parts[::2])
    steps = memoryview(outside.translate(STEPS)).cast("b")
    inside ^= len(parts) % 2 == 0
    return max(accumulate(steps, initial=depth)), depth + sum(steps), inside


def _first_too_deep(piece: bytes, depth: int, inside: bool, depth_max: int) -> int:
    """Find the first bracket that goes deeper than allowed, by halving: each step looks at half as much."""
    start, end = 0, len(piece)
    while end - start > 1:
        middle = (start + end) // 2
        outline = piece[start:middle].translate(None, NOT_OUTLINE)
        reached, depth_after, inside_after = _nesting(outline, depth, inside)
        if reached > depth_max:
            end = middle
        else:
            start, depth, inside = middle, depth_after, inside_after
    return start


def _check_numbers(data: bytes, start: int, piece: bytes, inside: bool, chars_max: int) -> None:
    """Refuse a number outside strings that is too long or too large for a double.

    With all digits written as 0 a few substring searches tell which numbers need a look: usually none.
    """
    flat = piece.translate(FLAT)
    for sign in DOUBTFUL:
        counted, quotes = 0, int(inside)
        at = flat.find(sign)
        while at >= 0:
            quotes += flat.count(b'"', counted, at)
            counted = at
            if quotes % 2 == 0:
                _check_number(data, start + at, chars_max)
            at = flat.find(sign, at + len(sign))


def _check_number(data: bytes, position: int, chars_max: int) -> None:
    """Judge the number around this position, which is outside strings."""
    before = data[max(0, position - chars_max) : position]
    begin = position - (len(before) - len(before.rstrip(NUMBER_CHARS)))
    found = NUMBER.match(data, begin)
    number = found.group() if found else b""
    if len(number) > chars_max:
        raise MalformedError.at(data, begin, f"number longer than {chars_max} characters")
    if _is_infinite(number):
        raise MalformedError.at(data, begin, "number out of range")


def _is_infinite(number: bytes) -> bool:
    if number.lstrip(b"-").isdigit():
        return False
    try:
        return math.isinf(float(number))
    except ValueError:
        return False  # not a number at all: the parser says where
