"""The object store: five verbs behind which whatever is too large for the database is kept.

`STARFORGE_OBJECT_STORE` says where: a folder of this machine by default, or a bucket. An object is written
once, under a key of its own that is never used again, so nobody ever reads what another still writes, and
deleting one can take nothing from anybody else.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from starforge.etl.errors import StoreNotAllowedError
from starforge.etl.store.local import LocalStore
from starforge.etl.store.objects import CLOUD, ObjectStore, StoreSettings
from starforge.settings import HomeSettings

SCHEMES = ("file", *CLOUD)


def object_store() -> ObjectStore:
    """Return the store of this process's settings; raise StoreNotAllowedError where they name none."""
    settings = StoreSettings.read()
    return store_at(settings.url or (HomeSettings.read().home.absolute() / "objects").as_uri())


def store_at(url: str) -> ObjectStore:
    """Return the store at a URL; one process has one store per URL."""
    return _opened(url, StoreSettings.read())


@lru_cache(maxsize=16)
def _opened(url: str, settings: StoreSettings) -> ObjectStore:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or parts.query or parts.fragment or "@" in parts.netloc:
        raise StoreNotAllowedError(url)
    if parts.scheme != "file":
        from starforge.etl.store.cloud import CloudStore

        return CloudStore(url, settings)
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_absolute() or ".." in path.parts:
        raise StoreNotAllowedError(url)
    return LocalStore(path)
