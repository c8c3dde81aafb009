"""A snapshot offered over HTTP is stored, kept in quarantine, or refused to its sender with the reason."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard

from starforge.db.pool import Pool
from starforge.etl.document import guard
from tests.conftest import Travel
from tests.covers import covers
from tests.web.api.conftest import JSON, SNAPSHOTS, count, hero, nothing_stored
from tests.web.conftest import Bearer

PACKED: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress}


PAUSED = 'UPDATE feature_flags SET data = \'{"sources": {"hero": {"reason": "upstream changed"}}}\''


@covers("F-20")
@pytest.mark.parametrize("encoding", ["", "gzip", "x-gzip", "zstd", "identity"])
async def test_a_snapshot_is_stored_byte_for_byte_with_a_job_however_it_is_packed(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, encoding: str
) -> None:
    data = b' {"result":\t{"ProfileData": {"NameCode":"A_1", "n": 1.0, "n": 2}}}\n'
    pack = PACKED.get(encoding.removeprefix("x-"), bytes)
    headers = {**await bearer("producer"), **JSON, **({"Content-Encoding": encoding} if encoding else {})}
    answer = await client.post(SNAPSHOTS, content=pack(data), headers=headers)
    told = answer.json()
    assert (answer.status_code, told["fate"], told["size_bytes"]) == (202, "accepted", len(data))
    assert answer.headers["Location"] == told["status_url"] == f"{SNAPSHOTS}/{told['snapshot_id']}"
    async with pool.connection() as conn:
        row = await conn.fetchrow("SELECT raw::text AS raw, subject FROM hero_snapshots")
        job = await conn.fetchrow("SELECT id::text, type, payload FROM queue_jobs")
    assert row is not None
    assert job is not None
    assert (row["raw"].encode(), row["subject"]) == (data, "A_1")
    assert (job["id"], job["type"]) == (told["job_id"], "process_snapshot")
    assert job["payload"]["snapshot_id"] == told["snapshot_id"]


async def test_content_that_is_known_is_answered_as_a_duplicate_and_stored_once(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    headers = {**await bearer(), **JSON}
    first = await client.post(SNAPSHOTS, content=hero("A_1"), headers=headers)
    again = await client.post(SNAPSHOTS, content=hero("A_1"), headers=headers)
    assert (again.status_code, again.json()["fate"]) == (200, "duplicate")
    assert again.json()["snapshot_id"] == first.json()["snapshot_id"]
    assert await count(pool, "hero_snapshots") == await count(pool, "queue_jobs") == 1


async def test_a_state_that_comes_back_after_another_is_a_capture_of_the_first_content(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    headers = {**await bearer(), **JSON}
    answers = [
        (await client.post(SNAPSHOTS, content=hero("A_1", level), headers=headers)).json()
        for level in (1, 2, 1, 1)
    ]
    assert [one["fate"] for one in answers] == ["accepted", "accepted", "recaptured", "duplicate"]
    assert answers[2]["snapshot_id"] == answers[0]["snapshot_id"]
    assert await count(pool, "hero_snapshots") == 2
    assert await count(pool, "snapshot_captures") == await count(pool, "queue_jobs") == 3


async def test_many_at_once_are_each_answered_for_themselves(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    """They share transactions; what one of them is, is no affair of the others."""
    headers = {**await bearer(), **JSON}
    long = random.Random(1).randbytes(6000).hex()  # our rule lets such a subject pass, and no index holds it
    documents = [hero(f"A_{n}") for n in range(40)] + [b"{", hero("A_0")]
    answers = await asyncio.gather(
        *(client.post(SNAPSHOTS, content=data, headers=headers) for data in documents),
        client.post(f"{SNAPSHOTS}?source=shop", content=json.dumps({"Code": long}), headers=headers),
    )
    fates = [one.json().get("fate", one.status_code) for one in answers]
    assert sorted(fates[:40] + fates[41:42]) == ["accepted"] * 40 + ["duplicate"]
    assert (fates[40], fates[42]) == (400, 400)
    assert "Postgres refuses it" in answers[42].json()["detail"]
    assert answers[42].json()["kept"], "it was found out too late to say that nothing is kept"
    stored = {row["snapshot_id"] for row in (one.json() for one in answers[:40])}
    assert len(stored) == 40
    assert await count(pool, "queue_jobs") == len([fate for fate in fates if fate == "accepted"])


@pytest.mark.parametrize(
    ("asked", "said", "expected"),
    [
        ("2026-01-02T03:04:05Z", "", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T04:04:05+01:00", "2020-01-01T00:00:00Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02 03:04:05", "", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("", "2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("", "", None),
    ],
)
async def test_the_time_is_the_callers_else_the_documents_else_now(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, asked: str, said: str, expected: datetime | None
) -> None:
    data = json.dumps({"Code": "c", **({"At": said} if said else {})}).encode()
    query = f"?source=shop{f'&captured_at={asked}' if asked else ''}"
    answer = await client.post(SNAPSHOTS + query, content=data, headers={**await bearer(), **JSON})
    assert answer.status_code == 202, answer.text
    async with pool.connection() as conn:
        row = await conn.fetchrow(
            "SELECT source, subject, captured_at, sf_now() - captured_at < '1 minute' AS is_now"
            " FROM hero_snapshots"
        )
    assert row is not None
    assert (row["source"], row["subject"]) == ("shop", "c")
    assert row["is_now"] if expected is None else row["captured_at"] == expected


@covers("F-21")
async def test_a_fault_in_the_first_byte_has_its_position_too(
    client: httpx.AsyncClient, bearer: Bearer
) -> None:
    told = (await client.post(SNAPSHOTS, content=b"", headers={**await bearer(), **JSON})).json()
    assert (told["position"], told["line"], told["column"]) == (0, 1, 1)


@covers("F-21")
async def test_what_is_no_json_is_refused_with_its_position_and_nothing_is_stored(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    answer = await client.post(SNAPSHOTS, content=b'{"a": 1,\n "b": x}', headers={**await bearer(), **JSON})
    told = answer.json()
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (told["code"], told["line"], told["column"], told["position"]) == ("SF401", 2, 7, 15)
    assert told["reason"]
    assert told["kept"] is False
    assert "keep=true" in told["remedy"]
    assert await nothing_stored(pool)


@covers("O-26", "F-21")
async def test_what_is_no_json_is_kept_as_it_came_where_the_sender_asks_for_it(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    headers = {**await bearer(), **JSON}
    answer = await client.post(f"{SNAPSHOTS}?keep=true", content=b'{"a": \xff}', headers=headers)
    assert (answer.status_code, answer.json()["kept"], answer.json()["position"]) == (400, True, 6)
    async with pool.connection() as conn:
        row = await conn.fetchrow("SELECT bytes, encode(sha256, 'hex') AS sha256 FROM snapshot_quarantine")
        error = await conn.fetchval("SELECT error_type FROM etl_errors")
    assert row is not None
    assert (row["bytes"], row["sha256"], error) == (b'{"a": \xff}', answer.json()["sha256"], "PARSE_ERROR")


@covers("O-25", "O-34")
async def test_one_above_the_size_guard_is_stored_and_held_back_and_the_answer_says_so(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_SNAPSHOT_SIZE_MAX_MB", "0.3")
    guard.guard_settings.cache_clear()
    try:
        answer = await client.post(
            SNAPSHOTS, content=hero("A_1", Name="x" * 400_000), headers={**await bearer(), **JSON}
        )
    finally:
        monkeypatch.undo()
        guard.guard_settings.cache_clear()
    told = answer.json()
    assert (answer.status_code, told["fate"]) == (202, "oversized")
    assert "job_id" not in told
    assert "held back" in told["told"]
    assert await count(pool, "queue_jobs") == 0
    state = (await client.get(told["status_url"], headers=await bearer("viewer"))).json()
    assert (state["status"], state["held"]) == ("quarantined", True)


async def test_a_snapshots_state_has_its_schema_and_never_its_content(
    client: httpx.AsyncClient, bearer: Bearer
) -> None:
    told = (
        await client.post(SNAPSHOTS, content=hero("A_1", Note="canary"), headers={**await bearer(), **JSON})
    ).json()
    for role in ("producer", "viewer", "operator", "admin"):
        answer = await client.get(told["status_url"], headers=await bearer(role))
        assert answer.status_code == 200, role
    state = answer.json()
    assert "canary" not in answer.text
    assert (state["id"], state["status"], state["source"], state["subject"]) == (
        told["snapshot_id"], "received", "hero", "A_1",
    )  # fmt: skip
    described = (await client.get("/api/v1/openapi.json")).json()
    assert set(state) == set(described["components"]["schemas"]["SnapshotState"]["properties"])
    assert {SNAPSHOTS, f"{SNAPSHOTS}/batch", f"{SNAPSHOTS}/{{snapshot_id}}"} <= set(described["paths"])


@pytest.mark.parametrize("given", ["00000000-0000-4000-8000-000000000000", "x", "batch"])
async def test_a_snapshot_that_is_not_there_is_not_found(
    client: httpx.AsyncClient, bearer: Bearer, given: str
) -> None:
    answer = await client.get(f"{SNAPSHOTS}/{given}", headers=await bearer())
    assert (answer.status_code, answer.json()["code"]) == (404, "SF717")


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("?source=nobody", 404, "hero, shop"),
        ("?captured_at=yesterday", 422, "2026-01-31T12:00:00Z"),
        ("?captured_at=3026-01-31", 422, "lies more than a day ahead"),
        ("?keep=maybe", 422, "true or false"),
        ("?sorce=hero", 422, "sorce"),
    ],
)
async def test_a_request_that_says_what_it_cannot_mean_is_refused_by_name(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, query: str, status: int, words: str
) -> None:
    answer = await client.post(SNAPSHOTS + query, content=hero("A_1"), headers={**await bearer(), **JSON})
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert await nothing_stored(pool)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {**JSON, "Content-Encoding": "br"},
        {**JSON, "Content-Encoding": "gzip, gzip"},
    ],
)
async def test_what_is_declared_as_something_else_is_not_read(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, headers: dict[str, str]
) -> None:
    answer = await client.post(SNAPSHOTS, content=hero("A_1"), headers={**await bearer(), **headers})
    assert (answer.status_code, answer.json()["code"]) == (415, "SF713")
    assert await nothing_stored(pool)


async def test_other_kinds_of_json_are_json(client: httpx.AsyncClient, bearer: Bearer) -> None:
    headers = {**await bearer(), "Content-Type": 'application/fhir+json; charset="UTF-8"'}
    assert (await client.post(SNAPSHOTS, content=hero("A_1"), headers=headers)).status_code == 202


@covers("Q-29")
async def test_while_ingestion_is_paused_nothing_is_taken_and_the_sender_is_told_when_to_come_again(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    headers = {**await bearer(), **JSON}
    assert (await client.post(SNAPSHOTS, content=hero("A_1"), headers=headers)).status_code == 202
    async with pool.connection() as conn:
        await conn.execute("UPDATE feature_flags SET data = '{\"ingest_paused\": true}'")
    # The server believed a moment ago that it is open: the transaction that would take it looks again.
    for _ in range(3):
        answer = await client.post(SNAPSHOTS, content=hero("A_2"), headers=headers)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
        assert answer.json()["code"] == "SF410"
    assert await count(pool, "hero_snapshots") == 1


@covers("F-37")
async def test_offers_of_a_paused_source_are_refused_by_name_and_those_of_others_taken_also_together(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    headers = {**await bearer(), **JSON}
    assert (await client.post(SNAPSHOTS, content=hero("A_1"), headers=headers)).status_code == 202
    async with pool.connection() as conn:
        await conn.execute(PAUSED)
    # What comes together goes in one transaction, whatever its sources are.
    for n in range(3):
        asked = [
            client.post(f"{SNAPSHOTS}?source={source}", content=hero(f"B_{n}_{k}"), headers=headers)
            for source in ("hero", "shop")
            for k in range(5)
        ]
        answers = await asyncio.gather(*asked)
        assert [answer.status_code for answer in answers] == [503] * 5 + [202] * 5
        assert {answer.headers["Retry-After"] for answer in answers[:5]} == {"30"}
        assert answers[0].json()["code"] == "SF413"
        assert "source 'hero' is paused: upstream changed" in answers[0].json()["detail"]
    assert await count(pool, "hero_snapshots") == 16


@covers("X-06")
async def test_a_key_gives_the_first_answer_again_also_from_another_server(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, app_pool: Pool
) -> None:
    from starforge.web.serve import create_app

    headers = {**await bearer(), **JSON, "Idempotency-Key": "k1"}
    first = await client.post(SNAPSHOTS, content=hero("A_1"), headers=headers)
    assert first.status_code == 202
    transport = httpx.ASGITransport(create_app(app_pool))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as restarted:
        again = await restarted.post(
            SNAPSHOTS, content=gzip.compress(hero("A_1")), headers={**headers, "Content-Encoding": "gzip"}
        )
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert await count(pool, "queue_jobs") == 1


@pytest.mark.parametrize("other", ["content", "time", "keep", "source"])
async def test_a_key_that_was_used_for_something_else_is_refused(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, other: str
) -> None:
    headers = {**await bearer(), **JSON, "Idempotency-Key": "k1"}
    await client.post(SNAPSHOTS, content=hero("A_1"), headers=headers)
    query = {"time": "?captured_at=2026-01-01", "keep": "?keep=true", "source": "?source=shop"}.get(other, "")
    data = hero("A_2") if other == "content" else hero("A_1")
    answer = await client.post(SNAPSHOTS + query, content=data, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "SF412")
    assert await count(pool, "hero_snapshots") == 1


async def test_clients_have_keys_of_their_own(client: httpx.AsyncClient, bearer: Bearer, pool: Pool) -> None:
    for name, tenant in (("ann", "default"), ("bob", "default"), ("ann", "acme")):
        headers = {**await bearer(name=name, tenant=tenant), **JSON, "Idempotency-Key": "k1"}
        answer = await client.post(SNAPSHOTS, content=hero(f"{name}{tenant}"), headers=headers)
        assert answer.status_code == 202, answer.text
    assert await count(pool, "hero_snapshots") == 3


async def test_one_key_at_once_is_one_snapshot_and_one_answer(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    headers = {**await bearer(), **JSON, "Idempotency-Key": "k1"}
    answers = await asyncio.gather(
        *(client.post(SNAPSHOTS, content=hero("A_1"), headers=headers) for _ in range(12))
    )
    assert {one.status_code for one in answers} == {202}
    assert len({one.content for one in answers}) == 1
    assert await count(pool, "queue_jobs") == 1


async def test_a_kept_refusal_is_repeated_too(client: httpx.AsyncClient, bearer: Bearer, pool: Pool) -> None:
    headers = {**await bearer(), **JSON, "Idempotency-Key": "k1"}
    answers = [await client.post(f"{SNAPSHOTS}?keep=true", content=b"[1,", headers=headers) for _ in range(2)]
    told: list[dict[str, Any]] = [one.json() for one in answers]
    for one in told:
        one.pop("instance")
    assert told[0] == told[1]
    assert await count(pool, "etl_errors") == 1


async def test_a_key_is_forgotten_in_its_time(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, travel: Travel
) -> None:
    from starforge.etl.ingest.key import prune_ingest_keys

    headers = {**await bearer(), **JSON, "Idempotency-Key": "k1"}
    await client.post(SNAPSHOTS, content=hero("A_1"), headers=headers)
    async with pool.connection() as conn:
        assert await prune_ingest_keys(conn) == 0
        await travel(conn, hours=25)
        again = await client.post(SNAPSHOTS, content=hero("A_2"), headers=headers)
        assert again.status_code == 202, "it has expired, though nobody has pruned it yet"
        await travel(conn, hours=25)
        assert await prune_ingest_keys(conn) == 1


@pytest.mark.parametrize("key", ["", " ", "x" * 201])
async def test_a_key_that_can_be_none_is_refused(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, key: str
) -> None:
    headers = {**await bearer(), **JSON, "Idempotency-Key": key}
    assert (await client.post(SNAPSHOTS, content=hero("A_1"), headers=headers)).status_code == 422
    assert await nothing_stored(pool)


async def test_above_its_rate_a_client_is_told_to_wait_and_no_other_client_is(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_INGEST_RATE_PER_S", "0.1")
    monkeypatch.setenv("STARFORGE_INGEST_BURST", "2")
    noisy = {**await bearer(tenant="acme"), **JSON}
    answers = [await client.post(SNAPSHOTS, content=hero(f"A_{n}"), headers=noisy) for n in range(3)]
    assert [one.status_code for one in answers] == [202, 202, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"ingest";q=2;w=20'
    assert answers[0].headers["RateLimit"].startswith('"ingest";r=1;t=')
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 10
    assert answers[2].json()["code"] == "SF714"
    for quiet in (await bearer(name="bob", tenant="acme"), await bearer(tenant="bolt")):
        answer = await client.post(SNAPSHOTS, content=hero("B_1"), headers={**quiet, **JSON})
        assert answer.status_code in (200, 202)
    assert await count(pool, "hero_snapshots") == 4


@pytest.mark.shared
async def test_every_doubtful_document_is_stored_or_kept_or_refused_with_the_reason(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, shared: Path
) -> None:
    headers = {**await bearer(), **JSON}
    files = sorted((shared / "data/malformed-json").glob("*.json"))
    assert len(files) > 100
    for file in files:
        data = file.read_bytes()
        plain = await client.post(SNAPSHOTS, content=data, headers=headers)
        if plain.status_code in (200, 202):
            snapshot_id = plain.json()["snapshot_id"]
            async with pool.connection() as conn:
                raw = await conn.fetchval("SELECT raw::text FROM hero_snapshots WHERE id = $1", snapshot_id)
            assert raw.encode() == data, file.name
            continue
        assert (plain.status_code, plain.json()["kept"]) == (400, False), file.name
        assert plain.json()["reason"], file.name
        kept = await client.post(f"{SNAPSHOTS}?keep=1", content=data, headers=headers)
        async with pool.connection() as conn:
            held = await conn.fetchval("SELECT bytes FROM snapshot_quarantine WHERE bytes = $1", data)
        assert kept.json()["kept"] is (held is not None), file.name
        assert held == data, file.name
