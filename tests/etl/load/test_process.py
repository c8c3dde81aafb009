"""Process: in one transaction, in one for each entity, whole or in pieces: the rows are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest

from starforge.db.pool import Connection, Pool
from starforge.etl.gears.limits import process_settings
from starforge.etl.ingest.offers import Offer
from starforge.etl.ingest.receive import receive
from starforge.etl.mapping import Mapping
from starforge.etl.source import watch
from starforge.heroes.mapping import HERO
from starforge.ops.perform import perform
from starforge.queue.override import override
from tests.covers import covers
from tests.etl.load.test_job import ERRORS, STRICT, UNFINISHED, again, offer, one, snapshot_of, types
from tests.stories.test_path_of_a_job import run_until

MODES = {
    "together": {"STARFORGE_ETL_TOGETHER_MAX_MB": "64"},
    "apart": {"STARFORGE_ETL_TOGETHER_MAX_MB": "0"},
    "in pieces": {
        "STARFORGE_ETL_TOGETHER_MAX_MB": "0",
        "STARFORGE_ETL_WHOLE_MAX_MB": "0.00001",
        "STARFORGE_ETL_BATCH_ROWS": "3",
    },
}
TABLES = (
    "users", "user_troops", "user_pets", "user_artifacts", "user_teams", "guilds", "guild_members",
    "user_profile_summary", "entity_seen",
)  # fmt: skip
NOT_COMPARED = {
    "id", "tenant_id", "user_id", "guild_id", "created_at", "updated_at", "cached_at", "previous_at",
}  # fmt: skip
ENTITIES = "SELECT entity, status, rows_written, updated_at FROM snapshot_entities ORDER BY entity"

Mode = Callable[[str], None]


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mode]:
    """Set how snapshots are processed."""

    def choose(name: str) -> None:
        for variable, value in MODES[name].items():
            monkeypatch.setenv(variable, value)
        process_settings.cache_clear()

    yield choose
    process_settings.cache_clear()


def captures() -> list[dict[str, Any]]:
    """What one hero sends in a year: things come, change, leave and come back; a late one is of long ago."""

    def capture(at: int, troops: Any, **more: Any) -> dict[str, Any]:
        fields = {"NameCode": "A_1", "Level": at, "Troops": troops, **more}
        return {"result": {"ServerTime": 1_700_000_000_000 + at * 1000, "ProfileData": fields}}

    many = {str(n): {"Amount": n, "Level": n % 20, "CurrentRarity": n % 5} for n in range(1, 40)}
    pets = {"8021": {"Level": 3, "OrbsUsed": [{"OrbId": 1}]}, "8022": {"XP": 7, "Costume": 2}}
    teams = [{"Name": f"t{n}", "Troops": [n, 0]} for n in range(7)]
    return [
        capture(10, many, Pets=pets, Teams=teams, GuildId=5, GuildName="Ember", EquippedPetId=8022),
        capture(20, {**many, "3": {"Amount": 99}}, Pets=pets, Teams=teams[:2], GuildId=6, Log=[1, {"a": 2}]),
        capture(15, {"1": {"Amount": 1}}, Pets={}, Teams=teams),
        capture(30, [{"TroopId": n, "Amount": n} for n in range(5, 25)], Artifacts={"1": {"XP": 4}}),
        capture(40, {str(n): {"Amount": 1, "Shiny": n} for n in range(30, 9, -1)}, Pets=[]),
    ]


async def rows_of(conn: Connection, tenant: str) -> dict[str, list[dict[str, Any]]]:
    """Return what a tenant's rows say, in words that mean the same for every tenant."""
    found = {}
    for table in TABLES:
        rows = await conn.fetch(f"SELECT * FROM {table} WHERE tenant_id = $1", tenant)
        kept = [{name: value for name, value in row.items() if name not in NOT_COMPARED} for row in rows]
        found[table] = sorted(kept, key=lambda row: json.dumps(row, default=str, sort_keys=True))
    return found


