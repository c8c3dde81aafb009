"""Every operation answers over HTTP, made from its declaration and nothing else."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx
import pytest
from msgspec import Meta

from starforge.db.pool import Pool
from starforge.operation import Caller, Change, operation
from starforge.ops import registry
from tests.covers import covers
from tests.web.conftest import Bearer, client_of

DOOR = "/api/v1/queue/pause"
PAUSE = {"name": "mail", "reason": "the provider is down", "minutes": 30}


@covers("X-01")
async def test_pause_and_resume_answer_with_the_operations_document(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    headers = await bearer()
    done = await client.post(DOOR, json=PAUSE, headers=headers)
    assert done.status_code == 200
    assert (done.json()["operation"], done.json()["changed"]) == ("queue pause", 1)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT owner FROM gates WHERE name = 'mail'") == "ann"
    resumed = await client.post("/api/v1/queue/resume", json={"name": "mail"}, headers=headers)
    assert resumed.json()["before"]["reason"] == "the provider is down"


@covers("X-02")
async def test_a_plan_is_made_and_applied(client: httpx.AsyncClient, bearer: Bearer, pool: Pool) -> None:
    headers = await bearer()
    planned = (await client.post(f"{DOOR}/plan", json=PAUSE, headers=headers)).json()
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM gates") == 0
    applied = await client.post(DOOR, json={**PAUSE, "plan_id": planned["id"]}, headers=headers)
    assert applied.json()["plan_id"] == planned["id"]
    again = await client.post(DOOR, json={**PAUSE, "plan_id": planned["id"]}, headers=headers)
    assert (again.status_code, again.json()["code"]) == (409, "SF606")


@covers("X-06")
async def test_a_repeated_idempotency_key_returns_the_first_document(
    client: httpx.AsyncClient, bearer: Bearer
) -> None:
    headers = await bearer() | {"Idempotency-Key": "k1"}
    first = (await client.post(DOOR, json=PAUSE, headers=headers)).json()
    again = (await client.post(DOOR, json=PAUSE, headers=headers)).json()
    assert again == {**first, "repeated": True}
    other = await client.post(DOOR, json={**PAUSE, "minutes": 31}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "SF609")


@covers("X-12")
async def test_a_viewers_token_is_refused_and_the_attempt_audited(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    for path in (DOOR, f"{DOOR}/plan"):
        answer = await client.post(path, json=PAUSE, headers=await bearer("viewer"))
        assert (answer.status_code, answer.json()["code"]) == (403, "SF602")
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM audit_logs WHERE operation = 'authz_fail'") == 2


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "SF707"),
        (b"[]", "application/json", 400, "SF707"),
        (b'"x"', "application/json", 400, "SF707"),
        (b"\xff", "application/json", 400, "SF707"),
        (b'{"a":' * 5000, "application/json", 400, "SF707"),
        (b'{"name": "mail", "reason": "x"}', "text/plain", 415, "SF709"),
        (b'{"name": "mail", "reason": "x"}', "application/x-www-form-urlencoded", 415, "SF709"),
        (b"{}", "application/json", 422, "SF020"),
        (b"", "application/json", 422, "SF020"),
        (b'{"name": "mail", "reason": "x", "role": "admin"}', "application/json", 422, "SF020"),
        (b'{"name": "mail", "reason": " "}', "application/json", 422, "SF603"),
        (b'{"name": "mail", "reason": "a\\u0000b"}', "application/json", 422, "SF001"),
        (b'{"name": "mail", "reason": "\\ud800"}', "application/json", 400, "SF707"),
        (b'{"name": "mail", "reason": "x", "plan_id": "7"}', "application/json", 400, "SF707"),
        (b'{"name": "mail", "reason": "' + b"x" * 1_100_000 + b'"}', "application/json", 413, "SF708"),
    ],
)
async def test_a_body_that_cannot_be_taken_is_a_problem_and_changes_nothing(
    client: httpx.AsyncClient,
    bearer: Bearer,
    pool: Pool,
    body: bytes,
    content_type: str,
    status: int,
    code: str,
) -> None:
    headers = await bearer() | {"Content-Type": content_type}
    answer = await client.post(DOOR, content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["remedy"]
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM gates") == 0


async def test_a_body_without_a_declared_length_is_limited_too(
    client: httpx.AsyncClient, bearer: Bearer
) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 100_000

    headers = await bearer() | {"Content-Type": "application/json"}
    answer = await client.post(DOOR, content=endless(), headers=headers)
    assert answer.status_code == 413
    assert sent < 20


@covers("X-01")
@pytest.mark.usefixtures("declared")
async def test_an_operation_declared_in_a_room_has_its_routes_and_its_schema_at_once(
    pool: Pool, bearer: Bearer
) -> None:
    seen: list[Any] = []

    @operation("lamp set", role="operator", inverse="lamp set")
    async def set_lamp(
        caller: Caller,
        lamp_id: Annotated[UUID, "Which lamp."],
        level: Annotated[int, Meta(ge=0, le=9), "How bright."],
        *,
        colours: list[str] | None = None,
        blink: bool = False,
        reason: str,
    ) -> Change:
        """Set lamp LAMP_ID to LEVEL."""
        seen.append((caller.actor, caller.tenant, lamp_id, level, colours, blink, reason))
        return Change("lit", 1, 1, sample=(str(lamp_id),))

    lamp = uuid4()
    async with client_of(pool) as client:
        headers = await bearer(tenant="shop")
        body = {"lamp_id": str(lamp), "level": 3, "colours": ["red"], "reason": "dark"}
        answer = await client.post("/api/v1/lamp/set", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["sample"] == [str(lamp)]
        planned = await client.post("/api/v1/lamp/set/plan", json=body, headers=headers)
        assert planned.json()["matched"] == 1
        refused = await client.post("/api/v1/lamp/set", json=body | {"level": 10}, headers=headers)
        assert refused.status_code == 422
        api = (await client.get("/api/v1/openapi.json")).json()
    assert seen == [("ann", "shop", lamp, 3, ["red"], False, "dark")] * 2
    schema = api["components"]["schemas"]["LampSet"]
    assert schema["required"] == ["lamp_id", "level", "reason"]
    assert schema["properties"]["level"] == {
        "type": "integer",
        "minimum": 0,
        "maximum": 9,
        "description": "How bright.",
    }
    door = api["paths"]["/api/v1/lamp/set"]["post"]
    assert door["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/LampSet"
    }
    assert (door["description"], door["x-role"]) == ("Set lamp LAMP_ID to LEVEL.", "operator")


@covers("X-01", "X-12")
async def test_every_operation_has_both_routes_and_each_needs_a_token(client: httpx.AsyncClient) -> None:
    api = (await client.get("/api/v1/openapi.json")).json()
    for declared in registry.operations():
        for path in (registry.http_path(declared), f"{registry.http_path(declared)}/plan"):
            assert api["paths"][path]["post"]["security"] == [{"token": []}]
            assert (await client.post(path, json={})).status_code == 401


async def test_every_reference_of_the_description_leads_somewhere(client: httpx.AsyncClient) -> None:
    text = (await client.get("/api/v1/openapi.json")).text
    api = httpx.Response(200, text=text).json()
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= set(api["components"]["schemas"])


async def test_an_operation_that_takes_too_long_is_answered_as_unknown(
    pool: Pool, bearer: Bearer, declared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_HTTP_OPERATION_S", "0.05")

    @operation("lamp wait", role="operator", inverse=None)
    async def wait(caller: Caller) -> Change:
        """Wait."""
        await caller.conn.execute("SELECT pg_sleep(5)")
        return Change("waited", 1, 1)

    async with client_of(pool) as client:
        answer = await client.post("/api/v1/lamp/wait", json={}, headers=await bearer())
    assert (answer.status_code, answer.json()["code"]) == (503, "SF610")


async def test_an_argument_may_be_named_by_a_word_of_python_s_own(
    client: httpx.AsyncClient, bearer: Bearer
) -> None:
    body = {"asset": "nothing", "from": "2024-01-01"}
    refused = await client.post("/api/v1/backfill/create", json=body, headers=await bearer())
    assert (refused.status_code, refused.json()["code"]) == (404, "SF502")
    api = (await client.get("/api/v1/openapi.json")).json()
    assert "from" in api["components"]["schemas"]["BackfillCreate"]["properties"]
