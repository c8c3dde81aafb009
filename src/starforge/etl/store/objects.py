"""Objects: what every store of them keeps to, whichever kind it is: five verbs, keys, settings."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from starforge.clock import new_id
from starforge.etl.errors import ObjectKeyError
from starforge.settings import Settings, setting

CHUNK_BYTES = 1 << 20
"""An object is read in chunks of about this size."""

CLOUD = {"s3": "S3", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}
"""Schemes of the URLs of buckets, and what people call them."""

KEY_CHARS_MAX = 900
KEY = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9._%+=@-]+(?:/[A-Za-z0-9._%+=@-]+)*")
PREFIX = re.compile(rf"(?:{KEY.pattern}/?)?")


class StoreSettings(Settings):
    """Where objects are kept."""

    url: str = setting(
        "",
        env="STARFORGE_OBJECT_STORE",
        unit="URL",
        meaning="Where objects are: file:///folder or s3://, gs://, az://; empty: STARFORGE_HOME/objects.",
    )
    endpoint: str = setting(
        "",
        env="STARFORGE_OBJECT_STORE_ENDPOINT",
        unit="URL",
        meaning="Server to ask in the provider's place: https, or http on this machine. Empty: the provider.",
    )
    wait_s: float = setting(
        30.0,
        env="STARFORGE_OBJECT_STORE_WAIT_S",
        unit="seconds",
        meaning="Longest that one request to a bucket is tried again before the store counts as unreachable.",
        gt=0,
        le=300,
    )


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of an object without reading it."""

    key: str
    size_bytes: int
    age_s: float
    """Seconds since it was written, by the store's clock where it has one."""


class ObjectStore(Protocol):
    """A place for objects. Every verb raises StoreUnreachableError and StoreRefusedError."""

    @property
    def name(self) -> str:
        """What people know it by; holds no secret."""
        ...

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Write an object and return its size; it is there, whole and lasting, when this returns.

        Nobody sees it before. What `chunks` raises passes through, and nothing is kept.
        """
        ...

    def get(self, key: str, *, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Read an object from byte `offset` on, in chunks; raise ObjectMissingError where there is none."""
        ...

    async def head(self, key: str) -> Head | None:
        """Return what is known of an object, or None where there is none."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[list[Head]]:
        """List the objects whose key begins with `prefix`, whole names between slashes, page by page."""
        ...

    async def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        ...


def new_key(tenant: str) -> str:
    """Return a key that was never used, among those of a tenant."""
    return f"{keys_of(tenant)}/{new_id()}"


def keys_of(tenant: str) -> str:
    """Return the prefix of a tenant's keys."""
    return f"raw/{quote(tenant, safe='').replace('.', '%2E').replace('~', '%7E')}"


def require_key(key: str) -> str:
    """Return the key; raise ObjectKeyError for one that could leave the store or means two things."""
    if len(key) > KEY_CHARS_MAX or not KEY.fullmatch(key):
        raise ObjectKeyError(key)
    return key


def require_prefix(prefix: str) -> str:
    """Return the prefix without a slash at its end; raise ObjectKeyError as for a key."""
    if len(prefix) > KEY_CHARS_MAX or not PREFIX.fullmatch(prefix):
        raise ObjectKeyError(prefix)
    return prefix.rstrip("/")
