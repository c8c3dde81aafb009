"""The one hierarchy of errors: every error has a stable code and says what to do about it.

Each room declares its own errors on top of the bases here. The base an error derives from decides how
the doors answer: the exit code of the command line and the status of the HTTP API.
"""

from __future__ import annotations

import re
from typing import ClassVar

UNSTORABLE = re.compile("[\0\ud800-\udfff]")

ALL_ERRORS: dict[str, type[StarForgeError]] = {}


class StarForgeError(Exception):
    """The base of every error that StarForge raises on purpose.

    A subclass with a `code` of its own is registered; a code is never used twice and never reused.
    Codes by room: SF0xx foundation, SF1xx db, SF2xx queue, SF3xx worker, SF4xx etl, SF5xx backfill,
    SF6xx ops, SF7xx web, SF8xx dev and cli.
    """

    code: ClassVar[str] = ""
    remedy: ClassVar[str] = ""
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 409

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        code = cls.__dict__.get("code", "")
        if not code:
            return
        if code in ALL_ERRORS:
            raise TypeError(f"error code {code} is used by {ALL_ERRORS[code].__name__} and {cls.__name__}")
        if not cls.remedy:
            raise TypeError(f"{cls.__name__} ({code}) has no remedy")
        ALL_ERRORS[code] = cls

    def document(self) -> dict[str, str]:
        """Return the error as the `--json` output and the HTTP API show it."""
        return {"code": self.code, "error": str(self), "remedy": self.remedy}


class RefusedError(StarForgeError):
    """The request was understood and refused: a guard, a state or a limit is in the way. Exit code 1."""


class NotFoundError(RefusedError):
    """The thing that was named does not exist, or not for this caller. Exit code 1."""

    http_status = 404


class MisusedError(StarForgeError):
    """The request itself is wrong: a bad argument, a bad setting, bad input. Exit code 2."""

    exit_code = 2
    http_status = 422


class UnreachableError(StarForgeError):
    """Something that must be there cannot be reached: database, disk, port. Exit code 3."""

    exit_code = 3
    http_status = 503


class InvalidInputError(MisusedError):
    """An argument is outside its bounds."""

    code = "SF001"
    remedy = "Call again with a value inside the bounds that the message names."


class InvalidSettingError(MisusedError):
    """A setting has a value that is not allowed."""

    code = "SF002"
    remedy = "Correct the environment variable; `starforge settings` lists each with what is allowed."

    def __init__(self, env: str, value: str, allowed: str) -> None:
        super().__init__(f"{env}={value!r} is not allowed: {allowed}")
        self.env, self.value, self.allowed = env, value, allowed


class IllegalMoveError(RefusedError):
    """A verb was asked of something whose state does not allow it."""

    code = "SF003"
    remedy = "Look at its state first: the message names the states that allow this."

    def __init__(self, machine: str, verb: str, state: str, allowed: tuple[str, ...]) -> None:
        super().__init__(
            f"cannot {verb} a {machine} that is {state!r}; "
            f"allowed from: {', '.join(allowed) if allowed else 'no state'}"
        )
        self.machine, self.verb, self.state, self.allowed = machine, verb, state, allowed


def told(error: BaseException) -> str:
    """Return an error's text as Postgres can keep it, or its class where it has none or cannot tell it."""
    try:
        text = str(error)
    except Exception:  # whatever an error's own __str__ raises
        text = ""
    return storable(text) or type(error).__name__


def shortened(text: str, chars_max: int) -> str:
    """Return the text, or so much of it that it has `chars_max` characters with the … that says so."""
    return text if len(text) <= chars_max else f"{text[: chars_max - 1].rstrip()}…"


def storable(text: str) -> str:
    """Return the text with U+FFFD for what Postgres refuses: NUL, and halves of surrogate pairs."""
    return UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)
