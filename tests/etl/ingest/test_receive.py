"""Receive: what is JSON is stored once, what is not is kept as bytes, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from starforge.clock import FailpointError, Failpoints
from starforge.db.pool import Pool
from starforge.etl.errors import IngestPausedError, MalformedError, TooLargeError, UnreadableError
from starforge.etl.ingest import receive as receiving
from starforge.etl.ingest.offers import Offer, snapshots
from starforge.etl.ingest.receive import Receipt, batches, receive
from starforge.etl.mapping import TEXT, Column, Mapping, Table
from starforge.etl.snapshot.snapshot import SNAPSHOT
from starforge.heroes.mapping import HERO
from starforge.ops.perform import perform
from tests.covers import covers


def hero(name: str, level: Any = 1, **more: Any) -> bytes:
    """A tiny profile in the true shape."""
    profile = {"NameCode": name, "Level": level, "Troops": {"6024": {"Amount": 1}}, **more}
    return json.dumps({"result": {"ProfileData": profile}}).encode()


async def offer(pool: Pool, *documents: bytes, tenant: str = "default") -> list[Receipt]:
    offers = [Offer(f"{n}.json", data) for n, data in enumerate(documents)]
    return await receive(pool, offers, mapping=HERO, tenant=tenant)


async def count(pool: Pool, table: str) -> int:
    async with pool.connection() as conn:
        return int(await conn.fetchval(f"SELECT count(*) FROM {table}"))


@covers("F-20")
async def test_an_accepted_snapshot_is_stored_byte_for_byte_with_a_job(pool: Pool) -> None:
    data = b' {"result":\t{"ProfileData": {"NameCode":"A_1", "n": 1.0, "n": 2}}}\n'
    [receipt] = await offer(pool, data)
    assert receipt.fate == "accepted"
    async with pool.connection() as conn:
        row = await conn.fetchrow("SELECT raw::text AS raw, size_bytes, subject, status FROM hero_snapshots")
        job = await conn.fetchrow("SELECT id, type, payload FROM queue_jobs")
    assert row is not None
    assert job is not None
    assert (row["raw"].encode(), row["size_bytes"], row["subject"]) == (data, len(data), "A_1")
    assert (job["id"], job["type"]) == (receipt.job_id, "process_snapshot")
    assert job["payload"]["snapshot_id"] == str(receipt.snapshot_id)


async def test_the_same_content_twice_is_one_snapshot_and_one_job(pool: Pool) -> None:
    first, again = await offer(pool, hero("A_1"), hero("A_1"))
    assert (first.fate, again.fate) == ("accepted", "duplicate")
    assert again.snapshot_id == first.snapshot_id
    assert await count(pool, "hero_snapshots") == await count(pool, "queue_jobs") == 1


async def test_content_that_comes_back_after_another_is_a_new_capture_of_the_stored_one(pool: Pool) -> None:
    one, two, back, known = await offer(pool, hero("A_1", 1), hero("A_1", 2), hero("A_1", 1), hero("A_1", 1))
    assert [r.fate for r in (one, two, back, known)] == ["accepted", "accepted", "recaptured", "duplicate"]
    assert back.snapshot_id == one.snapshot_id
    assert await count(pool, "hero_snapshots") == 2
    assert await count(pool, "snapshot_captures") == await count(pool, "queue_jobs") == 3


async def set_status(pool: Pool, receipt: Receipt, status: str) -> None:
    async with pool.connection() as conn:
        await conn.execute("UPDATE hero_snapshots SET status = $2 WHERE id = $1", receipt.snapshot_id, status)


async def test_a_capture_anew_waits_for_its_job_again(pool: Pool) -> None:
    one, _ = await offer(pool, hero("A_1", 1), hero("A_1", 2))
    await set_status(pool, one, "processed")
    assert (await offer(pool, hero("A_1", 1)))[0].fate == "recaptured"
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM hero_snapshots WHERE status = 'received'") == 2


async def test_a_failed_snapshot_that_is_offered_again_is_tried_anew_by_one_job(pool: Pool) -> None:
    """Also when several offer it at once; what was processed or is held is a duplicate and stays so."""
    [first] = await offer(pool, hero("A_1", "bad"))
    await set_status(pool, first, "failed")
    receipts = await asyncio.gather(*(offer(pool, hero("A_1", "bad")) for _ in range(4)))
    assert sorted(receipt.fate for [receipt] in receipts) == ["duplicate"] * 3 + ["retried"]
    assert {receipt.snapshot_id for [receipt] in receipts} == {first.snapshot_id}
    async with pool.connection() as conn:
        jobs = await conn.fetch("SELECT payload FROM queue_jobs")
        assert await conn.fetchval("SELECT status FROM hero_snapshots") == "received"
    assert [job["payload"]["snapshot_id"] for job in jobs] == [str(first.snapshot_id)] * 2
    assert await count(pool, "snapshot_captures") == 1
    for status in ("processed", "superseded", "quarantined", "received"):
        await set_status(pool, first, status)
        assert (await offer(pool, hero("A_1", "bad")))[0].fate == "duplicate"
    assert await count(pool, "queue_jobs") == 2


async def test_a_wrong_time_does_not_hide_whose_state_a_snapshot_is(pool: Pool) -> None:
    data = b'{"result": {"ServerTime": "today", "ProfileData": {"NameCode": "A_1"}}}'
    await offer(pool, data)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT subject FROM hero_snapshots") == "A_1"


async def test_a_subject_that_is_learned_later_counts_for_the_captures_too(pool: Pool) -> None:
    """A mapping that could not read a document may have been mended since."""
    [first] = await offer(pool, hero("A_1"))
    async with pool.connection() as conn:
        await conn.execute("UPDATE hero_snapshots SET status = 'failed', subject = NULL")
        await conn.execute("UPDATE snapshot_captures SET subject = NULL")
    retried, other, back = await offer(pool, hero("A_1"), hero("A_1", 2), hero("A_1"))
    assert [r.fate for r in (retried, other, back)] == ["retried", "accepted", "recaptured"]
    assert first.snapshot_id == back.snapshot_id


async def test_the_same_contents_in_opposite_orders_at_once_are_all_taken(pool: Pool) -> None:
    """Each transaction waits for a content of the other: Postgres ends one, which then goes one by one."""
    documents = [hero(f"A_{n}") for n in range(12)]
    async with pool.connection() as conn:
        async with conn.transaction():
            # Both have stored their first content, and no more, when this lock is let go.
            await conn.execute("LOCK TABLE snapshot_captures IN EXCLUSIVE MODE")
            both = [asyncio.create_task(offer(pool, *each)) for each in (documents, documents[::-1])]
            async with asyncio.timeout(10):
                while await conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < 2:
                    await asyncio.sleep(0.01)
        one, two = await asyncio.gather(*both)
    assert sorted([r.fate for r in (*one, *two)]) == ["accepted"] * 12 + ["duplicate"] * 12
    assert await count(pool, "hero_snapshots") == await count(pool, "queue_jobs") == 12


async def test_a_document_that_postgres_cannot_index_is_kept_and_the_others_are_taken(pool: Pool) -> None:
    """The limits of a user's mapping are the user's; those of an index are not."""
    column = Column("code", "Code", TEXT)
    mapping = Mapping(
        "own", subject="own", tables=[Table("own", key=("tenant_id", "code"), columns=[column])]
    )
    long = random.Random(1).randbytes(6_000).hex()
    offers = [Offer(f"{code:.3}", json.dumps({"Code": code}).encode()) for code in ("one", long, "two")]
    receipts = await receive(pool, offers, mapping=mapping, tenant="default")
    assert [receipt.fate for receipt in receipts] == ["accepted", "malformed", "accepted"]
    assert "Postgres refuses it: index row" in str(receipts[1].error)
    assert await count(pool, "snapshot_quarantine") == 1


async def test_what_has_no_bytes_to_keep_is_told_and_only_what_came_is_recorded(pool: Pool) -> None:
    """A wrong name on the command line is no error of the producer's."""
    offers = [
        Offer("gone.json", b"", UnreadableError("gone.json", "No such file or directory")),
        Offer("large.json", b"", TooLargeError("large.json", 64)),
        Offer("-:3", b"", MalformedError(0, 1, 1, "the gzip stream is truncated")),
    ]
    receipts = await receive(pool, offers, mapping=HERO, tenant="default")
    assert [receipt.fate for receipt in receipts] == ["unreadable"] * 3
    assert await count(pool, "snapshot_quarantine") == 0
    async with pool.connection() as conn:
        rows = await conn.fetch("SELECT error_type, details ->> 'name' AS name FROM etl_errors ORDER BY name")
    assert [tuple(row) for row in rows] == [("PARSE_ERROR", "-:3"), ("PARSE_ERROR", "large.json")]


