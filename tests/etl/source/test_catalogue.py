"""Catalogues: what becomes of a document that refers to an entry which is not there, and when it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from starforge.db.pool import Connection, Pool
from starforge.etl.errors import CatalogueGapError, NoCatalogueError
from starforge.etl.gears.limits import ProcessSettings
from starforge.etl.load import job as load_job
from starforge.etl.mapping import ID, INTEGER, Catalogue, Column, Each, Mapping, Ref, Table, text
from starforge.etl.snapshot.hold import held_for
from starforge.etl.snapshot.quarantine import resume_released
from starforge.etl.source.catalogue import missing, placeholders, seed, settle
from starforge.etl.source.fit import report
from starforge.heroes.mapping import HERO
from starforge.ops.perform import perform
from tests.covers import covers
from tests.etl.load.test_job import ERRORS, UNFINISHED, again, offer, one, snapshot_of, types
from tests.postgres import TestServer
from tests.stories.test_path_of_a_job import run_until

WHO: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}


def referring(name: str, missing: Any) -> Mapping:
    troop = Column(
        "troop_id", ID, INTEGER, catalogue=Catalogue("troop_catalog", missing=missing, owner="data")
    )
    columns: list[Column | Ref] = [Ref("user_id", "users", "/NameCode"), troop]
    users = Table(
        "users", key=("tenant_id", "namecode"), columns=[Column("namecode", "NameCode", text(1, 64))]
    )
    troops = Table("user_troops", rows=Each("Troops"), key=("user_id", "troop_id"), columns=columns)
    return Mapping(name, subject="users", tables=[users, troops])


WAITING = referring("waiting", "hold")
FAILING = referring("failing", "fail")

HELD = "SELECT count(*) FROM queue_jobs WHERE status = 'quarantined'"
DONE = "SELECT count(*) FROM job_history WHERE status = 'completed'"


async def held(pool: Pool, **fields: Any) -> Any:
    """Offer a snapshot that refers to a troop which the catalogue lacks, and have it end as held."""
    snapshot_id = await offer(pool, WAITING, **fields)
    await run_until(pool, types(WAITING), HELD, 1)
    return snapshot_id


@covers("F-41", "F-43")
async def test_a_placeholder_is_registered_with_the_first_snapshot_that_needed_it(pool: Pool) -> None:
    first = await offer(pool)
    await run_until(pool, types(), DONE, 1)
    await offer(pool, name="B_2")
    await run_until(pool, types(), DONE, 2)
    row = await one(pool, "SELECT * FROM catalogue_placeholders")
    assert (row["catalogue"], row["key_column"], row["id"]) == ("troop_catalog", "id", "6024")
    assert (row["source"], row["snapshot_id"]) == ("hero", first)
    assert row["resolved_at"] is None


@covers("F-42")
async def test_a_document_waits_for_the_entry_that_its_catalogue_lacks_and_burns_no_attempt(
    pool: Pool,
) -> None:
    snapshot_id = await held(pool)
    row = await snapshot_of(pool, snapshot_id)
    assert (row["status"], row["processing"], row["error_count"]) == ("quarantined", False, 0)
    job = await one(pool, "SELECT attempts, last_error FROM queue_jobs")
    assert job["attempts"] == 0
    assert job["last_error"]["reason"] == (
        f"snapshot {snapshot_id} is quarantined: troop_catalog lacks what it refers to: 6024; ask data"
    )
    assert await one(pool, "SELECT count(*) FROM users") == {"count": 0}
    assert await one(pool, "SELECT count(*) FROM etl_errors") == {"count": 0}
    async with pool.connection() as conn:
        [hold] = await held_for(conn, "troop_catalog")
        assert (hold.snapshot_id, hold.missing, hold.owner) == (snapshot_id, ["6024"], "data")
        assert await settle(conn) == ([], 0)


@covers("F-42")
async def test_an_entry_that_comes_by_hand_lets_the_document_go_on(pool: Pool) -> None:
    snapshot_id = await held(pool)
    async with pool.connection() as conn:
        await conn.execute("INSERT INTO troop_catalog (id, name) VALUES (6024, 'Sol')")
        assert await settle(conn) == ([], 1)
        assert await settle(conn) == ([], 0)
    await run_until(pool, types(WAITING), DONE, 1)
    assert (await snapshot_of(pool, snapshot_id))["status"] == "processed"
    assert await one(pool, "SELECT count(*) FROM user_troops") == {"count": 1}
    assert (await one(pool, "SELECT released_by FROM snapshot_quarantine"))["released_by"] == (
        "catalogue troop_catalog"
    )


@covers("F-42")
async def test_what_something_else_holds_too_goes_on_when_that_is_released(pool: Pool) -> None:
    snapshot_id = await held(pool)
    named = {"snapshot_id": str(snapshot_id), "reason": "it kills workers"}
    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO snapshot_quarantine (snapshot_id, reason) VALUES ($1, 'by hand')", snapshot_id
        )
        await conn.execute("INSERT INTO troop_catalog (id) VALUES (6024)")
        assert await settle(conn) == ([], 1)
        assert await conn.fetchval("SELECT status FROM queue_jobs") == "quarantined"
    await perform(pool, "snapshot release", named, **WHO)
    await run_until(pool, types(WAITING), DONE, 1)
    assert (await snapshot_of(pool, snapshot_id))["status"] == "processed"


@covers("F-42")
async def test_of_several_jobs_of_a_held_snapshot_one_waits_when_its_entry_came(pool: Pool) -> None:
    snapshot_id = await held(pool)
    await again(pool, snapshot_id)
    async with pool.connection() as conn:
        await conn.execute("INSERT INTO troop_catalog (id) VALUES (6024)")
        assert await settle(conn) == ([], 1)
        assert await conn.fetchval("SELECT array_agg(status) FROM queue_jobs") == ["pending"]
        assert await conn.fetchval("SELECT array_agg(status) FROM job_history") == ["cancelled"]


@covers("F-42")
async def test_an_entry_that_comes_while_the_job_is_still_ending_is_not_missed(pool: Pool) -> None:
    """The hold is written before the worker says that the job is quarantined."""
    snapshot_id = await held(pool)
    async with pool.connection() as conn:
        await conn.execute("UPDATE queue_jobs SET status = 'running', worker_id = gen_random_uuid()")
        await conn.execute("INSERT INTO troop_catalog (id) VALUES (6024)")
        assert await settle(conn) == ([], 1)
        await conn.execute("UPDATE queue_jobs SET status = 'quarantined', worker_id = NULL")
        assert await resume_released(conn) == 1
        assert await conn.fetchval("SELECT status FROM queue_jobs") == "pending"
    assert (await snapshot_of(pool, snapshot_id))["status"] == "received"


@covers("F-42")
async def test_a_held_document_whose_job_was_cancelled_gets_another(pool: Pool) -> None:
    await held(pool)
    async with pool.connection() as conn:
        await conn.execute("DELETE FROM queue_jobs")
        await conn.execute("INSERT INTO troop_catalog (id) VALUES (6024)")
        assert await settle(conn) == ([], 1)
    await run_until(pool, types(WAITING), DONE, 1)


@covers("F-42")
async def test_a_large_document_waits_too_and_goes_on_where_it_stopped(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entities have a transaction each: those without a gap are written meanwhile."""
    apart = ProcessSettings.read().model_copy(update={"together_max_mb": 0.0})
    monkeypatch.setattr(load_job, "process_settings", lambda: apart)
    snapshot_id = await held(pool)
    assert await one(pool, "SELECT attempts FROM queue_jobs") == {"attempts": 0}
    assert await one(pool, "SELECT count(*) FROM users") == {"count": 1}
    assert await one(pool, "SELECT count(*) FROM etl_errors") == {"count": 0}
    async with pool.connection() as conn:
        await conn.execute("INSERT INTO troop_catalog (id) VALUES (6024)")
        assert await settle(conn) == ([], 1)
    await run_until(pool, types(WAITING), DONE, 1)
    assert (await snapshot_of(pool, snapshot_id))["rows_written"] == 2
    assert await one(pool, "SELECT count(*) FROM user_troops") == {"count": 1}


