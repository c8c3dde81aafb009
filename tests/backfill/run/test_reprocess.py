"""Reprocess: what a changed mapping makes of stored snapshots is what it would have made of new ones."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from starforge.app import StarForge
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.scheme import SnapshotWindow
from starforge.backfill.scheme.snapshot_range import SnapshotRange
from starforge.backfill.scheme.window import Daily
from starforge.clock import FailpointError
from starforge.db.pool import Pool
from starforge.dev.seed import heroes
from starforge.etl.errors import UnknownSourceError
from starforge.etl.gears.limits import process_settings
from starforge.etl.ingest.offers import Offer
from starforge.etl.ingest.receive import receive
from starforge.etl.mapping import INTEGER, Column, Mapping, Mappings, Table
from starforge.etl.snapshot.quarantine import quarantine, release
from starforge.heroes.mapping import HERO
from starforge.queue.outcome import PermanentError
from starforge.reprocess import snapshot_range_handler, version_of
from tests.backfill.walking import a_backfill, an_attempt
from tests.covers import covers
from tests.etl.load.test_job import UNFINISHED, types
from tests.etl.load.test_process import MODES, captures, rows_of
from tests.stories.test_path_of_a_job import run_until

ALWAYS = (datetime(2001, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
LEVELS = "SELECT namecode, level FROM users ORDER BY namecode"
DAY = "2024-03-05"


def with_level() -> Mapping:
    """HERO, with a column more: the users' level."""
    users, *others = HERO.tables.values()
    more = replace(users, columns=[*users.columns, Column("level", "Level", INTEGER)])
    return hero_of([more, *others])


def hero_of(tables: list[Table]) -> Mapping:
    return Mapping(
        "hero",
        subject="users",
        root=["result.ProfileData", "ProfileData", "result", ""],
        captured_at=["result.ServerTime", "ServerTime"],
        captured_as=HERO._captured_as,
        ignored=["result.success", "success"],
        known=["KingdomLevels", "Progress"],
        tables=tables,
    )


def hero(name: str, at: datetime, **fields: Any) -> dict[str, Any]:
    own = {"NameCode": name, "Level": 1, "Troops": {"6024": {"Amount": 1}}, **fields}
    return {"result": {"ServerTime": int(at.timestamp() * 1000), "ProfileData": own}}


def on(day: int, hour: int = 12) -> datetime:
    return datetime(2024, 3, day, hour, tzinfo=UTC)


async def ingest(pool: Pool, *documents: Any, tenant: str = "default", by: Mapping = HERO) -> list[UUID]:
    """Take documents in and have them processed."""
    ids = []
    for document in documents:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        [receipt] = await receive(pool, [Offer("a", data)], mapping=by, tenant=tenant)
        if receipt.fate == "accepted" and receipt.snapshot_id is not None:
            ids.append(receipt.snapshot_id)
    await run_until(pool, types(by), UNFINISHED, 1, concurrency=1)
    return ids


