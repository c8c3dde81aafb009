"""Guess: what a column would have to be called and to hold, from the values seen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starforge.etl.document.path import STEP, UnfitError
from starforge.etl.mapping.types import DATE, TIMESTAMP, Type

INT_MAX, LONG_MAX = 2**31, 2**63
KEY_CHARS_MAX = 500
"""A text of a key is no longer: an index entry must fit a third of a page."""

NAME_CHARS_MAX = 63
COLUMNS_MAX = 200
SECONDS = (10**8, 10**10)
MILLISECONDS = (10**11, 10**13)
"""Numbers that may be times: from 1973, in their unit."""

TIMES = re.compile(
    r"(^|_)(at|on|time|times|timestamp|date|since|until|login|seen|start|end|started|ended|updated|created"
    r"|expires|expiry|epoch)($|_)"
)
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


@dataclass(frozen=True, slots=True)
class Guess:
    """A type as its source says it, and the unit of what it counts."""

    type: str
    unit: str = ""


def guess(name: str, values: Sequence[Any]) -> Guess:
    """Guess the type that takes all these values, none of which is null."""
    kinds = set(map(type, values))
    if kinds == {bool}:
        return Guess("BOOLEAN")
    if kinds == {int}:
        return _of_integers(name, values)
    if kinds <= {int, float} and all(abs(value) < 1e300 for value in values):
        return Guess("DOUBLE")
    if kinds == {str}:
        return Guess(next((word for word, type_ in DATES if _fits(type_, values)), "TEXT"))
    if kinds == {dict}:
        return Guess("OBJECT")
    if kinds == {list}:
        return Guess(_of_arrays(values))
    return Guess("JSON")


DATES = (("DATE", DATE), ("TIMESTAMP", TIMESTAMP))


def key_type(values: Sequence[Any]) -> str | None:
    """Return the type of a key with these values; None where one is null, or neither text nor integer."""
    kinds = set(map(type, values))
    if kinds == {int} and all(-LONG_MAX <= value < LONG_MAX for value in values):
        return "BIGINT"
    if kinds == {str} and all(len(value) <= KEY_CHARS_MAX for value in values):
        return "TEXT"
    return None


def is_path(name: str) -> bool:
    """Tell whether a field's name can be a step of a path."""
    found = STEP.fullmatch(name)
    return found is not None and found.group(1) == name and "{" not in name


def name_of(words: str, taken: set[str]) -> str:
    """Make a column's or table's name that is not taken, and take it."""
    made = "_".join(word.lower() for word in WORD.findall(words))[: NAME_CHARS_MAX - 4]
    base = made = made if made and made[0].isalpha() else f"field_{made}".rstrip("_")
    number = 2
    while made in taken:
        made, number = f"{base}_{number}", number + 1
    taken.add(made)
    return made


def singular(name: str) -> str:
    """Return the name of one of many: user_troops → user_troop."""
    if name.endswith("ies"):
        return f"{name[:-3]}y"
    return name[:-1] if name.endswith("s") and not name.endswith("ss") else name


def _of_integers(name: str, values: Sequence[int]) -> Guess:
    least, most = min(values), max(values)
    if least < -LONG_MAX or most >= LONG_MAX:
        return Guess("JSON")
    present = [value for value in values if value]
    word = "_".join(part.lower() for part in WORD.findall(name))
    if present and TIMES.search(word):
        if min(present) == least and SECONDS[0] <= least <= most < SECONDS[1]:
            return Guess("EPOCH_S")
        if min(present) == least and MILLISECONDS[0] <= least <= most < MILLISECONDS[1]:
            return Guess("EPOCH_MS")
    large = most >= INT_MAX or least < -INT_MAX or word.endswith(("id", "xp", "score", "total"))
    unit = next((unit for ends, unit in UNITS if word.endswith(ends)), "")
    return Guess("BIGINT" if large else "INTEGER", unit)


UNITS = (
    ("_ms", "ms"),
    ("_s", "s"),
    ("_seconds", "s"),
    ("_bytes", "bytes"),
    ("_percent", "%"),
    ("_cents", "cents"),
)


def _of_arrays(values: Sequence[list[Any]]) -> str:
    items = [item for value in values for item in value]
    kinds = set(map(type, items))
    if kinds == {int} and all(-INT_MAX <= item < INT_MAX for item in items):
        return "array(INTEGER)"
    if kinds == {str}:
        return "array(TEXT)"
    return "LIST"


def _fits(type_: Type, values: Sequence[str]) -> bool:
    try:
        for value in values:
            if not value[:4].isdigit() or "-" not in value:
                return False
            type_.read_one(value)
    except (UnfitError, ValueError, OverflowError):
        return False
    return True
