"""The types of columns: which JSON values they take, within what bounds, and how these reach Postgres.

Values are checked here, a whole column at a time, so that a wrong one is told with its path and never
becomes an error of the database. A type of one's own: `replace(TEXT, convert=…)`, or `Type(…)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec

from starforge.etl.document.path import IndexedError, UnfitError, named
from starforge.etl.errors import MappingDeclarationError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KEY_CHARS_MAX = 20
"""No 64-bit integer is longer; a longer key of an object is not read as a number."""
SHOWN_CHARS_MAX = 40
"""Of a number in a message."""
KEY_NUMBER = re.compile(r"-?[0-9]+")
NULL = type(None)
INTEGERS = frozenset(("smallint", "integer", "bigint"))


@dataclass(frozen=True)
class Type:
    """What a column holds.

    Args:
        sql: The column's type in Postgres.
        noun: What messages call a value, with its article: "an integer".
        kinds: The Python types that a parsed JSON value may have.
        least, most: Bounds, both included, of the value, or of what `measure` makes of it.
        measure: len for texts and arrays.
        convert: From the checked value to what is sent; a ValueError's text says why it cannot be.
        wire: The type sent, where it is not `sql`: Postgres casts it then.
    """

    sql: str
    noun: str
    kinds: frozenset[type]
    least: int | None = None
    most: int | None = None
    measure: Callable[[Any], int] | None = None
    convert: Callable[[Any], Any] | None = None
    wire: str = ""

    @property
    def sent(self) -> str:
        """The type in which values are sent."""
        return self.wire or self.sql

    @property
    def literal(self) -> bool:
        """Whether an array of them is sent as one text: the driver takes four times as long for numbers."""
        return self.sent in INTEGERS

    def read(self, values: list[Any]) -> list[Any]:
        """Check and convert a column; None stays None. Raise IndexedError at the first value unfit."""
        found = set(map(type, values))
        absent = NULL in found
        if found <= self.kinds | {NULL}:
            present = [value for value in values if value is not None] if absent else values
            if self._within(present):
                try:
                    return self._converted(values, absent)
                except (ValueError, OverflowError):
                    pass  # the search below finds the value again and says which it was
        for index, value in enumerate(values):
            try:
                self.read_one(value)
            except UnfitError as error:
                raise IndexedError(index, error) from None
        raise AssertionError(f"{self.sql}: a column is refused in which each value is accepted")

    def read_one(self, value: Any) -> Any:
        """Check and convert one value; None stays None. Raise UnfitError."""
        if value is None:
            return None
        if type(value) not in self.kinds:
            raise UnfitError(f"expected {self.noun}, found {named(value)}")
        if not self._within([value]):
            raise UnfitError(self._beyond(value))
        if self.convert is None:
            return value
        try:
            return self.convert(value)
        except UnfitError:
            raise
        except OverflowError:
            raise UnfitError(f"{_short(value)} is out of range for {self.sql}") from None
        except ValueError as error:
            raise UnfitError(str(error)) from None

    def read_keys(self, keys: list[str]) -> list[Any]:
        """Take an object's keys as values: numbers where the column holds integers."""
        if int not in self.kinds:
            return list(keys)
        whole = "".join(keys)
        if whole.isascii() and whole.isdigit() and all(0 < len(key) <= KEY_CHARS_MAX for key in keys):
            return list(map(int, keys))
        return [int(key) if len(key) <= KEY_CHARS_MAX and KEY_NUMBER.fullmatch(key) else key for key in keys]

    def _within(self, values: list[Any]) -> bool:
        if not values or (self.least is None and self.most is None):
            return True
        sizes = values if self.measure is None else list(map(self.measure, values))
        return (self.least is None or min(sizes) >= self.least) and (
            self.most is None or max(sizes) <= self.most
        )

    def _converted(self, values: list[Any], absent: bool) -> list[Any]:
        convert = self.convert
        if convert is None:
            return values
        if absent:
            return [None if value is None else convert(value) for value in values]
        return list(map(convert, values))

    def _beyond(self, value: Any) -> str:
        if self.measure is None:
            return f"{_short(value)} is out of range for {self.sql}"
        size, unit = self.measure(value), "characters" if str in self.kinds else "items"
        if self.most is not None and size > self.most:
            return f"has {size} {unit}; {self.most} is the most"
        return f"has {size} {unit}; {self.least} is the least"