@covers("O-31", "O-33", "Q-67")
async def test_every_way_of_processing_leads_to_the_same_rows(pool: Pool, mode: Mode) -> None:
    found = {}
    for way in MODES:
        mode(way)
        for document in captures():
            data = json.dumps(document).encode()
            await receive(pool, [Offer("a", data)], mapping=HERO, tenant=way)
            await run_until(pool, types(), UNFINISHED, 1)
        async with pool.connection() as conn:
            assert await conn.fetchval(ERRORS) == 0
            found[way] = await rows_of(conn, way)
            entities = await conn.fetchval("SELECT count(*) FROM snapshot_entities WHERE tenant_id = $1", way)
        assert (entities > 0) is (way != "together")
    rows = found["together"]
    assert (len(rows["users"]), len(rows["guilds"]), len(rows["user_troops"])) == (1, 2, 39)
    assert {row["last_seen"] is None for row in rows["user_troops"]} == {True, False}
    assert found["apart"] == rows
    assert found["in pieces"] == rows


@covers("F-19", "F-20")
@pytest.mark.parametrize("way", ["apart", "in pieces"])
async def test_an_entity_that_fails_fails_alone_and_is_written_alone_later(
    pool: Pool, mode: Mode, way: str
) -> None:
    mode(way)
    snapshot_id = await offer(pool, STRICT, Troops={"1": {}, "2": {}})
    await run_until(pool, types(STRICT), ERRORS, 1)
    async with pool.connection() as conn:
        error = await conn.fetchrow("SELECT error_type, details FROM etl_errors")
        assert error is not None
        assert (error["error_type"], error["details"]["entity"]) == ("FK_VIOLATION", "user_troops")
        first = {row["entity"]: dict(row) for row in await conn.fetch(ENTITIES)}
        assert {name: row["status"] for name, row in first.items()} == {
            "users": "written",
            "user_troops": "failed",
        }
        assert await conn.fetchval("SELECT count(*) FROM users") == 1
        assert await conn.fetchval("SELECT count(*) FROM user_troops") == 0
        await conn.execute("INSERT INTO troop_catalog (id) VALUES (1), (2)")
        await conn.execute("UPDATE queue_jobs SET run_after = now()")
    await run_until(pool, types(STRICT), "SELECT count(*) FROM job_history", 1)
    async with pool.connection() as conn:
        second = {row["entity"]: dict(row) for row in await conn.fetch(ENTITIES)}
        assert await conn.fetchval("SELECT count(*) FROM user_troops") == 2
    assert second["users"] == first["users"], "what was written is not written again"
    assert second["user_troops"]["status"] == "written"
    row = await snapshot_of(pool, snapshot_id)
    assert (row["status"], row["rows_written"]) == ("processed", 3)


@covers("Q-67")
async def test_a_large_snapshot_that_is_asked_for_again_is_written_again(pool: Pool, mode: Mode) -> None:
    """What somebody broke by hand is mended by it."""
    mode("apart")
    snapshot_id = await offer(pool)
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 1)
    async with pool.connection() as conn:
        await conn.execute("DELETE FROM user_troops")
    await again(pool, snapshot_id)
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 2)
    assert await one(pool, "SELECT count(*) AS troops FROM user_troops") == {"troops": 1}


async def test_what_waits_for_an_entity_that_failed_is_not_tried(pool: Pool, mode: Mode) -> None:
    """The summary is made of the troops: neither is written, and one error says why."""
    mode("apart")
    await offer(pool, HERO, Troops={"6024": {"Amount": "many"}}, Pets={"8021": {"Level": 2}})
    await run_until(pool, types(), ERRORS, 1)
    async with pool.connection() as conn:
        statuses = {row["entity"]: row["status"] for row in await conn.fetch(ENTITIES)}
        assert statuses["user_troops"] == "failed"
        assert statuses["user_pets"] == "written"
        assert "user_profile_summary" not in statuses
        assert await conn.fetchval("SELECT last_error ->> 'reason' FROM hero_snapshots") == (
            "Troops.6024.Amount: expected an integer, found text"
        )
        assert await conn.fetchval(ERRORS) == 1
        assert await conn.fetchval("SELECT status FROM queue_jobs") == "failed", "no retry can mend it"


