"""A token is kept as a hash, is valid until it expires or is revoked, and names who acts."""

from __future__ import annotations

import stat
from pathlib import Path

import httpx
import pytest

from starforge.db.pool import Connection, Pool, connect
from starforge.ops.request import local_actor
from starforge.web.auth import PREFIX, Identity, ensure_first_token, identify, make_token
from starforge.web.errors import TokenNotMadeError
from tests.conftest import Travel
from tests.covers import covers
from tests.postgres import TestServer
from tests.web.conftest import Bearer

DOOR = "/api/v1/queue/pause"
PAUSE = {"name": "mail", "reason": "x"}


async def test_the_database_keeps_no_token(conn: Connection) -> None:
    token = await make_token(conn, name="ann", role="operator", tenant="default")
    assert token.startswith(PREFIX)
    kept = await conn.fetchval("SELECT string_agg(t::text, '') FROM api_tokens t")
    assert token not in kept
    assert token.removeprefix(PREFIX) not in kept


async def test_a_token_says_who_asks_with_which_role_for_which_tenant(conn: Connection) -> None:
    token = await make_token(conn, name="ann", role="viewer", tenant="shop")
    assert await identify(conn, token) == Identity("ann", "viewer", "shop")


@pytest.mark.parametrize("token", ["", "sf_", "sf_wrong", "ann", "sf_" + "x" * 5000, "sf_ü", "Basic x"])
async def test_what_is_no_token_identifies_nobody(conn: Connection, token: str) -> None:
    await make_token(conn, name="ann", role="viewer", tenant="default")
    assert await identify(conn, token) is None


async def test_a_token_ends_when_it_expires_or_is_revoked(conn: Connection, travel: Travel) -> None:
    token = await make_token(conn, name="ann", role="viewer", tenant="default")
    await conn.execute("UPDATE api_tokens SET expires_at = sf_now() + interval '1 hour'")
    assert await identify(conn, token) is not None
    await travel(conn, minutes=61)
    assert await identify(conn, token) is None
    await conn.execute("UPDATE api_tokens SET expires_at = NULL, revoked_at = sf_now()")
    assert await identify(conn, token) is None


async def test_the_use_of_a_token_is_marked_once_a_minute(conn: Connection, travel: Travel) -> None:
    token = await make_token(conn, name="ann", role="viewer", tenant="default")
    marks = []
    for seconds in (0, 30, 31):
        await travel(conn, seconds=seconds)
        await identify(conn, token)
        marks.append(await conn.fetchval("SELECT last_used_at FROM api_tokens"))
    assert marks[0] is not None
    assert marks[0] == marks[1] < marks[2]


async def test_the_first_token_is_readable_by_its_owner_only_and_is_kept(
    conn: Connection, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    file = await ensure_first_token(conn, home)
    assert file == home / "token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert await identify(conn, file.read_text().strip()) == Identity(local_actor(), "admin", "default")
    before = file.read_text()
    await ensure_first_token(conn, home)
    assert file.read_text() == before
    assert await conn.fetchval("SELECT count(*) FROM api_tokens") == 1
    assert [entry.name for entry in home.iterdir()] == ["token"]


async def test_a_lost_unknown_or_revoked_first_token_is_made_again(conn: Connection, tmp_path: Path) -> None:
    file = await ensure_first_token(conn, tmp_path)
    seen = {file.read_text()}

    async def again() -> None:
        await ensure_first_token(conn, tmp_path)
        assert file.read_text() not in seen
        seen.add(file.read_text())
        assert await identify(conn, file.read_text().strip()) is not None

    file.unlink()
    await again()
    file.write_text("sf_of-another-database\n")
    await again()
    file.write_bytes(b"\xff\xfe garbage")
    await again()
    await conn.execute("UPDATE api_tokens SET revoked_at = sf_now()")
    await again()


async def test_a_token_file_that_others_may_read_is_closed(conn: Connection, tmp_path: Path) -> None:
    file = await ensure_first_token(conn, tmp_path)
    file.chmod(0o644)
    await ensure_first_token(conn, tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_database_user_who_may_not_make_tokens_is_told_so(
    server: TestServer, database: str, tmp_path: Path
) -> None:
    conn = await connect(server.url(database.rpartition("/")[2], user="starforge_app"))
    with pytest.raises(TokenNotMadeError):
        await ensure_first_token(conn, tmp_path)
    assert not (tmp_path / "token").exists()
    await conn.close()


@covers("X-05")
async def test_the_tokens_name_is_the_actor_and_its_tenant_the_tenant(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    headers = await bearer("operator", name="ci-bot", tenant="shop")
    answer = await client.post(DOOR, json=PAUSE, headers=headers)
    assert answer.json()["actor"] == "ci-bot"
    async with pool.connection() as conn:
        row = await conn.fetchrow("SELECT actor, role, tenant_id, source_address, request_id FROM audit_logs")
    assert row is not None
    assert tuple(row)[:4] == ("ci-bot", "operator", "shop", "127.0.0.1")
    assert str(row["request_id"]) == answer.headers["X-Request-Id"]


@pytest.mark.parametrize("given", ["Bearer sf_wrong", "Basic YTpi", "Bearer", "sf_x", "Bearer  "])
async def test_a_wrong_authorization_is_refused_without_saying_why(
    client: httpx.AsyncClient, given: str
) -> None:
    answer = await client.post(DOOR, json=PAUSE, headers={"Authorization": given})
    assert answer.status_code == 401
    assert answer.json()["code"] == "SF704"


async def test_the_apps_own_database_role_can_look_tokens_up(
    server: TestServer, database: str, pool: Pool
) -> None:
    async with pool.connection() as conn:
        token = await make_token(conn, name="ann", role="viewer", tenant="shop")
    app = await connect(server.url(database.rpartition("/")[2], user="starforge_app"))
    assert await identify(app, token) == Identity("ann", "viewer", "shop")
    await app.close()
