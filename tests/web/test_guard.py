"""The server answers to its own names only, changes nothing without a token, and leaks nothing."""

from __future__ import annotations

import httpx
import pytest

from starforge.db.pool import Pool
from starforge.web.errors import MethodNotAllowedError
from starforge.web.guard import SECURITY_HEADERS, host_of
from starforge.web.serve import create_app
from tests.covers import covers
from tests.web.conftest import Bearer, client_of

PAUSE = {"name": "mail", "reason": "x"}
DOOR = "/api/v1/queue/pause"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "LOCALHOST:1", "127.0.0.1:8080", "127.8.8.8", "[::1]:8080"]
)
async def test_the_server_answers_to_the_names_of_loopback(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example:8080",
        "10.0.0.1",
        "",
        "a@localhost",
        "localhost:x",
        "[::1",
        "localhost/x",
    ],
)
@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", DOOR, "/static/starforge.css", "/nowhere"])
async def test_a_name_that_was_pointed_at_this_machine_is_refused_everywhere(
    client: httpx.AsyncClient, host: str, path: str
) -> None:
    """DNS rebinding: the page's own name resolves to loopback, but it is still the Host."""
    answer = await client.get(path, headers={"Host": host})
    assert answer.status_code == 421
    assert answer.json()["code"] == "SF705"
    assert host == "" or host not in answer.text


async def test_a_configured_name_is_answered(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFORGE_HTTP_HOSTS", "jobs.example, Other.example")
    async with client_of(pool) as client:
        for host in ("jobs.example", "other.example:443"):
            assert (await client.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "BREW"])
@pytest.mark.parametrize("path", ["/", DOOR, "/nowhere", "/healthz"])
async def test_every_method_that_could_change_something_needs_a_token_on_every_path(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://localhost"},
        {"Origin": "file://localhost:8080"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost:8080", "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_a_page_of_another_origin_cannot_change_anything_even_with_a_token(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, headers: dict[str, str]
) -> None:
    answer = await client.post(DOOR, json=PAUSE, headers=await bearer() | headers)
    assert answer.status_code == 403
    assert answer.json()["code"] == "SF706"
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM gates") == 0


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "http://localhost:8080"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}],
)
async def test_a_program_and_the_servers_own_pages_may(
    client: httpx.AsyncClient, bearer: Bearer, headers: dict[str, str]
) -> None:
    answer = await client.post(DOOR, json=PAUSE, headers=await bearer() | headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", ["/", "/healthz", "/nowhere", "/static/starforge.css"])
async def test_every_answer_carries_the_security_headers_and_its_request_id(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.get(path)
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    assert len(answer.headers["X-Request-Id"]) == 36
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


async def test_a_request_keeps_the_id_that_it_came_with(client: httpx.AsyncClient) -> None:
    given = "7c1f0000-0000-4000-8000-000000000000"
    assert (await client.get("/", headers={"X-Request-Id": given})).headers["X-Request-Id"] == given
    odd = await client.get("/", headers={"X-Request-Id": "<script>"})
    assert "<script>" not in odd.headers["X-Request-Id"]


async def test_an_error_that_nobody_expected_tells_the_client_nothing_but_its_id(pool: Pool) -> None:
    app = create_app(pool)

    @app.get("/broken")
    async def broken() -> None:
        raise ValueError("canary: postgresql://ann:secret@db/x")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/broken")
    assert answer.status_code == 500
    assert "canary" not in answer.text
    assert "ValueError" not in answer.text
    assert answer.json()["instance"] == f"urn:uuid:{answer.headers['X-Request-Id']}"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@covers("X-12")
async def test_where_other_machines_can_reach_it_reading_needs_a_token_too(
    pool: Pool, bearer: Bearer
) -> None:
    async with client_of(pool, exposed=True) as client:
        for path in ("/", "/now", "/metrics", "/api/v1/openapi.json", "/nowhere"):
            assert (await client.get(path)).status_code == 401, path
        for path in ("/healthz", "/readyz", "/static/starforge.css"):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.get("/", headers=await bearer("viewer"))).status_code == 200


async def test_unknown_paths_and_methods_are_problems_too(client: httpx.AsyncClient, bearer: Bearer) -> None:
    assert (await client.get("/nowhere")).json()["status"] == 404
    answer = await client.post("/", headers=await bearer())
    assert (answer.status_code, answer.json()["title"]) == (405, MethodNotAllowedError.__doc__)
    assert answer.headers["Allow"] == "GET"


@pytest.mark.parametrize(
    ("netloc", "host"),
    [
        ("Localhost:80", "localhost"),
        ("[::1]:80", "::1"),
        ("a:b:c", None),
        ("", None),
        ("a b", "a b"),
        ("x?y", None),
    ],
)
def test_the_host_of_a_header_is_read_strictly(netloc: str, host: str | None) -> None:
    assert host_of(netloc) == host
