"""No body, head or client costs the server more than it allows, and what is refused leaves nothing behind."""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import zstandard

from starforge.db.pool import Pool
from starforge.web import protocol
from starforge.web.api import body as bodies
from tests.covers import covers
from tests.web.api.conftest import BATCH, JSON, NDJSON, SNAPSHOTS, a_server, count, hero, nothing_stored
from tests.web.conftest import Bearer

GB = 1 << 30
MIB = 1 << 20


def gzip_bomb() -> bytes:
    """Make a gzip of 1 GB of zeros: the same flushed block again and again."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = pack.compress(bytes(MIB)) + pack.flush(zlib.Z_FULL_FLUSH)
    block = pack.compress(bytes(MIB)) + pack.flush(zlib.Z_FULL_FLUSH)
    return head + block * 1023


def zstd_bomb() -> bytes:
    """Make a zstd frame of 1 GB of zeros, which takes some 30 kB."""
    pack = zstandard.ZstdCompressor().compressobj()
    zeros = bytes(MIB)
    return b"".join(pack.compress(zeros) for _ in range(1024)) + pack.flush()


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("path", [SNAPSHOTS, f"{SNAPSHOTS}?keep=true", BATCH])
async def test_a_bomb_is_refused_while_it_unpacks_and_costs_next_to_no_memory(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, encoding: str, path: str
) -> None:
    bomb = gzip_bomb() if encoding == "gzip" else zstd_bomb()
    kind = NDJSON if path == BATCH else JSON
    headers = {**await bearer(), **kind, "Content-Encoding": encoding}
    tracemalloc.start()
    answer = await client.post(path, content=_pieces(bomb), headers=headers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A batch's one endless line is refused as that line; the batch itself may be a gigabyte, and this gzip
    # has no end.
    told = answer.json() if path != BATCH else {"code": "SF712"}
    assert told["code"] == "SF712"
    assert answer.status_code == (413 if path != BATCH else 200 if encoding == "zstd" else 400)
    assert peak < (16 * MIB if path != BATCH else 80 * MIB)
    assert await nothing_stored(pool)


async def _pieces(data: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_read(
    app_pool: Pool, pool: Pool, bearer: Bearer
) -> None:
    """A gigabyte that nobody has to send: the answer is there at the head, without a 100 before it."""
    auth = (await bearer())["Authorization"]
    async with a_server(app_pool) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(_head(auth, f"Content-Length: {GB}", "Expect: 100-continue"))
        assert (await reader.readline()).split()[1] == b"413"
        writer.close()
    assert await nothing_stored(pool)


@pytest.mark.parametrize("length", [True, False])
async def test_a_sender_that_goes_on_sending_what_is_too_large_still_hears_why(
    app_pool: Pool, pool: Pool, bearer: Bearer, monkeypatch: pytest.MonkeyPatch, length: bool
) -> None:
    monkeypatch.setenv("STARFORGE_INGEST_BYTES_MAX", str(MIB))
    headers = {**await bearer(), **JSON, **({"Content-Length": str(4 * MIB)} if length else {})}
    async with (
        a_server(app_pool) as (host, port),
        httpx.AsyncClient(base_url=f"http://{host}:{port}") as user,
    ):
        answer = await user.post(SNAPSHOTS, content=_pieces(b" " * 4 * MIB), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "SF712")
        assert (await user.get("/healthz")).status_code == 200
    assert await nothing_stored(pool)


async def test_a_document_of_exactly_the_limit_is_taken(
    client: httpx.AsyncClient, bearer: Bearer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_INGEST_BYTES_MAX", "4096")
    headers = {**await bearer(), **JSON}
    data = hero("A_1").ljust(4096)
    assert (await client.post(SNAPSHOTS, content=data, headers=headers)).status_code == 202
    assert (await client.post(SNAPSHOTS, content=data + b" ", headers=headers)).status_code == 413


DAMAGED = {
    "gzip cut short": ("gzip", gzip.compress(hero("A_1"))[:-9]),
    "gzip damaged": ("gzip", gzip.compress(hero("A_1"))[:20] + b"\xff" * 20),
    "gzip with a tail": ("gzip", gzip.compress(hero("A_1")) + b"tail"),
    "no gzip": ("gzip", hero("A_1")),
    "empty": ("gzip", b""),
    "zstd cut short": ("zstd", zstandard.compress(hero("A_1"))[:-3]),
    "no zstd": ("zstd", hero("A_1")),
    "too large a window": (
        "zstd",
        zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(window_log=27)
        ).compressobj().compress(b"[") + b"x" * 20,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(DAMAGED))
async def test_what_cannot_be_unpacked_is_refused_or_kept_as_it_came(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, name: str
) -> None:
    encoding, data = DAMAGED[name]
    headers = {**await bearer(), **JSON, "Content-Encoding": encoding}
    answer = await client.post(SNAPSHOTS, content=data, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "SF401")
    assert encoding in answer.json()["reason"]
    assert await nothing_stored(pool)
    answer = await client.post(f"{SNAPSHOTS}?keep=true", content=data, headers=headers)
    assert answer.status_code == 400
    async with pool.connection() as conn:
        kept = [row["bytes"] for row in await conn.fetch("SELECT bytes FROM snapshot_quarantine")]
    assert kept == ([data] if data else [])


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, zstd", "compress", "x"])
async def test_other_encodings_are_refused_by_name(
    client: httpx.AsyncClient, bearer: Bearer, encoding: str
) -> None:
    headers = {**await bearer(), **JSON, "Content-Encoding": encoding}
    answer = await client.post(SNAPSHOTS, content=b"[]", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "SF713")
    assert f"the Content-Encoding '{encoding}' is not known here" in answer.text


@pytest.mark.parametrize("path", [SNAPSHOTS, f"{SNAPSHOTS}?keep=true", BATCH])
async def test_of_a_body_whose_sender_leaves_nothing_is_stored(
    app_pool: Pool, pool: Pool, bearer: Bearer, path: str
) -> None:
    auth = (await bearer())["Authorization"]
    async with a_server(app_pool) as address:
        for length in ("Content-Length: 5000", "Transfer-Encoding: chunked"):
            _, writer = await asyncio.open_connection(*address)
            kind = "application/x-ndjson" if path == BATCH else "application/json"
            sent = hero("A_1") + b"\n"
            if "chunked" in length:
                sent = b"%x\r\n%s\r\n" % (len(sent), sent)
            writer.write(_head(auth, length, path=path, kind=kind) + sent)
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()
        await asyncio.sleep(0.05)
    assert await nothing_stored(pool)


async def test_a_slow_body_is_ended_and_never_holds_a_connection_to_the_database(
    database: str, pool: Pool, bearer: Bearer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_INGEST_BODY_S", "0.5")
    auth = await bearer()
    two = await Pool.open(database.replace("tester@", "starforge_app@"), size=2)
    async with a_server(two) as (host, port):
        slow = [await asyncio.open_connection(host, port) for _ in range(20)]
        for _, writer in slow:
            writer.write(_head(auth["Authorization"], "Content-Length: 5000") + b"[")
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}") as user:
            began_s = time.monotonic()
            for n in range(10):
                answer = await user.post(SNAPSHOTS, content=hero(f"A_{n}"), headers={**auth, **JSON})
                assert answer.status_code == 202
            assert time.monotonic() - began_s < 5
        for reader, writer in slow:
            answer_line = await asyncio.wait_for(reader.readline(), 5)
            assert answer_line.split()[1] == b"408"
            writer.close()
    await two.close()
    assert await count(pool, "hero_snapshots") == 10


async def test_a_head_that_does_not_come_to_an_end_is_ended(
    app_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    async with a_server(app_pool) as address:
        silent, started = await asyncio.open_connection(*address), await asyncio.open_connection(*address)
        started[1].write(b"POST / HTTP/1.1\r\nHost: local")
        second = await asyncio.open_connection(*address)
        second[1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
        assert await asyncio.wait_for(silent[0].read(), 5) == b""
        assert (await asyncio.wait_for(started[0].read(), 5)).split()[1] == b"408"
        answers = await asyncio.wait_for(second[0].read(), 5)
        assert answers.startswith(b"HTTP/1.1 200")
        assert b"HTTP/1.1 408" in answers
        for _, writer in (silent, started, second):
            writer.close()


async def test_a_refused_request_keeps_its_connection_and_what_is_left_of_its_body_has_its_time(
    app_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody without a token holds a connection by sending a body that nobody reads."""
    monkeypatch.setattr(protocol, "HEAD_S", 0.3)
    monkeypatch.setattr(protocol, "REST_BYTES_MAX", MIB)
    async with a_server(app_pool) as address:
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(2):
            writer.write(_head("none", "Content-Length: 5000"))
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).split()[1] == b"401"
            writer.write(b"x" * 5000)
            await reader.readuntil(b"}")
        writer.write(_head("none", "Content-Length: 5000") + b"x")
        began_s = time.monotonic()
        await asyncio.wait_for(reader.read(), 5)
        assert time.monotonic() - began_s < 3
        writer.close()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(_head("none", f"Content-Length: {GB}"))
        with pytest.raises(ConnectionError):
            for _ in range(200):
                writer.write(bytes(MIB))
                await writer.drain()


