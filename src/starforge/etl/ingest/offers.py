"""Where snapshots come from: files, folders and standard input, plain or packed, one document or NDJSON.

Nothing here raises for what it reads: whatever is wrong with one offer is said in that offer, and the
next one follows. No file, line or bomb makes it hold more than the inline limit of the guard; a document
above that is offered by what opens it.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from starforge.etl.document.guard import guard_settings
from starforge.etl.document.parse import documents
from starforge.etl.errors import DocumentTimeoutError, MalformedError, TooLargeError, UnreadableError
from starforge.etl.ingest.unpack import PACKED_SUFFIXES, Packing, packing_of, unpacked

NDJSON_SUFFIXES = (".ndjson", ".jsonl")
SUFFIXES = (".json", *NDJSON_SUFFIXES)
STDIN = "-"

COUNTED_BYTES_MIN = 1 << 20
"""What a packed file of so many bytes unpacks to is counted before it is held."""

OfferError = MalformedError | TooLargeError | UnreadableError | DocumentTimeoutError


@dataclass(frozen=True, slots=True)
class Offer:
    """One snapshot as it was offered."""

    name: str
    """The file, `-` for standard input, with `:line` behind it for a line of NDJSON."""
    data: bytes
    """The document, not yet judged; beside an error the file's own bytes, none where they are not at hand."""
    error: OfferError | None = None
    """Why there is no document: its packing is broken, it is too large, or it cannot be read."""
    large: LargeDocument | None = None
    """Beside a TooLargeError: how to take the document all the same (`take_large`)."""


@dataclass(frozen=True, slots=True)
class LargeDocument:
    """A document too large to be held, which can be read again and again."""

    name: str
    size_bytes: int
    """Of the file as it is."""
    opener: Callable[[], io.BufferedReader]
    packed: bool = True
    """Whether to unpack it where it is packed."""

    @contextmanager
    def open(self) -> Iterator[LargeReading]:
        """Open it for one reading."""
        with self.opener() as file:
            how = packing_of(file) if self.packed else None
            yield LargeReading(file, unpacked(file, how))


@dataclass(frozen=True, slots=True)
class LargeReading:
    """A large document that is being read."""

    file: io.BufferedReader
    document: BinaryIO

    def read(self, size: int) -> bytes:
        """Return the next bytes of the document, b"" at its end; raise MalformedError or OSError."""
        return self.document.read(size)

    def position(self) -> int:
        """Return how much of the file was read."""
        return self.file.tell()


def snapshots(
    path: Path | str, ndjson: bool | None = None, *, stdin: io.BufferedReader | None = None
) -> Iterator[Offer]:
    """Read every snapshot of a file, a folder or standard input.

    Args:
        path: A file, a folder (walked in the order of names, links to folders not followed; files named
            *.json, *.ndjson, *.jsonl, each also with .gz or .zst), or `-`. gzip and zstd are known by
            their first bytes.
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
        yield _unreadable(
            _shown(path),
            f"holds no file named *{', *'.join(SUFFIXES)} (or with {', '.join(PACKED_SUFFIXES)})",
        )


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
    plain = Path(path.name.lower())
    return plain.with_suffix("").suffix if plain.suffix in PACKED_SUFFIXES else plain.suffix


def _may_be_a_file(path: Path) -> bool:
    """Say no to pipes, sockets and devices; a broken link is offered, so that it is reported."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _file(path: Path, ndjson: bool | None) -> Iterator[Offer]:
    by_line = _plain_suffix(path) in NDJSON_SUFFIXES if ndjson is None else ndjson
    yield from _read(_shown(path), lambda: path.open("rb"), by_line, path)


def _read(
    name: str, opened: Callable[[], io.BufferedReader], by_line: bool, path: Path | None = None
) -> Iterator[Offer]:
    try:
        with opened() as stream:
            if by_line:
                yield from _lines(name, stream)
            else:
                yield _document(name, stream, path)
    except OSError as error:
        yield _unreadable(name, error.strerror or str(error))


def _document(name: str, stream: io.BufferedReader, path: Path | None) -> Offer:
    bytes_max = guard_settings().inline_bytes_max
    size = os.fstat(stream.fileno()).st_size if path is not None else 0
    how = packing_of(stream)
    if path is not None and (_counts_more(stream, how, size, bytes_max) if how else size > bytes_max):
        return _large(name, LargeDocument(name, size, lambda: path.open("rb")))
    data = stream.read(bytes_max + 1)
    if len(data) > bytes_max:
        return _large(name, _spooled(name, data, stream))
    if how is None:
        return Offer(name, data)
    try:
        document = unpacked(io.BytesIO(data), how).read(bytes_max + 1)
    except MalformedError as error:
        return Offer(name, data, error)
    if len(document) > bytes_max:
        held = LargeDocument(name, len(data), lambda: io.BufferedReader(io.BytesIO(data)))
        return _large(f"{name}, unpacked,", held, data)
    return Offer(name, document)


def _large(name: str, document: LargeDocument, data: bytes = b"") -> Offer:
    return Offer(document.name, data, TooLargeError(name, guard_settings().inline_bytes_max), document)


def _counts_more(stream: io.BufferedReader, how: Packing, size: int, bytes_max: int) -> bool:
    """Tell whether a packed file unpacks to more than may be held; without holding it."""
    if size < COUNTED_BYTES_MIN:
        return False
    left, document = bytes_max, unpacked(stream, how)
    try:
        while left >= 0 and (chunk := document.read(COUNTED_BYTES_MIN)):
            left -= len(chunk)
    except MalformedError:
        return size > bytes_max
    finally:
        stream.seek(0)
    return left < 0


def _spooled(name: str, data: bytes, stream: io.BufferedReader) -> LargeDocument:
    """Put what cannot be read again into a file without a name; what is above the hard limit is left out."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the offer
    spool.write(data)
    while spool.tell() <= guard_settings().hard_bytes_max and (chunk := stream.read(COUNTED_BYTES_MIN)):
        spool.write(chunk)
    size = spool.tell()
    spool.flush()

    def again() -> io.BufferedReader:
        reader = os.fdopen(os.dup(spool.fileno()), "rb")
        reader.seek(0)
        return reader

    return LargeDocument(name, size, again)


def _lines(name: str, stream: io.BufferedReader) -> Iterator[Offer]:
    number = 0
    try:
        for number, found in documents(unpacked(stream, packing_of(stream))):
            if isinstance(found, bytes):
                yield Offer(f"{name}:{number}", found)
            else:
                yield Offer(f"{name}:{number}", b"", TooLargeError(f"{name}:{number}", found.bytes_max))
    except MalformedError as error:
        # The lines before the break were offered; the whole file is kept with the error for the rest.
        yield Offer(f"{name}:{number + 1}", _whole(stream), error)


def _whole(stream: io.BufferedReader) -> bytes:
    if not stream.seekable():
        return b""
    stream.seek(0)
    data = stream.read(guard_settings().inline_bytes_max + 1)
    return data if len(data) <= guard_settings().inline_bytes_max else b""


def _shown(path: Path | str) -> str:
    """Name a file as text: a name need not be UTF-8, what is stored and printed must."""
    return os.fsencode(path).decode("utf-8", "replace")


def _unreadable(name: str, reason: str) -> Offer:
    return Offer(name, b"", UnreadableError(name, reason))
