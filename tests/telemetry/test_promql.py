"""What the runbooks ask of Prometheus, asked of a real one that scrapes a worker and a server (X-15)."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import httpx
import pytest
import yaml

from starforge.backfill.scheme.keyed import Static
from starforge.db.pool import Connection, Pool, connect
from starforge.queue.enqueue import enqueue_many
from starforge.queue.job import NewJob
from starforge.telemetry.metrics import CATALOGUE
from tests.backfill.engine import planned
from tests.backfill.rows import a_backfill, now
from tests.backfill.run.test_coordinate import act, ask
from tests.contracts.contract import CONTRACT
from tests.covers import covers
from tests.telemetry.busy import app
from tests.worker.test_supervise import until

pytestmark = [
    pytest.mark.system("prometheus"),
    pytest.mark.shared,
    pytest.mark.once("its statements are prepared on both versions by tests/db/test_statement.py"),
]

NAME = re.compile(r"\b(?:starforge|servo|job|memory|heap|kube|pod)_\w+")
SCRAPE_S = 0.25
BACKLOG = 7


def expressions() -> list[dict[str, Any]]:
    """Return the entries of contract/promql.yaml; [] where ../shared is absent."""
    file = CONTRACT / "promql.yaml"
    found: list[dict[str, Any]] = yaml.safe_load(file.read_text("utf-8")) if file.exists() else []
    return found


def exposed(expression: str) -> bool:
    """Tell whether every metric that an expression names is in the catalogue."""
    names = {re.sub("_(bucket|count|sum)$", "", name) for name in NAME.findall(expression)}
    return names <= set(CATALOGUE)


def asked() -> list[dict[str, Any]]:
    """Those of the queue and of jobs, and of the other runbooks what is exposed already; not of backfills."""
    return [
        entry
        for entry in expressions()
        if entry["data"] is True
        and entry["id"][0] != "B"
        and (entry["id"][0] in "QJ" or exposed(entry["expr"]))
    ]


def a_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def process(*words: str, log: Path, **environment: str) -> AsyncIterator[None]:
    """Run a program in a group of its own for the length of a `with` block."""
    with log.open("wb") as file:
        started = await asyncio.create_subprocess_exec(
            *words, env={**os.environ, **environment}, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield
    finally:
        if started.returncode is None:
            os.killpg(started.pid, signal.SIGKILL)
        await started.wait()


class Prometheus:
    """A Prometheus that scrapes what the test runs."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression now, none while it starts; fail where it cannot be read."""
        response = await self._client.get("/api/v1/query", params={"query": expression})
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return []
        answer = response.json()
        assert answer["status"] == "success", (expression, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    async def until(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression once it has some; fail where it never does."""
        found: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(30):
                while not found:
                    await asyncio.sleep(0.05)
                    try:
                        found = await self.query(expression)
                    except httpx.TransportError:
                        continue
        except TimeoutError:
            pytest.fail(f"no sample of {expression}")
        return found


@asynccontextmanager
async def watched(
    database: str, folder: Path, *only: Literal["server", "worker"]
) -> AsyncIterator[Prometheus]:
    """A server and a worker on this database, or only one of them, scraped until the block ends."""
    worker, server, own = a_port(), a_port(), a_port()
    config = {
        "global": {"scrape_interval": f"{int(SCRAPE_S * 1000)}ms", "scrape_timeout": "250ms"},
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for name, port in (("worker", worker), ("server", server))
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    starforge = (sys.executable, "-m", "starforge")
    told = {
        "DATABASE_URL": database,
        "STARFORGE_HOME": str(folder / "home"),
        "STARFORGE_HTTP_PORT": str(server),
        "METRICS_PORT": str(worker),
    }
    programs = {
        "server": (*starforge, "server"),
        "worker": (*starforge, "worker", "--app", "tests.telemetry.busy:app"),
        "prometheus": (
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{own}",
        ),
    }
    async with AsyncExitStack() as stack:
        for name, words in programs.items():
            if only and name not in (*only, "prometheus"):
                continue
            await stack.enter_async_context(process(*words, log=folder / f"{name}.log", **told))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{own}"))
        yield Prometheus(client)


async def workload(conn: Connection) -> None:
    """Some jobs end well, some fail for good, and some wait for a worker that knows them."""
    await enqueue_many(conn, [NewJob("busy.work", {"n": n}) for n in range(50)])
    await enqueue_many(conn, [NewJob("busy.fail", max_attempts=1) for _ in range(5)])
    await enqueue_many(conn, [NewJob("nobody.knows") for _ in range(BACKLOG)])


@covers("X-15", "X-13")
def test_every_expression_of_the_runbooks_parses(tmp_path: Path) -> None:
    rules = [{"record": f"asked:{place}", "expr": entry["expr"]} for place, entry in enumerate(expressions())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@covers("X-15", "Q-07", "Q-09", "Q-65", "J-03", "J-04")
async def test_every_expression_of_the_queue_and_of_jobs_has_samples(database: str, tmp_path: Path) -> None:
    """Of the other runbooks those whose metrics exist: memory's once they are in the catalogue."""
    conn = await connect(database)
    await workload(conn)
    async with watched(database, tmp_path) as prometheus:
        await until(conn, "SELECT count(*) FROM job_history", 50)
        await until(conn, "SELECT count(*) FROM queue_jobs_dlq", 5)
        assert {entry["id"][:1] for entry in asked()} >= {"Q", "J"}
        for entry in asked():
            assert await prometheus.until(entry["expr"]), entry["id"]
        # They say what happened, not only something.
        await prometheus.until('sum(job_processed_total{type="busy.work",status="completed"}) == 50')
        await prometheus.until('sum(job_processed_total{type="busy.fail",status="failed"}) == 5')
        await prometheus.until('max(starforge_queue_jobs_dlq_total{type="busy.fail",reason="OSError"}) == 5')
        await prometheus.until(f'max(starforge_queue_jobs_waiting_total{{type="nobody.knows"}}) == {BACKLOG}')
    await conn.close()


B_62 = (
    'sum(rate(servo_backfill_partition_completion_total{status="failed"}[5m]))'
    " / sum(rate(servo_backfill_partition_completion_total[5m]))"
)
B_61 = "histogram_quantile(0.95, sum by (le) (rate(servo_backfill_partition_duration_seconds_bucket[10m])))"


@covers("X-15", "B-53", "B-54", "B-55", "B-56", "B-57", "B-59", "B-60", "B-61", "B-62", "D-17")
async def test_every_expression_of_backfills_has_samples_of_one_that_ran(
    database: str, pool: Pool, tmp_path: Path
) -> None:
    known = app.assets.get("busy.parts")
    assert isinstance(known.partitions, Static)
    listed = [(name, place) for place, name in enumerate(known.partitions.names)]
    backfill_id = await planned(pool, known, listed, state="paused", failed_max=1)
    await ask(pool, "UPDATE backfill_jobs SET paused_at = sf_now() - interval '100 seconds'")
    async with watched(database, tmp_path) as prometheus:
        for status in ("completed", "failed"):  # they are 0 before the first, or no rate would know it
            ended = f'servo_backfill_partition_completion_total{{status="{status}",job="worker"}}'
            await prometheus.until(f"{ended} == 0")
        await prometheus.until('servo_backfill_jobs_active{state="paused",job="worker"} == 1')
        await act(pool, "resume", backfill_id)
        for status, count in (("completed", 3), ("failed", 1)):
            for name in ("partition_completion_total", "partition_duration_seconds_count"):
                await prometheus.until(f'servo_backfill_{name}{{status="{status}",job="worker"}} == {count}')
        for entry in (each for each in expressions() if each["id"].startswith("B-")):
            if entry["data"] is True:
                assert await prometheus.until(entry["expr"]), entry["id"]
            else:
                await prometheus.query(entry["expr"])
        # They say what happened: one runs still, a quarter of what ended failed, and nothing took long.
        await prometheus.until('max(servo_backfill_jobs_active{state="running"}) == 1')
        await prometheus.until('max(servo_backfill_jobs_active{state="paused"}) == 0')
        await prometheus.until(f"abs({B_62} - 0.25) < 0.001")
        await prometheus.until(f"{B_61} > 0 and {B_61} < 1")
        await prometheus.until("servo_backfill_pause_duration_seconds_count == 1")
        await prometheus.until("servo_backfill_pause_duration_seconds_sum > 100 < 160")
        await prometheus.until("servo_backfill_eta_distribution_seconds_count > 0")


@covers("B-60", "B-63", "D-15", "D-16", "B-06")
async def test_one_backfill_that_is_stuck_or_late_shows_beside_one_that_does_well(
    database: str, pool: Pool, tmp_path: Path
) -> None:
    """The oldest and the latest of all that run: another's completions hide nothing, and it recovers."""
    async with pool.connection() as conn:
        for minutes in (0, 10):
            await a_backfill(
                conn,
                state="running",
                worker_id=uuid4(),
                heartbeat_at=await now(conn, -60 * minutes),
                progress_at=await now(conn, -120 * minutes),
                eta_high_at=await now(conn, 60 + 720 * minutes),
                asset=f"asset{minutes}",
            )
    heartbeat, progress, eta = (
        f'max(starforge_backfill_{name}{{job="server"}})'
        for name in ("oldest_heartbeat_age_seconds", "oldest_progress_age_seconds", "eta_seconds")
    )
    async with watched(database, tmp_path, "server") as prometheus:
        await prometheus.until(f"{heartbeat} > 300")
        await prometheus.until(f"{progress} > 1100")
        await prometheus.until(f"{eta} > 3600")
        await ask(
            pool,
            "UPDATE backfill_jobs SET heartbeat_at = sf_now(), progress_at = sf_now(),"
            " eta_high_at = sf_now() + interval '1 minute'",
        )
        for shown, most in ((heartbeat, 60), (progress, 60), (eta, 61)):
            await prometheus.until(f"{shown} < {most}")


@covers("Q-07", "Q-08")
async def test_the_leaders_page_and_the_servers_show_the_same_state_and_no_other_does(
    database: str, tmp_path: Path
) -> None:
    """G12: what is shown is what the tables hold, at a time that is shown too."""
    conn = await connect(database)
    await enqueue_many(conn, [NewJob("nobody.knows") for _ in range(BACKLOG)])
    waiting = "starforge_queue_jobs_waiting_total"
    async with watched(database, tmp_path) as prometheus:
        for job in ("worker", "server"):
            await prometheus.until(f'{waiting}{{type="nobody.knows",job="{job}"}} == {BACKLOG}')
            await prometheus.until(f'starforge_state_timestamp_seconds{{job="{job}"}} > time() - 60')
            await prometheus.until(f'starforge_queue_oldest_job_age_seconds{{job="{job}"}} > 0')
        # A type that is declared starts at 0, before its first job.
        await prometheus.until(f'{waiting}{{type="busy.work",job="server"}} == 0')
        await prometheus.until('starforge_upkeep_last_success_age_seconds{task="schedules"} < 60')
        await prometheus.until('starforge_upkeep_runs_total{task="schedules",result="success"} > 0')
        await prometheus.until('starforge_worker_restarts_total{cause="signal"} == 0')
        # Another leads: the worker's page leaves the state to the other's.
        await conn.execute("UPDATE leases SET holder = gen_random_uuid(), expires_at = 'infinity'")
        await prometheus.until(f'absent({waiting}{{job="worker"}})')
        await prometheus.until('starforge_database_up{job="worker"} == 1')
        await prometheus.until(f'{waiting}{{type="nobody.knows",job="server"}} == {BACKLOG}')
    await conn.close()