@pytest.mark.parametrize("slowly", [False, True])
@pytest.mark.parametrize("what", ["header", "headers", "target"])
async def test_an_oversized_head_is_refused(app_pool: Pool, what: str, slowly: bool) -> None:
    long = b"x" * 70_000
    head = {
        "header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + long,
        "headers": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: xxxxx\r\n" * 7000,
        "target": b"GET /healthz?" + long + b" HTTP/1.1\r\nHost: localhost",
    }[what]
    async with a_server(app_pool) as address:
        reader, writer = await asyncio.open_connection(*address)
        answer = asyncio.create_task(reader.readline())
        for piece in _cut(head + b"\r\n\r\n", 20_000 if slowly else len(head)):
            if not answer.done():
                writer.write(piece)
                await asyncio.sleep(0.02)
        assert (await asyncio.wait_for(answer, 5)).split()[1] == b"431"
        writer.close()


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def test_without_a_token_nothing_is_read(client: httpx.AsyncClient, pool: Pool) -> None:
    for path in (SNAPSHOTS, BATCH):
        answer = await client.post(path, content=hero("A_1"), headers=JSON)
        assert answer.status_code == 401
    assert (await client.get(f"{SNAPSHOTS}/{'0' * 32}")).status_code == 401
    assert await nothing_stored(pool)


