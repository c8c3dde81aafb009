"""`starforge queue history` and `starforge schedule ls`: what they show, for people and for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from starforge.cli.history import bars, duration
from starforge.db.pool import Connection, connect
from starforge.queue.enqueue import enqueue_many
from starforge.queue.job import NewJob
from starforge.queue.minutes import sample
from starforge.queue.schedule import Schedule, declare
from tests.covers import covers

MINUTE = (
    "INSERT INTO job_minutes (minute, queue, type, worker_id, completed, failed)"
    " VALUES (date_trunc('minute', sf_now()) - make_interval(mins => $1), 'mail', $2, gen_random_uuid(),"
    " $3, $4)"
)


def starforge(database: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "starforge", *words],
        env={**os.environ, "DATABASE_URL": database},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
async def busy(database: str) -> str:
    conn = await connect(database)
    for back in (1, 2, 3):
        await conn.execute(MINUTE, back, "send", 100 * back, 10)
        await conn.execute(MINUTE, back, "digest", 1, 0)
    await enqueue_many(conn, [NewJob("send", queue="mail") for _ in range(4)])
    await sample(conn)
    await conn.close()
    return database


@covers("Q-13", "X-17")
async def test_the_last_minutes_are_shown_by_type(busy: str) -> None:
    shown = starforge(busy, "queue", "history", "--minutes", "10")
    assert shown.returncode == 0, shown.stderr
    (send,) = [line for line in shown.stdout.splitlines() if " send " in line]
    assert "630" in send
    assert "4.8%" in send
    told = json.loads(
        starforge(busy, "queue", "history", "--minutes", "10", "--type", "send", "--json").stdout
    )
    assert {line["type"] for line in told["lines"]} == {"send"}
    assert len(told["lines"]) == 10
    assert sum(line["finished"] for line in told["lines"]) == 630
    assert told["lines"][-1]["depth"] in (4, None)


async def test_an_empty_history_says_so(database: str) -> None:
    assert "in the last 60 minutes" in starforge(database, "queue", "history").stdout
    assert json.loads(starforge(database, "queue", "history", "--json").stdout)["lines"] == []
    assert starforge(database, "queue", "history", "--minutes", "0").returncode == 2


@covers("X-17", "X-11")
async def test_schedules_are_shown_with_their_pauses_and_faults(database: str) -> None:
    conn: Connection = await connect(database)
    assert "There is no schedule" in starforge(database, "schedule", "ls").stdout
    found = [Schedule(name=name, cron="0 3 * * *", type="t", timezone="Europe/Berlin") for name in "abc"]
    await declare(conn, found, by="shop")
    await conn.execute("UPDATE schedules SET fault = 'no such zone', fault_at = sf_now() WHERE name = 'b'")
    done = starforge(database, "schedule", "pause", "c", "--reason", "wrong figures", "--minutes", "30")
    assert done.returncode == 0, done.stderr
    told: list[dict[str, Any]] = json.loads(starforge(database, "schedule", "ls", "--json").stdout)
    assert [schedule["name"] for schedule in told] == ["a", "b", "c"]
    assert [schedule["fault"] for schedule in told] == [None, "no such zone", None]
    assert [schedule["paused"] for schedule in told] == [False, False, True]
    assert told[2]["reason"] == "wrong figures"
    shown = starforge(database, "schedule", "ls").stdout
    assert "faulty: no such zone" in shown
    assert "wrong figures" in shown
    assert "by shop, " in shown
    assert starforge(database, "schedule", "run-now", "a").returncode == 0
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == 1
    refused = starforge(database, "schedule", "remove", "zz", "--reason", "gone", "--json")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["code"] == "SF261"
    await conn.close()


def test_bars_draw_the_highest_of_each_column_and_gaps_for_what_is_unknown() -> None:
    assert bars([0, 1, 2, 4, None, 7]) == "▁▂▃▅ █"
    assert bars([0, 0]) == "▁▁"
    assert len(bars(list(range(60)))) == 30
    assert bars([None]) == " "


def test_durations_are_said_in_their_largest_unit() -> None:
    assert [duration(s) for s in (5, 119, 600, 9000, 200_000)] == ["5 s", "119 s", "10 min", "2.5 h", "2.3 d"]
