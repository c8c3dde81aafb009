"""Ingest: how each kind of failure ends, what is said of it where, and what a second delivery changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from starforge.db.pool import Connection, Pool, connect
from starforge.etl.document import parse
from starforge.etl.document.guard import GuardSettings, Verdict, check
from starforge.etl.ingest.offers import Offer
from starforge.etl.ingest.receive import receive
from starforge.etl.load.job import process_snapshot_type
from starforge.etl.load.process import GROUP_LOCK_MS_MAX
from starforge.etl.mapping import (
    ID,
    INTEGER,
    JSON,
    Catalogue,
    Column,
    Derived,
    Each,
    Mapping,
    Mappings,
    Ref,
    Table,
    text,
)
from starforge.heroes.mapping import HERO
from starforge.queue.handler import JobType, JobTypes
from tests.covers import covers
from tests.stories.test_path_of_a_job import run_until

NAMECODE = Column("namecode", "NameCode", text(1, 64))
TROOP = Column("troop_id", ID, INTEGER, catalogue=Catalogue("troop_catalog", missing="fail"))
STRICT = Mapping(
    "strict",
    subject="users",
    tables=[
        Table("users", key=("tenant_id", "namecode"), columns=[NAMECODE]),
        Table(
            "user_troops",
            rows=Each("Troops"),
            key=("user_id", "troop_id"),
            columns=[Ref("user_id", "users", "/NameCode"), TROOP],
        ),
    ],
)
"""Troops that the catalogue lacks are refused."""


def working_out(by: Callable[..., Any]) -> Mapping:
    """A mapping whose derived column is worked out by a user's function."""
    columns: list[Column | Derived] = [NAMECODE, Derived("username", replace(JSON, sql="text"), by)]
    return Mapping(
        "own", subject="users", tables=[Table("users", key=("tenant_id", "namecode"), columns=columns)]
    )


def failing_with(error: BaseException) -> Mapping:
    def fail(*_: Any) -> Any:
        raise error

    return working_out(fail)


def too_large(*_: Any) -> Any:
    return bytes(1 << 60)


class OddError(Exception):
    """What a user's function may raise: nothing of it can go into a row as it is."""

    reason = OSError("an object")


def profile(name: str = "A_1", **fields: Any) -> dict[str, Any]:
    return {"NameCode": name, "Level": 1, "Troops": {"6024": {"Amount": 1}}, **fields}


async def offer(pool: Pool, mapping: Mapping = HERO, tenant: str = "default", **fields: Any) -> UUID:
    """Take a profile in and return its snapshot."""
    data = json.dumps(profile(**fields)).encode()
    [receipt] = await receive(pool, [Offer("a.json", data)], mapping=mapping, tenant=tenant)
    assert receipt.fate == "accepted"
    assert receipt.snapshot_id is not None
    return receipt.snapshot_id


def types(mapping: Mapping = HERO, **changed: Any) -> JobTypes:
    job_type: JobType = process_snapshot_type(Mappings([mapping]))
    return JobTypes([replace(job_type, **changed)])


ERRORS = "SELECT count(*) FROM etl_errors"
UNFINISHED = "SELECT (NOT EXISTS (SELECT FROM queue_jobs WHERE status IN ('pending', 'running')))::int"


async def one(pool: Pool, query: str, *args: object) -> dict[str, Any]:
    async with pool.connection() as conn:
        [row] = await conn.fetch(query, *args)
    return dict(row)


async def snapshot_of(pool: Pool, snapshot_id: UUID) -> dict[str, Any]:
    return await one(
        pool,
        "SELECT status, processing, error_count, last_error, rows_written, processed_at FROM hero_snapshots"
        " WHERE id = $1",
        snapshot_id,
    )


async def again(pool: Pool, snapshot_id: UUID) -> None:
    """Enqueue a job for a snapshot by hand, as a runbook would."""
    async with pool.connection() as conn:
        payload = {"snapshot_id": str(snapshot_id)}
        await conn.execute("INSERT INTO queue_jobs (type, payload) VALUES ('process_snapshot', $1)", payload)


async def test_a_snapshot_that_is_processed_says_so(pool: Pool) -> None:
    snapshot_id = await offer(pool)
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 1)
    row = await snapshot_of(pool, snapshot_id)
    assert row.pop("processed_at") is not None
    assert row == {
        "status": "processed", "processing": False, "error_count": 0, "last_error": None, "rows_written": 3,
    }  # fmt: skip