@covers("X-12")
async def test_a_viewer_may_not_offer_and_that_it_tried_is_in_the_audit_log(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    for path, kind in ((SNAPSHOTS, JSON), (BATCH, NDJSON)):
        answer = await client.post(path, content=hero("A_1"), headers={**await bearer("viewer"), **kind})
        assert (answer.status_code, answer.json()["code"]) == (403, "SF602")
    assert await nothing_stored(pool)
    async with pool.connection() as conn:
        rows = await conn.fetch("SELECT operation, actor, arguments FROM audit_logs")
    assert [(row["operation"], row["actor"]) for row in rows] == [("authz_fail", "ann")] * 2


@covers("X-12")
async def test_a_producer_may_offer_and_nothing_else(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    headers = await bearer("producer")
    answer = await client.post(SNAPSHOTS, content=hero("A_1"), headers={**headers, **JSON})
    assert answer.status_code == 202
    body = {"name": "mail", "reason": "x"}
    for path in ("/api/v1/queue/pause", "/api/v1/queue/pause/plan", "/api/v1/ingest/pause"):
        answer = await client.post(path, json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "SF602"), path
    assert await count(pool, "gates") == 0


@covers("X-12")
async def test_no_tenant_sees_or_meets_another_tenants_snapshots(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool
) -> None:
    acme, bolt = await bearer(tenant="acme"), await bearer(tenant="bolt")
    first = await client.post(SNAPSHOTS, content=hero("A_1"), headers={**acme, **JSON})
    same = await client.post(SNAPSHOTS, content=hero("A_1"), headers={**bolt, **JSON})
    assert (same.status_code, same.json()["fate"]) == (202, "accepted")
    assert same.json()["snapshot_id"] != first.json()["snapshot_id"]
    for theirs in (await bearer(tenant="bolt"), await bearer("admin", tenant="bolt"), await bearer()):
        answer = await client.get(first.json()["status_url"], headers=theirs)
        assert (answer.status_code, answer.json()["code"]) == (404, "SF717")
    async with pool.connection() as conn:
        rows = await conn.fetch("SELECT s.tenant_id, j.tenant_id AS jobs FROM hero_snapshots s"
                                " JOIN queue_jobs j ON j.payload ->> 'snapshot_id' = s.id::text")  # fmt: skip
    assert sorted((row["tenant_id"], row["jobs"]) for row in rows) == [("acme", "acme"), ("bolt", "bolt")]


async def test_a_revoked_token_works_for_a_second_at_most(
    client: httpx.AsyncClient, bearer: Bearer, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {**await bearer(), **JSON}
    assert (await client.post(SNAPSHOTS, content=hero("A_1"), headers=headers)).status_code == 202
    async with pool.connection() as conn:
        await conn.execute("UPDATE api_tokens SET revoked_at = sf_now()")
    monkeypatch.setattr("starforge.web.reading.FRESH_S", 0.0)
    assert (await client.post(SNAPSHOTS, content=hero("A_2"), headers=headers)).status_code == 401


async def test_what_arrives_above_a_megabyte_lies_in_a_file_and_not_in_memory() -> None:
    from starlette.datastructures import Headers

    left = iter(range(47, -1, -1))

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": bytes(MIB), "more_body": next(left) > 0}

    body = bodies.Body(Headers(), receive, bytes_max=64 * MIB)
    tracemalloc.start()
    await body.arrive()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert body.size == 48 * MIB
    assert peak < 6 * MIB
    body.close()


def _head(auth: str, *more: str, path: str = SNAPSHOTS, kind: str = "application/json") -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Authorization: {auth}",
        f"Content-Type: {kind}",
        *more,
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