@covers("F-41")
async def test_a_large_document_registers_its_placeholders(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = ProcessSettings.read().model_copy(update={"together_max_mb": 0.0})
    monkeypatch.setattr(load_job, "process_settings", lambda: apart)
    snapshot_id = await offer(pool)
    await run_until(pool, types(), DONE, 1)
    row = await one(pool, "SELECT id, snapshot_id FROM catalogue_placeholders")
    assert row == {"id": "6024", "snapshot_id": snapshot_id}


async def test_only_what_lacks_an_entry_waits_and_the_rest_goes_on(pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute("INSERT INTO troop_catalog (id) VALUES (1)")
    await offer(pool, WAITING, name="A_1")
    other = await offer(pool, WAITING, name="B_2", Troops={"1": {}})
    await run_until(pool, types(WAITING), HELD, 1)
    await run_until(pool, types(WAITING), DONE, 1)
    assert (await snapshot_of(pool, other))["status"] == "processed"


@covers("F-42")
async def test_a_release_by_hand_tries_what_still_lacks_its_entry_and_holds_it_again(pool: Pool) -> None:
    await held(pool)
    result = await perform(pool, "catalog release", {"catalog": "troop_catalog", "reason": "checked"}, **WHO)
    assert (result.matched, result.changed) == (1, 1)
    assert await one(pool, "SELECT status FROM queue_jobs") == {"status": "pending"}
    await run_until(pool, types(WAITING), HELD, 1)
    async with pool.connection() as conn:
        assert len(await held_for(conn, "troop_catalog")) == 1


@covers("F-21")
async def test_a_reference_whose_policy_is_to_fail_fails_by_its_foreign_key(pool: Pool) -> None:
    await offer(pool, FAILING)
    await run_until(pool, types(FAILING), "SELECT count(*) FROM etl_errors", 1)
    assert (await one(pool, "SELECT error_type FROM etl_errors"))["error_type"] == "FK_VIOLATION"


# ---- seeding


@covers("F-43", "F-67")
async def test_a_seed_resolves_placeholders_and_lets_what_waited_go_on(pool: Pool) -> None:
    await offer(pool, name="B_2", Troops={"7": {}})
    await run_until(pool, types(), DONE, 1)
    await held(pool)
    entries = [{"id": 7, "name": "Sol"}, {"id": "6024", "meta": {"set": "fire"}}]
    arguments = {"catalog": "troop_catalog", "entries": entries, "reason": "from the data team"}
    result = await perform(pool, "catalog seed", arguments, **WHO)
    assert result.changed == 2
    assert result.summary.endswith("1 placeholders are resolved, 1 snapshots go on")
    async with pool.connection() as conn:
        assert await placeholders(conn) == ([], 0)
        rows = await conn.fetch("SELECT id, name, meta FROM troop_catalog ORDER BY id")
    assert [tuple(row) for row in rows] == [(7, "Sol", {}), (6024, None, {"set": "fire"})]
    await run_until(pool, types(WAITING), DONE, 2)


async def test_what_an_entry_does_not_say_stays(conn: Connection) -> None:
    await seed(conn, "troop_catalog", [{"id": 1, "name": "Sol", "rarity": 3, "meta": {"a": 1}}])
    await seed(conn, "troop_catalog", [{"id": 1, "rarity": 4, "meta": {"b": 2}}, {"id": 2, "name": "Lun"}])
    rows = await conn.fetch("SELECT id, name, rarity, meta FROM troop_catalog ORDER BY id")
    assert [tuple(row) for row in rows] == [(1, "Sol", 4, {"a": 1, "b": 2}), (2, "Lun", None, {})]


@pytest.mark.parametrize(
    ("table", "entry", "told"),
    [
        ("users", {"id": 1}, "is no catalogue"),
        ("api_tokens", {"id": 1}, "is no catalogue"),
        ("feature_flags", {"id": 1}, "is no catalogue"),
        ('x"; DROP TABLE users; --', {"id": 1}, "there is no table"),
        ("a..b", {"id": 1}, "there is no table"),
        ("troop_catalog", {"id": 1, 'x") SELECT 1 --': 2}, "has no column x"),
        ("troop_catalog", {"id": 1, "shoe": 2}, "has no column shoe"),
        ("troop_catalog", {"name": "Sol"}, "entry 1 has no id"),
    ],
)
async def test_what_is_no_entry_of_a_catalogue_is_refused(
    conn: Connection, table: str, entry: dict[str, Any], told: str
) -> None:
    with pytest.raises(NoCatalogueError, match=told):
        await seed(conn, table, [entry])


async def test_a_placeholder_that_is_filled_by_hand_is_resolved(pool: Pool) -> None:
    await offer(pool)
    await run_until(pool, types(), DONE, 1)
    async with pool.connection() as conn:
        assert await settle(conn) == ([], 0)
        await conn.execute("UPDATE troop_catalog SET meta = '{}', name = 'Sol'")
        assert await settle(conn) == ([("troop_catalog", "6024")], 0)
        assert await placeholders(conn) == ([], 0)


async def test_a_catalogue_that_is_gone_keeps_no_other_from_being_settled(pool: Pool) -> None:
    await held(pool)
    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO catalogue_placeholders (catalogue, key_column, id, source)"
            " VALUES ('a_catalog', 'id', '1', 'x'), ('pet_catalog', 'nokey', '1', 'x'),"
            " ('artifact_catalog', 'id', 'not a number', 'x')"
        )
        await conn.execute("INSERT INTO troop_catalog (id) VALUES (6024)")
        assert await settle(conn) == ([], 1)


@covers("F-67")
async def test_references_without_an_entry_are_found_whatever_their_policy(conn: Connection) -> None:
    await conn.execute("INSERT INTO troop_catalog (id) VALUES (1)")
    document = {"NameCode": "A", "Troops": {"1": {}, "2": {}}, "Pets": {"9": {}}}
    found = await missing(conn, HERO, HERO.read(document).tables.values())
    assert found == {"troop_catalog": {"2"}, "pet_catalog": {"9"}}
    found = await missing(conn, FAILING, FAILING.read(document).tables.values())
    assert found == {"troop_catalog": {"2"}}


# ---- offenders, as one batch


@covers("F-40")
async def test_the_snapshots_behind_a_constraint_are_held_and_released_as_one_batch(pool: Pool) -> None:
    ids = {await offer(pool, FAILING, name=f"A_{n}") for n in range(3)}
    await run_until(pool, types(FAILING), "SELECT count(DISTINCT snapshot_id) FROM etl_errors", 3)
    arguments = {"constraint": "user_troops_troop_id_fkey", "reason": "wait for the data team"}
    done = await perform(pool, "snapshot hold-batch", arguments, **WHO)
    assert (done.matched, done.changed) == (3, 3)
    batch = done.after["batch"]
    assert {(await snapshot_of(pool, id_))["status"] for id_ in ids} == {"quarantined"}
    again = await perform(pool, "snapshot hold-batch", arguments, **WHO)
    assert (again.matched, again.changed) == (3, 0)
    async with pool.connection() as conn:
        await conn.execute("UPDATE queue_jobs SET run_after = sf_now()")
    await run_until(pool, types(FAILING), HELD, 3)
    async with pool.connection() as conn:
        await conn.execute("INSERT INTO troop_catalog (id) VALUES (6024)")
    freed = await perform(pool, "snapshot release-batch", {"batch": batch}, **WHO)
    assert freed.changed == 3
    await run_until(pool, types(FAILING), DONE, 3)
    assert {(await snapshot_of(pool, id_))["status"] for id_ in ids} == {"processed"}
    audited = await one(pool, "SELECT count(*) FROM audit_logs WHERE operation LIKE 'snapshot %-batch'")
    assert audited == {"count": 3}


async def test_two_documents_that_lack_the_same_entries_never_wait_for_each_other(pool: Pool) -> None:
    await asyncio.gather(*(offer(pool, WAITING, name=f"A_{n}") for n in range(8)))
    await run_until(pool, types(WAITING), HELD, 8)
    async with pool.connection() as conn:
        await conn.execute("INSERT INTO troop_catalog (id) VALUES (6024)")
        assert await settle(conn) == ([], 8)
    await run_until(pool, types(WAITING), DONE, 8)
    assert await one(pool, UNFINISHED) == {"int4": 1}


def test_a_gap_names_what_lacks_and_whom_to_ask() -> None:
    gap = CatalogueGapError("c", "id", list(range(12)), owner="the data team")
    assert (
        str(gap) == "c lacks what it refers to: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 …, 12 in all; ask the data team"
    )


# ---- with the rights that workers, the web and the command line have


@pytest.fixture
async def engine(database: str, server: TestServer) -> AsyncIterator[Pool]:
    opened = await Pool.open(server.url(database.rpartition("/")[2], user="starforge_engine"), size=8)
    yield opened
    await opened.close()


@covers("F-41", "F-42", "F-66")
async def test_a_worker_with_the_engines_rights_holds_registers_and_releases(
    pool: Pool, engine: Pool
) -> None:
    await offer(pool, name="B_2", Troops={"7": {}}, tenant="acme")
    await run_until(engine, types(), DONE, 1)
    await offer(pool, WAITING, tenant="acme")
    await run_until(engine, types(WAITING), "SELECT count(*) FROM queue_jobs WHERE status = 'quarantined'", 1)
    async with pool.connection() as conn:
        await conn.execute("UPDATE troop_catalog SET meta = '{}'")
        await conn.execute("INSERT INTO troop_catalog (id) VALUES (6024)")
    async with engine.connection() as conn:
        assert await settle(conn) == ([("troop_catalog", "7")], 1)
        await report(conn, [HERO])
    await run_until(engine, types(WAITING), DONE, 2)
    assert await one(pool, "SELECT count(*) FROM source_shapes WHERE tenant_id = 'acme'") == {"count": 2}


@pytest.mark.parametrize("role", ["starforge_app", "starforge_operator"])
async def test_the_operations_have_the_rights_that_their_doors_have(
    database: str, server: TestServer, pool: Pool, role: str
) -> None:
    await held(pool)
    await offer(pool, FAILING, name="F_1")
    await run_until(pool, types(FAILING), ERRORS, 1)
    door = await Pool.open(server.url(database.rpartition("/")[2], user=role), size=2)
    try:
        asked: dict[str, dict[str, Any]] = {
            "source mode": {"name": "hero", "mode": "strict"},
            "source mode reset": {"name": "hero"},
            "source pause": {"name": "hero"},
            "source resume": {"name": "hero"},
            "catalog release": {"catalog": "troop_catalog"},
            "snapshot hold-batch": {"constraint": "user_troops_troop_id_fkey"},
            "catalog seed": {"catalog": "troop_catalog", "entries": [{"id": 6024}]},
        }
        for operation, arguments in asked.items():
            done = await perform(door, operation, {**arguments, "reason": "x"}, **WHO)
            assert done.changed == 1, operation
        batch = await one(
            pool, "SELECT details ->> 'batch' AS id FROM snapshot_quarantine WHERE details ? 'batch'"
        )
        done = await perform(door, "snapshot release-batch", {"batch": batch["id"]}, **WHO)
        assert done.changed == 1
        done = await perform(door, "snapshot retry-failed", {"source": "failing", "reason": "x"}, **WHO)
        assert done.changed == 0
    finally:
        await door.close()


async def test_another_tenants_snapshots_are_not_tried_again(pool: Pool) -> None:
    await offer(pool, tenant="acme", Level="high")
    await run_until(pool, types(), ERRORS, 1)
    arguments = {"source": "hero", "reason": "x"}
    assert (await perform(pool, "snapshot retry-failed", arguments, **WHO)).changed == 0
    assert (await perform(pool, "snapshot retry-failed", arguments, **{**WHO, "tenant": "acme"})).changed == 1
