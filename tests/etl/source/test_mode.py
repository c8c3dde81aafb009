"""Modes and drift: a source switched while workers run, and a change of what it sends named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from starforge.db.pool import Connection, Pool
from starforge.dev.seed import heroes
from starforge.etl.document.parse import read_document
from starforge.etl.document.shape import SAMPLES, fingerprint, shape
from starforge.etl.errors import MappingUnfitError, ModeNotSetError
from starforge.etl.source import watch
from starforge.etl.source.drift import Shapes, drift, shape_changes
from starforge.etl.source.mode import EVERY_TENANT, modes, reset, switch
from starforge.heroes.mapping import HERO
from starforge.ops.perform import perform
from starforge.queue.errors import OtherTenantError
from tests.covers import covers
from tests.etl.load.test_job import ERRORS, offer, one, snapshot_of, types
from tests.stories.test_path_of_a_job import run_until

WHO: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}
DONE = "SELECT count(*) FROM job_history WHERE status = 'completed'"
STRICT = {"name": "hero", "mode": "strict", "reason": "the format changed"}


@pytest.fixture(autouse=True)
def read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches are read for every document, so that no test waits two seconds."""
    monkeypatch.setattr(watch, "MODES_S", 0.0)


@covers("F-36")
async def test_a_source_that_is_switched_to_strict_refuses_unknown_fields_until_it_is_reset(
    pool: Pool,
) -> None:
    """The same worker code, no restart: only the row of the switch differs."""
    await offer(pool, name="A_1", Shoe=1)
    await run_until(pool, types(), DONE, 1)
    await perform(pool, "source mode", STRICT, **WHO)
    failed = await offer(pool, name="B_2", Shoe=1)
    await run_until(pool, types(), ERRORS, 1)
    error = await one(pool, "SELECT error_type, details FROM etl_errors")
    assert (error["error_type"], error["details"]["path"]) == ("MAPPING_ERROR", "Shoe")
    await perform(pool, "source mode reset", {"name": "hero"}, **WHO)
    arguments = {"source": "hero", "error_type": "MAPPING_ERROR", "reason": "tolerant again"}
    done = await perform(pool, "snapshot retry-failed", arguments, **WHO)
    assert (done.changed, done.sample) == (1, (str(failed),))
    await run_until(pool, types(), DONE, 2)
    assert (await snapshot_of(pool, failed))["status"] == "processed"
    assert (await one(pool, "SELECT extra FROM users WHERE namecode = 'B_2'"))["extra"] == {"Shoe": 1}


@covers("F-36")
async def test_a_strict_mapping_is_made_tolerant(pool: Pool) -> None:
    strict = HERO.treating_unknown("refuse")
    await perform(pool, "source mode", {**STRICT, "mode": "tolerant"}, **WHO)
    await offer(pool, strict, Shoe=1)
    await run_until(pool, types(strict), DONE, 1)


async def test_a_switch_ends_by_itself_and_is_its_own_tenants(conn: Connection) -> None:
    now = await switch(conn, "a", "hero", "strict", owner="ann", reason="x", minutes=5)
    assert now.expires_at - now.created_at == timedelta(minutes=5)
    found = await modes(conn)
    assert found.applied(HERO, "a").unknown == "refuse"
    assert found.applied(HERO, "b") is HERO
    await switch(conn, EVERY_TENANT, "hero", "strict", owner="ann", reason="x", minutes=5)
    await switch(conn, "a", "hero", "tolerant", owner="ann", reason="x", minutes=5)
    found = await modes(conn)
    assert (found.applied(HERO, "a").unknown, found.applied(HERO, "b").unknown) == ("extra", "refuse")
    await conn.execute("UPDATE source_modes SET expires_at = sf_now()")
    assert (await modes(conn)).applied(HERO, "b") is HERO
    with pytest.raises(ModeNotSetError):
        await reset(conn, "a", "hero")


async def test_only_an_admin_switches_every_tenant(pool: Pool) -> None:
    with pytest.raises(OtherTenantError):
        await perform(pool, "source mode", {**STRICT, "all_tenants": True}, **WHO)
    await perform(pool, "source mode", {**STRICT, "all_tenants": True}, **{**WHO, "role": "admin"})
    assert await one(pool, "SELECT tenant_id FROM source_modes") == {"tenant_id": ""}


@covers("F-36")
async def test_only_so_many_failed_snapshots_of_a_kind_are_tried_again(pool: Pool) -> None:
    await perform(pool, "source mode", STRICT, **WHO)
    for n in range(3):
        await offer(pool, name=f"A_{n}", Shoe=1)
    await offer(pool, name="B_1", Level="high")
    await run_until(pool, types(), ERRORS, 4)
    await one(pool, "SELECT count(*) FROM hero_snapshots WHERE status = 'failed'")
    arguments = {"source": "hero", "reason": "x", "most": 2}
    for changed in (2, 2, 0):
        assert (await perform(pool, "snapshot retry-failed", arguments, **WHO)).changed == changed
    arguments = {"source": "hero", "reason": "x", "error_type": "PARSE_ERROR"}
    assert (await perform(pool, "snapshot retry-failed", arguments, **WHO)).changed == 0


