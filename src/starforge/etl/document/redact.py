"""Redaction: what of a document nobody sees who may not, by path, by key and by what a value looks like.

The same rules serve values in memory (`Redaction.value`, `Redaction.text`) and documents of any size in
pieces (`Redactor`), so that an error row, a page and an exported file hide the same, at any depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import ijson
import msgspec

from starforge.errors import InvalidSettingError
from starforge.settings import Settings, setting

REDACTED = "(redacted)"
EVERY = "*"
KEYS_ENV = "STARFORGE_REDACT_KEYS"
VALUES_ENV = "STARFORGE_REDACT_VALUES"

KEYS = (
    r"pass(word|wd|phrase|code)?$|secret|token|credential|api_?key|private_?key|session|cookie|authorization"
    r"|e_?mail|phone|address|birth|(^|_)(ssn|iban|bic|ip)$|(?-i:[a-z]I[pP])$"
)
VALUES = (
    re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"),  # name and password in a URL; before what an @ follows
    re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+"),  # an address of e-mail
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),  # a JSON web token
    re.compile(r"\b(?i:bearer|basic)\s+[\w.~+/=-]{8,}"),
    re.compile(r"\b(sk|pk|rk|ghp|gho|xox[abp]|AKIA)[_-]?[A-Za-z0-9_-]{16,}"),  # keys of well-known services
    re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),  # an IBAN
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)"),
)
CARD = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.])")
MARKS = re.compile(r"[@:.\-]|eyJ|sk|pk|rk|ghp|gho|xox|AKIA|earer|asic|\d{2}")
"""A text without any of these needs no closer look."""


class RedactSettings(Settings):
    """What is hidden of documents that are shown or exported."""

    paths: str = setting(
        "",
        env="STARFORGE_REDACT_PATHS",
        unit="paths, comma-separated",
        meaning="Fields that are hidden whatever they hold, as result.Profile.Name; * is any name or place.",
    )
    keys: str = setting(
        KEYS,
        env=KEYS_ENV,
        unit="regular expression",
        meaning="Names of fields whose values are hidden at any depth; case does not matter.",
    )
    values: str = setting(
        "",
        env=VALUES_ENV,
        unit="regular expression",
        meaning="What texts hide beside e-mail addresses, logins, tokens, keys, IBANs, card numbers.",
    )


@dataclass(frozen=True, slots=True)
class Redaction:
    """The rules, worked out once."""

    paths: tuple[tuple[str, ...], ...]
    keys: re.Pattern[str]
    values: re.Pattern[str] | None

    def hides(self, path: tuple[str, ...]) -> bool:
        """Tell whether the value at a path is hidden whole; places in arrays are written as numbers."""
        if path and self.keys.search(path[-1]):
            return True
        return any(
            len(wanted) == len(path)
            and all(name in (EVERY, segment) for name, segment in zip(wanted, path, strict=True))
            for wanted in self.paths
        )

    def text(self, text: str) -> str:
        """Return a text with what looks like a secret, or like somebody, hidden in it."""
        if self.values is not None:
            text = self.values.sub(REDACTED, text)
        if not MARKS.search(text):
            return text
        for pattern in VALUES:
            text = pattern.sub(REDACTED, text)
        return CARD.sub(_card, text)

    def value(self, value: Any, path: tuple[str, ...] = ()) -> Any:
        """Return a JSON value with everything hidden in it that the rules hide, at any depth."""
        if value is not None and self.hides(path):
            return REDACTED
        if isinstance(value, Mapping):
            return {
                self.text(str(name)): self.value(part, (*path, str(name))) for name, part in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.value(part, (*path, str(place))) for place, part in enumerate(value)]
        if isinstance(value, int) and not isinstance(value, bool):
            return REDACTED if CARD.fullmatch(str(value)) and _is_card(str(value)) else value
        return self.text(value) if isinstance(value, str) else value


def redaction() -> Redaction:
    """Return the rules of this process's settings; raise InvalidSettingError."""
    return _redaction(RedactSettings.read())


