"""A scheme as JSON, and back: what is read is equal to what was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from starforge.backfill.errors import AssetDeclarationError, StoredAssetError
from starforge.backfill.scheme.hourly import Hourly
from starforge.backfill.scheme.keyed import KeyRange, Static
from starforge.backfill.scheme.scheme import Scheme
from starforge.backfill.scheme.snapshot_range import SnapshotRange
from starforge.backfill.scheme.window import Calendar, Daily, Monthly

CALENDARS: dict[str, type[Daily] | type[Hourly] | type[Monthly]] = {
    "daily": Daily,
    "hourly": Hourly,
    "monthly": Monthly,
}


def written(scheme: Scheme) -> dict[str, Any]:
    """Return a scheme as JSON values."""
    if isinstance(scheme, Calendar):
        return {"kind": scheme.unit, "start": scheme.start, "end": scheme.end, "zone": scheme.zone}
    if isinstance(scheme, Static):
        return {"kind": "static", "names": list(scheme.names)}
    if isinstance(scheme, KeyRange):
        names = ("table", "key", "rows", "start", "end")
        return {"kind": "key_range", **{name: getattr(scheme, name) for name in names}}
    if isinstance(scheme, SnapshotRange):
        return {
            "kind": "snapshot_range",
            "source": scheme.source,
            "by": scheme.by,
            "every": written(scheme.every),
        }
    raise AssetDeclarationError(f"{type(scheme).__name__} is no scheme that can be written down")


def read(kept: Mapping[str, Any]) -> Scheme:
    """Return the scheme that was written; raise StoredAssetError where this version knows none like it."""
    said = dict(kept)
    kind = str(said.pop("kind", None))
    reading = _READ.get(kind)
    if reading is None:
        raise StoredAssetError(f"{kind!r} is no kind of partitions that this version knows")
    try:
        return reading(said)
    except (AssetDeclarationError, TypeError, KeyError) as error:
        raise StoredAssetError(
            f"{kind} partitions that were written down as {said} cannot be: {error}"
        ) from None


def _calendar(calendar: Callable[..., Scheme], said: dict[str, Any]) -> Scheme:
    return calendar(**said)


def _snapshot_range(said: dict[str, Any]) -> SnapshotRange:
    every: Any = read(said["every"])  # what is no calendar is refused by the range itself
    return SnapshotRange(said["source"], said["by"], every=every)


_READ: dict[str, Callable[[dict[str, Any]], Scheme]] = {
    **{kind: partial(_calendar, calendar) for kind, calendar in CALENDARS.items()},
    "static": lambda said: Static(*said["names"]),
    "key_range": lambda said: KeyRange(**said),
    "snapshot_range": _snapshot_range,
}
