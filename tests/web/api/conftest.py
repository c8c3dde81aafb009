"""A client of ingestion: the application in the role that serves, so that row security binds it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from starforge.app import StarForge
from starforge.db.pool import Pool
from starforge.etl.mapping import TEXT, Column, Mapping, Table
from starforge.web.serve import bind, create_app, serve

SNAPSHOTS = "/api/v1/snapshots"
BATCH = f"{SNAPSHOTS}/batch"
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}

SHOP = Mapping(
    "shop",
    subject="customers",
    tables=[Table("customers", key=("tenant_id", "code"), columns=[Column("code", "Code", TEXT)])],
    captured_at=("At",),
)


def hero(name: str, level: Any = 1, **more: Any) -> bytes:
    """A tiny profile in the true shape."""
    profile = {"NameCode": name, "Level": level, "Troops": {"6024": {"Amount": 1}}, **more}
    return json.dumps({"result": {"ProfileData": profile}}).encode()


@pytest.fixture
async def app_pool(database: str) -> AsyncIterator[Pool]:
    """A pool in the role that serves the web."""
    opened = await Pool.open(database.replace("tester@", "starforge_app@"), size=4)
    yield opened
    await opened.close()


@pytest.fixture
async def star() -> StarForge:
    """An app with a mapping of its own beside the built-in one."""
    return StarForge("shop", mappings=[SHOP])


@pytest.fixture
async def client(app_pool: Pool, star: StarForge) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, without a token."""
    transport = httpx.ASGITransport(create_app(app_pool, star=star))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as made:
        yield made


@asynccontextmanager
async def a_server(pool: Pool) -> AsyncIterator[tuple[str, int]]:
    """Serve on a real socket for the length of a `with` block; give its address."""
    listener = bind("127.0.0.1", 0)
    stop = asyncio.Event()
    running = asyncio.create_task(serve(pool, listener, stop))
    try:
        yield listener.getsockname()[:2]
    finally:
        stop.set()
        await running


async def count(pool: Pool, table: str) -> int:
    """Count a table's rows, as who sees all of them."""
    async with pool.connection() as conn:
        return int(await conn.fetchval(f"SELECT count(*) FROM {table}"))


async def nothing_stored(pool: Pool) -> bool:
    """Tell whether no offer has left a trace in any table of the ETL or of the queue."""
    tables = ("hero_snapshots", "snapshot_captures", "snapshot_quarantine", "queue_jobs", "ingest_keys")
    return not sum([await count(pool, table) for table in tables])
