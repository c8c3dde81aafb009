"""Paths into a document: `ServerTime`, `code.coding[0].display`, `entry[].resource`.

A path is names and list places joined by dots and brackets; `[]` stands for every item of a list and is
only for where rows come from. What a mapping takes from an object is kept as a tree, so that what it
does not take, at any depth, can be told apart and kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from starforge.etl.errors import MappingDeclarationError

Segment = str | int
Path = tuple[Segment, ...]
Taken = dict[Segment, "Taken | None"]
"""What is taken from an object: name or place → what is taken below it, None for all of it."""

EVERY = -1
"""The segment that `[]` stands for."""
STEP = re.compile(r"\.?([^.\[\]/]+)|\[(\d*)\]")
NOTHING: Any = object()


class UnfitError(ValueError):
    """A value that does not fit where the mapping wants it; `where` is its path below the value checked."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(reason)
        self.reason, self.where = reason, where


def parse(text: str, *, every: bool = False) -> Path:
    """Read a path; "" is the object itself. Raise MappingDeclarationError; `every`: `[]` may occur."""
    path: list[Segment] = []
    position = 0
    while position < len(text):
        found = STEP.match(text, position)
        if found is None or (text[position] == "." and not path):
            raise MappingDeclarationError(f"{text!r} is not a path: see position {position}")
        name, place = found.groups()
        if place == "" and not every:
            raise MappingDeclarationError(f"{text!r}: [] is only for the path that rows come from")
        path.append(name if name is not None else int(place) if place else EVERY)
        position = found.end()
    return tuple(path)


def shown(path: Path) -> str:
    """Write a path as the document's reader knows it."""
    text = ""
    for segment in path:
        text += f"[{segment}]" if isinstance(segment, int) else f".{segment}" if text else segment
    return text


def join(*parts: str) -> str:
    """Join written paths: "Troops" and "[3]" and "Level" make Troops[3].Level."""
    text = ""
    for part in parts:
        text += part if not text or not part or part.startswith("[") else f".{part}"
    return text


def named(value: Any) -> str:
    """Say what a JSON value is, for messages."""
    if isinstance(value, bool):
        return "true" if value else "false"
    names: dict[type, str] = {int: "an integer", float: "a number with a fraction", str: "text"}
    names |= {list: "an array", dict: "an object", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def get(value: Any, path: Path) -> Any:
    """Follow a path; None where it ends early. Raise UnfitError where it meets the wrong kind of value."""
    for depth, segment in enumerate(path):
        if value is None:
            return None
        if isinstance(segment, str) and isinstance(value, dict):
            value = value.get(segment)
        elif isinstance(segment, int) and isinstance(value, list):
            value = value[segment] if segment < len(value) else None
        else:
            noun = "an object" if isinstance(segment, str) else "an array"
            raise UnfitError(f"expected {noun}, found {named(value)}", shown(path[:depth]))
    return value


def column(items: list[dict[str, Any]], path: Path) -> list[Any]:
    """Follow one path in each item; raise IndexedError at the first item where `get` would raise."""
    if len(path) == 1 and isinstance(path[0], str):
        name = path[0]
        return [item.get(name) for item in items]
    values = []
    for index, item in enumerate(items):
        try:
            values.append(get(item, path))
        except UnfitError as error:
            raise IndexedError(index, error) from None
    return values


class IndexedError(Exception):
    """An UnfitError with the number of the row that it is about."""

    def __init__(self, index: int, error: UnfitError) -> None:
        super().__init__(index, error)
        self.index, self.reason, self.where = index, error.reason, error.where


def taken(paths: Iterable[Path]) -> Taken:
    """Put paths into one tree; a path that goes on below another adds nothing to it."""
    tree: Taken = {}
    for path in paths:
        _take(tree, path)
    return tree


def _take(tree: Taken, path: Path) -> None:
    for segment in path[:-1]:
        below = tree.setdefault(segment, {})
        if below is None:
            return
        tree = below
    if path:
        tree[path[-1]] = None


def leftover(value: dict[str, Any], tree: Taken) -> dict[str, Any]:
    """Return what of an object was not taken; an array is kept whole as soon as one part of it was not."""
    rest = {}
    for name, item in value.items():
        below = tree.get(name, NOTHING)
        left = item if below is NOTHING else _left(item, below)
        if left is not NOTHING:
            rest[name] = left
    return rest


def _left(value: Any, tree: Taken | None) -> Any:
    if tree is None or value is None:
        return NOTHING
    if isinstance(value, dict):
        return leftover(value, tree) or NOTHING
    if isinstance(value, list):
        places = (tree.get(place, NOTHING) for place in range(len(value)))
        gone = all(
            below is not NOTHING and _left(item, below) is NOTHING
            for item, below in zip(value, places, strict=True)
        )
        return NOTHING if gone else value
    return value