@covers("F-41")
@pytest.mark.parametrize("way", ["together", "apart"])
async def test_a_catalogues_entry_that_somebody_deleted_is_made_again_and_no_attempt_is_burnt(
    pool: Pool, mode: Mode, way: str
) -> None:
    """A worker remembers which entries it saw."""
    mode(way)
    for name in ("A_1", "B_2"):
        await offer(pool, NameCode=name)
        await run_until(pool, types(), UNFINISHED, 1)
    async with pool.connection() as conn:
        await conn.execute("DELETE FROM user_troops")
        await conn.execute("DELETE FROM troop_catalog")
    await offer(pool, NameCode="C_3")
    await run_until(pool, types(), "SELECT count(*) FROM job_history WHERE attempts = 0", 3)
    async with pool.connection() as conn:
        assert await conn.fetchval(ERRORS) == 0
        assert await conn.fetchval("SELECT array_agg(id) FROM troop_catalog") == [6024]
        assert await conn.fetchval("SELECT count(*) FROM user_troops") == 1


@covers("O-35", "F-45")
@pytest.mark.parametrize("way", ["together", "apart"])
async def test_the_rows_that_are_sent_together_are_changed_while_a_worker_runs(
    pool: Pool, mode: Mode, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode(way)
    sent: list[int] = []
    upserts = HERO.statements["user_troops"].upsert
    fetch = asyncpg.Connection.fetch

    async def counted(self: Any, query: str, *args: Any, **options: Any) -> Any:
        if query == upserts:
            sent.append(len(args[1]))
        return await fetch(self, query, *args, **options)

    monkeypatch.setattr(asyncpg.Connection, "fetch", counted)
    monkeypatch.setattr(watch, "MODES_S", 0.0)
    troops: dict[str, Any] = {str(n): {} for n in range(1, 26)}
    await offer(pool, NameCode="A_1", Troops=troops)
    await run_until(pool, types(), UNFINISHED, 1)
    async with pool.connection() as conn:
        await override(conn, "type", "process_snapshot", "rows", 10, owner="ann", reason="memory", minutes=5)
    await offer(pool, NameCode="B_2", Troops=troops)
    await run_until(pool, types(), UNFINISHED, 1)
    assert sent == [25, 10, 10, 5]


@covers("O-33", "F-34")
@pytest.mark.parametrize("kept", [False, True])
async def test_a_hero_of_25_mb_is_processed_where_its_filler_is_ignored_else_it_is_told_what_to_do(
    pool: Pool, kept: bool
) -> None:
    """20 MB lie under a name that the mapping does not know, and `extra` of users would keep them."""
    source = Mapping(
        "hero",
        subject="users",
        root=["result.ProfileData"],
        tables=list(HERO.tables.values()),
        ignored=[] if kept else ["result.ProfileData.Filler"],
    )
    troops = {str(n): {"Amount": n, "Level": n % 20, "CurrentRarity": n % 5} for n in range(1, 9_000)}
    fields = {"NameCode": "BIG_1", "Filler": ["x" * 1000] * 20_000, "Troops": troops, "Log": "y" * 5_000_000}
    data = json.dumps({"result": {"ProfileData": fields}}).encode()
    assert len(data) > 25_000_000
    [receipt] = await receive(pool, [Offer("big.json", data)], mapping=source, tenant="default")
    assert receipt.snapshot_id is not None
    released = {"snapshot_id": str(receipt.snapshot_id), "reason": "more memory"}
    await perform(pool, "snapshot release", released, actor="ann", role="operator", tenant="default")
    await run_until(pool, types(source), UNFINISHED, 1)
    row = await snapshot_of(pool, receipt.snapshot_id)
    if not kept:
        assert row["status"] == "processed"
        assert await one(pool, "SELECT count(*) FROM user_troops") == {"count": 8999}
        return
    assert row["status"] == "failed"
    told = (await one(pool, "SELECT message FROM etl_errors"))["message"]
    assert told.startswith("result.ProfileData.Filler: holds 20.1 MB in ")
    assert "name it in ignored=" in told
