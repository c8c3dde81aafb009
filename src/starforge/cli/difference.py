"""The difference that an act makes, as a person reads it: a line per field, a line per thing of a list."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from starforge.errors import shortened

NOTHING = "–"
SHOWN_MAX = 10
"""Of a list, or of many things that change alike, so many are shown; the rest is counted."""

TEXT_CHARS_MAX = 300
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d.*(Z|[+-]\d\d:\d\d)")


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is different, line by line: `state: running → paused`."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    things = [name for name in names if _is_thing(before.get(name)) or _is_thing(after.get(name))]
    for name in names:
        if name not in things:
            yield from _field(name, before, after)
    # Many things that change alike: a bulk act keeps each under its id.
    for name in things[:SHOWN_MAX]:
        yield _thing(name, before.get(name), after.get(name))
    if len(things) > SHOWN_MAX:
        yield f"… and {len(things) - SHOWN_MAX} more"


def _is_thing(value: object) -> bool:
    return isinstance(value, Mapping)


def _field(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    title, values = name.replace("_", " "), (before.get(name), after.get(name))
    if any(isinstance(value, (list, tuple)) for value in values):
        if any(values):
            yield from _lists(title, *(list(value or ()) for value in values))
    elif name not in before:
        yield f"{title}: {_told(values[1])}"
    else:
        yield f"{title}: {_told(values[0])} → {_told(values[1])}"


def _lists(title: str, before: list[Any], after: list[Any]) -> Iterator[str]:
    """Tell what a list has lost and gained, one per line."""
    lines = [f"  - {_told(item)}" for item in before if item not in after]
    lines += [f"  + {_told(item)}" for item in after if item not in before]
    yield f"{title}:" if lines else f"{title}: in another order"
    yield from lines[:SHOWN_MAX]
    if len(lines) > SHOWN_MAX:
        yield f"  … and {len(lines) - SHOWN_MAX} more"


def _thing(name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    """Tell in one line how one thing changes; one that comes or goes, with all that it is."""
    if not before or not after:
        return f"{name}: {_told(before)} → {_told(after)}" if before else f"{name}: {_told(after)}"
    names = [field for field in {**before, **after} if before.get(field) != after.get(field)]
    told = (
        f"{each.replace('_', ' ')} {_told(before.get(each))} → {_told(after.get(each))}" for each in names
    )
    return f"{name}: {', '.join(told)}"


def _told(value: object) -> str:
    """Return a value in words, in one line."""
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case Mapping():
            told = (f"{str(name).replace('_', ' ')} {_told(part)}" for name, part in value.items() if part)
            return ", ".join(told) or NOTHING
        case list() | tuple():
            more = [f"… and {len(value) - SHOWN_MAX} more"] if len(value) > SHOWN_MAX else []
            return ", ".join([*map(_told, value[:SHOWN_MAX]), *more]) or NOTHING
        case str() if ISO.fullmatch(value):
            return _moment(value)
        case _:
            return shortened(" ".join(str(value).split()), TEXT_CHARS_MAX)


def _moment(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError):
        return text
