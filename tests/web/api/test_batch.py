"""A batch is taken line by line: each has its own answer, and none spoils another."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import zstandard

from starforge.db.pool import Pool
from starforge.web.api.lines import Lines
from tests.covers import covers
from tests.web.api.conftest import BATCH, NDJSON, a_server, count, hero, nothing_stored
from tests.web.conftest import Bearer


def told(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the lines of an answer."""
    assert answer.headers["Content-Type"].startswith("application/x-ndjson"), answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("encoding", ["", "gzip", "zstd"])
async def test_each_line_has_its_answer_and_a_bad_one_spoils_no_other(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, encoding: str
) -> None:
    lines = [hero("A_1"), b"", b'{"a":', hero("A_2"), b"\xff", hero("A_1"), b"   ", hero("A_3") + b"\r"]
    packers: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress}
    pack = packers.get(encoding, bytes)
    headers = {**await bearer("producer"), **NDJSON, **({"Content-Encoding": encoding} if encoding else {})}
    answer = await client.post(BATCH, content=pack(b"\n".join(lines)), headers=headers)
    *each, end = told(answer)
    assert answer.status_code == 200
    assert [(one["line"], one["fate"]) for one in each] == [
        (1, "accepted"), (3, "refused"), (4, "accepted"), (5, "refused"), (6, "duplicate"), (8, "accepted"),
    ]  # fmt: skip
    assert (each[1]["error"]["position"], each[1]["error"]["line"], each[3]["error"]["position"]) == (5, 1, 0)
    assert each[4]["snapshot_id"] == each[0]["snapshot_id"]
    assert end == {
        "complete": True,
        "lines": 6,
        "fates": {"accepted": 3, "refused": 2, "duplicate": 1},
        "error": None,
    }
    assert await count(pool, "hero_snapshots") == await count(pool, "queue_jobs") == 3
    assert await count(pool, "snapshot_quarantine") == 0


