"""Enqueue: accepted with the caller's transaction, in bulk all or none, refused when it cannot be kept."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from starforge.db.pool import Connection, Pool, connect
from starforge.queue import chunk as room
from starforge.queue.chunk import BULK_ROWS, chunks
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.entry import PRIORITY_MAX, TAG_CHARS_MAX, TAGS_MAX
from starforge.queue.errors import JobOptionError, PayloadError, PayloadTooLargeError
from starforge.queue.job import Accepted, Key, NewJob
from tests.covers import covers
from tests.postgres import TestServer

NO_TUPLE: Any = "pending"
NO_ANSWER: Any = "raise"


async def test_a_job_exists_only_once_the_callers_transaction_commits(pool: Pool) -> None:
    async with pool.connection() as watcher:
        with pytest.raises(ZeroDivisionError):
            async with pool.transaction() as conn:
                await enqueue(conn, NewJob("t"))
                raise ZeroDivisionError
        assert await watcher.fetchval("SELECT count(*) FROM queue_jobs") == 0
        async with pool.transaction() as conn:
            await enqueue(conn, NewJob("t"))
            assert await watcher.fetchval("SELECT count(*) FROM queue_jobs") == 0
        assert await watcher.fetchval("SELECT count(*) FROM queue_jobs") == 1


@covers("Q-23", "J-39")
@pytest.mark.parametrize("way", ["alone", "bulk", "keyed"])
async def test_an_enqueued_job_has_the_given_columns_and_the_tables_defaults(
    conn: Connection, way: str
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    job = NewJob(
        "t", {"a": [1, None, "é"]}, queue="mail", priority=3, run_after=later, max_attempts=2, tenant="acme",
        limit_key="k", tags=["a", 'b"'], timeout_s=1.5, trace="00-1",
        unique=Key("x") if way == "keyed" else None,
    )  # fmt: skip
    if way == "bulk":
        assert await enqueue_many(conn, [job]) == [Accepted(job.id, True)]
    else:
        assert await enqueue(conn, job) == Accepted(job.id, True)
    row = await conn.fetchrow("SELECT * FROM queue_jobs WHERE id = $1", job.id)
    assert row is not None
    told = ("type", "queue", "status", "tenant_id", "limit_key", "tags", "timeout_s", "trace")
    assert tuple(row[name] for name in told) == (
        "t", "mail", "pending", "acme", "k", ["a", 'b"'], 1.5, "00-1",
    )  # fmt: skip
    assert (row["payload"], row["priority"], row["max_attempts"]) == ({"a": [1, None, "é"]}, 3, 2)
    assert (row["attempts"], row["kills"], row["lease_epoch"], row["run_after"]) == (0, 0, 0, later)


@covers("J-39")
@pytest.mark.parametrize("way", ["alone", "bulk", "keyed"])
async def test_a_delay_counts_on_the_databases_clock(conn: Connection, way: str) -> None:
    job = NewJob("t", delay_s=60, unique=Key("x") if way == "keyed" else None)
    await (enqueue_many(conn, [job]) if way == "bulk" else enqueue(conn, job))
    ahead = await conn.fetchval("SELECT run_after - created_at FROM queue_jobs WHERE id = $1", job.id)
    assert ahead == timedelta(minutes=1)


@pytest.mark.parametrize("count", [1, 7, BULK_ROWS, 2 * BULK_ROWS + 1])
@pytest.mark.parametrize("user", ["tester", "starforge_engine"])
async def test_bulk_enqueue_keeps_every_job_in_its_order(
    server: TestServer, database: str, user: str, count: int
) -> None:
    conn = await connect(database.replace("tester@", f"{user}@"))
    jobs = [NewJob("t", {"n": n}, priority=n % 3, tags=["x"] if n % 2 else []) for n in range(count)]
    assert await enqueue_many(conn, jobs) == [Accepted(job.id, True) for job in jobs]
    rows = await conn.fetch(
        "SELECT id, payload, priority, tags, run_after <= sf_now() AS due FROM queue_jobs ORDER BY run_after"
    )
    assert [row["id"] for row in rows] == [job.id for job in jobs]
    assert [(row["payload"]["n"], row["priority"], row["tags"], row["due"]) for row in rows] == [
        (n, n % 3, ["x"] if n % 2 else None, True) for n in range(count)
    ]
    await conn.close()


async def test_a_bulk_in_which_no_two_jobs_are_alike_is_kept_as_well(conn: Connection) -> None:
    jobs = [NewJob(f"t{n}", limit_key=str(n), delay_s=float(n)) for n in range(BULK_ROWS + 100)]
    await enqueue_many(conn, jobs)
    rows = await conn.fetch(
        "SELECT id, type, limit_key, extract(epoch FROM run_after - created_at)::int FROM queue_jobs"
    )
    assert {tuple(row) for row in rows} == {(job.id, f"t{n}", str(n), n) for n, job in enumerate(jobs)}


async def test_a_bulk_of_large_payloads_is_sent_in_bounded_pieces(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BULK_BYTES_MAX", 1000)
    jobs = [NewJob("t", {"text": "x" * 600}) for _ in range(9)]
    assert [len(chunk.ids) for chunk in chunks(jobs)] == [2, 2, 2, 2, 1]
    await enqueue_many(conn, jobs)
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == 9


def _deep(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(levels):
        inner = {"in": inner}
    return inner


@pytest.mark.parametrize("place", [1, 2 * BULK_ROWS + 1])
async def test_a_bulk_with_one_bad_payload_keeps_none(database: str, place: int) -> None:
    conn = await connect(database)
    jobs = [NewJob("t", {"n": n}) for n in range(place)] + [NewJob("t", {"n": object()})]
    with pytest.raises(PayloadError, match="is not JSON"):
        await enqueue_many(conn, jobs)
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == 0
    await enqueue_many(conn, jobs[:-1])
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == place
    await conn.close()


@covers("J-40")
@pytest.mark.parametrize("payload", [_deep(5000), {"n": "\ud800"}, {"n": 10**5000}, [], None, "x"])
async def test_a_payload_that_no_worker_could_read_is_refused(conn: Connection, payload: Any) -> None:
    with pytest.raises(PayloadError):
        await enqueue(conn, NewJob("t", payload))


@dataclasses.dataclass
class _Held:
    inner: object


@covers("J-40")
@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"a": [0, float("nan")]}, r"payload\.a\[1\]"),
        ({"a": {"b": float("inf")}}, r"payload\.a\.b"),
        ({"a": {1, 2}}, r"payload\.a "),
        ({"a": ({"b": b"x"},)}, r"payload\.a\[0\]\.b"),
        ({"a": _Held(float("nan"))}, r"payload\.a\.inner"),
    ],
)
async def test_what_would_be_changed_silently_is_refused_with_its_place(
    conn: Connection, payload: dict[str, Any], path: str
) -> None:
    with pytest.raises(PayloadError, match=rf"{path}.*of a mail\.send job is not JSON"):
        await enqueue(conn, NewJob("mail.send", payload))


async def test_what_a_typed_handler_reads_back_is_accepted(conn: Connection) -> None:
    """Times, ids and tuples have one form in JSON, which the handler's types turn back."""
    at, an_id = datetime(2026, 1, 2, tzinfo=UTC), UUID(int=1)
    job = NewJob("t", {"at": at, "id": an_id, "pair": (1, 2), "held": _Held(None), "by": {1: "a"}})
    await enqueue(conn, job)
    assert await conn.fetchval("SELECT payload FROM queue_jobs WHERE id = $1", job.id) == {
        "at": "2026-01-02T00:00:00Z",
        "id": str(an_id),
        "pair": [1, 2],
        "held": {"inner": None},
        "by": {"1": "a"},
    }


