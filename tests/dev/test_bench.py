"""The benchmarks run, tell their figures and leave nothing. No figure is asserted: they are the machine's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from starforge.db.pool import connect
from starforge.db.server import Database
from starforge.dev.bench.backlog import bench_backlog
from starforge.dev.bench.contention import bench_contention
from starforge.dev.bench.cost import bench_features
from starforge.dev.bench.features import FEATURES, chosen, environment, shown
from starforge.dev.bench.figures import percentiles, ratios, spread
from starforge.dev.bench.ingest import bench_ingest
from starforge.dev.bench.peers.peer import DRIVERS, PEERS, Peer, install
from starforge.dev.bench.peers.side import table
from starforge.dev.bench.pinned import bench_pinned
from starforge.dev.bench.place import PREFIX
from starforge.dev.bench.queue import bench_queue
from starforge.dev.bench.setup import Setup
from starforge.dev.errors import BenchNotPossibleError
from starforge.errors import InvalidInputError
from tests.postgres import TestServer

pytestmark = pytest.mark.once("it is about the benchmarks; what they run is tested on both versions")

SETUP = Setup(concurrency=8, role="admin")
LEFT = "SELECT count(*) FROM pg_database WHERE datname LIKE $1"


Figures = dict[str, Any]


def silent(_line: str) -> None:
    """Take a line of progress."""


@pytest.fixture(scope="module")
async def figures(server: TestServer) -> dict[str, Figures]:
    """Every benchmark once, with tiny numbers, all at the same time: starting workers is most of it."""
    place = Database(server.url(), None)
    found = await asyncio.gather(
        bench_queue(
            place, SETUP, jobs=1000, processes=[1], rounds=1, report=silent, pickups=10, single_blocks=1,
            wal_jobs=1000,
        ),
        bench_backlog(
            place, jobs=1000, small=1000, delayed=1000, held=900, rounds=1, processes=1, concurrency=8,
            role="admin", report=silent,
        ),
        bench_pinned(
            place, seconds=2, processes=1, concurrency=8, depth=1000, role="admin", control=False,
            report=silent,
        ),
        bench_contention(
            place, jobs=1000, few=1, many=2, rounds=1, concurrency=8, role="admin", report=silent
        ),
        bench_features(
            place, jobs=1000, names=["pauses"], rounds=1, processes=1, concurrency=8, role="admin",
            report=silent,
        ),
        bench_ingest(place, seconds=1, connections=2, rounds=1, report=silent, warm_s=0.5),
    )  # fmt: skip
    return dict(zip(("queue", "backlog", "pinned", "contention", "features", "ingest"), found, strict=True))


async def test_no_benchmark_leaves_a_database(figures: dict[str, Figures], server: TestServer) -> None:
    assert len(figures) == 6
    conn = await connect(server.url())
    assert await conn.fetchval(LEFT, f"{PREFIX}%") == 0
    await conn.close()


async def test_the_queue_benchmark_gives_its_figures(figures: dict[str, Figures]) -> None:
    found = figures["queue"]
    for name in ("enqueue_per_s", "drain_per_s", "calibration_per_s", "drain_to_calibration"):
        assert found[name] > 0
    assert found["pickup_ms"]["p50"] <= found["pickup_ms"]["p99"]
    assert found["single_to_bare_insert"]["median"] > 0
    assert found["wal_bytes_per_job"] > 100
    assert found["server"]["fsync"] == "off"
    assert set(found["features"]) >= {feature.name for feature in FEATURES}


async def test_the_backlog_benchmark_compares_what_is_held_with_nothing_held(
    figures: dict[str, Figures],
) -> None:
    found = figures["backlog"]
    assert found["ratio"] > 0
    assert set(found["variants"]) == {"small", "held"}
    assert found["variants"]["held"]["claim_ms"]["n"] > 0


async def test_the_pinned_benchmark_compares_the_first_seconds_with_the_last(
    figures: dict[str, Figures],
) -> None:
    assert figures["pinned"]["first_per_s"] > 0
    assert figures["pinned"]["last_per_s"] > 0


async def test_the_ingest_benchmark_compares_a_server_alone_with_one_that_is_harmed(
    figures: dict[str, Figures],
) -> None:
    found = figures["ingest"]
    for each in (found, found["beside"]):
        assert each["requests_per_s"]["median"] > 0
        assert each["p50_ms"] <= each["p95_ms"] <= each["p99_ms"]
        assert set(each["statuses"]) == {"202"}
    assert found["stored"] >= found["requests"] + found["beside"]["requests"]


async def test_the_contention_benchmark_says_what_was_lost_and_who_waited(
    figures: dict[str, Figures],
) -> None:
    found = figures["contention"]
    assert found["lost_ratio"] < 1
    assert found["deadlocks"] == 0
    assert found["by_processes"]["2"]["samples"] > 0


async def test_the_features_benchmark_prices_a_feature_against_none(figures: dict[str, Figures]) -> None:
    assert set(figures["features"]["cost_ratio"]) == {"pauses"}
    assert set(figures["features"]["drain_per_s"]) == {"none", "pauses"}


def test_features_are_told_to_the_workers_and_listed_with_their_settings() -> None:
    on = chosen(["tags", "pauses"])
    assert [feature.name for feature in on] == ["tags", "pauses"]
    assert json.loads(environment(on)["STARFORGE_BENCH_FEATURES"]) == ["tags", "pauses"]
    assert shown(on)["priorities"] == "off"
    assert chosen(["all"]) == FEATURES
    assert chosen(["none"]) == ()
    with pytest.raises(InvalidInputError, match="tagz"):
        chosen(["tagz"])


def test_figures_are_medians_with_their_spread_and_ratios_within_a_round() -> None:
    assert spread([3, 1, 2]) == {"median": 2, "least": 1, "most": 3, "rounds": [3, 1, 2]}
    assert ratios([10, 40], [10, 20])["median"] == 1.5
    assert percentiles(list(range(1, 101)))["p99"] == 100
    assert percentiles([]) == {"n": 0}


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_has_a_driver(peer: Peer) -> None:
    assert (DRIVERS / peer.program).is_file()


async def test_a_peer_whose_language_is_not_here_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchNotPossibleError, match="graphile-worker needs node"):
        await install(PEERS[0], tmp_path)


def test_the_table_shows_a_peer_that_failed() -> None:
    one = spread([1.0])
    measured = {"enqueue_per_s": one, "drain_per_s": one, "pickup_ms": {"p50": one, "p99": one}}
    about = {"version": "2", "tuned": "well", "jobs": 1}
    text = table(
        {
            "peers": {
                "ours": {**about, "by_processes": {"1": measured, "2": measured}},
                "theirs": {**about, "failure": "it fell over"},
            },
            "to_graphile-worker": {},
            "calibration_per_s": one,
            "features": {"history": "kept", "tags": "off"},
            "rounds": 1,
            "server": {
                "postgres": "18", "fsync": "on", "synchronous_commit": "on", "cores": 2, "load_average": [0.1]
            },
        }
    )  # fmt: skip
    assert "| theirs | 2 | it fell over |" in text
    assert "tags" not in text


async def test_a_benchmark_that_is_told_to_stop_leaves_no_database_and_no_worker(
    server: TestServer,
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge", "bench", "pinned", "--seconds", "60",
        env={**os.environ, "DATABASE_URL": server.url()}, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    conn = await connect(server.url())
    running = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'starforge worker%'"
    try:
        async with asyncio.timeout(30):
            while not await conn.fetchval(running):
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            await process.communicate()
        assert process.returncode == 143
        async with asyncio.timeout(5):
            while await conn.fetchval(running):
                await asyncio.sleep(0.02)
        assert await conn.fetchval(LEFT, f"{PREFIX}%") == 0
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        await conn.close()