async def add_level(pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute("ALTER TABLE users ADD COLUMN level integer")


async def levels(pool: Pool) -> dict[str, int | None]:
    async with pool.connection() as conn:
        return {row["namecode"]: row["level"] for row in await conn.fetch(LEVELS)}


async def reprocess(
    pool: Pool,
    backfill_id: UUID | None = None,
    *,
    by: str = "captured_at",
    between: tuple[datetime, datetime] = ALWAYS,
    mapping: Mapping | None = None,
    **how: Any,
) -> dict[str, int]:
    """Make one window in an attempt of its own; return what its attempts have done."""
    if backfill_id is None:
        async with pool.connection() as conn:
            backfill_id = await a_backfill(conn, DAY)
    window = SnapshotWindow(*between, "hero", by)
    ctx, partition = await an_attempt(pool, backfill_id, lambda _: window)
    await snapshot_range_handler(Mappings([mapping or with_level()]), **how)(partition, ctx)
    done: dict[str, int] = partition.cursor["done"]
    return done


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def choose(name: str) -> None:
        for variable, value in MODES[name].items():
            monkeypatch.setenv(variable, value)
        process_settings.cache_clear()

    yield choose
    process_settings.cache_clear()


# ---- the same rows


@pytest.mark.parametrize("way", list(MODES))
async def test_after_the_mapping_got_a_column_all_is_as_if_it_had_had_it_from_the_start(
    pool: Pool, mode: Callable[[str], None], way: str
) -> None:
    """Heroes with several captures, shared guilds, things that left and came back, in every gear."""
    mode(way)
    generated = [one.data for one in heroes(count=24, size_mb=(0.02, 0.03), seed=5)]
    timed = [data for data in generated if b'"ServerTime"' in data]  # others are of the time they came
    documents: list[Any] = [*timed, *captures()]
    assert len(timed) > 10
    await ingest(pool, *documents)
    await add_level(pool)
    done = await reprocess(pool)
    assert done["failed"] == 0
    await ingest(pool, *documents, tenant="fresh", by=with_level())
    async with pool.connection() as conn:
        assert done["processed"] == await conn.fetchval(
            "SELECT count(*) FROM snapshot_captures WHERE tenant_id = 'default'"
        )
        again, fresh = await rows_of(conn, "default"), await rows_of(conn, "fresh")
    assert again == fresh
    assert all(row["level"] is not None for row in again["users"])


@pytest.mark.shared
async def test_the_real_profile_gets_its_new_column_from_what_is_stored(pool: Pool, shared: Path) -> None:
    sample = (shared / "data" / "hero" / "sample.json").read_bytes()
    await ingest(pool, sample)
    await add_level(pool)
    assert list((await levels(pool)).values()) == [None]
    assert await reprocess(pool) == {"processed": 1, "failed": 0, "held": 0, "handed_on": 0}
    await ingest(pool, sample, tenant="fresh", by=with_level())
    async with pool.connection() as conn:
        again, fresh = await rows_of(conn, "default"), await rows_of(conn, "fresh")
    assert again == fresh
    assert [row["level"] for row in again["users"]] != [None]


async def test_what_a_later_capture_wrote_is_never_overwritten_by_an_older_one(pool: Pool) -> None:
    """The window holds only the older capture of B, and the newest of A."""
    await ingest(pool, hero("A", on(5), Level=7), hero("B", on(5), Level=3), hero("B", on(9), Level=4))
    await add_level(pool)
    window = SnapshotRange("hero", every=Daily("2024-03-01")).bounds(DAY)
    await reprocess(pool, between=(window.start, window.end))
    assert await levels(pool) == {"A": 7, "B": None}
    await ingest(pool, hero("B", on(10), Level=5), by=with_level())
    await reprocess(pool)
    assert await levels(pool) == {"A": 7, "B": 5}


async def test_a_window_ends_before_its_end_and_begins_with_its_start(pool: Pool) -> None:
    midnight, next_midnight = on(5, 0), on(6, 0)
    await ingest(pool, hero("A", midnight), hero("B", next_midnight), hero("C", on(4)))
    await add_level(pool)
    done = await reprocess(pool, between=(midnight, next_midnight))
    assert done["processed"] == 1
    assert await levels(pool) == {"A": 1, "B": None, "C": None}


async def test_by_created_at_a_window_holds_what_was_stored_in_it(pool: Pool) -> None:
    await ingest(pool, hero("A", on(5)), hero("B", on(6)))
    async with pool.connection() as conn:
        await conn.execute("UPDATE hero_snapshots SET created_at = $1 WHERE subject = 'A'", on(20))
    await add_level(pool)
    await reprocess(pool, by="created_at", between=(on(20, 0), on(21, 0)))
    assert await levels(pool) == {"A": 1, "B": None}


async def test_other_tenants_and_other_sources_are_left_alone(pool: Pool) -> None:
    await ingest(pool, hero("A", on(5)))
    await ingest(pool, hero("B", on(5)), tenant="other")
    await add_level(pool)
    assert (await reprocess(pool))["processed"] == 1
    assert await levels(pool) == {"A": 1, "B": None}


@pytest.mark.parametrize("way", ["apart", "in pieces"])
async def test_what_an_unfinished_attempt_wrote_by_the_old_mapping_is_written_by_the_new_one(
    pool: Pool, mode: Callable[[str], None], way: str
) -> None:
    mode(way)
    [snapshot_id] = await ingest(pool, hero("A", on(5), Level=9))
    async with pool.connection() as conn:
        await conn.execute("UPDATE hero_snapshots SET status = 'failed' WHERE id = $1", snapshot_id)
    await add_level(pool)
    await reprocess(pool)
    assert await levels(pool) == {"A": 9}


# ---- failures


async def spoil(pool: Pool, *ids: UUID) -> None:
    """Make stored documents such that no mapping takes them."""
    async with pool.connection() as conn:
        await conn.execute("UPDATE hero_snapshots SET raw = '{\"Level\": 1}' WHERE id = ANY ($1)", list(ids))


async def test_a_snapshot_that_fails_is_noted_as_a_new_one_and_the_window_goes_on(pool: Pool) -> None:
    ids = await ingest(pool, *(hero(f"H{n}", on(5, n)) for n in range(12)))
    await spoil(pool, ids[3])
    await add_level(pool)
    done = await reprocess(pool, failed_share_max=0.1)
    assert (done["processed"], done["failed"]) == (11, 1)
    async with pool.connection() as conn:
        error = await conn.fetchrow("SELECT snapshot_id, error_type, source FROM etl_errors")
        status = await conn.fetchval("SELECT status FROM hero_snapshots WHERE id = $1", ids[3])
    assert error is not None
    assert tuple(error) == (ids[3], "MAPPING_ERROR", "hero")
    assert status == "failed"
    assert list((await levels(pool)).values()).count(None) == 1


async def test_a_window_of_which_too_many_fail_fails_and_is_begun_anew_when_it_is_retried(pool: Pool) -> None:
    ids = await ingest(pool, *(hero(f"H{n}", on(5, n)) for n in range(10)))
    await add_level(pool)
    async with pool.connection() as conn:
        backfill_id = await a_backfill(conn, DAY)
        raw = await conn.fetchval("SELECT raw::text FROM hero_snapshots WHERE id = $1", ids[0])
    await spoil(pool, ids[0])
    with pytest.raises(PermanentError, match=r"1 of 10 snapshots of hero failed in window 2024-03-05"):
        await reprocess(pool, backfill_id)
    async with pool.connection() as conn:
        await conn.execute("UPDATE hero_snapshots SET raw = $2::text::json WHERE id = $1", ids[0], raw)
    assert await reprocess(pool, backfill_id) == {"processed": 10, "failed": 0, "held": 0, "handed_on": 0}
    assert None not in (await levels(pool)).values()


async def test_a_mapping_that_takes_nothing_is_found_out_before_the_whole_window_has_failed(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starforge.reprocess.PAGE", 5)
    monkeypatch.setattr("starforge.reprocess.JUDGED_LEAST", 10)
    ids = await ingest(pool, *(hero(f"H{n}", on(5, n)) for n in range(23)))
    await spoil(pool, *ids)
    await add_level(pool)
    with pytest.raises(PermanentError, match="10 of 10 snapshots"):
        await reprocess(pool)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM hero_snapshots WHERE status = 'processed'") == 13


async def test_a_source_without_a_mapping_fails_the_attempt_and_no_snapshot(pool: Pool) -> None:
    await ingest(pool, hero("A", on(5)))
    with pytest.raises(UnknownSourceError):
        await reprocess(pool, mapping=Mapping("shop", subject="users", tables=list(HERO.tables.values())))
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM etl_errors") == 0


async def test_a_column_that_is_not_there_yet_fails_the_attempt_and_no_snapshot(pool: Pool) -> None:
    """The mapping was deployed before its migration."""
    await ingest(pool, hero("A", on(5)))
    with pytest.raises(Exception, match="level"):
        await reprocess(pool)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM etl_errors") == 0
        assert await conn.fetchval("SELECT status FROM hero_snapshots") == "processed"


# ---- who may process what


async def test_held_snapshots_are_left_and_those_for_high_memory_are_handed_on(pool: Pool) -> None:
    ids = await ingest(pool, *(hero(name, on(5)) for name in "ABC"))
    async with pool.transaction(tenant="default") as conn:
        await quarantine(conn, ids[0], tenant="default", reason="bad", who="ann")
        await quarantine(conn, ids[1], tenant="default", reason="large", who="ann")
        await release(conn, ids[1], "highmem", tenant="default", reason="large", who="ann")
        await conn.execute("DELETE FROM queue_jobs")
    await add_level(pool)
    assert await reprocess(pool) == {"processed": 1, "failed": 0, "held": 1, "handed_on": 1}
    assert await levels(pool) == {"A": None, "B": None, "C": 1}
    async with pool.connection() as conn:
        [job] = await conn.fetch("SELECT type, payload FROM queue_jobs")
    assert job["type"] == "process_snapshot_highmem"
    assert job["payload"]["snapshot_id"] == str(ids[1])


# ---- attempts that end early


async def test_a_window_that_was_left_in_the_middle_is_gone_on_with(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done before the last note of it is not done again; all is done in the end."""
    monkeypatch.setattr("starforge.reprocess.PAGE", 4)
    await ingest(pool, *(hero(f"H{n:02d}", on(5, n), Level=n) for n in range(12)))
    await add_level(pool)
    async with pool.connection() as conn:
        backfill_id = await a_backfill(conn, DAY)
    passed: list[str] = []

    def at(name: str) -> None:
        passed.append(name)
        if passed.count("reprocess_before_commit") == 2 and name == "reprocess_before_commit":
            raise FailpointError(name)

    monkeypatch.setattr("starforge.reprocess.failpoint", at)
    with pytest.raises(FailpointError):
        await reprocess(pool, backfill_id)
    async with pool.connection() as conn:
        kept = await conn.fetchval("SELECT cursor FROM backfill_partitions")
    assert kept["done"]["processed"] == 4
    assert (await reprocess(pool, backfill_id))["processed"] == 12
    assert await levels(pool) == {f"H{n:02d}": n for n in range(12)}


async def test_a_database_that_goes_away_ends_the_attempt_and_blames_no_snapshot(pool: Pool) -> None:
    await ingest(pool, *(hero(f"H{n}", on(5, n)) for n in range(8)))
    await add_level(pool)
    async with pool.connection() as conn:
        backfill_id = await a_backfill(conn, DAY)
        await conn.execute(
            "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"
        )
        await conn.execute("CREATE TRIGGER cut BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION cut()")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await reprocess(pool, backfill_id)
    async with pool.connection() as conn:
        await conn.execute("DROP TRIGGER cut ON users")
        assert await conn.fetchval("SELECT count(*) FROM etl_errors") == 0
    assert (await reprocess(pool, backfill_id))["processed"] == 8


@covers("B-24")
async def test_an_attempt_that_another_has_followed_keeps_nothing(pool: Pool) -> None:
    await ingest(pool, hero("A", on(5)))
    await add_level(pool)
    async with pool.connection() as conn:
        backfill_id = await a_backfill(conn, DAY)
    window = SnapshotWindow(*ALWAYS, "hero", "captured_at")
    ctx, stale = await an_attempt(pool, backfill_id, lambda _: window)
    assert isinstance(stale, Partition)
    await reprocess(pool, backfill_id)
    with pytest.raises(Exception, match="another one followed it"):
        await snapshot_range_handler(Mappings([with_level()]))(stale, ctx)


# ---- the asset


def test_an_asset_of_snapshots_needs_no_function_and_its_version_is_that_of_the_mapping() -> None:
    app = StarForge("again")
    declared = app.asset("heroes_again", partitions=SnapshotRange("hero", every=Daily("2024-01-01")))
    assert app.assets.get("heroes_again") is declared
    assert (declared.job_type, declared.version) == ("backfill_range", version_of(HERO))
    assert "backfill_range" in app.job_types().names()
    with pytest.raises(UnknownSourceError):
        app.asset("shops", partitions=SnapshotRange("shop", every=Daily("2024-01-01")))


async def test_a_mappings_version_is_the_same_in_every_process_and_another_with_another_column() -> None:
    told = "from starforge.reprocess import version_of; from starforge.heroes.mapping import HERO"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"{told}; print(version_of(HERO))", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == version_of(HERO)
    same = hero_of(list(HERO.tables.values()))
    assert version_of(same) == version_of(HERO) != version_of(with_level())
