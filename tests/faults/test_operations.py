"""Row 2: who asks for an operation is killed at every statement: it is done and audited, or neither is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from signal import SIGKILL
from typing import Any
from uuid import UUID

import pytest

from starforge.db.pool import Pool
from starforge.queue.override import override
from tests.backfill.backfills import made, row_of
from tests.covers import covers
from tests.faults.acting import APPLICATION, acting
from tests.postgres import TestServer
from tests.proxy import Fault, Statement, When, kill, nothing, proxied

pytestmark = [
    pytest.mark.direct("counts the statements on their way to the server"),
    pytest.mark.once("its statements are prepared on both versions by tests/db/test_statement.py"),
]


@dataclass
class Killer:
    """A rule that kills whoever sends the k-th statement; after it only where it commits."""

    k: int
    when: When
    seen: int = 0
    fired: bool = False
    text: str = ""
    commits: bool = False

    def __call__(self, statement: Statement) -> Fault | None:
        if statement.application != APPLICATION:
            return None
        self.seen += 1
        if self.seen != self.k:
            return None
        self.fired, self.text, self.commits = True, statement.text, statement.commits
        return Fault(self.when, kill)


TORTURE = pytest.mark.skipif(os.environ.get("STARFORGE_TORTURE") != "1", reason="by make torture")


@pytest.mark.parametrize(
    ("verb", "source", "target"),
    [
        ("pause", "running", "paused"),
        ("resume", "paused", "resuming"),
        ("cancel", "running", "cancelled"),
        pytest.param("retry-failed", "running", "running", marks=TORTURE),
    ],
)
@covers("G8", "G10", "X-05", "X-06", "B-28")
async def test_an_act_on_a_backfill_killed_at_any_statement_is_done_and_audited_or_neither(
    server: TestServer, database: str, pool: Pool, verb: str, source: str, target: str
) -> None:
    """Asked again with its key it is done, once, whatever became of the first time."""
    texts, was_done = [], []
    steps: list[tuple[int, When]] = [(1, "before")]
    async with proxied(server.port) as proxy, acting() as actor:
        url = proxy.url(database)
        for k, when in steps:
            one = await _backfill(pool, source, verb)
            before = await _state(pool, one)
            arguments: dict[str, Any] = {"job_id": str(one), "reason": "a test"}
            proxy.rule = killer = Killer(k, when)
            code = await actor.act(url, f"backfill {verb}", arguments, f"{k} {when}")
            proxy.rule = nothing
            assert code == (-SIGKILL if killer.fired else 0), killer.text
            now = await _state(pool, one)
            assert now in (before, (before[0] + 1, target, 1)), killer.text
            if killer.fired:
                texts.append(killer.text)
                was_done.append(now != before)
                steps += [(k, "after")] if killer.commits and when == "before" else []
                steps += [(k + 1, "before")] if when == "before" else []
            assert await actor.act(url, f"backfill {verb}", arguments, f"{k} {when}") == 0
            assert await _state(pool, one) == (before[0] + 1, target, 1), "it is done once, with its key"
            await _followed(pool, one, verb)
    assert len(texts) > 8
    assert any("audit_logs" in text for text in texts)
    assert {True, False} == set(was_done), "some were killed before the commit and one after it"


async def _backfill(pool: Pool, source: str, verb: str) -> UUID:
    """Make a backfill for the act, with what it has beside it: what waits for it, and its override."""
    one = await made(pool, source, "completed", "failed", "pending")
    if verb == "cancel":
        await made(pool, "pending", "pending", asset="below", waits_for=[one])
        async with pool.transaction() as conn:
            await override(conn, "key", str(one), "limit", 8, owner="ann", reason="r", minutes=60)
    return one


async def _state(pool: Pool, one: UUID) -> tuple[int, str, int]:
    """Return the backfill's version and state, and how many audit rows there are of it."""
    row = await row_of(pool, one)
    async with pool.connection() as conn:
        audits = await conn.fetchval(
            "SELECT count(*) FROM audit_logs WHERE arguments ->> 'job_id' = $1", str(one)
        )
    return row["version"], row["state"], audits


async def _followed(pool: Pool, one: UUID, verb: str) -> None:
    """Check what has to follow from the act beside the row itself."""
    row = await row_of(pool, one)
    async with pool.connection() as conn:
        below = await conn.fetchval("SELECT state FROM backfill_jobs WHERE $1 = ANY (waits_for)", one)
        limit = await conn.fetchval("SELECT value FROM setting_overrides WHERE name = $1", str(one))
        failed = await conn.fetchval(
            "SELECT count(*) FROM backfill_partitions WHERE backfill_job_id = $1 AND state = 'failed'", one
        )
    assert below == ("cancelled" if verb == "cancel" else None)
    assert limit is None, "a cancelled one is limited no more, and nobody limited the others"
    assert failed == row["failed_partitions"] == (0 if verb == "retry-failed" else 1)
    if verb in ("resume", "reclaim"):
        assert row["age_s"] >= 121