async def test_a_transaction_that_fails_takes_nothing(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "failpoint", Failpoints("receive_before_commit:raise").hit)
    with pytest.raises(FailpointError):
        await offer(pool, hero("A_1"), b"{")
    tables = ("hero_snapshots", "snapshot_captures", "queue_jobs", "snapshot_quarantine", "etl_errors")
    assert [await count(pool, table) for table in tables] == [0] * 5


async def test_the_same_content_of_two_tenants_is_two_snapshots(pool: Pool) -> None:
    await offer(pool, hero("A_1"), tenant="a")
    [other] = await offer(pool, hero("A_1"), tenant="b")
    assert other.fate == "accepted"
    assert await count(pool, "hero_snapshots") == 2


@covers("O-26", "F-19")
async def test_malformed_input_is_kept_as_bytes_with_its_position_and_recorded(pool: Pool) -> None:
    data = b'{"a": \x00\xff}'
    [receipt] = await offer(pool, data)
    assert receipt.fate == "malformed"
    assert isinstance(receipt.error, MalformedError)
    async with pool.connection() as conn:
        kept = await conn.fetchrow("SELECT bytes, reason, details, snapshot_id FROM snapshot_quarantine")
        error = await conn.fetchrow("SELECT error_type, details, snapshot_id FROM etl_errors")
    assert kept is not None
    assert error is not None
    assert (kept["bytes"], kept["snapshot_id"]) == (data, None)
    assert f"byte {receipt.error.position}" in kept["reason"]
    assert (error["error_type"], error["details"]["position"]) == ("PARSE_ERROR", receipt.error.position)
    assert await count(pool, "hero_snapshots") == await count(pool, "queue_jobs") == 0


