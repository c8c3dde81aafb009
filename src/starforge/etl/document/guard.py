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
    kept as bytes, so nothing is lost; a value of infinity could be written nowhere. NaN and Infinity are
    no JSON, and so the parser's to refuse;
  - a key longer than STARFORGE_JSON_KEY_CHARS_MAX characters, as it is written, at its first quote.

Refused, and no fault of the document: one that takes longer than STARFORGE_JSON_TIME_MAX_S and as much
again per 100 MB (DocumentTimeoutError, class TIMEOUT). Only the time spent on it counts, not that spent on
waiting for its bytes.

Accepted:
  - integers of any size within that length, exactly; a number too small for a double, as zero;
  - an escaped NUL and an escaped lone surrogate: the raw text keeps them, each becomes U+FFFD when
    parsed; a pair of surrogate escapes is one character;
  - a key that appears twice in an object: the last one wins, as in Postgres' `jsonb`;
  - any document at the top, also a bare string or number;
  - a document above the size guard: it is well-formed, and `Verdict.oversized` says so.

A document is judged in pieces, of which `Guard` holds one; `check` judges one that is in memory. What the
rules do with a piece is in `guard_rules.py`. Of several faults the one in the earlier piece is told.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace
from functools import cache

from starforge.clock import monotonic_s
from starforge.etl.document.guard_rules import (
    LONG_RUN,
    NUMBER_CHARS,
    Keys,
    Piece,
    check_numbers,
    first_too_deep,
    nesting,
    number_at_end,
    outline_of,
    whole_characters,
)
from starforge.etl.errors import DocumentTimeoutError, MalformedError
from starforge.settings import Settings, setting

MB = 1_000_000
PIECE_BYTES = 1 << 18
"""A document is judged in pieces of this size: they stay in the processor's cache."""

_HIGH = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!%b)|[c-fC-F][0-9a-fA-F]{2}(?<!%b%b))" % (_LOW, _HIGH, _LOW)
)
"""An escaped surrogate without its other half, in text whose escaped backslashes were taken out."""