@covers("J-40")
async def test_a_payload_over_the_limit_is_refused_with_its_size(conn: Connection) -> None:
    with pytest.raises(
        PayloadTooLargeError, match=r"of a t job has 300\d\d\d bytes; at most 262144"
    ) as refused:
        await enqueue(conn, NewJob("t", {"text": "x" * 300_000}))
    assert "reference" in refused.value.remedy


async def test_a_callers_own_connection_needs_no_codec_of_ours(database: str) -> None:
    conn = await asyncpg.connect(database)
    async with conn.transaction():
        await enqueue(conn, NewJob("t", {"a": "é"}))
        await enqueue(conn, NewJob("t", {"a": "é"}, unique=Key("k")))
        for _ in range(2):
            await enqueue_many(conn, [NewJob("t", {"a": "é"}) for _ in range(1000)])
    rows = await conn.fetch("SELECT DISTINCT payload FROM queue_jobs")
    assert [json.loads(row["payload"]) for row in rows] == [{"a": "é"}]
    await conn.close()


async def test_a_payload_with_a_nul_is_refused_and_one_that_only_looks_so_is_kept(conn: Connection) -> None:
    with pytest.raises(PayloadError, match=r"payload\.text of a t job holds a NUL"):
        await enqueue(conn, NewJob("t", {"text": "a\x00b"}))
    with pytest.raises(PayloadError, match="a key of payload of a t job holds a NUL"):
        await enqueue(conn, NewJob("t", {"a\x00b": 1}))
    await enqueue(conn, NewJob("t", {"text": "a\\u0000b"}))
    assert await conn.fetchval("SELECT payload ->> 'text' FROM queue_jobs") == "a\\u0000b"