async def test_the_same_malformed_bytes_are_kept_once_and_recorded_each_time(pool: Pool) -> None:
    await offer(pool, b"{", b"{")
    assert await count(pool, "snapshot_quarantine") == 1
    assert await count(pool, "etl_errors") == 2


@covers("O-34", "F-46")
async def test_a_snapshot_above_the_size_guard_is_stored_and_held_without_a_job(pool: Pool) -> None:
    data = hero("A_1", Log="x" * 5_000_001)
    [receipt] = await offer(pool, data)
    assert receipt.fate == "oversized"
    async with pool.connection() as conn:
        row = await conn.fetchrow(
            "SELECT s.status, s.size_bytes, q.reason FROM hero_snapshots s"
            " JOIN snapshot_quarantine q ON q.snapshot_id = s.id"
        )
    assert row is not None
    assert (row["status"], row["size_bytes"]) == ("quarantined", len(data))
    assert "size guard of 5 MB" in row["reason"]
    assert await count(pool, "queue_jobs") == 0


@covers("F-20")
async def test_whose_a_document_above_the_size_guard_is_is_known_and_it_is_captured_again(pool: Pool) -> None:
    """A → B → A, of which A is held back: on release its job takes the latest capture."""
    large = hero("A_1", Log="x" * 5_000_001)
    [held] = await offer(pool, large)
    assert (await offer(pool, hero("A_1")))[0].fate == "accepted"
    [again] = await offer(pool, large)
    assert (again.fate, again.snapshot_id, again.job_id) == ("recaptured", held.snapshot_id, None)
    assert (await offer(pool, large))[0].fate == "duplicate"
    async with pool.connection() as conn:
        rows = await conn.fetch(
            "SELECT s.subject, s.status FROM snapshot_captures c"
            " JOIN hero_snapshots s ON s.id = c.snapshot_id"
            " ORDER BY c.captured_at, c.created_at"
        )
    assert [tuple(row) for row in rows] == [
        ("A_1", "quarantined"), ("A_1", "received"), ("A_1", "quarantined"),
    ]  # fmt: skip
    assert await count(pool, "queue_jobs") == 1