HIGH_SURROGATE = re.compile(_HIGH)
ESCAPE_CHARS = len(r"\uD83D")
TIME_BYTES = 100 * MB


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
    hard_max_mb: float = setting(
        1073.741824,
        env="STARFORGE_SNAPSHOT_SIZE_HARD_MB",
        unit="MB (1 000 000 bytes)",
        meaning="Hard limit: a larger document is refused by the command line; it is 1 GiB.",
        gt=0,
        le=100_000,
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

    @property
    def hard_bytes_max(self) -> int:
        """The most that the command line takes in, in bytes."""
        return round(self.hard_max_mb * MB)


@cache
def guard_settings() -> GuardSettings:
    """Read the guard's settings once per process."""
    return GuardSettings.read()


GUARD = 1
"""The version of the rules. Whoever makes them stricter raises it: what is stored is asked again then."""


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

    @property
    def passed(self) -> int | None:
        """The version of the rules that the bytes have passed; None: not as they are."""
        return None if self.has_lone_surrogates or self.has_nul_escapes else GUARD


class Guard:
    """Judges a document that comes in chunks; the outcome does not depend on how it was cut.

    About a piece of it is held. A document that is refused needs no more chunks; what it is fed afterwards
    is refused as well.
    """

    def __init__(self, settings: GuardSettings | None = None) -> None:
        self._limits = settings or guard_settings()
        self._held = bytearray()  # fed and not judged yet
        self._want = PIECE_BYTES  # bytes to hold before a piece is judged
        self._position, self._lines, self._newline = 0, 0, -1  # of what was judged
        self._depth, self._deepest, self._inside = 0, 0, False
        self._keys = Keys(self._limits.key_chars_max)
        self._lone_surrogates = self._nul_escapes = False
        self._refused: MalformedError | None = None
        self.spent_s = 0.0
        """Time spent on judging so far; a parser adds its own before it asks `require_time`."""

    @property
    def size_bytes(self) -> int:
        """Bytes fed so far."""
        return self._position + len(self._held)

    def feed(self, chunk: bytes | memoryview) -> None:
        """Take the next chunk, of any size; raise MalformedError or DocumentTimeoutError."""
        began_s = monotonic_s()
        rest = memoryview(chunk)
        while len(self._held) + len(rest) >= self._want:
            take = self._want - len(self._held)
            self._piece(b"".join((self._held, rest[:take])), last=False)
            rest = rest[take:]
        self._held += rest
        self._spend(began_s)

    def end(self) -> Verdict:
        """Say what was found in the whole document; raise as `feed` does."""
        began_s = monotonic_s()
        self._piece(bytes(self._held), last=True)
        self._spend(began_s)
        size, limits = self._position, self._limits
        return Verdict(
            size_bytes=size,
            depth=self._deepest,
            oversized=size > limits.size_bytes_max,
            inline=size <= limits.inline_bytes_max,
            has_lone_surrogates=self._lone_surrogates,
            has_nul_escapes=self._nul_escapes,
        )

    def cut_short(self) -> MalformedError | None:
        """Return the error of a document that ends within a string or a container; ask after `end`."""
        if not self._inside and self._depth <= 0:
            return None
        column = self._position - self._newline
        return MalformedError(self._position, self._lines + 1, column, "the document ends too early")

    def _spend(self, began_s: float) -> None:
        self.spent_s += monotonic_s() - began_s
        require_time(self.spent_s, self.size_bytes, self._limits)

    def _piece(self, data: bytes, *, last: bool) -> None:
        """Judge as much of the data as can be told apart from what follows; hold the rest."""
        if self._refused is not None:
            raise self._refused
        try:
            used = self._judge(data, last=last)
        except MalformedError as error:
            self._refused = error
            raise
        self._held = bytearray(data[used:])
        self._want = len(self._held) + PIECE_BYTES

    def _judge(self, data: bytes, *, last: bool) -> int:
        """Apply the rules to what is whole at the beginning of the data; return how many bytes that is."""
        piece = Piece(data, data, self._position, self._lines, self._newline, self._inside)
        if self._position == 0:
            if len(data) < len(codecs.BOM_UTF8) and not last:
                return 0
            if data.startswith(codecs.BOM_UTF8):
                raise piece.fault(0, "byte order mark")
        try:
            whole = whole_characters(data, last=last)
        except UnicodeDecodeError as error:
            raise piece.fault(error.start, f"not UTF-8: {error.reason}") from None
        text = without_escaped_quotes(data[:whole])
        if not last:
            text = text[: self._cut(piece, text)]
        if text:
            self._apply(replace(piece, data=data[: len(text)], text=text))
        return len(text)

    def _cut(self, piece: Piece, text: bytes) -> int:
        """Find where a text may end: not inside an escape, between two surrogates, or inside a number."""
        cut, chars_max = len(text), self._limits.number_chars_max
        held = number_at_end(text, chars_max)
        if held <= chars_max:
            cut -= held  # may begin inside an escape: so this first
        elif not piece.inside ^ (text.count(b'"') % 2 == 1):
            raise piece.fault(len(text.rstrip(NUMBER_CHARS)), f"number longer than {chars_max} characters")
        escape = text.rfind(b"\\", max(0, cut - ESCAPE_CHARS), cut)
        if escape >= 0:
            cut = escape
            if HIGH_SURROGATE.match(text, max(0, cut - ESCAPE_CHARS), cut):
                cut -= ESCAPE_CHARS
        return cut

    def _apply(self, piece: Piece) -> None:
        """Apply every rule to a piece, and go on behind it."""
        limits, text = self._limits, piece.text
        outline = outline_of(piece)
        check_numbers(piece, limits.number_chars_max)
        reached, depth, inside = nesting(outline, self._depth, self._inside)
        if reached > limits.depth_max:
            at = first_too_deep(text, self._depth, self._inside, limits.depth_max)
            raise piece.fault(at, f"nested deeper than {limits.depth_max} levels")
        self._keys.check(piece)
        if b"\\" in text and b"\\u" in text:  # the first is found to be absent ten times as fast
            self._lone_surrogates = self._lone_surrogates or LONE_SURROGATE.search(text) is not None
            self._nul_escapes = self._nul_escapes or b"\\u0000" in text
        self._deepest, self._depth, self._inside = max(self._deepest, reached), depth, inside
        newline = piece.data.rfind(b"\n")
        if newline >= 0:
            self._lines += piece.data.count(b"\n")
            self._newline = piece.start + newline
        self._position += len(text)


def check(data: bytes, settings: GuardSettings | None = None) -> Verdict:
    """Judge a document by the rule above.

    Args:
        data: The whole document.
        settings: The limits; those of the process where not given.
    Returns: What was found. The grammar is not checked yet: that is `parse`.
    Raises: MalformedError with the position of the byte at fault; DocumentTimeoutError.
    """
    guard = Guard(settings)
    guard.feed(data)
    return guard.end()


def require_time(spent_s: float, size_bytes: int, settings: GuardSettings | None = None) -> None:
    """Raise DocumentTimeoutError where a document of this size took too long to judge and parse."""
    limit_s = (settings or guard_settings()).time_max_s
    allowed_s = limit_s * (1 + size_bytes / TIME_BYTES)
    if spent_s > allowed_s:
        raise DocumentTimeoutError(spent_s, size_bytes, allowed_s)


def without_escaped_quotes(data: bytes) -> bytes:
    r"""Return the same length of text in which every quote begins or ends a string.

    Escaped backslashes go first, from left to right: the quote in `\\"` ends its string.
    """
    if b"\\" not in data:
        return data
    return data.replace(b"\\\\", b"__").replace(b'\\"', b"__")
