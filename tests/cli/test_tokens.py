"""Tokens are made, listed and revoked on the command line; each change is in the audit log."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from starforge.cli.main import app
from starforge.db.pool import Pool
from starforge.web.auth import identify

CLI = CliRunner()


@pytest.fixture
def here(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database that the command line uses."""
    monkeypatch.setenv("DATABASE_URL", database)
    return database


async def _run(*words: str) -> str:
    import asyncio

    result = await asyncio.to_thread(CLI.invoke, app, ["token", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


async def test_a_token_is_shown_once_works_and_is_revoked(here: str, pool: Pool) -> None:
    made = (await _run("make", "exporter", "--role", "producer", "--tenant", "acme", "--days", "7")).strip()
    async with pool.connection() as conn:
        who = await identify(conn, made)
        assert who is not None
        assert (who.name, who.role, who.tenant) == ("exporter", "producer", "acme")
        [listed] = json.loads(await _run("ls", "--json"))
        assert made not in str(listed)
        assert (listed["name"], listed["expires_at"] is None) == ("exporter", False)
        told = json.loads(await _run("revoke", "exporter", "--tenant", "acme", "--json"))
        assert told["revoked"] == 1
        assert await identify(conn, made) is None
        rows = await conn.fetch("SELECT operation, arguments, tenant_id FROM audit_logs ORDER BY id")
    assert [row["arguments"]["operation"] for row in rows] == ["token make", "token revoke"]
    assert {(row["operation"], row["tenant_id"]) for row in rows} == {("authz_admin", "acme")}
    assert made not in str(rows)


@pytest.mark.parametrize(
    "words",
    [
        ("make", "x", "--role", "king"),
        ("make", " ", "--role", "viewer"),
        ("make", "x" * 201, "--role", "viewer"),
        ("make", "x", "--role", "viewer", "--days", "3000000"),
        ("revoke", "nobody"),
    ],
)
async def test_what_makes_no_sense_is_refused(here: str, pool: Pool, words: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError):
        await _run(*words)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM api_tokens") == 0