async def test_an_oversized_malformed_document_is_malformed(pool: Pool) -> None:
    [receipt] = await offer(pool, b'{"a": "' + b"x" * 5_000_001 + b'"')
    assert receipt.fate == "malformed"


@covers("F-29")
async def test_while_ingestion_is_paused_nothing_is_taken(pool: Pool) -> None:
    who: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}
    await perform(pool, "ingest pause", {"reason": "storm"}, **who)
    with pytest.raises(IngestPausedError, match="storm"):
        await offer(pool, hero("A_1"))
    assert await count(pool, "hero_snapshots") == 0
    await perform(pool, "ingest resume", {}, **who)
    assert (await offer(pool, hero("A_1")))[0].fate == "accepted"


def test_batches_stay_small_in_number_and_bytes() -> None:
    offers = [Offer(str(n), b"x" * 3_000_000) for n in range(5)] + [Offer(str(n), b"x") for n in range(120)]
    grouped = list(batches(offers))
    assert [offer for batch in grouped for offer in batch] == offers
    assert all(len(batch) <= 50 and sum(len(o.data) for o in batch) <= 8_000_000 for batch in grouped)


@covers("F-20")
async def test_the_database_allows_exactly_the_statuses_of_the_state_table(pool: Pool) -> None:
    import re

    async with pool.connection() as conn:
        text = await conn.fetchval(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'hero_snapshots_status'"
        )
    assert set(re.findall(r"'(\w+)'", text)) == set(SNAPSHOT.states)


@pytest.mark.shared
async def test_every_file_of_the_minefield_is_accepted_or_kept(pool: Pool, shared: Path) -> None:
    """y_* accepted, n_* kept in quarantine with position and reason, i_* either; no byte is lost."""
    receipts: list[Receipt] = []
    contents: dict[str, bytes] = {}
    for batch in batches(snapshots(shared / "data" / "malformed-json")):
        contents.update({o.name: o.data for o in batch})
        receipts += await receive(pool, batch, mapping=HERO, tenant="default")
    fates = {Path(r.name).name: r for r in receipts}
    assert len(fates) == 318
    for name, receipt in fates.items():
        if name.startswith("y_"):
            assert receipt.fate in ("accepted", "duplicate"), name
        elif name.startswith("n_"):
            assert receipt.fate == "malformed", name
            assert isinstance(receipt.error, MalformedError)
            assert 0 <= receipt.error.position <= receipt.size_bytes
            assert receipt.error.reason
        else:
            assert receipt.fate in ("accepted", "malformed"), name
    async with pool.connection() as conn:
        kept = {row[0] for row in await conn.fetch("SELECT bytes FROM snapshot_quarantine")}
        stored = {row[0].encode() for row in await conn.fetch("SELECT raw::text FROM hero_snapshots")}
    for receipt in receipts:
        assert contents[receipt.name] in (kept if receipt.fate == "malformed" else stored), receipt.name
