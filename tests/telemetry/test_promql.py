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
from typing import Any

import httpx
import pytest
import yaml

from starforge.db.pool import Connection, connect
from starforge.queue.enqueue import enqueue_many
from starforge.queue.job import NewJob
from starforge.telemetry.metrics import CATALOGUE
from tests.contracts.contract import CONTRACT
from tests.covers import covers
from tests.worker.test_supervise import until

pytestmark = [pytest.mark.system("prometheus"), pytest.mark.shared]

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
    """Those of the queue and of jobs, and of the other runbooks what is exposed already."""
    return [
        entry
        for entry in expressions()
        if entry["data"] is True and (entry["id"][0] in "QJ" or exposed(entry["expr"]))
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
async def watched(database: str, folder: Path) -> AsyncIterator[Prometheus]:
    """A server and a worker on this database, scraped until the block ends."""
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
