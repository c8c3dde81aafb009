"""Exceptions between processes: what is caught on the other side is what was raised on this one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import pytest

from starforge.errors import told
from starforge.etl.errors import MalformedError
from starforge.etl.snapshot.rejects import reject_of
from starforge.queue.handler import PermanentError, RetryLater
from starforge.worker.carry import Carried, carried, rebuilt
from starforge.worker.errors import JobMemoryError


def there_and_back(error: BaseException) -> BaseException:
    return rebuilt(msgspec.json.decode(msgspec.json.encode(carried(error)), type=Carried))


class TwoWordsError(Exception):
    def __init__(self, one: int, two: object) -> None:
        super().__init__(f"{one} and {two}")
        self.one, self.two = one, two


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        ValueError(),
        KeyError("key"),
        OSError(2, "there is none", "a.json"),
        TimeoutError("late"),
        SystemExit(3),
        PermanentError("never"),
        TwoWordsError(1, object()),
        MalformedError(3, 1, 4, "a comma"),
        JobMemoryError(10**8, {"locals": ["x"]}),
        asyncpg.UniqueViolationError("duplicate"),
        MuteError(),
        ValueError("a\0b\ud800"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_has_its_class_and_its_words_on_the_other_side(error: BaseException) -> None:
    back = there_and_back(error)
    assert type(back) is type(error)
    assert told(back) == told(error)


@pytest.mark.parametrize(
    ("error", "stands_in"),
    [
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), ValueError),
        (BaseExceptionGroup("two", [ValueError("a"), SystemExit(1)]), BaseException),
    ],
)
def test_where_the_class_cannot_be_made_again_a_base_says_the_same(
    error: BaseException, stands_in: type[BaseException]
) -> None:
    back = there_and_back(error)
    assert isinstance(back, stands_in)
    assert told(back) == told(error)


def test_a_class_that_this_process_does_not_have_is_stood_in_for_by_its_base() -> None:
    sent = carried(TwoWordsError(1, 2))
    sent.classes[0] = ("no.such.module", "TwoWordsError")
    assert type(rebuilt(sent)) is Exception
    # What is no exception is not made, whatever the message names.
    sent.classes[0] = ("os", "system")
    assert type(rebuilt(sent)) is Exception


def test_attributes_cause_and_trace_come_along() -> None:
    try:
        try:
            raise MalformedError(3, 1, 4, "a comma")
        except MalformedError as cause:
            raise PermanentError("unreadable") from cause
    except PermanentError as raised:
        error = raised
    back = there_and_back(error)
    found = reject_of(back)
    assert (found.error_type, found.details["position"]) == ("PARSE_ERROR", 3)
    [note] = back.__notes__
    assert "test_carry.py" in note


def test_when_to_try_again_is_the_same_time_on_the_other_side() -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    back: Any = there_and_back(RetryLater(at, "busy", counts=False))
    assert (back.at, back.delay_s, back.counts, str(back)) == (at, None, False, "busy")


def test_what_json_cannot_hold_is_named_and_not_sent() -> None:
    error: Any = TwoWordsError(1, {"deep": [1.5, float("nan"), {1, 2}, b"x"]})
    back: Any = there_and_back(error)
    assert back.one == 1
    assert back.two == {"deep": [1.5, "<float>", "<set>", "<bytes>"]}
