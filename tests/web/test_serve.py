"""The server takes its port first, stays on loopback, and stops when it is told."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest

from starforge.clock import monotonic_s
from starforge.db.pool import Pool
from starforge.errors import InvalidSettingError
from starforge.web.errors import AddressUnusableError, OpenToNetworkError, PortTakenError
from starforge.web.serve import bind, serve


async def test_a_real_server_answers_on_its_socket_and_stops_when_told(pool: Pool) -> None:
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    stop = asyncio.Event()
    running = asyncio.create_task(serve(pool, listener, stop))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for path in ("/", "/healthz", "/readyz", "/metrics", "/static/starforge.css"):
            answer = await client.get(path)
            assert answer.status_code == 200, path
            assert "server" not in answer.headers
        assert (await client.get("/", headers={"Host": "evil.example"})).status_code == 421
        assert (await client.post("/api/v1/queue/pause", json={})).status_code == 401
    stop.set()
    started_s = monotonic_s()
    await running
    assert monotonic_s() - started_s < 3
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_a_request_without_a_host_or_with_two_is_refused(pool: Pool) -> None:
    listener = bind("127.0.0.1", 0)
    stop = asyncio.Event()
    running = asyncio.create_task(serve(pool, listener, stop))
    for request in (
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(request)
        assert (await reader.readline()).split()[1] in (b"400", b"421")
        writer.close()
    stop.set()
    await running


def test_a_taken_port_is_named_at_once() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"port {port} on 127.0.0.1 is taken") as refused:
            bind("127.0.0.1", port)
    assert refused.value.exit_code == 3


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_an_address_that_other_machines_can_reach_is_refused(host: str) -> None:
    with pytest.raises(OpenToNetworkError, match="can be reached by other machines"):
        bind(host, 0)


def test_an_explicit_setting_opens_the_server_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFORGE_HTTP_EXPOSE", "true")
    with bind("0.0.0.0", 0) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


async def test_a_server_that_is_open_to_the_network_wants_a_token_for_reading(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_HTTP_EXPOSE", "true")
    listener = bind("0.0.0.0", 0)
    stop = asyncio.Event()
    running = asyncio.create_task(serve(pool, listener, stop))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        assert (await client.get("/")).status_code == 401
        assert (await client.get("/healthz")).status_code == 200
    stop.set()
    await running


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.7"])
def test_an_address_that_is_not_this_machines_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFORGE_HTTP_EXPOSE", "true")
    with pytest.raises(AddressUnusableError):
        bind(host, 0)


def test_the_address_comes_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFORGE_HTTP_PORT", "0")
    with bind() as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    monkeypatch.setenv("STARFORGE_HTTP_PORT", "70000")
    with pytest.raises(InvalidSettingError, match="STARFORGE_HTTP_PORT"):
        bind()
