"""The answer to a COMMIT is lost: what happened is unknown, and the key settles it."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import pytest

from starforge.db.pool import Pool
from starforge.ops.errors import OutcomeUnknownError
from starforge.ops.perform import perform
from tests.covers import covers

ANN: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}
PAUSE = {"name": "mail", "reason": "the provider is down"}


class Cutter:
    """A proxy that, once armed, cuts the client off at its next COMMIT, delivered or not."""

    def __init__(self, url: str, *, deliver: bool) -> None:
        self._server = urlsplit(url)
        self._deliver = deliver
        self.armed = False

    async def serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        server_in, server_out = await asyncio.open_connection(self._server.hostname, self._server.port)
        commits = False

        async def upwards() -> None:
            nonlocal commits
            while data := await client_in.read(65536):
                if self.armed and b"COMMIT" in data:
                    commits = True
                    if not self._deliver:
                        return
                server_out.write(data)

        async def downwards() -> None:
            while (data := await server_in.read(65536)) and not commits:
                client_out.write(data)

        ways = [asyncio.create_task(upwards()), asyncio.create_task(downwards())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        client_out.close()
        server_out.close()


@covers("X-06")
@pytest.mark.parametrize("delivered", [True, False])
async def test_a_request_whose_commit_went_unanswered_is_settled_by_repeating_it_with_its_key(
    pool: Pool, database: str, delivered: bool
) -> None:
    cutter = Cutter(database, deliver=delivered)
    proxy = await asyncio.start_server(cutter.serve, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    through = await Pool.open(database.replace(f":{urlsplit(database).port}/", f":{port}/"), size=1)
    cutter.armed = True
    with pytest.raises(OutcomeUnknownError, match="lost at the commit"):
        await perform(through, "queue pause", PAUSE, **ANN, idempotency_key="k1")
    await through.close()
    proxy.close()

    settled = await perform(pool, "queue pause", PAUSE, **ANN, idempotency_key="k1")
    assert settled.repeated is delivered
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM audit_logs") == 1
        assert await conn.fetchval("SELECT count(*) FROM gates") == 1
