"""Documents above the inline limit: kept in the object store, named by a row, or refused; never half."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import random
from collections.abc import AsyncIterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard

from starforge.app import load
from starforge.clock import FailpointError, Failpoints
from starforge.db.pool import Pool
from starforge.etl.document import guard
from starforge.etl.errors import (
    DocumentTimeoutError,
    IngestPausedError,
    MalformedError,
    SourcePausedError,
    StoreRefusedError,
    TooLargeError,
    UnreadableError,
)
from starforge.etl.ingest.large import take_large
from starforge.etl.ingest.offers import snapshots
from starforge.etl.ingest.receive import Receipt
from starforge.etl.mapping import Mapping
from starforge.etl.retention.sweep import sweep_objects
from starforge.etl.store.local import LocalStore
from starforge.etl.store.raw import open_raw
from starforge.heroes.mapping import HERO
from tests.covers import covers

INLINE, HARD = 10_000, 400_000


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An inline limit of 10 000 bytes, and a hard one of 400 000."""
    monkeypatch.setenv("STARFORGE_SNAPSHOT_INLINE_MAX_MB", "0.01")
    monkeypatch.setenv("STARFORGE_SNAPSHOT_SIZE_HARD_MB", "0.4")
    monkeypatch.setenv("STARFORGE_SNAPSHOT_SIZE_MAX_MB", "0.005")
    guard.guard_settings.cache_clear()
    yield
    guard.guard_settings.cache_clear()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "objects")


