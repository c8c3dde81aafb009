"""Rejects: which class an exception belongs to, what of it is kept, and which failures are alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from starforge.db.errors import DatabaseUnreachableError, PoolExhaustedError
from starforge.db.pool import Connection
from starforge.etl.errors import MalformedError, MappingError, TooLargeError, UnknownSourceError
from starforge.etl.snapshot.rejects import ERROR_TYPES, MESSAGE_CHARS_MAX, reject, reject_of
from starforge.heroes.mapping import HERO
from starforge.queue.handler import PermanentError
from tests.covers import covers


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """The error as `raise error from cause` makes it."""
    error.__cause__ = cause
    return error


@covers("F-21", "F-38")
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MalformedError(3, 1, 4, "expected ':'"), "PARSE_ERROR"),
        (TooLargeError("a.json", 64), "PARSE_ERROR"),
        (MappingError("Level", "expected an integer, found text"), "MAPPING_ERROR"),
        (caused(PermanentError("Level"), MappingError("Level", "is required")), "MAPPING_ERROR"),
        (asyncpg.ForeignKeyViolationError("no such troop"), "FK_VIOLATION"),
        (asyncpg.UniqueViolationError("twice"), "DB_ERROR"),
        (asyncpg.DeadlockDetectedError("a circle"), "DB_ERROR"),
        (asyncpg.ConnectionDoesNotExistError("closed"), "DB_ERROR"),
        (asyncpg.InterfaceError("closed"), "DB_ERROR"),
        (ConnectionResetError("reset"), "DB_ERROR"),
        (DatabaseUnreachableError("not there"), "DB_ERROR"),
        (PoolExhaustedError("all busy"), "DB_ERROR"),
        (asyncpg.QueryCanceledError("statement timeout"), "TIMEOUT"),
        (asyncpg.LockNotAvailableError("lock timeout"), "TIMEOUT"),
        (TimeoutError(), "TIMEOUT"),
        (caused(TimeoutError("late"), InterruptedError()), "TIMEOUT"),
        (MemoryError(), "OOM"),
        (PermanentError("there is none"), "UNKNOWN"),
        (UnknownSourceError("shop", ("hero",)), "UNKNOWN"),
        (ZeroDivisionError("division by zero"), "UNKNOWN"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_exception_is_classed_by_its_type_and_sqlstate(error: BaseException, told: str) -> None:
    found = reject_of(error)
    assert found.error_type == told
    assert found.message
    assert len(found.fingerprint) == 16


def test_a_place_in_the_document_is_kept_beside_the_message() -> None:
    assert reject_of(MalformedError(3, 1, 4, "expected ':'")).details == {
        "error": "MalformedError", "position": 3, "line": 1, "column": 4, "reason": "expected ':'",
    }  # fmt: skip
    assert reject_of(MappingError("Troops.7.Amount", "is required")).details == {
        "error": "MappingError", "path": "Troops.7.Amount", "reason": "is required",
    }  # fmt: skip


class OddError(Exception):
    """What a user's function may raise: nothing of it can go into the database as it is."""

    path = Path("a")
    reason = OSError("an object")
    line = "\ud800"


class MuteError(Exception):
    """An exception that cannot even be told."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "message", "details"),
    [
        (OddError("a\0b" + "x" * MESSAGE_CHARS_MAX), "a\ufffdbxx", {"error": "OddError", "line": "\ufffd"}),
        (MuteError(), "MuteError", {"error": "MuteError"}),
    ],
)
async def test_whatever_an_exception_holds_its_row_can_be_written(
    conn: Connection, error: Exception, message: str, details: dict[str, Any]
) -> None:
    await reject(conn, reject_of(error), tenant="default", source="hero")
    row = await conn.fetchrow("SELECT error_type, message, details FROM etl_errors")
    assert row is not None
    assert (row["error_type"], row["details"]) == ("UNKNOWN", details)
    assert row["message"].startswith(message)
    assert len(row["message"]) <= MESSAGE_CHARS_MAX


@covers("F-19", "O-48")
@pytest.mark.parametrize(("tenant", "source"), [("default", "shop"), ("them", "")])
async def test_a_failure_of_a_snapshot_that_was_not_read_has_its_source_too(
    conn: Connection, tenant: str, source: str
) -> None:
    """A process that died tells of its jobs, which name the snapshot alone."""
    snapshot_id = await conn.fetchval(
        "INSERT INTO hero_snapshots (tenant_id, source, raw, size_bytes, sha256)"
        " VALUES ('default', 'shop', '{}', 2, '\\x01') RETURNING id"
    )
    await reject(conn, reject_of(MemoryError()), tenant=tenant, source="", snapshot_id=snapshot_id)
    assert await conn.fetchval("SELECT source FROM etl_errors") == source


def mapping_error(path: str, value: int) -> str:
    return reject_of(MappingError(path, f"{value} is out of range for integer")).fingerprint


def test_failures_that_differ_in_ids_and_values_alone_are_alike() -> None:
    assert mapping_error("Troops.6024.Amount", 2**40) == mapping_error("Troops.7.Amount", 2**41)
    assert mapping_error("Troops.6024.Amount", 2**40) != mapping_error("Troops.6024.Level", 2**40)


async def test_database_errors_are_alike_by_constraint_and_not_by_row(conn: Connection) -> None:
    await conn.execute(
        "CREATE TEMPORARY TABLE a (id text PRIMARY KEY);"
        " CREATE TEMPORARY TABLE b (one text REFERENCES a, two text REFERENCES a)"
    )

    async def refused(column: str, value: str) -> str:
        with pytest.raises(asyncpg.ForeignKeyViolationError) as caught:
            async with conn.transaction():
                await conn.execute(f"INSERT INTO b ({column}) VALUES ($1)", value)
        assert reject_of(caught.value).details["constraint_name"] == f"b_{column}_fkey"
        return reject_of(caught.value).fingerprint

    assert await refused("one", "here") == await refused("one", "there")
    assert await refused("one", "here") != await refused("two", "here")


@covers("F-21")
async def test_the_database_allows_exactly_the_error_types(conn: Connection) -> None:
    check = await conn.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'etl_errors_type'"
    )
    assert {word for word in check.split("'") if word.isupper() and word.replace("_", "").isalpha()} == set(
        ERROR_TYPES
    )


@covers("F-22", "F-34")
@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("Amount", "many", '"many"'),
        ("Amount", "bob@example.org", '"(redacted)"'),
        ("Amount", [1, {"api_key": "x"}], '[1,{"api_key":"(redacted)"}]'),
        ("Level", "x" * 500, '"' + "x" * 199),
    ],
)
def test_a_mapping_error_shows_what_lay_there_and_no_secret(field: str, value: Any, shown: str) -> None:
    with pytest.raises(MappingError) as raised:
        HERO.read({"NameCode": "A_1", "Troops": {"6024": {field: value}}})
    found = reject_of(raised.value)
    assert found.details["path"] == f"Troops.6024.{field}"
    assert found.details["value"] == shown
    assert found.details["at"] == "reading.py:_column"


def test_what_a_message_says_of_somebody_is_hidden() -> None:
    assert "bob@example.org" not in reject_of(ValueError("no such address: bob@example.org")).message
