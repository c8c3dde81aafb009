"""Health and metrics are honest: bounded in time, and without a figure that could be old."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from starforge.clock import monotonic_s
from starforge.db.pool import Pool, connect
from starforge.etl.snapshot import rejects
from starforge.telemetry import metrics
from starforge.telemetry.process import Memory
from starforge.web.reading import FIGURES_S
from tests.covers import covers
from tests.postgres import TestServer
from tests.web.conftest import Bearer, client_of


@contextmanager
def frozen(server: TestServer) -> Iterator[None]:
    """Stop every process of the server, as a hung disk does; none of them answers anything."""
    postmaster = psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        process.suspend()
    try:
        yield
    finally:
        for process in family:
            process.resume()


async def test_a_live_and_ready_server_says_so(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json()["alive"] is True
    ready = await client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["ready"] is True
    assert ready.json()["schema"] >= 7


async def test_a_schema_that_is_not_served_is_not_ready(client: httpx.AsyncClient, pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute("DELETE FROM schema_migrations WHERE number > 3")
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "starforge migrate" in answer.json()["reasons"][0]["error"]


@covers("X-13")
async def test_a_database_that_is_gone_is_told_at_once_on_every_page(pool: Pool, bearer: Bearer) -> None:
    headers = await bearer()
    await pool.close()
    away = await _pool_to_a_database_that_goes_away(pool)
    async with client_of(away) as client:
        for path, status in (
            ("/healthz", 200),
            ("/readyz", 503),
            ("/metrics", 200),
            ("/", 503),
            ("/now", 503),
        ):
            started_s = monotonic_s()
            answer = await client.get(path)
            assert answer.status_code == status, path
            assert monotonic_s() - started_s < 2
        page = (await client.get("/")).text
        assert "The database does not answer" in page
        refused = await client.post("/api/v1/queue/resume", json={"name": "x"}, headers=headers)
        assert refused.status_code == 503
        assert refused.json()["code"] in ("SF101", "SF710")
    await away.close()


async def _pool_to_a_database_that_goes_away(pool: Pool) -> Pool:
    away = await Pool.open(pool.url, size=2)
    admin = await connect(pool.url.rpartition("/")[0] + "/postgres")
    name = pool.url.rpartition("/")[2]
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    await admin.close()
    return away


async def test_a_frozen_database_does_not_freeze_the_pages(
    server: TestServer, pool: Pool, bearer: Bearer
) -> None:
    """Also a cancelled statement waits for a server that does not answer; no page may."""
    headers = await bearer()
    async with client_of(pool) as client:
        with frozen(server):
            asked = {
                "/metrics": client.get("/metrics"),
                "/": client.get("/"),
                "POST": client.post("/api/v1/queue/resume", json={"name": "x"}, headers=headers),
            }
            started_s = monotonic_s()
            ready = await client.get("/readyz")
            assert monotonic_s() - started_s < 2
            answers = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
            assert monotonic_s() - started_s < 2 + FIGURES_S
        assert ready.json()["reasons"][0]["code"] == "SF710"
        assert answers["/"].status_code == ready.status_code == 503
        assert "starforge_database_up 0.0" in answers["/metrics"].text
        assert "waiting_total" not in answers["/metrics"].text
        assert answers["POST"].status_code == 503
        for _ in range(400):
            if (await client.get("/")).status_code == 200:
                break
            await asyncio.sleep(0.02)
        assert (await client.get("/")).status_code == 200


@covers("Q-07", "Q-08", "Q-65", "J-05", "J-06", "D-08")
async def test_the_gauges_show_what_the_tables_hold(client: httpx.AsyncClient, pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO queue_jobs (queue, type, status, run_after, attempts) VALUES"
            " ('mail', 'send', 'pending', sf_now() - interval '5 minutes', 0),"
            " ('mail', 'send', 'pending', sf_now(), 0),"
            " ('mail', 'send', 'pending', sf_now() + interval '1 hour', 2),"
            " ('mail', 'send', 'failed', sf_now(), 5),"
            " ('slow', 'render', 'running', sf_now(), 1)"
        )
        await conn.execute("INSERT INTO job_types (name, queue) VALUES ('digest', 'mail')")
        await conn.execute(
            "INSERT INTO queue_jobs_dlq (original_job_id, type, payload, reason, last_error, archived_at)"
            " VALUES"
            " (gen_random_uuid(), 'send', '{}', 'by hand', NULL, NULL),"
            " (gen_random_uuid(), 'send', '{}', 'no route', '{\"error\": \"OSError\"}', NULL),"
            " (gen_random_uuid(), 'send', '{}', 'no host', '{\"error\": \"OSError\"}', sf_now())"
        )
        now_s = await conn.fetchval("SELECT extract(epoch FROM sf_now())::float8")
    answer = await client.get("/metrics")
    assert answer.headers["Content-Type"] == metrics.CONTENT_TYPE
    lines = answer.text.splitlines()
    assert "# TYPE starforge_queue_jobs_waiting_total gauge" in lines
    assert 'starforge_queue_jobs_waiting_total{queue="mail",type="send"} 2.0' in lines
    assert 'starforge_queue_jobs_waiting_total{queue="slow",type="render"} 0.0' in lines
    # A type that a worker declared is there before its first job.
    assert 'starforge_queue_jobs_waiting_total{queue="mail",type="digest"} 0.0' in lines
    assert 'starforge_queue_oldest_job_age_seconds{queue="mail",type="digest"} 0.0' in lines
    assert 'starforge_queue_oldest_job_age_seconds{queue="slow",type="render"} 0.0' in lines
    oldest = 'starforge_queue_oldest_job_age_seconds{queue="mail",type="send"} '
    (age,) = [float(line.removeprefix(oldest)) for line in lines if line.startswith(oldest)]
    assert 300 <= age < 400
    assert 'starforge_queue_jobs_retrying{queue="mail",type="send"} 1.0' in lines
    assert 'starforge_queue_jobs_retrying{queue="slow",type="render"} 0.0' in lines
    assert 'starforge_queue_jobs_dlq_total{reason="",type="send"} 1.0' in lines
    assert 'starforge_queue_jobs_dlq_total{reason="OSError",type="send"} 2.0' in lines
    assert 'starforge_queue_jobs_dlq_total{reason="",type="digest"} 0.0' in lines
    assert 'starforge_queue_jobs_archived{type="send"} 1.0' in lines
    (at,) = [line for line in lines if line.startswith("starforge_state_timestamp_seconds ")]
    assert now_s <= float(at.split()[1]) < now_s + 100
    assert "starforge_database_up 1.0" in lines


ONE_OF_EACH = metrics.State(
    waiting={("mail", "send"): 1},
    dead_letters={("send", "OSError"): 1},
    oldest_s={("mail", "send"): 1.5},
    retrying={("mail", "send"): 1},
    archived={("send",): 1},
    upkeep_age_s={("rescue",): 0.5},
    backfills={("running",): 1},
    backfill_eta_s={(): 60.0},
    backfill_heartbeat_s={(): 1.0},
    backfill_progress_s={(): 1.0},
    backfills_throttled={("wal",): 1},
    at_s={(): 1.0},
)


def test_every_name_of_the_catalogue_is_on_the_page_under_exactly_that_name() -> None:
    metrics.start_at_zero(types=["send"], sources=["hero"], tasks=["rescue"])
    metrics.tell_memory("worker", Memory(2, 1), 3)
    page = metrics.page(ONE_OF_EACH).decode()
    for named in metrics.CATALOGUE.values():
        assert f"# TYPE {named.name} {named.kind}\n" in page
        sample = f"{named.name}_count" if named.kind == "histogram" else named.name
        assert any(line.startswith((f"{sample} ", f"{sample}{{")) for line in page.splitlines()), named.name
    assert "_created" not in page


@covers("F-01", "F-02", "J-03")
def test_every_known_label_set_starts_at_zero() -> None:
    metrics.start_at_zero(types=["never_ran"], sources=["never_seen"])
    page = metrics.page(None).decode()
    for error_type in metrics.ERROR_TYPES:
        assert f'failed_total{{env="dev",error_type="{error_type}",service="etl-worker"}} ' in page
    assert 'starforge_etl_snapshots_received_total{source="never_seen"} 0.0' in page
    for status in metrics.JOB_STATUSES:
        assert f'job_processed_total{{status="{status}",type="never_ran"}} 0.0' in page


def test_the_classes_of_errors_are_those_of_the_etl() -> None:
    assert metrics.ERROR_TYPES == rejects.ERROR_TYPES


@covers("B-58")
def test_a_gauge_never_has_more_series_than_its_bound() -> None:
    waiting = {("q", f"type-{n:04d}"): 1 for n in range(700)}
    lines = metrics.page(metrics.State(waiting, {})).decode().splitlines()
    series = [line for line in lines if line.startswith("starforge_queue_jobs_waiting_total{")]
    assert len(series) == metrics.LABEL_SETS_MAX + 1
    assert 'starforge_queue_jobs_waiting_total{queue="other",type="other"} 200.0' in series


TREE = """
import os, sys
from pathlib import Path
from starforge.telemetry.tree import share_counters
share_counters(Path(sys.argv[1]))
child = "from starforge.telemetry.metrics import JOBS_PROCESSED as j; import os, signal;" \\
        "j.labels(status='completed', type='send').inc(3); os.kill(os.getpid(), signal.SIGKILL)"
import subprocess
for _ in range(2):
    subprocess.run([sys.executable, "-c", child])
(Path(sys.argv[1]) / "counter_1.db").touch()
from starforge.telemetry import metrics
metrics.JOBS_PROCESSED.labels(status="completed", type="send").inc()
print(metrics.page(None).decode())
"""


def test_the_counts_of_a_process_tree_are_one_and_outlive_its_children(tmp_path: Path) -> None:
    environment = {**os.environ}
    environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", TREE, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert 'job_processed_total{status="completed",type="send"} 7.0' in done.stdout
    assert signal.SIGKILL  # the children ended by it, without a chance to hand their counts over


def test_sharing_counters_too_late_is_refused(tmp_path: Path) -> None:
    from starforge.telemetry.tree import share_counters

    with pytest.raises(RuntimeError, match="too late"):
        share_counters(tmp_path)