async def test_a_source_whose_tables_do_not_fit_fails_at_once_with_the_reason(pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute("ALTER TABLE user_troops DROP COLUMN elite_level")
    await offer(pool)
    await run_until(pool, types(), ERRORS, 1)
    error = await one(pool, "SELECT error_type, message, details FROM etl_errors")
    assert error["error_type"] == "DB_ERROR"
    assert error["details"]["error"] == MappingUnfitError.__name__
    assert error["message"].startswith(
        "the mapping of source 'hero' does not fit the database:"
        " table user_troops: has no column elite_level ("
    )
    assert (await one(pool, "SELECT status FROM queue_jobs"))["status"] == "pending"


# ---- shapes


def test_a_shape_leaves_ids_and_places_out() -> None:
    document = {
        "a": {"1": {"x": 1}, "2": {"y": "t"}},
        "l": [{"z": 1.5}, {"z": None}, True],
        "n": None,
        "e": [],
    }
    assert shape(document) == {
        "a object",
        "a.* object",
        "a.*.x integer",
        "a.*.y text",
        "l array",
        "l[] boolean",
        "l[] object",
        "l[].z number",
        "e array",
    }
    assert shape({**document, "a": {"7": {"y": "t", "x": 2}}}) == shape(document)


@covers("F-66")
def test_a_name_that_one_of_many_items_has_is_seen() -> None:
    items: dict[str, Any] = {str(n): {"Level": n} for n in range(12_000)}
    items["7001"] = {"Level": 1, "New": {"deep": True}}
    assert "Troops.*.New.deep boolean" in shape({"Troops": items})
    assert "Troops[].New.deep boolean" in shape({"Troops": list(items.values())})
    assert len(items) > SAMPLES


def test_names_that_are_data_make_no_shape_of_their_own() -> None:
    documents = [{"by": {f"player {n} {i}": {"score": 1} for i in range(200)}} for n in range(2)]
    assert shape(documents[0]) == shape(documents[1])
    assert shape({"by": {str(uuid4()): 1}}) == shape({"by": {str(uuid4()): 2}})
    assert fingerprint({"a", "b"}) == fingerprint(["b", "a"])


async def test_a_new_path_is_written_down_once_with_its_first_snapshot(conn: Connection) -> None:
    shapes, first, second = Shapes(), uuid4(), uuid4()
    await conn.execute("SELECT set_config('starforge.tenant_id', 'default', true)")
    assert await shapes.note(conn, "default", "s", shape({"a": 1}), first) == []
    assert await shapes.note(conn, "default", "s", shape({"a": None}), second) == []
    assert await shapes.note(conn, "default", "s", shape({"b": "x"}), second) == ["b text"]
    assert await Shapes().note(conn, "default", "s", shape({"a": 1, "b": "y"}), first) == []
    rows = await shape_changes(conn, "default", "s")
    assert {(row.snapshot_id, *row.new_paths) for row in rows} == {(first, "a integer"), (second, "b text")}


async def test_documents_that_bring_nothing_new_are_counted_without_asking_each_time(
    conn: Connection,
) -> None:
    shapes, same = Shapes(), shape({"a": 1})
    await shapes.note(conn, "default", "s", same, None)
    assert [shapes.is_news("default", "s", same) for _ in range(9)] == [False] * 9
    assert shapes.is_news("default", "s", shape({"b": 1}))
    await shapes.note(conn, "default", "s", shape({"b": 1}), None)
    assert sum(row.snapshots for row in await shape_changes(conn, "default", "s")) == 11


@covers("F-34", "F-66")
async def test_the_first_new_field_behind_failures_is_named_with_its_source(pool: Pool) -> None:
    await offer(pool, name="A_1")
    await run_until(pool, types(), DONE, 1)
    changed = await offer(pool, name="B_2", Troops={"6024": {"Amount": "many"}}, Aura={"Kind": "gold"})
    await run_until(pool, types(), ERRORS, 1)
    async with pool.connection() as conn:
        [found] = await drift(conn, "default")
        newest = (await shape_changes(conn, "default", "hero"))[0]
    assert (found.source, found.failures) == ("hero", 1)
    assert (found.field, found.snapshot_id) == ("Troops.*.Amount text", changed)
    assert found.since == newest.first_seen <= found.first_failed_at
    assert newest.new_paths == ["Aura object", "Aura.Kind text", "Troops.*.Amount text"]


@covers("F-34")
async def test_failures_without_a_change_of_shape_name_the_field_that_failed(pool: Pool) -> None:
    changed = await offer(pool, Level="high")
    await run_until(pool, types(), ERRORS, 1)
    async with pool.connection() as conn:
        [found] = await drift(conn, "default")
    assert (found.field, found.since, found.snapshot_id) == ("Level", None, changed)
    assert found.first_failed_at <= datetime.now(UTC)


def test_the_shape_of_a_generated_hero_does_not_depend_on_its_size() -> None:
    small, large = (
        shape(read_document(next(iter(heroes(count=1, size_mb=mb, seed=3))).data)) for mb in (0.05, 1.0)
    )
    assert len(large - small) <= 3
