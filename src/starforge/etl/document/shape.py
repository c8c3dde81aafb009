"""Shape: which paths a document has and what lies there, so that an upstream change is seen and named.

A path's ids and places are left out (`Troops.*.Level`, `Teams[].Name`), so documents of one kind share
their shape, however much they hold. A source's shape only grows: a document that brings a path or a kind of
value never seen before makes a new one, reported before the document is mapped; a field that is merely
absent, or null, makes none. What a mapping requires and no longer gets fails there with its own path.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from starforge.etl.document.path import join

DEPTH_MAX = 12
PATHS_MAX = 4000
"""A document with more has data for names; what is beyond is not looked at."""


@dataclass(frozen=True, slots=True)
class _Fields:
    """What an object's fields come to: what its scalars are, and where to look further."""

    scalars: frozenset[str]
    others: tuple[tuple[str, str], ...]
    """The names of objects and arrays, with their paths."""


SAMPLES = 16
"""Of many items so many are looked into, beside those that bring further names: a kind of value that only
some items have may be seen later than the first time."""

KEYED_MIN = 100
"""An object with so many names, and items alone below them, is keyed by something that is no field."""

KEY = re.compile(r"-?\d+|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[0-9A-Fa-f]{16,}")
EVERY_KEY = "*"
KINDS = {
    dict: "object", list: "array", str: "text", int: "integer", float: "number", bool: "boolean",
}  # fmt: skip

FIELDS_MAX = 64
KNOWN_MAX = 4096
_KNOWN: dict[tuple[Any, ...], _Fields | None] = {}
"""What objects come to, by path, names and types: a document has thousands, of a few kinds. None: keyed."""

Shape = frozenset[str]
"""Paths, each with the kind of value there: "Troops.*.Level integer"."""


def shape(document: Any) -> Shape:
    """Return the shape of a document, or of a part of one; parts of one document may be united."""
    walk = _Walk()
    walk.at(document, "", 0)
    return frozenset(walk.found)


def fingerprint(paths: Iterable[str]) -> str:
    """Return what equal shapes share."""
    return hashlib.sha256("\n".join(sorted(paths)).encode(errors="replace")).hexdigest()[:16]


def is_keyed(value: dict[str, Any]) -> bool:
    """Tell whether an object's names are ids rather than fields."""
    if not value:
        return False
    names = "".join(value)
    if names.isascii() and names.isdigit():
        return True
    if KEY.fullmatch(next(iter(value))) and all(map(KEY.fullmatch, value)):
        return True
    return len(value) >= KEYED_MIN and set(map(type, value.values())) == {dict}


class _Walk:
    """Walks one document, not into every item."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def at(self, value: Any, path: str, depth: int) -> None:
        kind = KINDS.get(type(value))
        if kind is None or len(self.found) >= PATHS_MAX:
            return
        if path:
            self.found.add(f"{path} {kind}")
        if depth >= DEPTH_MAX:
            return
        if kind == "object":
            fields = _fields(value, path)
            if fields is None:
                self._items(list(value.values()), join(path, EVERY_KEY), depth)
                return
            self.found |= fields.scalars
            for name, place in fields.others:
                self.at(value[name], place, depth + 1)
        elif kind == "array" and value:
            self._items(value, f"{path}[]", depth)

    def _items(self, items: Sequence[Any], path: str, depth: int) -> None:
        kinds = set(map(type, items))
        for type_ in kinds - {dict, list}:
            if type_ in KINDS:
                self.found.add(f"{path} {KINDS[type_]}")
        if dict in kinds:
            objects = items if len(kinds) == 1 else [item for item in items if type(item) is dict]
            for item in _telling(objects):
                self.at(item, path, depth + 1)
        if list in kinds:
            lists = items if len(kinds) == 1 else [item for item in items if type(item) is list]
            for item in _spread(lists):
                self.at(item, path, depth + 1)


def _fields(value: dict[str, Any], path: str) -> _Fields | None:
    """Return what an object's names come to, None where they are ids."""
    if len(value) > FIELDS_MAX:
        return None if is_keyed(value) else _looked_at(value, path)
    sign = (path, *value, *map(type, value.values()))
    try:
        return _KNOWN[sign]
    except KeyError:
        if len(_KNOWN) >= KNOWN_MAX:
            _KNOWN.clear()
        found = _KNOWN[sign] = None if is_keyed(value) else _looked_at(value, path)
        return found


def _looked_at(value: dict[str, Any], path: str) -> _Fields:
    scalars, others = [], []
    for name, item in value.items():
        kind, place = KINDS.get(type(item)), join(path, name)
        if kind in ("object", "array"):
            others.append((name, place))
        elif kind is not None:
            scalars.append(f"{place} {kind}")
    return _Fields(frozenset(scalars), tuple(others))


def _telling(objects: Sequence[dict[str, Any]]) -> Collection[dict[str, Any]]:
    """Choose objects that have every name that any of them has."""
    if len(objects) <= SAMPLES:
        return objects
    covered: set[str] = set()
    chosen = list(_spread(objects))
    for names, item in {tuple(item): item for item in objects}.items():
        if not covered.issuperset(names) and not is_keyed(item):
            covered.update(names)
            chosen.append(item)
    return chosen


def _spread(items: Sequence[Any]) -> Sequence[Any]:
    return items[:: max(1, len(items) // SAMPLES)]
