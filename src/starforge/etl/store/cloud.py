"""The object store in a bucket: S3, Google Cloud Storage and Azure, through obstore."""

from __future__ import annotations

import atexit
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starforge.errors import InvalidSettingError
from starforge.etl.errors import (
    ObjectMissingError,
    StoreNotAllowedError,
    StoreRefusedError,
    StoreUnreachableError,
)
from starforge.etl.store.objects import CHUNK_BYTES, CLOUD, Head, StoreSettings, require_key, require_prefix

PART_BYTES = 8 << 20
"""Part of a multipart upload; S3 takes at most 10 000 of them, 78 GB."""

PARTS_AT_ONCE = 2
PAGE_KEYS = 1000
SETTLE_S = 0.05


class CloudStore:
    """Objects in a bucket, all of them below the URL's path."""

    def __init__(self, url: str, settings: StoreSettings) -> None:
        parts = urlsplit(url)
        if not parts.netloc:
            raise StoreNotAllowedError(url)
        self._url, self._below = url.rstrip("/"), require_prefix(parts.path.strip("/"))
        self._obstore, self._store = _client(parts.scheme, parts.netloc, settings)

    @property
    def name(self) -> str:
        """The bucket's URL; logins are never part of it."""
        return self._url

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Upload an object in parts; it has its name once the last one is there."""
        path, size = self._path(key), 0
        broke: BaseException | None = None

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size, broke
            try:
                async for chunk in chunks:
                    if chunk:
                        size += len(chunk)
                        yield chunk
            except BaseException as error:
                broke = error  # the client would hide whose it is
                raise

        try:
            with self._told(key):
                await self._obstore.put_async(
                    self._store,
                    path,
                    counted(),
                    use_multipart=True,
                    chunk_size=PART_BYTES,
                    max_concurrency=PARTS_AT_ONCE,
                )
        except Exception:
            if broke is not None:
                raise broke from None
            raise
        return size

    async def get(self, key: str, *, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Download an object in chunks."""
        path = self._path(key)
        with self._told(key):
            if offset:
                head = await self._obstore.head_async(self._store, path)
                if offset >= head["size"]:
                    return
            options: dict[str, Any] = {"range": {"offset": offset}} if offset else {}
            got = await self._obstore.get_async(self._store, path, options=options)
            stream = got.stream(min_chunk_size=CHUNK_BYTES)
        while True:
            with self._told(key):
                try:
                    chunk = await anext(stream)
                except StopAsyncIteration:
                    return
            if chunk:
                yield bytes(chunk)

    async def head(self, key: str) -> Head | None:
        """Ask for an object's size and age."""
        path = self._path(key)
        try:
            with self._told(key):
                return self._head(await self._obstore.head_async(self._store, path))
        except ObjectMissingError:
            return None

    async def list(self, prefix: str = "") -> AsyncIterator[list[Head]]:
        """List in the order of keys, as the provider does."""
        below = "/".join(part for part in (self._below, require_prefix(prefix)) if part)
        with self._told(prefix):
            pages = self._obstore.list(self._store, below or None, chunk_size=PAGE_KEYS)
        while True:
            with self._told(prefix):
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
            yield [self._head(meta) for meta in page]

    async def delete(self, key: str) -> None:
        """Delete an object."""
        path = self._path(key)
        try:
            with self._told(key):
                await self._obstore.delete_async(self._store, path)
        except ObjectMissingError:
            return

    def _path(self, key: str) -> str:
        return "/".join(part for part in (self._below, require_key(key)) if part)

    def _head(self, meta: Any) -> Head:
        age = datetime.now(UTC) - meta["last_modified"]
        key = str(meta["path"]).removeprefix(f"{self._below}/" if self._below else "")
        return Head(key, int(meta["size"]), max(0.0, age.total_seconds()))

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Tell the client's errors as the store's; its words quote no login."""
        from obstore import exceptions as theirs

        try:
            yield
        except (theirs.NotFoundError, FileNotFoundError):
            raise ObjectMissingError(f"{self.name} has no object {key}") from None
        except (theirs.PermissionDeniedError, theirs.UnauthenticatedError) as error:
            raise StoreRefusedError(f"{self.name} refused {key}: {_line(error)}") from None
        except (theirs.BaseError, OSError, TimeoutError) as error:
            raise StoreUnreachableError(f"{self.name} failed at {key}: {_line(error)}") from None


def _client(scheme: str, bucket: str, settings: StoreSettings) -> tuple[Any, Any]:
    """Return the library and its client of a bucket; logins are the provider's environment variables."""
    try:
        import obstore
        from obstore import store as kinds
    except ImportError:
        raise InvalidSettingError(
            "STARFORGE_OBJECT_STORE",
            f"{scheme}://{bucket}",
            f"{CLOUD[scheme]} needs pip install 'starforge-jobs[s3]'",
        ) from None
    how: dict[str, Any] = {
        "client_options": {"allow_http": False, "connect_timeout": "5s", "timeout": f"{settings.wait_s:g}s"},
        "retry_config": {"max_retries": 4, "retry_timeout": timedelta(seconds=settings.wait_s)},
    }
    if settings.endpoint:
        how["client_options"]["allow_http"] = _is_local_http(settings.endpoint)
        how["base_url" if scheme == "gs" else "endpoint"] = settings.endpoint
    _settle_at_exit()
    kind: Any = {"s3": kinds.S3Store, "gs": kinds.GCSStore, "az": kinds.AzureStore}[scheme]
    return obstore, kind(bucket, **how)


@cache
def _settle_at_exit() -> None:
    """Let the client's threads come to rest before the interpreter ends.

    They hand a result over and let go of Python's objects a moment later; one that does so while the
    interpreter ends aborts the process, whose work is done, with status 134.
    """
    atexit.register(time.sleep, SETTLE_S)


def _is_local_http(endpoint: str) -> bool:
    """Tell whether an endpoint is plain http here; raise StoreNotAllowedError for http elsewhere."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https" and parts.hostname:
        return False
    try:
        local = parts.hostname == "localhost" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        local = False
    if parts.scheme != "http" or not local:
        raise StoreNotAllowedError(endpoint)
    return True


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