def document(seed: int = 1, size: int = 60_000) -> bytes:
    noise = random.Random(seed).randbytes(size // 2).hex()
    return json.dumps({"result": {"ProfileData": {"NameCode": f"A_{seed}", "é": noise}}}, indent=1).encode()


async def offered(
    pool: Pool, store: LocalStore, data: bytes, name: str = "a.json", mapping: Mapping = HERO
) -> Receipt:
    path = store.folder.parent / name
    path.write_bytes(data)
    [offer] = snapshots(path)
    return await take_large(pool, offer, mapping=mapping, tenant="default", store=store)


async def rows(pool: Pool, table: str) -> list[dict[str, Any]]:
    async with pool.connection() as conn:
        return [dict(row) for row in await conn.fetch(f"SELECT * FROM {table}")]


async def objects(store: LocalStore) -> list[str]:
    return [head.key async for page in store.list() for head in page]


@covers("F-46", "O-34")
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
async def test_a_large_document_is_stored_held_and_read_back(
    pool: Pool, store: LocalStore, pack: Any
) -> None:
    """Plain, gzip or zstd: its bytes are those of the document."""
    data = document()
    receipt = await offered(pool, store, pack(data))
    assert (receipt.fate, receipt.size_bytes, receipt.job_id) == ("oversized", len(data), None)
    [row], [held], [capture] = [
        await rows(pool, name) for name in ("hero_snapshots", "snapshot_quarantine", "snapshot_captures")
    ]
    assert (row["raw"], row["size_bytes"], row["status"]) == (None, len(data), "quarantined")
    assert row["sha256"] == hashlib.sha256(data).digest()
    assert [row["raw_key"]] == await objects(store)
    assert held["snapshot_id"] == capture["snapshot_id"] == row["id"] == receipt.snapshot_id
    assert held["cause"] == "size"
    assert held["reason"] == "0.1 MB is above the size guard of 0.005 MB"
    assert capture["captured_at"] == row["captured_at"]
    got = [chunk async for chunk in open_raw(pool, row["id"], tenant="default", store=store)]
    assert b"".join(got) == data
    assert await rows(pool, "queue_jobs") == await rows(pool, "etl_errors") == []


async def test_the_same_content_twice_is_one_snapshot_and_one_object(pool: Pool, store: LocalStore) -> None:
    """Also when both come at once, and packed another way."""
    first, second = await asyncio.gather(
        offered(pool, store, document(), "a.json"), offered(pool, store, gzip.compress(document()), "b.json")
    )
    assert sorted([first.fate, second.fate]) == ["duplicate", "oversized"]
    assert first.snapshot_id == second.snapshot_id
    [row] = await rows(pool, "hero_snapshots")
    assert await objects(store) == [row["raw_key"]]
    assert (await offered(pool, store, document(2))).fate == "oversized"
    assert len(await objects(store)) == 2


async def test_one_that_had_failed_is_tried_anew_where_there_is_memory(pool: Pool, store: LocalStore) -> None:
    first = await offered(pool, store, document())
    async with pool.connection() as conn:
        await conn.execute("UPDATE hero_snapshots SET status = 'failed'")
    again = await offered(pool, store, document())
    assert (again.fate, again.snapshot_id) == ("retried", first.snapshot_id)
    [job] = await rows(pool, "queue_jobs")
    assert (job["id"], job["type"]) == (again.job_id, "process_snapshot_highmem")
    assert len(await objects(store)) == 1


def state(number: int, *, of: str = "A_1", at: str | None = None) -> bytes:
    """Return a state of a subject, told behind all the rest; perhaps with its time."""
    noise = random.Random(number).randbytes(20_000).hex()
    time = {} if at is None else {"CapturedAt": at}
    return json.dumps({"noise": {"NameCode": "no", "x": noise}, "NameCode": of, **time}).encode()


TIMED = Mapping("hero", subject="users", captured_at=["CapturedAt"], tables=list(HERO.tables.values()))


@covers("F-20")
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
async def test_whose_state_a_large_document_is_and_when_it_was_are_found_at_the_door(
    pool: Pool, store: LocalStore, pack: Any
) -> None:
    receipt = await offered(pool, store, pack(state(1, at="2026-01-31T12:00:00Z")), mapping=TIMED)
    [row], [capture] = await rows(pool, "hero_snapshots"), await rows(pool, "snapshot_captures")
    assert (row["id"], row["subject"], capture["subject"]) == (receipt.snapshot_id, "A_1", "A_1")
    assert row["captured_at"] == capture["captured_at"] == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert row["size_bytes"] == len(state(1, at="2026-01-31T12:00:00Z"))


async def test_a_large_document_that_does_not_say_whose_it_is_is_stored_all_the_same(
    pool: Pool, store: LocalStore
) -> None:
    for data in (state(1).replace(b'"NameCode": "A_1"', b'"NameCode": 5'), b"[" + b"1," * 10_000 + b"1]"):
        assert (await offered(pool, store, data)).fate == "oversized"
    assert {row["subject"] for row in await rows(pool, "hero_snapshots")} == {None}


async def test_of_a_bundle_it_is_found_among_the_items(pool: Pool, store: LocalStore) -> None:
    fhir = load("examples.fhir.app:app").mappings.get("fhir")
    noise = random.Random(1).randbytes(20_000).hex()
    items = [
        {"resource": {"resourceType": "Other", "id": str(n), "text": noise[n : n + 200]}} for n in range(200)
    ]
    items.append({"resource": {"resourceType": "Patient", "id": "p-1"}})
    bundle = json.dumps({"resourceType": "Bundle", "entry": items}).encode()
    await offered(pool, store, bundle, mapping=fhir)
    assert [row["subject"] for row in await rows(pool, "hero_snapshots")] == ["p-1"]


@covers("F-20")
async def test_large_content_offered_again_after_another_of_its_subject_is_a_new_capture(
    pool: Pool, store: LocalStore
) -> None:
    """A → B → A, of documents that were processed; the object is there once."""
    first, second = await offered(pool, store, state(1)), await offered(pool, store, state(2))
    await offered(pool, store, state(3, of="B_2"))
    async with pool.connection() as conn:
        await conn.execute("UPDATE snapshot_quarantine SET released_at = sf_now()")
        await conn.execute("UPDATE hero_snapshots SET status = 'processed'")
    assert (await offered(pool, store, state(2))).fate == "duplicate"
    again = await offered(pool, store, state(1))
    assert (again.fate, again.snapshot_id) == ("recaptured", first.snapshot_id)
    [job] = await rows(pool, "queue_jobs")
    assert (job["id"], job["type"]) == (again.job_id, "process_snapshot_highmem")
    captures = sorted(await rows(pool, "snapshot_captures"), key=lambda one: one["captured_at"])
    assert [one["snapshot_id"] for one in captures if one["subject"] == "A_1"] == [
        first.snapshot_id, second.snapshot_id, first.snapshot_id,
    ]  # fmt: skip
    assert job["payload"]["capture_id"] == str(captures[-1]["id"])
    assert (await offered(pool, store, state(1))).fate == "duplicate"
    assert len(await objects(store)) == 3


@covers("F-20")
async def test_while_it_is_held_a_large_document_is_captured_again_and_has_no_job(
    pool: Pool, store: LocalStore
) -> None:
    """On release its job takes the latest capture."""
    first = await offered(pool, store, state(1))
    await offered(pool, store, state(2))
    again = await offered(pool, store, state(1))
    assert (again.fate, again.snapshot_id, again.job_id) == ("recaptured", first.snapshot_id, None)
    assert await rows(pool, "queue_jobs") == []
    assert {row["status"] for row in await rows(pool, "hero_snapshots")} == {"quarantined"}
    latest = max(await rows(pool, "snapshot_captures"), key=lambda one: one["captured_at"])
    assert latest["snapshot_id"] == first.snapshot_id


@covers("O-26")
@pytest.mark.parametrize(
    ("data", "before", "reason"),
    [
        (document()[:-1], document()[:-1], "the document ends too early"),
        (document().replace(b'"result"', b'"res\x01lt"'), b'{\n "res', "control character 0x01"),
        (document().replace(b'Code":', b'Code",'), b'Code"', "object key and value must be separated"),
        (b"[" * 20_000, b"[" * 512, "nested deeper than 512 levels"),
        (document() + b" x", document() + b" ", "trailing garbage"),
        (b"[" + b"1 ," * 6000 + b"\xff]", b"1 ," * 6000, "not UTF-8"),
        (b"{" + b"\n" * 11_000 + b'"a":[1,2 3]}', b'"a":[1,2 ', "after array element"),
    ],
)  # fmt: skip
async def test_what_is_malformed_is_kept_as_an_object_that_quarantine_names(
    pool: Pool, store: LocalStore, data: bytes, before: bytes, reason: str
) -> None:
    """With the position of the byte at fault; the same bytes are kept once."""
    receipt = await offered(pool, store, data)
    assert receipt.fate == "malformed"
    error = receipt.error
    assert isinstance(error, MalformedError)
    assert reason in error.reason
    found = MalformedError.at(data, data.index(before) + len(before), error.reason)
    assert str(error) == str(found)
    assert (await offered(pool, store, data)).fate == "malformed"
    [row] = await rows(pool, "snapshot_quarantine")
    assert (row["snapshot_id"], row["bytes"], row["name"]) == (None, None, receipt.name)
    assert row["cause"] == "malformed"
    assert (row["size_bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).digest())
    assert await objects(store) == [row["raw_key"]]
    assert (store.folder / row["raw_key"]).read_bytes() == data
    assert [one["error_type"] for one in await rows(pool, "etl_errors")] == ["PARSE_ERROR"] * 2
    assert await rows(pool, "hero_snapshots") == []


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
async def test_a_broken_packing_is_malformed_and_the_file_is_kept_as_it_is(
    pool: Pool, store: LocalStore, pack: Any
) -> None:
    """Truncated; a zstd frame that does not end is noticed too."""
    data = pack(document())[:-5]
    assert len(data) > INLINE
    receipt = await offered(pool, store, data)
    assert isinstance(receipt.error, MalformedError)
    assert "stream is truncated" in receipt.error.reason
    assert receipt.error.position == len(data)
    [row] = await rows(pool, "snapshot_quarantine")
    assert (store.folder / row["raw_key"]).read_bytes() == data
    assert len(await objects(store)) == 1


async def test_what_is_above_the_hard_limit_is_refused_and_not_kept(pool: Pool, store: LocalStore) -> None:
    """Of a bomb the few bytes that it is are kept."""
    receipt = await offered(pool, store, document(size=HARD + 10))
    assert receipt.fate == "unreadable"
    assert isinstance(receipt.error, TooLargeError)
    assert str(receipt.error).endswith(f"a.json is larger than {HARD} bytes")
    assert await rows(pool, "snapshot_quarantine") == []
    bomb = gzip.compress(b" " * (HARD + 1))
    assert (await offered(pool, store, bomb)).fate == "malformed"
    [row] = await rows(pool, "snapshot_quarantine")
    assert row["bytes"] == bomb
    assert await objects(store) == []
    assert await rows(pool, "hero_snapshots") == []


async def test_a_document_that_takes_too_long_is_refused_as_a_timeout(
    pool: Pool, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not malformed, and nothing of it is kept."""
    monkeypatch.setenv("STARFORGE_JSON_TIME_MAX_S", "1e-9")
    guard.guard_settings.cache_clear()
    receipt = await offered(pool, store, document())
    assert receipt.fate == "unreadable"
    assert isinstance(receipt.error, DocumentTimeoutError)
    assert [one["error_type"] for one in await rows(pool, "etl_errors")] == ["TIMEOUT"]
    assert await objects(store) == []


async def test_a_large_document_comes_from_standard_input_too(pool: Pool, store: LocalStore) -> None:
    data = document()
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    with os.fdopen(read, "rb") as stdin:
        [offer] = snapshots("-", stdin=stdin)
    receipt = await take_large(pool, offer, mapping=HERO, tenant="default", store=store)
    assert (receipt.name, receipt.fate, receipt.size_bytes) == ("-", "oversized", len(data))
    packed: io.BufferedReader = io.BufferedReader(io.BytesIO(gzip.compress(data)))
    [offer] = snapshots("-", stdin=packed)
    receipt = await take_large(pool, offer, mapping=HERO, tenant="default", store=store)
    assert receipt.fate == "duplicate"


async def test_a_file_that_is_gone_meanwhile_is_unreadable(pool: Pool, store: LocalStore) -> None:
    path = store.folder.parent / "a.json"
    path.write_bytes(document())
    [offer] = snapshots(path)
    path.unlink()
    receipt = await take_large(pool, offer, mapping=HERO, tenant="default", store=store)
    assert isinstance(receipt.error, UnreadableError)
    assert await objects(store) == []


async def test_nothing_is_taken_while_ingestion_is_paused(pool: Pool, store: LocalStore) -> None:
    async with pool.connection() as conn:
        await conn.execute("UPDATE feature_flags SET data = data || '{\"ingest_paused\": true}'")
        assert await conn.fetchval("SELECT count(*) FROM feature_flags") == 1
    with pytest.raises(IngestPausedError):
        await offered(pool, store, document())
    assert await objects(store) == []


@covers("F-37")
async def test_nothing_is_taken_of_a_source_that_is_paused_also_while_it_is_read(
    pool: Pool, store: LocalStore
) -> None:

    class Meanwhile(LocalStore):
        async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
            size = await super().put(key, chunks)
            async with pool.connection() as conn:
                await conn.execute('UPDATE feature_flags SET data = \'{"sources": {"hero": true}}\'')
            return size

    for _ in range(2):
        with pytest.raises(SourcePausedError, match="'hero'"):
            await offered(pool, Meanwhile(store.folder), document())
    assert await objects(store) == []


async def test_a_store_that_refuses_leaves_nothing(
    pool: Pool, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the object is gone before it has its row."""
    store.folder.write_text("a file where the folder should be")
    with pytest.raises(Exception, match="objects"):
        await offered(pool, store, document())
    store.folder.unlink()
    monkeypatch.setattr(LocalStore, "put", _forgetful)
    with pytest.raises(Exception, match="has lost raw/default/"):
        await offered(pool, store, document())
    assert await rows(pool, "hero_snapshots") == await rows(pool, "snapshot_quarantine") == []


async def _forgetful(_self: LocalStore, _key: str, chunks: Any) -> int:
    return sum([len(chunk) async for chunk in chunks])


@pytest.mark.parametrize("data", [document(), document()[:-1]])
@pytest.mark.parametrize(
    "point", ["store_put_chunk", "store_put_rename", "large_before_row", "large_before_commit"]
)
async def test_dying_anywhere_leaves_no_row_without_its_object_and_the_sweep_takes_the_rest(
    pool: Pool, store: LocalStore, point: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that dies here deletes nothing itself."""
    monkeypatch.setattr("starforge.clock.failpoints", lambda: Failpoints(f"{point}:raise"))
    monkeypatch.setattr(LocalStore, "delete", _dead)
    with pytest.raises((FailpointError, StoreRefusedError)):
        await offered(pool, store, data)
    monkeypatch.undo()
    assert await rows(pool, "hero_snapshots") == await rows(pool, "snapshot_quarantine") == []
    async with pool.connection() as conn:
        left = await objects(store)
        assert (await sweep_objects(conn, store)).objects == 0  # young: somebody may be at work
        assert (await sweep_objects(conn, store, age_s=0, dry_run=True)).sample == left
        assert await objects(store) == left
        assert (await sweep_objects(conn, store, age_s=0)).objects == len(left)
    assert await objects(store) == []
    receipt = await offered(pool, store, data)
    async with pool.connection() as conn:
        assert (await sweep_objects(conn, store, age_s=0)).objects == 0
    assert receipt.fate in ("oversized", "malformed")
    assert len(await objects(store)) == 1


async def _dead(_self: LocalStore, _key: str) -> None:
    raise StoreRefusedError("dead")
