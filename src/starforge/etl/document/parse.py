"""From the bytes of a document to Python objects: the gear that works in memory.

`read_document` is the one way in: guard, then parser, and nothing but MalformedError for any input.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec

from starforge.etl.document.escapes import storable
from starforge.etl.document.guard import GuardSettings, Verdict, check, guard_settings
from starforge.etl.errors import MalformedError, TooLargeError

AT_BYTE = re.compile(r"(?:JSON is malformed: )?(?P<reason>.*) \(byte (?P<position>\d+)\)")
ONE_PAST = ("trailing characters", "invalid escape character in string")
"""The reasons for which msgspec names the byte after the one at fault."""

SKIP_BYTES = 1 << 16


class Lines(Protocol):
    """What `documents` reads: an open binary file, standard input, a gzip stream."""

    def readline(self, size: int, /) -> bytes:
        """Return the next line with its end, or its first `size` bytes; empty at the end."""


def read_document(data: bytes, settings: GuardSettings | None = None) -> Any:
    """Check and parse a document; raise MalformedError."""
    return parse(data, check(data, settings))


def parse(data: bytes, verdict: Verdict | None) -> Any:
    """Parse a document that the guard has passed.

    Args:
        data: The bytes that `verdict` is about.
        verdict: The guard's answer; says whether escapes must be replaced first. None: it has passed these
            very bytes before, as they are.
    Returns: dict, list, str, int, float, bool or None. No string holds a NUL or a surrogate; integers
        are exact; the last of equal keys wins.
    Raises: MalformedError where the grammar is broken, with the position in `data`.
    """
    as_it_is = verdict is None or verdict.passed is not None
    try:
        with uncollected():
            return msgspec.json.decode(data if as_it_is else storable(data))
    except msgspec.DecodeError as error:
        raise _malformed(data, str(error)) from None


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the collector from looking for cycles among the objects of a document, which has none.

    It would do so every few hundred objects: a sixth of the time of a document of 2.8 MB.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def documents(
    lines: Lines, *, line_bytes_max: int | None = None
) -> Iterator[tuple[int, bytes | TooLargeError]]:
    """Read NDJSON: yield (line number from 1, document without its line end); blank lines are skipped.

    A line above `line_bytes_max` (default: what may be kept inline) is passed over without holding more
    of it than that, and comes as a TooLargeError. Errors of the stream itself are the caller's.
    """
    bytes_max = line_bytes_max or guard_settings().inline_bytes_max
    number = 0
    while line := lines.readline(bytes_max + 2):
        number += 1
        document = line.rstrip(b"\r\n")
        if len(document) > bytes_max:
            _skip_line(lines, line)
            yield number, TooLargeError(f"line {number}", bytes_max)
        elif document.strip():
            yield number, document


def _malformed(data: bytes, message: str) -> MalformedError:
    found = AT_BYTE.fullmatch(message)
    if found is None:
        # "Input data was truncated" is the only message without a byte that the guard leaves possible.
        truncated = message == "Input data was truncated"
        return MalformedError.at(data, len(data), "the document ends too early" if truncated else message)
    reason, position = found["reason"], int(found["position"])
    return MalformedError.at(data, position - (reason in ONE_PAST), reason)


def _skip_line(lines: Lines, read: bytes) -> None:
    while read and not read.endswith(b"\n"):
        read = lines.readline(SKIP_BYTES)
