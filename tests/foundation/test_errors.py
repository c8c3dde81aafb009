"""Errors: every one has a code of its own, a way out that exists, and an exit code that says its kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile

import pytest
import typer.main

from starforge import errors
from starforge.clock import FAILPOINTS_ENV, SEED_ENV
from starforge.errors import ALL_ERRORS, IllegalMoveError, InvalidSettingError, RefusedError, StarForgeError
from starforge.settings import GROUPS
from tests.covers import covers
from tests.foundation.package import modules

ROOMS = {
    "0": {"errors", "settings", "machine", "clock", "operation"},
    "1": {"db"},
    "2": {"queue"},
    "3": {"worker"},
    "4": {"etl", "heroes"},
    "5": {"backfill"},
    "6": {"ops"},
    "7": {"web"},
    "8": {"cli", "dev", "testing"},
}
"""The first figure of a code → the rooms that may use it."""

BASES = {"RefusedError", "NotFoundError", "MisusedError", "UnreachableError"}


def _all() -> list[type[StarForgeError]]:
    """Every error of the package, registered or not."""
    modules()

    def below(error: type[StarForgeError]) -> Iterator[type[StarForgeError]]:
        for child in error.__subclasses__():
            yield child
            yield from below(child)

    return [
        error for error in dict.fromkeys(below(StarForgeError)) if error.__module__.startswith("starforge")
    ]


def test_every_error_of_every_room_is_registered_under_a_code_of_its_own_room() -> None:
    named = [error for error in _all() if "code" in vars(error)]
    assert {error.code: error for error in named} == {
        code: error for code, error in ALL_ERRORS.items() if error.__module__.startswith("starforge")
    }
    assert len({error.code for error in named}) == len(named) > 40
    for error in named:
        assert re.fullmatch(r"SF[0-8]\d\d", error.code), error
        assert error.__module__.split(".")[1] in ROOMS[error.code[2]], f"{error.__name__} has {error.code}"


def test_nothing_can_be_raised_without_a_code_save_by_the_name_of_a_base() -> None:
    """A class without a code of its own exists only to be derived from."""
    assert [e.__name__ for e in _all() if "code" not in vars(e) and e.__name__ not in BASES] == []


@covers("X-17")
def test_every_error_says_what_to_do_and_has_an_exit_code_and_a_status() -> None:
    for error in ALL_ERRORS.values():
        assert error.remedy.strip().endswith("."), f"{error.__name__}: a remedy is a sentence"
        assert "\n" not in error.remedy
        assert error.exit_code in {1, 2, 3}, error
        assert 400 <= error.http_status < 600, error
        assert (error.__doc__ or "").strip(), error


def test_every_command_that_a_remedy_names_exists() -> None:
    """The way out must not be a dead end at three in the morning."""
    from starforge.cli.main import app

    root = typer.main.get_command(app)
    named = 0
    for error in ALL_ERRORS.values():
        for told in re.findall(r"`starforge ([^`]+)`", error.remedy):
            command: object = root
            for word in takewhile(lambda word: not word.startswith("-"), told.split()):
                group = getattr(command, "commands", None)
                if group is None:
                    break
                assert word in group, f"{error.__name__} names `starforge {told}`, which does not exist"
                command = group[word]
            runs = not hasattr(command, "commands") or getattr(command, "invoke_without_command", False)
            assert runs, f"{error.__name__}: `starforge {told}` is no command"
            named += 1
    assert named > 5


def test_every_variable_that_a_remedy_names_is_a_setting() -> None:
    known = {str(f.validation_alias) for group in GROUPS.values() for f in group.model_fields.values()}
    known |= {FAILPOINTS_ENV, SEED_ENV}
    for error in ALL_ERRORS.values():
        told = re.findall(r"\b(?:STARFORGE|PG|DATABASE|WORKER|METRICS|TENANT)_[A-Z_]+\b", error.remedy)
        assert set(told) <= known, error.__name__


def test_a_code_is_refused_the_second_time() -> None:
    with pytest.raises(TypeError, match=r"SF001 is used by InvalidInputError and AgainError"):
        type("AgainError", (RefusedError,), {"code": "SF001", "remedy": "None."})
    assert ALL_ERRORS["SF001"] is errors.InvalidInputError


def test_an_error_without_a_remedy_is_refused() -> None:
    with pytest.raises(TypeError, match=r"HelplessError \(SF099\) has no remedy"):
        type("HelplessError", (RefusedError,), {"code": "SF099"})
    assert "SF099" not in ALL_ERRORS


def test_an_error_is_shown_to_programs_as_its_code_what_happened_and_the_remedy() -> None:
    error = InvalidSettingError("PG_POOL_MAX", "1", "at least 2")
    assert error.document() == {
        "code": "SF002",
        "error": "PG_POOL_MAX='1' is not allowed: at least 2",
        "remedy": InvalidSettingError.remedy,
    }


def test_a_refused_move_names_the_states_that_allow_it() -> None:
    told = str(IllegalMoveError("job", "claim", "failed", ("pending",)))
    assert told == "cannot claim a job that is 'failed'; allowed from: pending"
    assert "allowed from: no state" in str(IllegalMoveError("job", "fly", "failed", ()))