@covers("J-40")
@pytest.mark.parametrize(
    ("field", "options", "advice"),
    [
        ("type", {"type": ""}, "give a text"),
        ("type", {"type": "x" * 201}, "at most 200"),
        ("queue", {"queue": 7}, "give a text"),
        ("queue", {"queue": "a\0"}, "NUL"),
        ("tenant", {"tenant": ""}, "give a text"),
        ("limit_key", {"limit_key": "x" * 201}, "at most 200"),
        ("limit_key", {"limit_key": ["x"]}, "give a text"),
        ("priority", {"priority": PRIORITY_MAX + 1}, "from -1000 to 1000"),
        ("priority", {"priority": True}, "whole number"),
        ("priority", {"priority": 1.5}, "whole number"),
        ("max_attempts", {"max_attempts": 0}, "from 1 to 1000"),
        ("run_after", {"run_after": datetime(2026, 1, 1)}, "time zone"),
        ("run_after", {"run_after": "tomorrow"}, "give a datetime"),
        ("delay_s", {"delay_s": -1}, "seconds from 0"),
        ("delay_s", {"delay_s": float("nan")}, "seconds from 0"),
        ("delay_s", {"delay_s": timedelta(1)}, "seconds from 0"),
        ("delay_s", {"delay_s": 1, "run_after": datetime.now(UTC)}, "one of the two"),
        ("timeout_s", {"timeout_s": 0}, "above 0"),
        ("tags", {"tags": "mail"}, "list of texts"),
        ("tags", {"tags": [1]}, "give a text"),
        ("tags", {"tags": [["a"]]}, "give a text"),
        ("tags", {"tags": ["x"] * (TAGS_MAX + 1)}, "at most 20"),
        ("tags", {"tags": ["x" * (TAG_CHARS_MAX + 1)]}, "at most 100"),
        ("unique key", {"unique": Key("")}, "give a text"),
        ("unique key", {"unique": Key("é" * 300)}, "use a hash"),
        ("unique states", {"unique": Key("k", states=("waiting",))}, "pending, running"),
        ("unique states", {"unique": Key("k", states=NO_TUPLE)}, "give a tuple"),
        ("unique within_s", {"unique": Key("k", within_s=0)}, "above 0"),
        ("unique on_conflict", {"unique": Key("k", on_conflict=NO_ANSWER)}, "replace"),
    ],
)
@pytest.mark.parametrize("bulk", [False, True])
async def test_a_wrong_option_is_refused_with_the_jobs_type_and_the_field(
    conn: Connection, field: str, options: dict[str, Any], advice: str, bulk: bool
) -> None:
    job = NewJob(**{"type": "mail.send", **options})
    with pytest.raises(JobOptionError, match=rf"the {field} of a .* job is .*{advice}") as refused:
        await (enqueue_many(conn, [NewJob("mail.send"), job]) if bulk else enqueue(conn, job))
    assert (refused.value.job_type, refused.value.field) == (job.type, field)
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == 0


async def test_the_longest_names_fit_the_index(conn: Connection) -> None:
    wide = "\N{GRINNING FACE}"
    job = NewJob(wide * 200, queue=wide * 200, limit_key=wide * 200, tenant=wide * 64, unique=Key("k" * 512))
    assert (await enqueue(conn, job)).new
