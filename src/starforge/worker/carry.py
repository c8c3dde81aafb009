"""Carry: an exception of another process, told as JSON and made again here.

Never by pickle. The class is looked up among the modules that this process has imported already; where it is
not there, or cannot be made to say the same, the nearest of its bases stands in for it.
"""

from __future__ import annotations

import math
import sys
import traceback
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from starforge.errors import storable, told

CAUSES_MAX = 8
DEPTH_MAX = 3
TEXT_CHARS_MAX = 8000
ITEMS_MAX = 50
TIME = "$time"


class Carried(msgspec.Struct):
    """An exception as it travels."""

    classes: list[tuple[str, str]]
    """Module and name of its class and of its bases, nearest first."""

    text: str
    args: list[Any] | None
    attributes: dict[str, Any]
    trace: str = ""
    cause: Carried | None = None


def carried(error: BaseException, depth: int = 0) -> Carried:
    """Return what another process needs to know of an exception."""
    bases = [cls for cls in type(error).__mro__ if issubclass(cls, BaseException)]
    args = [_plain(value) for value in error.args]
    cause = error.__cause__
    return Carried(
        [(cls.__module__, cls.__qualname__) for cls in bases],
        told(error)[:TEXT_CHARS_MAX],
        args if args == list(error.args) else None,
        {name: _plain(value) for name, value in vars(error).items() if name != "__notes__"},
        "" if depth else storable("".join(traceback.format_exception(error))[-TEXT_CHARS_MAX:]),
        carried(cause, depth + 1) if cause is not None and depth < CAUSES_MAX else None,
    )


def rebuilt(told_of: Carried) -> BaseException:
    """Make the exception again, as nearly as this process can; its traceback there becomes a note."""
    error: BaseException | None = None
    for module, name in told_of.classes:
        for args in (told_of.args, [told_of.text]):
            if error is None and args is not None:
                error = _made(module, name, args, told_of)
    if error is None:
        error = Exception(told_of.text)
    if told_of.trace:
        error.add_note(f"In its own process:\n{told_of.trace}")
    if told_of.cause is not None:
        error.__cause__ = rebuilt(told_of.cause)
    return error


def _made(module: str, name: str, args: list[Any], told_of: Carried) -> BaseException | None:
    cls: Any = sys.modules.get(module)
    for part in name.split("."):
        cls = getattr(cls, part, None)
    if not (isinstance(cls, type) and issubclass(cls, BaseException)):
        return None
    # Its own __init__ takes whatever it takes; what that would set is among the attributes.
    for base in cls.__mro__:
        with suppress(Exception):  # a class may do anything here, and not every base may make it
            error: BaseException = base.__new__(cls, *args)
            error.args = tuple(args)
            vars(error).update({name: _real(value) for name, value in told_of.attributes.items()})
            if told(error)[:TEXT_CHARS_MAX] == told_of.text:
                return error
    return None


def _real(value: Any) -> Any:
    """Return what `_plain` made plain; times are what our own errors carry beside text and numbers."""
    if isinstance(value, dict) and value.keys() == {TIME}:
        return datetime.fromisoformat(value[TIME])
    return value


def _plain(value: Any, depth: int = 0) -> Any:
    """Return the value as far as JSON can carry it; the rest as its class's name."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, datetime):
        return {TIME: value.isoformat()}
    if isinstance(value, str):
        return storable(value)[:TEXT_CHARS_MAX]
    if depth < DEPTH_MAX and isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value[:ITEMS_MAX]]
    if depth < DEPTH_MAX and isinstance(value, dict):
        items = list(value.items())[:ITEMS_MAX]
        return {str(name): _plain(item, depth + 1) for name, item in items}
    return f"<{type(value).__name__}>"