def _short(value: int) -> str:
    shown = str(value)
    return shown if len(shown) <= SHOWN_CHARS_MAX else f"{shown[:SHOWN_CHARS_MAX]}…"


def array_text(values: Sequence[int | None]) -> str:
    """Write an array of integers as Postgres reads it."""
    if None in values:
        return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"
    return "{" + ",".join(map(str, values)) + "}"


def text(least: int = 0, most: int | None = None) -> Type:
    """Text of `least` to `most` characters."""
    return replace(TEXT, least=least, most=most, measure=len)


def scaled(of: Type, per: float) -> Type:
    """A number told in another unit than the column's: scaled(DOUBLE, 1000) keeps milliseconds as seconds."""
    if of.kinds != DOUBLE.kinds or not per:
        raise MappingDeclarationError(f"scaled({of.sql}, {per}): only DOUBLE is scaled, by anything but 0")
    return replace(of, convert=lambda value: value / per)


def array(of: Type) -> Type:
    """An array of values of a type, none of them null; sent as its text, for unnest flattens arrays."""

    def convert(values: list[Any]) -> str:
        sent = []
        for place, value in enumerate(values):
            try:
                if value is None:
                    raise UnfitError(f"expected {of.noun}, found null")
                sent.append(of.read_one(value))
            except UnfitError as error:
                raise UnfitError(error.reason, f"[{place}]{error.where}") from None
        return "{" + ",".join(map(_quoted, sent)) + "}"

    return Type(f"{of.sql}[]", "an array", frozenset({list}), convert=convert, wire="text")


def _quoted(value: Any) -> str:
    return (
        '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
        if type(value) is not int
        else str(value)
    )


def encode(value: Any) -> str:
    """Write a value as the text of a jsonb column."""
    return msgspec.json.encode(value).decode()


def _from_seconds(seconds: int) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def _from_milliseconds(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)


def _timestamp(value: str) -> datetime:
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        raise UnfitError("is not a timestamp of ISO 8601") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _date(value: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise UnfitError("is not a date of ISO 8601") from None


def _integer(bits: int, sql: str) -> Type:
    return Type(sql, "an integer", frozenset({int}), least=-(2 ** (bits - 1)), most=2 ** (bits - 1) - 1)


SMALLINT = _integer(16, "smallint")
INTEGER = _integer(32, "integer")
BIGINT = _integer(64, "bigint")
DOUBLE = Type("double precision", "a number", frozenset({int, float}), convert=float)
BOOLEAN = Type("boolean", "true or false", frozenset({bool}))
TEXT = Type("text", "text", frozenset({str}))
ANY = Type("jsonb", "a value", frozenset({dict, list, str, int, float, bool}))
"""Any JSON value as it is, for Derived; no column holds it."""
JSON = replace(ANY, convert=encode, wire="text")
"""Any JSON value. Null counts as absent, as in every type."""
OBJECT = replace(JSON, noun="an object", kinds=frozenset({dict}))
LIST = replace(JSON, noun="an array", kinds=frozenset({list}))
EPOCH_S = Type("timestamptz", "seconds since 1970", frozenset({int}), convert=_from_seconds)
EPOCH_MS = Type("timestamptz", "milliseconds since 1970", frozenset({int}), convert=_from_milliseconds)
TIMESTAMP = Type("timestamptz", "a timestamp", frozenset({str}), convert=_timestamp)
"""ISO 8601; UTC where it names no offset."""
DATE = Type("date", "a date", frozenset({str}), convert=_date)