# ---- each class of error, for real


@covers("F-19", "F-20", "F-21")
@pytest.mark.parametrize(
    ("mapping", "fields", "error_type", "message", "final"),
    [
        (HERO, {"Level": "abc"}, "MAPPING_ERROR", "Level: expected an integer, found text", True),
        (HERO, {"ServerTime": 2**62}, "MAPPING_ERROR", "ServerTime: 4611686018427387904 is out of", True),
        (HERO, {"Id": 7}, "DB_ERROR", 'duplicate key value violates unique constraint "users_id"', False),
        (
            STRICT,
            {"Troops": {"1": {}}},
            "FK_VIOLATION",
            'violates foreign key constraint "user_troops',
            False,
        ),
        (working_out(too_large), {}, "OOM", "MemoryError", False),
        (failing_with(RuntimeError("it broke")), {}, "UNKNOWN", "it broke", False),
        (failing_with(OddError("a\0b")), {}, "UNKNOWN", "a\ufffdb", False),
    ],
)
async def test_a_failure_is_classed_and_recorded_where_it_is_looked_for(
    pool: Pool, mapping: Mapping, fields: dict[str, Any], error_type: str, message: str, final: bool
) -> None:
    """One that a retry may mend leaves the snapshot waiting; one that none can ends it as failed."""
    async with pool.connection() as conn:
        await conn.execute("CREATE UNIQUE INDEX users_id ON users (external_id)")
        await conn.execute("INSERT INTO users (tenant_id, namecode, external_id) VALUES ('default', 'B', 7)")
    snapshot_id = await offer(pool, mapping, **fields)
    await run_until(pool, types(mapping), ERRORS, 1)
    error = await one(pool, "SELECT * FROM etl_errors")
    job = await one(pool, "SELECT id, status, attempts FROM queue_jobs")
    row = await snapshot_of(pool, snapshot_id)
    assert (error["error_type"], error["source"]) == (error_type, mapping.name)
    assert message in error["message"]
    assert (error["snapshot_id"], error["job_id"]) == (snapshot_id, job["id"])
    assert (error["tenant_id"], len(error["fingerprint"])) == ("default", 16)
    assert (job["status"], job["attempts"]) == ("failed" if final else "pending", 1)
    assert (row["status"], row["processing"]) == ("failed" if final else "received", False)
    assert (row["error_count"], row["rows_written"], row["processed_at"]) == (1, None, None)
    assert message in row["last_error"]["reason"]
    assert row["last_error"]["error_type"] == error_type
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM users WHERE namecode = 'A_1'") == 0


async def test_a_stored_document_that_the_guard_refuses_is_a_parse_error(pool: Pool) -> None:
    """By hand anything can be stored that Postgres takes for JSON."""
    async with pool.connection() as conn:
        snapshot_id = await conn.fetchval(
            "INSERT INTO hero_snapshots (tenant_id, source, raw, size_bytes, sha256)"
            " VALUES ('default', 'hero', $1::text::json, 6, 'x') RETURNING id",
            '{"a": 1e400}',
        )
    await again(pool, snapshot_id)
    await run_until(pool, types(), ERRORS, 1)
    error = await one(pool, "SELECT error_type, snapshot_id, details FROM etl_errors")
    assert (error["error_type"], error["snapshot_id"]) == ("PARSE_ERROR", snapshot_id)
    assert error["details"]["position"] == 6
    assert (await snapshot_of(pool, snapshot_id))["status"] == "failed"


@asynccontextmanager
async def held_up(database: str, lock: str) -> AsyncIterator[Connection]:
    """Hold a lock in a transaction of another session until the block ends."""
    conn = await connect(database)
    begun = conn.transaction()
    await begun.start()
    await conn.execute(lock)
    yield conn
    await begun.rollback()
    await conn.close()


LOCK_USERS = "LOCK TABLE users IN EXCLUSIVE MODE"


async def waiting_for_a_lock(conn: Connection) -> int:
    """Return the process id of the session that waits for a lock and does not give up, once there is one."""
    query = """
        SELECT l.pid FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
         WHERE d.datname = current_database() AND NOT l.granted
           AND clock_timestamp() > l.waitstart + $1 * interval '1 ms'
    """
    async with asyncio.timeout(10):
        while (pid := await conn.fetchval(query, 3.0 * GROUP_LOCK_MS_MAX)) is None:
            await asyncio.sleep(0.01)
    return int(pid)