async def test_bad_lines_are_kept_where_the_sender_asks_for_it(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    headers = {**await bearer(), **NDJSON}
    answer = await client.post(f"{BATCH}?keep=true", content=b"{\n" + hero("A_1"), headers=headers)
    assert [one["fate"] for one in told(answer)[:-1]] == ["malformed", "accepted"]
    async with pool.connection() as conn:
        row = await conn.fetchrow("SELECT bytes, name FROM snapshot_quarantine")
    assert row is not None
    assert row["bytes"] == b"{"
    assert row["name"].endswith(":1")


async def test_the_lines_of_one_hero_are_taken_in_their_order(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    lines = [hero("A_1", level) for level in (1, 2, 1, 3, 3, 1)]
    answer = await client.post(BATCH, content=b"\n".join(lines), headers={**await bearer(), **NDJSON})
    fates = ["accepted", "accepted", "recaptured", "accepted", "duplicate", "recaptured"]
    assert [one["fate"] for one in told(answer)[:-1]] == fates


async def test_a_line_that_is_too_long_is_refused_alone_and_not_held(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_INGEST_BYTES_MAX", "2048")
    lines = [hero("A_1"), b"x" * 3000, hero("A_2")]
    answer = await client.post(BATCH, content=b"\n".join(lines), headers={**await bearer(), **NDJSON})
    *each, end = told(answer)
    assert [one["fate"] for one in each] == ["accepted", "refused", "accepted"]
    assert each[1]["error"]["code"] == "SF402"
    assert end["complete"]


async def test_a_large_batch_through_a_real_server_is_never_all_in_memory(
    app_pool: Pool, pool: Pool, bearer: Bearer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client sends all before it listens; neither lines nor answers are held meanwhile."""
    monkeypatch.setenv("STARFORGE_INGEST_BURST", "100000")
    number, padding = 1500, "x" * 20_000

    async def sent() -> AsyncIterator[bytes]:
        for n in range(number):
            yield hero(f"A_{n}", Name=padding) + b"\n"

    headers = {**await bearer(), **NDJSON}
    async with (
        a_server(app_pool) as (host, port),
        httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=60) as user,
    ):
        tracemalloc.start()
        answer = await user.post(BATCH, content=sent(), headers=headers)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    *each, end = told(answer)
    assert (len(each), end["fates"]) == (number, {"accepted": number})
    assert await count(pool, "queue_jobs") == number
    assert peak < 15 * (1 << 20), "30 MB were sent"


async def test_what_stops_a_batch_is_its_last_line_and_what_was_taken_before_is_said(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    async def sent() -> AsyncIterator[bytes]:
        for n in range(60):
            yield hero(f"A_{n}") + b"\n"
        async with pool.connection() as conn:
            await conn.execute("UPDATE feature_flags SET data = '{\"ingest_paused\": true}'")
        for n in range(60):
            yield hero(f"B_{n}") + b"\n"

    answer = await client.post(BATCH, content=sent(), headers={**await bearer(), **NDJSON})
    *each, end = told(answer)
    assert answer.status_code == 200
    assert [one["fate"] for one in each] == ["accepted"] * 50 + ["refused"] * 50
    assert (end["complete"], end["error"]["code"]) == (False, "SF410")
    assert await count(pool, "hero_snapshots") == 50


async def test_a_batch_of_which_nothing_could_be_taken_is_refused_as_a_whole(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    headers = {**await bearer(), **NDJSON}
    async with pool.connection() as conn:
        await conn.execute("UPDATE feature_flags SET data = '{\"ingest_paused\": true}'")
    answer = await client.post(BATCH, content=hero("A_1"), headers=headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert await nothing_stored(pool)


@covers("F-37")
async def test_a_source_that_is_paused_in_the_middle_of_a_batch_ends_it_and_each_line_says_so(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    paused = '{"sources": {"hero": {"reason": "upstream changed"}}}'

    async def sent() -> AsyncIterator[bytes]:
        for n in range(60):
            yield hero(f"A_{n}") + b"\n"
        async with pool.connection() as conn:
            await conn.execute("UPDATE feature_flags SET data = $1::text::jsonb", paused)
        for n in range(60):
            yield hero(f"B_{n}") + b"\n"

    headers = {**await bearer(), **NDJSON}
    *each, end = told(await client.post(BATCH, content=sent(), headers=headers))
    assert [one["fate"] for one in each] == ["accepted"] * 50 + ["refused"] * 50
    assert {one["error"]["code"] for one in each[50:]} == {"SF413"}
    assert "source 'hero' is paused" in each[50]["error"]["detail"]
    assert (end["complete"], end["error"]["code"]) == (False, "SF413")
    answer = await client.post(BATCH, content=hero("C_1"), headers=headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    *each, end = told(await client.post(f"{BATCH}?source=shop", content=hero("C_1"), headers=headers))
    assert ([one["fate"] for one in each], end["complete"]) == (["accepted"], True)
    assert await count(pool, "hero_snapshots") == 51


async def test_a_batch_cut_short_keeps_its_whole_lines_and_says_that_it_is_not_complete(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    packed = gzip.compress(hero("A_1") + b"\n" + hero("A_2") + b"\n")[:-8]
    headers = {**await bearer(), **NDJSON, "Content-Encoding": "gzip"}
    *each, end = told(await client.post(BATCH, content=packed, headers=headers))
    assert [one["fate"] for one in each] == ["accepted", "accepted"]
    assert (end["complete"], end["error"]["reason"]) == (False, "the gzip stream is truncated")


async def test_a_batch_takes_no_key_and_no_plain_json(client: httpx.AsyncClient, bearer: Bearer) -> None:
    headers = await bearer()
    answer = await client.post(BATCH, content=b"{}", headers={**headers, **NDJSON, "Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["code"]) == (400, "SF707")
    answer = await client.post(BATCH, content=b"{}", headers={**headers, "Content-Type": "application/json"})
    assert answer.status_code == 415


async def test_an_empty_batch_is_complete(client: httpx.AsyncClient, bearer: Bearer) -> None:
    [end] = told(await client.post(BATCH, content=b"\n\n", headers={**await bearer(), **NDJSON}))
    assert end == {"complete": True, "lines": 0, "fates": {}, "error": None}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_are_the_same_however_they_are_cut(size: int) -> None:
    data = b"one\r\n\n  \ntwo\nlonger than ten\nten chars!\nten chars!\r\nlast"
    lines = Lines(10)
    found = [each for at in range(0, len(data), size) for each in lines.feed(data[at : at + size])]
    found += lines.end()
    assert found == [
        (1, b"one"), (4, b"two"), (5, None), (6, b"ten chars!"), (7, b"ten chars!"), (8, b"last"),
    ]  # fmt: skip
