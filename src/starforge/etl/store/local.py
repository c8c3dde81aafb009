"""The object store in a folder of this machine: the default."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar
from uuid import uuid4

from starforge.clock import failpoint
from starforge.etl.errors import ObjectMissingError, StoreRefusedError, StoreUnreachableError
from starforge.etl.store.objects import CHUNK_BYTES, Head, require_key, require_prefix

PARTIAL = ".partial"
"""Where objects are written before they have a name. No key begins with it: see `_require`."""

PARTIAL_S_MAX = 86_400
"""A half-written object that nobody wrote to for so long is what a dead process left."""

PAGE_KEYS = 1000
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG)

P = ParamSpec("P")
R = TypeVar("R")


class LocalStore:
    """Objects as files below a folder that only this user may enter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        """The folder as a URL."""
        return self.folder.as_uri()

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Write an object under a name of its own, make it last, and rename it."""
        place = self._place(key)
        partial, size = self.folder / PARTIAL / uuid4().hex, 0
        handle = await self._run(self._begin, partial)
        try:
            async for chunk in chunks:
                await self._run(_write, handle, chunk)
                size += len(chunk)
                failpoint("store_put_chunk")
            await self._run(self._finish, handle, partial, place)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        finally:
            os.close(handle)
        return size

    async def get(self, key: str, *, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Read an object's file in chunks."""
        handle = await self._run(self._open, key)
        try:
            while chunk := await self._run(os.pread, handle, CHUNK_BYTES, offset):
                yield chunk
                offset += len(chunk)
        finally:
            os.close(handle)

    async def head(self, key: str) -> Head | None:
        """Look at an object's file."""
        place = self._place(key)
        try:
            found = await self._run(place.stat)
        except ObjectMissingError:
            return None
        return _head(key, found) if stat.S_ISREG(found.st_mode) else None

    async def list(self, prefix: str = "") -> AsyncIterator[list[Head]]:
        """Walk the folder in the order of names."""
        walk = self._walk(require_prefix(prefix))
        while page := await self._run(_page, walk):
            yield page

    async def delete(self, key: str) -> None:
        """Remove an object's file; folders stay, for another may be about to write there."""
        place = self._place(key)
        with suppress(ObjectMissingError):
            await self._run(place.unlink)

    def _place(self, key: str) -> Path:
        if require_key(key).split("/")[0] == PARTIAL:
            raise StoreRefusedError(f"{self.name} keeps its unfinished objects under {PARTIAL}")
        return self.folder / key

    async def _run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do what may wait for the disk in a thread; tell its errors as the store's."""
        try:
            return await asyncio.to_thread(work, *args, **kwargs)
        except FileNotFoundError as error:
            raise ObjectMissingError(f"{self.name} has no object {error.filename}") from None
        except OSError as error:
            kind = StoreRefusedError if error.errno in NOT_ALLOWED else StoreUnreachableError
            raise kind(f"{self.name}: {error.strerror or error}") from error

    def _begin(self, partial: Path) -> int:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.parent.mkdir(mode=0o700, exist_ok=True)
        _forget_partials(partial.parent)
        return os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def _finish(self, handle: int, partial: Path, place: Path) -> None:
        os.fsync(handle)
        made = _make_folders(place.parent, self.folder)
        failpoint("store_put_rename")
        partial.replace(place)
        for folder in (*made, place.parent):
            _sync_folder(folder)

    def _open(self, key: str) -> int:
        place = self._place(key)
        return os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def _walk(self, prefix: str) -> Iterator[Head]:
        top = self.folder / prefix
        if prefix and top.is_file():
            yield _head(prefix, top.stat())
        for parent, folders, names in os.walk(top):
            if Path(parent) == self.folder:
                folders[:] = [name for name in folders if name != PARTIAL]
            folders.sort()
            for name in sorted(names):
                path = Path(parent, name)
                with suppress(FileNotFoundError):
                    yield _head(path.relative_to(self.folder).as_posix(), path.stat())


def _write(handle: int, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[os.write(handle, left) :]


def _page(walk: Iterator[Head]) -> list[Head]:
    return [head for _, head in zip(range(PAGE_KEYS), walk, strict=False)]


def _head(key: str, found: os.stat_result) -> Head:
    return Head(key, found.st_size, max(0.0, time.time() - found.st_mtime))


def _make_folders(folder: Path, top: Path) -> list[Path]:
    """Make what is missing between `top` and `folder`; return the folders that have a new entry."""
    changed = []
    for parent in reversed([folder, *folder.parents]):
        if parent.is_relative_to(top) and not parent.exists():
            parent.mkdir(mode=0o700, exist_ok=True)
            changed.append(parent.parent)
    return changed


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _forget_partials(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if time.time() - entry.stat().st_mtime > PARTIAL_S_MAX:
                    os.unlink(entry)