async def test_a_job_past_its_time_limit_is_a_timeout(pool: Pool, database: str) -> None:
    snapshot_id = await offer(pool)
    async with held_up(database, LOCK_USERS):
        await run_until(pool, types(timeout_s=0.1), ERRORS, 1)
    error = await one(pool, "SELECT error_type, message FROM etl_errors")
    assert error == {"error_type": "TIMEOUT", "message": "no result within 0.1 s"}
    assert (await snapshot_of(pool, snapshot_id))["processing"] is False


@pytest.mark.parametrize("limit", ["statement_timeout", "lock_timeout"])
async def test_a_statement_past_the_databases_limit_is_a_timeout(database: str, limit: str) -> None:
    admin = await connect(database)
    await admin.execute(f"ALTER DATABASE {database.rpartition('/')[2]} SET {limit} = '100ms'")
    pool = await Pool.open(database)
    await offer(pool)
    async with held_up(database, LOCK_USERS):
        await run_until(pool, types(), ERRORS, 1)
    assert (await one(pool, "SELECT error_type FROM etl_errors"))["error_type"] == "TIMEOUT"
    await pool.close()
    await admin.close()


@covers("F-38")
async def test_a_deadlock_is_recorded_and_the_next_attempt_succeeds(
    pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_BACKOFF_BASE_S", "0.01")
    admin = await connect(database)
    # The session that waits first looks first, and is the victim: the worker. The other one joins in before.
    await admin.execute(f"ALTER DATABASE {database.rpartition('/')[2]} SET deadlock_timeout = '3s'")
    patient = await Pool.open(database)
    snapshot_id = await offer(patient)
    working = asyncio.create_task(run_until(patient, types(), "SELECT count(*) FROM job_history", 1))
    async with held_up(database, LOCK_USERS) as other:
        await waiting_for_a_lock(other)
        await other.execute("SET LOCAL deadlock_timeout = '20s'")
        await other.execute("LOCK TABLE entity_seen IN ACCESS EXCLUSIVE MODE")
    await working
    error = await one(pool, "SELECT error_type, details FROM etl_errors")
    assert (error["error_type"], error["details"]["sqlstate"]) == ("DB_ERROR", "40P01")
    row = await snapshot_of(pool, snapshot_id)
    assert (row["status"], row["error_count"], row["rows_written"]) == ("processed", 1, 3)
    await patient.close()
    await admin.close()


@covers("F-38")
async def test_a_lost_connection_is_recorded_and_the_next_attempt_succeeds(
    pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_BACKOFF_BASE_S", "0.01")
    snapshot_id = await offer(pool)
    working = asyncio.create_task(run_until(pool, types(), "SELECT count(*) FROM job_history", 1))
    async with held_up(database, LOCK_USERS) as other:
        await other.execute("SELECT pg_terminate_backend($1)", await waiting_for_a_lock(other))
        async with asyncio.timeout(10):
            while not await other.fetchval(ERRORS):
                await asyncio.sleep(0.01)
    await working
    assert (await one(pool, "SELECT error_type FROM etl_errors"))["error_type"] == "DB_ERROR"
    row = await snapshot_of(pool, snapshot_id)
    assert (row["status"], row["error_count"]) == ("processed", 1)


async def test_the_last_failed_attempt_ends_the_snapshot_as_failed(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_BACKOFF_BASE_S", "0.001")
    monkeypatch.setenv("STARFORGE_MAX_ATTEMPTS", "3")
    mapping = failing_with(RuntimeError("it broke"))
    snapshot_id = await offer(pool, mapping)
    await run_until(pool, types(mapping), UNFINISHED, 1)
    row = await snapshot_of(pool, snapshot_id)
    assert (row["status"], row["processing"], row["error_count"]) == ("failed", False, 3)
    assert (await one(pool, "SELECT count(*), count(DISTINCT fingerprint) AS kinds FROM etl_errors")) == {
        "count": 3,
        "kinds": 1,
    }


async def test_a_job_that_names_no_snapshot_fails_and_says_so(pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute("INSERT INTO queue_jobs (type, payload) VALUES ('process_snapshot', '{\"a\": 1}')")
        await conn.execute(
            "INSERT INTO queue_jobs (type, payload) VALUES"
            " ('process_snapshot', jsonb_build_object('snapshot_id', gen_random_uuid()))"
        )
    await run_until(pool, types(), ERRORS, 2)
    async with pool.connection() as conn:
        told = [row["message"] for row in await conn.fetch("SELECT message FROM etl_errors ORDER BY message")]
        assert await conn.fetchval("SELECT count(*) FROM queue_jobs WHERE status = 'failed'") == 2
    assert told[0].startswith("tenant 'default' has no snapshot ")
    assert told[1] == "the payload names no snapshot: {'a': 1}"


async def test_a_source_without_a_mapping_is_told_with_those_that_have_one(pool: Pool) -> None:
    await offer(pool, STRICT)
    await run_until(pool, types(HERO), ERRORS, 1)
    error = await one(pool, "SELECT error_type, source, message FROM etl_errors")
    assert error == {
        "error_type": "UNKNOWN",
        "source": "strict",
        "message": "no mapping for source 'strict'; known: hero",
    }


@covers("X-12", "G11")
async def test_a_job_cannot_reach_a_snapshot_of_another_tenant(pool: Pool) -> None:
    theirs = await offer(pool, tenant="them")
    async with pool.connection() as conn:
        await conn.execute("UPDATE queue_jobs SET tenant_id = 'me'")
    await run_until(pool, types(), ERRORS, 1)
    error = await one(pool, "SELECT tenant_id, message, source FROM etl_errors")
    assert error["tenant_id"] == "me"
    assert error["message"] == f"tenant 'me' has no snapshot {theirs}"
    row = await snapshot_of(pool, theirs)
    assert (row["status"], row["error_count"], row["last_error"]) == ("received", 0, None)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM users") == 0


# ---- held back, and delivered twice


@covers("O-25", "O-26")
async def test_a_snapshot_held_by_hand_is_quarantined_and_processed_once_released(pool: Pool) -> None:
    snapshot_id = await offer(pool)
    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO snapshot_quarantine (snapshot_id, reason) VALUES ($1, 'OOM during processing')",
            snapshot_id,
        )
        await run_until(pool, types(), "SELECT count(*) FROM queue_jobs WHERE status = 'quarantined'", 1)
        row = await snapshot_of(pool, snapshot_id)
        assert (row["status"], row["processing"]) == ("quarantined", False)
        await conn.execute("UPDATE snapshot_quarantine SET released_at = sf_now()")
        await conn.execute("UPDATE queue_jobs SET status = 'pending'")
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 1)
    assert (await snapshot_of(pool, snapshot_id))["status"] == "processed"


@covers("Q-67")
async def test_a_second_delivery_changes_neither_rows_nor_what_is_said(pool: Pool) -> None:
    """Also after a later snapshot: what was processed stays so."""
    first = await offer(pool)
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 1)
    await again(pool, first)
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 2)
    assert (await snapshot_of(pool, first))["rows_written"] == 3
    await offer(pool, Level=2)
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 3)
    await again(pool, first)
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 4)
    row = await snapshot_of(pool, first)
    assert (row["status"], row["rows_written"]) == ("processed", 3)
    assert (await one(pool, "SELECT level FROM user_profile_summary"))["level"] == 2


async def test_bytes_that_the_guard_has_passed_are_not_asked_again_unless_somebody_changed_them(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    def noted(data: bytes, settings: GuardSettings | None = None) -> Verdict:
        asked.append(data)
        return check(data, settings)

    monkeypatch.setattr(parse, "check", noted)
    snapshot_id = await offer(pool)
    await run_until(pool, types(), UNFINISHED, 1)
    assert asked == []
    changed = json.dumps(profile(Level=2))
    async with pool.connection() as conn:
        await conn.execute(
            "UPDATE hero_snapshots SET raw = $2::text::json WHERE id = $1", snapshot_id, changed
        )
    await again(pool, snapshot_id)
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 2)
    assert asked == [changed.encode()]


async def test_what_the_guard_would_replace_is_asked_about_again(pool: Pool) -> None:
    """An escaped NUL reaches no column, whoever reads the bytes."""
    data = rb'{"NameCode": "A_1", "Name": "x\u0000y"}'
    [receipt] = await receive(pool, [Offer("a", data)], mapping=HERO, tenant="default")
    assert receipt.fate == "accepted"
    await run_until(pool, types(), UNFINISHED, 1)
    assert await one(pool, "SELECT username FROM users") == {"username": "x\ufffdy"}
