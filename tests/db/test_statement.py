"""Every statement file prepares against the migrated schema, and says what it takes and gives."""

from __future__ import annotations

import pytest

from starforge.db.pool import Connection
from starforge.db.statement import body, quoted, statements

STATEMENTS = dict(statements())


@pytest.mark.parametrize("name", list(STATEMENTS))
async def test_each_statement_file_prepares_against_the_migrated_schema(conn: Connection, name: str) -> None:
    await conn.prepare(body(STATEMENTS[name]))


@pytest.mark.parametrize("name", list(STATEMENTS))
def test_each_statement_file_is_one_statement_with_a_header(name: str) -> None:
    text = STATEMENTS[name]
    lines = text.splitlines()
    verb = name.rpartition("/")[2]
    assert lines[0].startswith(f"-- {verb}: ")
    for word in ("takes", "gives", "index"):
        assert any(line.startswith(f"-- {word}") for line in lines), f"{name} does not say what it {word}"
    assert ";" not in body(text).rstrip(";")


def test_a_quoted_name_is_one_name() -> None:
    assert quoted("shop", 'a"; DROP TABLE t; --') == '"shop"."a""; DROP TABLE t; --"'