class Redactor:
    """Redacts a JSON document that comes in pieces; what it holds grows with no document.

    The document is written anew: spaces between its tokens go, everything else stays in its order, keys that
    appear twice included. An escaped lone surrogate becomes U+FFFD.
    """

    def __init__(self, rules: Redaction | None = None) -> None:
        self._rules = rules or redaction()
        self._events = ijson.sendable_list()
        self._parser = ijson.get_backend("yajl2_c").basic_parse_coro(self._events)
        self._out: list[str] = []
        self._stack: list[_Open] = []
        self._skip = 0
        """Open brackets within a value that is hidden."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next piece of the document; return the next piece of what may be shown.

        Raises: ijson.JSONError where the document is none.
        """
        self._parser.send(chunk)
        return self._written()

    def end(self) -> bytes:
        """Return the last piece; raise ijson.JSONError where the document is not at its end."""
        self._parser.close()
        return self._written()

    def _written(self) -> bytes:
        for event, value in self._events:
            self._take(event, value)
        self._events.clear()
        text = "".join(self._out)
        self._out.clear()
        return text.encode("utf-8", "replace")

    def _take(self, event: str, value: Any) -> None:
        if self._skip:
            self._skip += (event in OPENING) - (event in CLOSING)
            return
        if event == "map_key":
            at = self._stack[-1]
            self._out.append(f"{',' if at.count else ''}{_json(self._rules.text(value))}:")
            at.count, at.key = at.count + 1, value
            return
        if event in CLOSING:
            self._stack.pop()
            self._out.append(CLOSING[event])
            return
        self._begin_value()
        if event != "null" and self._rules.hides(tuple(self._path())):
            self._out.append(_json(REDACTED))
            self._skip = int(event in OPENING)
        elif event in OPENING:
            self._out.append(OPENING[event])
            self._stack.append(_Open(event == "start_array"))
        elif event == "string":
            self._out.append(_json(self._rules.text(value)))
        elif event == "number":
            self._out.append(_json(shown) if (shown := self._rules.value(value)) == REDACTED else str(value))
        else:
            self._out.append({"boolean": "true" if value else "false", "null": "null"}[event])

    def _begin_value(self) -> None:
        if self._stack and self._stack[-1].is_array:
            at = self._stack[-1]
            if at.count:
                self._out.append(",")
            at.key, at.count = str(at.count), at.count + 1

    def _path(self) -> Iterator[str]:
        return (at.key for at in self._stack)


OPENING = {"start_map": "{", "start_array": "["}
CLOSING = {"end_map": "}", "end_array": "]"}


@dataclass(slots=True)
class _Open:
    """An array or object whose end has not come yet."""

    is_array: bool
    count: int = 0
    key: str = ""


@cache
def _redaction(settings: RedactSettings) -> Redaction:
    paths = tuple(
        tuple(re.sub(r"\[(\w*|\*)\]", r".\1", path.strip()).strip(".").split("."))
        for path in settings.paths.split(",")
        if path.strip()
    )
    return Redaction(
        paths,
        _pattern(KEYS_ENV, settings.keys, re.IGNORECASE),
        _pattern(VALUES_ENV, settings.values) if settings.values else None,
    )


def _pattern(env: str, text: str, flags: int = 0) -> re.Pattern[str]:
    try:
        return re.compile(text, flags)
    except re.error as error:
        raise InvalidSettingError(env, text, f"it is no regular expression: {error}") from None


def _json(text: str) -> str:
    return msgspec.json.encode(text.encode("utf-8", "replace").decode()).decode()


def _card(found: re.Match[str]) -> str:
    return REDACTED if _is_card(found.group()) else found.group()


def _is_card(text: str) -> bool:
    """Tell whether these digits pass the check of card numbers (Luhn)."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    return sum(digits[0::2]) % 10 == -sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2]) % 10
