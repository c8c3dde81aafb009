"""Where snapshots come from: files, folders and standard input, plain or gzip, one document or NDJSON.

Nothing here raises for what it reads: whatever is wrong with one offer is said in that offer, and the
next one follows. No file, line or gzip bomb makes it hold more than the inline limit of the guard.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from starforge.etl.errors import MalformedError, TooLargeError, UnreadableError
from starforge.etl.guard import guard_settings
from starforge.etl.parse import documents

GZIP_MAGIC = b"\x1f\x8b"
NDJSON_SUFFIXES = (".ndjson", ".jsonl")
SUFFIXES = (".json", *NDJSON_SUFFIXES)
STDIN = "-"

OfferError = MalformedError | TooLargeError | UnreadableError


@dataclass(frozen=True, slots=True)
class Offer:
    """One snapshot as it was offered."""

    name: str
    """The file, `-` for standard input, with `:line` behind it for a line of NDJSON."""
    data: bytes
    """The document, not yet judged; beside an error the file's own bytes, none where they are not at hand."""
    error: OfferError | None = None
    """Why there is no document: the gzip is broken, it is too large, or it cannot be read."""


def snapshots(
    path: Path | str, ndjson: bool | None = None, *, stdin: io.BufferedReader | None = None
) -> Iterator[Offer]:
    """Read every snapshot of a file, a folder or standard input.

    Args:
        path: A file, a folder (walked in the order of names, links to folders not followed; files named
            *.json, *.ndjson, *.jsonl, each also with .gz), or `-`. Gzip is known by its first two bytes.
        ndjson: One document per line, or (False) one per file; where None the suffix decides, and `-`
            is one document.
        stdin: What `-` reads; the process's standard input where None.
    Yields: Offers, in order. A document is bytes; whether it is JSON is the guard's and parser's answer.
    """
    if str(path) == STDIN:
        yield from _read(STDIN, lambda: stdin or os.fdopen(0, "rb", closefd=False), bool(ndjson))
        return
    path = Path(path)
    if not os.path.isdir(path):  # unlike Path.is_dir it never raises: what is wrong is said by open
        yield from _file(path, ndjson)
        return
    empty = True
    for found in _walk(path):
        empty = False
        yield from (_file(found, ndjson) if isinstance(found, Path) else (found,))
    if empty:
        yield _unreadable(_shown(path), f"holds no file named *{', *'.join(SUFFIXES)} (or with .gz)")


def _walk(folder: Path) -> Iterator[Path | Offer]:
    failed: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=failed.append):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if _plain_suffix(path) in SUFFIXES and _may_be_a_file(path):
                yield path
    for error in failed:
        yield _unreadable(_shown(error.filename), error.strerror or str(error))


def _plain_suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _may_be_a_file(path: Path) -> bool:
    """Say no to pipes, sockets and devices; a broken link is offered, so that it is reported."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _file(path: Path, ndjson: bool | None) -> Iterator[Offer]:
    by_line = _plain_suffix(path) in NDJSON_SUFFIXES if ndjson is None else ndjson
    yield from _read(_shown(path), lambda: path.open("rb"), by_line)


def _read(name: str, opened: Callable[[], io.BufferedReader], by_line: bool) -> Iterator[Offer]:
    try:
        with opened() as stream:
            if by_line:
                yield from _lines(name, stream)
            else:
                yield _document(name, stream)
    except OSError as error:
        yield _unreadable(name, error.strerror or str(error))


def _document(name: str, stream: io.BufferedReader) -> Offer:
    bytes_max = guard_settings().inline_bytes_max
    data = stream.read(bytes_max + 1)
    if len(data) > bytes_max:
        return Offer(name, b"", TooLargeError(name, bytes_max))
    if not data.startswith(GZIP_MAGIC):
        return Offer(name, data)
    try:
        document = gzip.GzipFile(fileobj=io.BytesIO(data)).read(bytes_max + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return Offer(name, data, _broken_gzip(data, error))
    if len(document) > bytes_max:
        return Offer(name, data, TooLargeError(f"{name}, unpacked,", bytes_max))
    return Offer(name, document)


def _lines(name: str, stream: io.BufferedReader) -> Iterator[Offer]:
    packed = stream.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)
    lines = gzip.GzipFile(fileobj=stream) if packed else stream
    number = 0
    try:
        for number, found in documents(lines):
            if isinstance(found, bytes):
                yield Offer(f"{name}:{number}", found)
            else:
                yield Offer(f"{name}:{number}", b"", TooLargeError(f"{name}:{number}", found.bytes_max))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        # The lines before the break were offered; the whole file is kept with the error for the rest.
        data = _whole(stream)
        yield Offer(f"{name}:{number + 1}", data, _broken_gzip(data, error))


def _whole(stream: io.BufferedReader) -> bytes:
    if not stream.seekable():
        return b""
    stream.seek(0)
    data = stream.read(guard_settings().inline_bytes_max + 1)
    return data if len(data) <= guard_settings().inline_bytes_max else b""


def _broken_gzip(data: bytes, error: Exception) -> MalformedError:
    truncated = isinstance(error, EOFError)
    position = len(data) if truncated else 0
    reason = "the gzip stream is truncated" if truncated else f"the gzip stream is damaged: {error}"
    return MalformedError(position, 1, position + 1, reason)


def _shown(path: Path | str) -> str:
    """Name a file as text: a name need not be UTF-8, what is stored and printed must."""
    return os.fsencode(path).decode("utf-8", "replace")


def _unreadable(name: str, reason: str) -> Offer:
    return Offer(name, b"", UnreadableError(name, reason))
