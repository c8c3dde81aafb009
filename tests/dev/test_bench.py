"""The benchmarks run: every figure is there. None is asserted, because they are the machine's."""

from __future__ import annotations

from typing import Any

import pytest

from starforge.db.pool import connect
from starforge.db.server import Database
from starforge.dev.bench.backlog import bench_backlog
from starforge.dev.bench.pinned import bench_pinned
from starforge.dev.bench.place import PREFIX
from starforge.dev.bench.queue import bench_queue
from starforge.dev.bench.setup import Setup
from tests.postgres import TestServer

pytestmark = pytest.mark.db


@pytest.fixture
def place(server: TestServer) -> Database:
    return Database(server.url(), None)


SETUP = Setup(concurrency=8, role="admin")


def silent(_line: str) -> None:
    """Take a line of progress."""


async def left(server: Database) -> int:
    conn = await connect(server.url("admin"))
    try:
        return int(
            await conn.fetchval("SELECT count(*) FROM pg_database WHERE datname LIKE $1", f"{PREFIX}%")
        )
    finally:
        await conn.close()


async def test_the_queue_benchmark_gives_its_figures_and_drops_its_database(place: Database) -> None:
    figures = await bench_queue(place, SETUP, jobs=1000, processes=[1], rounds=1, report=silent, pickups=20)
    for name in ("enqueue_per_s", "drain_per_s", "calibration_per_s", "drain_to_calibration"):
        assert figures[name] > 0
    assert figures["pickup_ms"]["p50"] <= figures["pickup_ms"]["p99"]
    assert figures["server"]["fsync"] == "off"
    assert await left(place) == 0


async def test_the_backlog_benchmark_compares_long_delayed_and_short_queues(place: Database) -> None:
    figures: dict[str, Any] = await bench_backlog(
        place, jobs=2000, small=1000, delayed=1000, held=0, rounds=1, processes=1, concurrency=8,
        role="admin", report=silent,
    )  # fmt: skip
    assert figures["ratio"] > 0
    assert set(figures["variants"]) == {"small", "large", "delayed"}
    assert figures["variants"]["large"]["claim_ms"]["n"] > 0


async def test_the_pinned_benchmark_compares_the_first_seconds_with_the_last(place: Database) -> None:
    figures = await bench_pinned(
        place, seconds=2, processes=1, concurrency=8, depth=1000, role="admin", control=False, report=silent
    )
    assert figures["first_per_s"] > 0
    assert figures["last_per_s"] > 0
