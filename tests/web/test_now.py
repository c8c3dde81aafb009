"""The first page shows what the tables hold at one moment, and nothing it shows can act."""

from __future__ import annotations

import re

import httpx
import pytest

from starforge.db.pool import Pool
from starforge.ops.perform import perform
from starforge.web.console.now import count, rate, size, span
from tests.covers import covers

SCRIPT = "<script>alert(1)</script>"

ROWS = f"""
INSERT INTO queue_jobs (queue, type, status, run_after) VALUES
    ('mail', 'send', 'pending', sf_now() - interval '200 seconds'), ('mail', 'send', 'running', sf_now()),
    ('mail', 'send', 'pending', sf_now() + interval '1 hour'), ('mail', 'send', 'failed', sf_now()),
    ('{SCRIPT}', '"quoted"', 'pending', sf_now());
INSERT INTO job_history (id, tenant_id, queue, type, payload, priority, status, attempts, max_attempts,
                         run_after, lease_epoch, created_at, completed_at)
SELECT gen_random_uuid(), 'default', 'mail', 'send', '{{}}', 0, 'completed', 0, 5, sf_now(), 1, sf_now(),
       sf_now() - CASE WHEN n <= 600 THEN interval '10 seconds' ELSE interval '200 seconds' END
FROM generate_series(1, 900) AS n;
INSERT INTO hero_snapshots (tenant_id, source, subject, raw, size_bytes, sha256, status, last_error) VALUES
    ('default', 'hero', '{SCRIPT}', '{{}}', 2900000, '\\x01', 'failed', '{{"reason": "no such troop"}}'),
    ('default', 'hero', 'HERO2', '{{}}', 48000, '\\x02', 'processed', '"written by hand"');
INSERT INTO etl_errors (tenant_id, source, error_type, message)
VALUES ('default', 'hero', 'PARSE_ERROR', 'at byte 7: {SCRIPT}');
"""


async def test_the_page_shows_depths_speed_snapshots_and_errors(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    async with pool.connection() as conn:
        await conn.execute(ROWS)
    answer = await client.get("/")
    assert answer.status_code == 200
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text))
    assert "Waiting 2 the oldest for 3 min 20 s" in text
    assert "Completed per second 10 last minute · 3.0 over 5 min" in text
    assert "mail send 1 1 1 0 1 0 3 min 20 s" in text
    assert "2.9 MB failed" in text
    assert "no such troop" in text
    assert "written by hand" in text
    async with pool.connection() as conn:
        ids = await conn.fetch("SELECT id FROM hero_snapshots")
    assert all(str(row["id"]) in text for row in ids)  # an id that is cut names nothing
    assert "PARSE_ERROR" in text
    assert "Snapshots, last hour 2 1 processed, 1 failed" in text


async def test_nothing_that_came_from_outside_is_markup(client: httpx.AsyncClient, pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute(ROWS)
    page = (await client.get("/")).text
    assert SCRIPT not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    scripts = re.findall(r"<script[^>]*>", page)
    assert scripts == ['<script src="/static/refresh.js" defer>']
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)


@covers("X-11")
async def test_what_is_held_back_is_shown_with_owner_reason_end_and_way_out(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    asked = {"name": "my mail", "reason": "provider down"}
    await perform(pool, "queue pause", asked, actor="ann", role="operator", tenant="default")
    async with pool.connection() as conn:
        await conn.execute("UPDATE feature_flags SET data = '{\"ingest_paused\": true}'")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", (await client.get("/now")).text))
    assert "Queue my mail is paused for another 59 min" in text
    assert "ann: provider down starforge queue resume &#39;my mail&#39;" in text
    assert "Ingestion is paused with no end set by hand: no reason given starforge ingest resume" in text


@covers("F-37", "X-11")
async def test_a_paused_source_is_shown_beside_them_with_who_was_told(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    asked = {"name": "my shop", "reason": "upstream changed"}
    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO mapped_sources (source, owner, subject_table, subject_key, tables)"
            " VALUES ('my shop', 'integrations', 'users', 'namecode', '[]')"
        )
    await perform(pool, "source pause", asked, actor="ann", role="operator", tenant="default")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", (await client.get("/now")).text))
    assert "Ingestion of source my shop is paused for another 59 min" in text
    told = "ann: upstream changed; told to integrations starforge source resume &#39;my shop&#39;"
    assert told in text


async def test_jobs_that_no_live_worker_serves_are_pointed_out(client: httpx.AsyncClient, pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute("INSERT INTO queue_jobs (queue, type) VALUES ('mail', 'send')")
    assert "Jobs wait and no worker is live" in (await client.get("/now")).text


async def test_an_empty_system_says_how_to_begin(client: httpx.AsyncClient) -> None:
    page = (await client.get("/")).text
    assert "No jobs: every queue is empty." in page
    assert "starforge snapshot ingest" in page
    assert "starforge worker" in page


async def test_the_page_refreshes_itself_without_a_script_too(client: httpx.AsyncClient) -> None:
    page = (await client.get("/")).text
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    assert 'data-source="/now"' in page
    for path in ("/static/refresh.js", "/static/starforge.css", "/static/icon.svg"):
        assert path in page
        assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, "–"), (0, "0 ms"), (0.85, "850 ms"), (9.94, "9.9 s"), (12.4, "12 s"), (60, "1 min"),
     (200, "3 min 20 s"), (3600, "1 h"), (18120, "5 h 2 min"), (345600, "4 d"), (-5, "0 ms")],
)  # fmt: skip
def test_a_span_is_told_in_its_two_largest_units(seconds: float | None, told: str) -> None:
    assert span(seconds) == told


def test_sizes_counts_and_rates_are_told_with_their_units() -> None:
    assert [size(n) for n in (0, 999, 48_000, 2_900_000)] == ["0 B", "999 B", "48 kB", "2.9 MB"]
    assert count(1324) == "1\N{NARROW NO-BREAK SPACE}324"
    assert [rate(n) for n in (0, 0.25, 9.96, 4800.4)] == ["0", "0.2", "10.0", "4\N{NARROW NO-BREAK SPACE}800"]
