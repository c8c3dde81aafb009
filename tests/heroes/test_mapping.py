"""The hero profile, field by field: what of a profile goes where, and what becomes of what left it."""

from __future__ import annotations

import asyncio
import itertools
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from starforge.db.pool import Connection, Pool, connect, set_tenant
from starforge.dev.seed import heroes
from starforge.etl.document.parse import read_document
from starforge.etl.errors import MappingError
from starforge.etl.load.parts import Written
from starforge.etl.load.write import write
from starforge.heroes.mapping import HERO
from tests.conftest import Travel
from tests.covers import covers
from tests.postgres import TestServer

START = datetime(2026, 1, 1, tzinfo=UTC)

PROFILE: dict[str, Any] = {
    "Id": 184467440,
    "NameCode": "COCORIDER_JQGB",
    "Name": "Cocorider",
    "Level": 1213,
    "GuildId": 90211,
    "GuildName": "Ember Court",
    "GuildRole": "Member",
    "JoinedGuildAt": 1731000000,
    "PVPTier": 1,
    "LastLogin": 1764630000,
    "EquippedPetId": 8021,
    "Troops": {
        "6024": {
            "Amount": 14,
            "Level": 20,
            "CurrentRarity": 5,
            "EliteLevel": 3,
            "FusionCards": 4,
            "TraitsOwned": 2,
        },
        "6103": {"Amount": 3, "Level": 18, "CurrentRarity": 4},
    },
    "Pets": {
        "8021": {
            "Amount": 2,
            "Level": 20,
            "XP": 2**40,
            "OrbFusionCards": 1,
            "AscensionLevel": 2,
            "OrbsUsed": [{"OrbId": 4, "Amount": 2}],
        },
        "8044": {"Level": 7},
    },
    "Artifacts": {"1": {"Level": 40, "XP": 910000}},
    "Teams": [
        {
            "Name": "Daily",
            "Banner": 3042,
            "TeamLevel": 1213,
            "Class": "Dragonguard",
            "Troops": [6024, 6103, 0, 6024],
            "OverrideData": {"Weapon": 1190},
        },
        {"Name": "Boss", "Class": None},
    ],
    "KingdomLevels": {"3000": 15},
    "Progress": {"Souls": 1200345},
}


def profile(**changed: Any) -> dict[str, Any]:
    """The profile with these fields changed, without those that are `...`."""
    made = {**deepcopy(PROFILE), **changed}
    return {name: value for name, value in made.items() if value is not ...}


def enveloped(fields: dict[str, Any], **beside: Any) -> dict[str, Any]:
    """The fields in the usual envelope."""
    return {"result": {"success": True, "ServerTime": 1764633600123, **beside, "ProfileData": fields}}


async def put(
    conn: Connection, document: Any, hour: float = 0, tenant: str = "default", **changed: Any
) -> Written:
    """Write a document, or the profile with these changes, taken `hour` hours after the start."""
    document = profile(**changed) if document is None else document
    at = START + timedelta(hours=hour)
    return await write(conn, HERO, document, tenant=tenant, captured_at=at)


async def one(conn: Connection, table: str, where: str = "true") -> dict[str, Any]:
    """The only row of a table."""
    found = await conn.fetch(f"SELECT * FROM {table} WHERE {where}")
    assert len(found) == 1
    return dict(found[0])


async def contents(conn: Connection) -> dict[str, list[dict[str, Any]]]:
    """What the tables say about heroes, without ids and times that the database makes."""
    own = {"id", "created_at", "updated_at", "cached_at", "user_id", "guild_id"}
    tables = (
        "users",
        "guilds",
        "guild_members",
        "user_troops",
        "user_pets",
        "user_artifacts",
        "user_teams",
        "user_profile_summary",
    )
    found = {}
    for table in tables:
        rows = [dict(row) for row in await conn.fetch(f"SELECT * FROM {table}")]
        kept = [{name: value for name, value in row.items() if name not in own} for row in rows]
        found[table] = sorted(kept, key=str)
    return found


# ---- where the fields lie


@pytest.mark.parametrize(
    "document",
    [
        enveloped(profile()),
        {"result": {"success": True, **profile()}},
        {"ProfileData": profile()},
        {"success": True, "ServerTime": 1, "ProfileData": profile()},
        profile(),
        {**profile(), "ServerTime": 1},
    ],
)
async def test_a_profile_is_read_with_and_without_its_envelopes(conn: Connection, document: Any) -> None:
    await put(conn, None)
    told = await contents(conn)
    await conn.execute("DELETE FROM users; DELETE FROM guilds; DELETE FROM entity_seen")
    assert (await put(conn, document)).complete
    assert await contents(conn) == told


async def test_troops_pets_and_artifacts_may_come_as_arrays(conn: Connection) -> None:
    def listed(items: dict[str, Any], name: str) -> list[dict[str, Any]]:
        return [{name: int(key), **item} for key, item in items.items()]

    await put(conn, None)
    arrays = profile(
        Troops=listed(PROFILE["Troops"], "TroopId"),
        Pets=listed(PROFILE["Pets"], "PetId"),
        Artifacts=listed(PROFILE["Artifacts"], "ArtifactId"),
    )
    assert (await put(conn, arrays, hour=1)).rows_written == 0


def test_the_subject_is_the_namecode() -> None:
    assert HERO.subject(enveloped(profile())) == "COCORIDER_JQGB"


@pytest.mark.parametrize(
    ("namecode", "told"),
    [
        (..., "NameCode: is required"),
        (None, "NameCode: is required"),
        (4711, "NameCode: expected text, found an integer"),
        ("", "NameCode: has 0 characters; 1 is the least"),
        ("N" * 65, "NameCode: has 65 characters; 64 is the most"),
    ],
)
def test_a_profile_without_a_namecode_is_refused(namecode: Any, told: str) -> None:
    for read in (HERO.subject, HERO.read):
        with pytest.raises(MappingError) as caught:
            read(enveloped(profile(NameCode=namecode)))
        assert str(caught.value) == f"result.ProfileData.{told}"


def test_the_time_of_capture_is_the_servers_in_milliseconds() -> None:
    at = datetime(2025, 12, 2, 0, 0, 0, 123_000, tzinfo=UTC)
    assert HERO.captured_at(enveloped(profile())) == at
    assert HERO.captured_at({"ServerTime": 1764633600123, "ProfileData": profile()}) == at
    assert HERO.captured_at(profile()) is None


# ---- users


async def test_a_user_has_its_names_and_everything_that_is_not_listed(conn: Connection) -> None:
    await put(conn, enveloped(profile(Race="Human", Nested={"a": [1, None]}), Region="eu"))
    user = await one(conn, "users")
    assert (user["namecode"], user["external_id"], user["username"]) == (
        "COCORIDER_JQGB",
        184467440,
        "Cocorider",
    )
    assert user["extra"] == {
        "Race": "Human",
        "Nested": {"a": [1, None]},
        "KingdomLevels": {"3000": 15},
        "Progress": {"Souls": 1200345},
        "Region": "eu",
    }


async def test_an_escaped_nul_and_a_lone_surrogate_become_u_fffd(conn: Connection) -> None:
    raw = rb'{"NameCode":"A\u0000B","Name":"x\ud83d","New":{"k\u0000":"\udc09"}}'
    await put(conn, read_document(raw))
    user = await one(conn, "users")
    assert (user["namecode"], user["username"]) == ("A\ufffdB", "x\ufffd")
    assert user["extra"] == {"New": {"k\ufffd": "\ufffd"}}


async def test_a_profile_of_a_namecode_alone_is_enough(conn: Connection) -> None:
    assert (await put(conn, {"NameCode": "A"})).rows_written == 2
    assert (await one(conn, "users"))["external_id"] is None
    summary = await one(conn, "user_profile_summary")
    assert (summary["level"], summary["pvp_tier"], summary["last_seen"]) == (None, None, None)
    assert (summary["guild_id"], summary["equipped_pet"], summary["top_troops"]) == (None, None, [])


# ---- guilds


async def test_a_member_has_a_guild_a_role_and_a_day(conn: Connection) -> None:
    await put(conn, None)
    guild, member = await one(conn, "guilds"), await one(conn, "guild_members")
    assert (guild["external_id"], guild["name"]) == (90211, "Ember Court")
    assert (member["guild_id"], member["role"]) == (guild["id"], "Member")
    assert member["joined_at"] == datetime.fromtimestamp(1731000000, UTC)
    assert (await one(conn, "user_profile_summary"))["guild_id"] == guild["id"]


async def test_moving_to_another_guild_replaces_the_membership(conn: Connection) -> None:
    await put(conn, None)
    await put(conn, None, hour=1, GuildId=7, GuildName="Other", GuildRole="Leader", JoinedGuildAt=...)
    other = await one(conn, "guilds", "external_id = 7")
    member = await one(conn, "guild_members")
    assert (member["guild_id"], member["role"], member["joined_at"]) == (other["id"], "Leader", None)
    assert (await one(conn, "user_profile_summary"))["guild_id"] == other["id"]


@pytest.mark.parametrize("gone", [..., None])
async def test_leaving_the_guild_deletes_the_membership(conn: Connection, gone: Any) -> None:
    await put(conn, None)
    await put(conn, None, hour=1, GuildId=gone)
    assert await conn.fetchval("SELECT count(*) FROM guild_members") == 0
    assert await conn.fetchval("SELECT count(*) FROM guilds") == 1
    assert (await one(conn, "user_profile_summary"))["guild_id"] is None


async def test_a_guild_without_a_name_leaves_the_name_null(conn: Connection) -> None:
    await put(conn, None, GuildName=...)
    assert (await one(conn, "guilds"))["name"] is None
    await put(conn, None, hour=1)
    assert (await one(conn, "guilds"))["name"] == "Ember Court"
    await put(conn, None, hour=2, GuildName=...)
    assert (await one(conn, "guilds"))["name"] == "Ember Court"


async def test_an_older_profile_of_another_member_does_not_rename_the_guild(conn: Connection) -> None:
    await put(conn, None, hour=2, GuildName="New Name")
    await put(conn, None, hour=1, NameCode="OTHER", GuildName="Old Name")
    assert (await one(conn, "guilds"))["name"] == "New Name"
    assert await conn.fetchval("SELECT count(*) FROM guild_members") == 2


# ---- troops, pets, artifacts


async def test_a_troop_has_every_field_and_defaults(conn: Connection) -> None:
    await put(conn, None, Troops={**PROFILE["Troops"], "7000": {"MythicMark": True}})
    columns = ("amount", "level", "rarity", "elite_level", "fusion_cards", "traits_owned", "extra")
    full = await one(conn, "user_troops", "troop_id = 6024")
    new = await one(conn, "user_troops", "troop_id = 7000")
    assert [full[name] for name in columns] == [14, 20, 5, 3, 4, 2, {}]
    assert [new[name] for name in columns] == [0, 1, 0, 0, 0, 0, {"MythicMark": True}]


async def test_a_pet_has_every_field_and_defaults(conn: Connection) -> None:
    await put(conn, None, Pets={**PROFILE["Pets"], "8050": {"Mood": "happy"}})
    columns = ("amount", "level", "xp", "orb_fusion_cards", "ascension_level", "orbs_used", "extra")
    full = await one(conn, "user_pets", "pet_id = 8021")
    new = await one(conn, "user_pets", "pet_id = 8050")
    assert [full[name] for name in columns] == [2, 20, 2**40, 1, 2, [{"OrbId": 4, "Amount": 2}], {}]
    assert [new[name] for name in columns] == [0, 1, 0, 0, 0, [], {"Mood": "happy"}]


async def test_an_artifact_has_every_field_and_defaults(conn: Connection) -> None:
    await put(conn, None, Artifacts={"1": {"Level": 40, "XP": 2**40}, "17": {"Amount": 3}})
    first = await one(conn, "user_artifacts", "artifact_id = 1")
    second = await one(conn, "user_artifacts", "artifact_id = 17")
    assert (first["level"], first["xp"], first["extra"]) == (40, 2**40, {})
    assert (second["level"], second["xp"], second["extra"]) == (1, 0, {"Amount": 3})


@covers("F-41")
async def test_ids_that_a_catalogue_lacks_get_a_placeholder_for_all_tenants(conn: Connection) -> None:
    await conn.execute("INSERT INTO troop_catalog (id, name) VALUES (6024, 'Dragon')")
    written = await put(conn, None)
    assert written.placeholders == {
        "troop_catalog": [6103],
        "pet_catalog": [8021, 8044],
        "artifact_catalog": [1],
    }
    assert (await one(conn, "troop_catalog", "id = 6024"))["meta"] == {}
    assert (await one(conn, "troop_catalog", "id = 6103"))["meta"] == {"placeholder": True}
    assert (await put(conn, None, tenant="other")).placeholders == {}


@pytest.mark.parametrize(
    ("section", "table", "key", "id_"),
    [
        ("Troops", "user_troops", "troop_id", 6103),
        ("Pets", "user_pets", "pet_id", 8044),
        ("Artifacts", "user_artifacts", "artifact_id", 1),
    ],
)
async def test_what_left_the_profile_keeps_its_row_and_when_it_was_last_there(
    conn: Connection, section: str, table: str, key: str, id_: int
) -> None:
    rest = {name: item for name, item in PROFILE[section].items() if name != str(id_)}
    without = profile(**{section: rest})
    await put(conn, None)
    await put(conn, None, hour=1)
    await put(conn, without, hour=2)
    row = await one(conn, table, f"{key} = {id_}")
    assert row["last_seen"] == START + timedelta(hours=1)
    await put(conn, without, hour=3)
    assert (await one(conn, table, f"{key} = {id_}"))["last_seen"] == START + timedelta(hours=1)
    await put(conn, None, hour=4)
    back = await one(conn, table, f"{key} = {id_}")
    assert (back["last_seen"], back["created_at"]) == (None, row["created_at"])


# ---- teams


async def test_a_team_has_every_field_and_its_place(conn: Connection) -> None:
    await put(conn, None, Teams=[*PROFILE["Teams"], {"Formation": "wedge"}])
    columns = ("position", "name", "banner", "team_level", "class", "troops", "override_data", "extra")
    found = await conn.fetch(f"SELECT {', '.join(columns)} FROM user_teams ORDER BY position")
    assert [tuple(row) for row in found] == [
        (0, "Daily", 3042, 1213, "Dragonguard", [6024, 6103, 0, 6024], {"Weapon": 1190}, {}),
        (1, "Boss", None, None, None, [], {}, {}),
        (2, None, None, None, None, [], {}, {"Formation": "wedge"}),
    ]


async def test_teams_beyond_the_array_are_deleted(conn: Connection) -> None:
    await put(conn, None)
    await put(conn, None, hour=1, Teams=PROFILE["Teams"][1:])
    team = await one(conn, "user_teams")
    assert (team["position"], team["name"]) == (0, "Boss")


# ---- the summary


async def test_the_summary_tells_the_profile_in_short(conn: Connection) -> None:
    await put(conn, None)
    summary = await one(conn, "user_profile_summary")
    assert (summary["level"], summary["pvp_tier"]) == (1213, 1)
    assert summary["last_seen"] == datetime.fromtimestamp(1764630000, UTC)
    assert summary["equipped_pet"] == {"pet_id": 8021, "level": 20, "ascension_level": 2}
    assert summary["top_troops"] == [
        {"troop_id": 6024, "amount": 14, "level": 20},
        {"troop_id": 6103, "amount": 3, "level": 18},
    ]


@pytest.mark.parametrize("pet", [..., None, 0, 9999])
async def test_a_pet_that_is_not_among_the_pets_is_not_equipped(conn: Connection, pet: Any) -> None:
    await put(conn, None)
    await put(conn, None, hour=1, EquippedPetId=pet)
    assert await conn.fetchval("SELECT equipped_pet IS NULL FROM user_profile_summary")


async def test_the_top_troops_are_ten_by_level_rarity_amount_and_id(conn: Connection) -> None:
    ranks = [(20, 5, 9), (20, 5, 9), (20, 5, 3), (20, 4, 99), (19, 5, 99), *[(1, 0, n) for n in range(8)]]
    troops = {
        str(9000 - place): {"Level": level, "CurrentRarity": rarity, "Amount": amount}
        for place, (level, rarity, amount) in enumerate(ranks)
    }
    await put(conn, None, Troops=troops)
    top = (await one(conn, "user_profile_summary"))["top_troops"]
    assert [troop["troop_id"] for troop in top] == [
        8999, 9000, 8998, 8997, 8996, 8988, 8989, 8990, 8991, 8992,
    ]  # fmt: skip
    assert top[0] == {"troop_id": 8999, "amount": 9, "level": 20}


async def test_top_troops_are_those_of_this_profile_and_not_those_that_left(conn: Connection) -> None:
    await put(conn, None)
    await put(conn, None, hour=1, Troops={"6103": PROFILE["Troops"]["6103"]})
    top = (await one(conn, "user_profile_summary"))["top_troops"]
    assert [troop["troop_id"] for troop in top] == [6103]


async def test_cached_at_changes_only_with_another_column(conn: Connection, travel: Travel) -> None:
    await put(conn, None)
    cached_at = (await one(conn, "user_profile_summary"))["cached_at"]
    await travel(conn, hours=1)
    await put(conn, None, hour=1, Name="Renamed")
    assert (await one(conn, "user_profile_summary"))["cached_at"] == cached_at
    await put(conn, None, hour=2, Name="Renamed", Level=1214)
    assert (await one(conn, "user_profile_summary"))["cached_at"] > cached_at


# ---- what does not fit


@covers("F-21")
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"Level": "abc"}, "Level: expected an integer, found text"),
        ({"Level": -(2**31) - 1}, "Level: -2147483649 is out of range for integer"),
        ({"Id": 2**63}, "Id: 9223372036854775808 is out of range for bigint"),
        ({"LastLogin": 2**62}, "LastLogin: 4611686018427387904 is out of range for timestamptz"),
        ({"EquippedPetId": 2**31}, "EquippedPetId: 2147483648 is out of range for integer"),
        ({"GuildId": "x"}, "GuildId: expected an integer, found text"),
        ({"Troops": "none"}, "Troops: expected an object or an array, found text"),
        (
            {"Troops": {"6024": {"Amount": 2**40}}},
            "Troops.6024.Amount: 1099511627776 is out of range for integer",
        ),
        ({"Troops": {"6024": {"Amount": [14]}}}, "Troops.6024.Amount: expected an integer, found an array"),
        ({"Troops": {"2147483648": {}}}, "Troops.2147483648: 2147483648 is out of range for integer"),
        ({"Troops": [{"TroopId": 1, "Level": 0.5}]}, "Troops[0].Level: expected an integer, found a number"),
        ({"Pets": {"1": {"XP": 2**63}}}, "Pets.1.XP: 9223372036854775808 is out of range for bigint"),
        ({"Teams": {"0": {}}}, "Teams: expected an array, found an object"),
        ({"Teams": [{}, {"Troops": [1, None]}]}, "Teams[1].Troops[1]: expected an integer, found null"),
    ],
)
def test_a_field_that_does_not_fit_is_a_mapping_error_with_its_path(changed: Any, told: str) -> None:
    with pytest.raises(MappingError) as caught:
        HERO.read({"ProfileData": profile(**changed)})
    assert str(caught.value).startswith(f"ProfileData.{told}")


# ---- replay, order and company


async def test_a_replay_writes_no_row(conn: Connection) -> None:
    assert (await put(conn, None)).rows_written == 11
    assert (await put(conn, None)).rows_written == 0
    assert (await put(conn, None, hour=1)).rows_written == 0


async def test_an_older_snapshot_changes_and_deletes_nothing(conn: Connection) -> None:
    await put(conn, None, hour=2)
    before = await contents(conn)
    written = await put(conn, {"NameCode": "COCORIDER_JQGB", "Troops": {"1": {}}, "GuildId": 5}, hour=1)
    assert (written.rows_written, written.complete) == (0, False)
    assert await contents(conn) == before
    assert await conn.fetchval("SELECT count(*) FROM guilds") == 1


async def test_snapshots_lead_to_the_same_profile_in_any_order(conn: Connection) -> None:
    captures = [
        (0, profile(GuildId=1, GuildName="One", Name="old")),
        (1, profile(GuildId=..., Teams=[])),
        (2, profile(GuildId=2, GuildName=..., Name="new", Troops={"7": {}})),
    ]
    told = []
    for order in itertools.permutations(captures):
        inner = conn.transaction()
        await inner.start()
        for hour, document in order:
            await put(conn, document, hour=hour)
        found = await contents(conn)
        tables = ("users", "guild_members", "user_teams", "user_profile_summary")
        present = [row["troop_id"] for row in found["user_troops"] if row["last_seen"] is None]
        told.append(([found[table] for table in tables], present))
        await inner.rollback()
    assert all(one_told == told[0] for one_told in told)


async def test_members_of_one_guild_are_written_at_once(pool: Pool) -> None:
    """Two profiles name the same new guild and the same new troops; the second waits and both arrive."""
    async with pool.connection() as first, pool.connection() as second:
        begun = first.transaction()
        await begun.start()
        await put(first, None)
        waiting = asyncio.create_task(_alone(second, profile(NameCode="OTHER")))
        await asyncio.sleep(0.03)
        assert not waiting.done()
        await begun.commit()
        assert (await waiting).placeholders == {}
        assert (
            await first.fetchval("SELECT count(*) FROM guild_members JOIN guilds g ON g.id = guild_id") == 2
        )
        assert await first.fetchval("SELECT count(*) FROM guilds") == 1


@covers("X-12")
async def test_the_engine_writes_heroes_of_its_tenant_and_sees_no_others(
    database: str, server: TestServer
) -> None:
    conn = await connect(server.url(database.rpartition("/")[2], user="starforge_engine"))
    for tenant in ("a", "b"):
        async with conn.transaction():
            await set_tenant(conn, tenant)
            assert (await put(conn, None, tenant=tenant)).rows_written == 11
            assert (await one(conn, "users"))["tenant_id"] == tenant
            assert await conn.fetchval("SELECT count(*) FROM user_troops") == 2
    async with conn.transaction():
        await set_tenant(conn, "a")
        assert (await put(conn, None, hour=1, GuildName="Mine", tenant="a")).rows_written == 1
    async with conn.transaction():
        await set_tenant(conn, "b")
        assert (await one(conn, "guilds"))["name"] == "Ember Court"
    await conn.close()


# ---- true sizes


@pytest.mark.shared
async def test_the_sample_becomes_its_rows(conn: Connection, shared: Path) -> None:
    document = msgspec.json.decode((shared / "data/hero/sample.json").read_bytes())
    written = await put(conn, document)
    assert written.rows_written == 1 + 4 + 2 + 2 + 2 + 1 + 1 + 1
    assert HERO.captured_at(document) == datetime(2025, 12, 2, 0, 0, 0, 123_000, tzinfo=UTC)
    extra = (await one(conn, "users"))["extra"]
    assert set(extra) == {
        "LevelMax", "Class", "Race", "PortraitId", "PVPRegion", "PVPVictories", "KingdomLevels", "Progress",
    }  # fmt: skip
    assert (await one(conn, "user_troops", "troop_id = 6544"))["extra"] == {"MythicMark": True}
    top = (await one(conn, "user_profile_summary"))["top_troops"]
    assert [troop["troop_id"] for troop in top] == [7301, 6024, 6103, 6544]


async def test_a_large_profile_becomes_as_many_rows_as_it_has_items(conn: Connection) -> None:
    document = read_document(next(iter(heroes(count=1, size_mb=2.8, seed=1))).data)
    fields = document.get("result", document).get("ProfileData", document)
    await put(conn, document)
    for section, table in (("Troops", "user_troops"), ("Pets", "user_pets"), ("Artifacts", "user_artifacts")):
        assert await conn.fetchval(f"SELECT count(*) FROM {table}") == len(fields[section])
    assert await conn.fetchval("SELECT sum(amount) FROM user_troops") == sum(
        troop["Amount"] for troop in fields["Troops"].values()
    )
    assert (await put(conn, document, hour=1)).rows_written == 0


async def _alone(conn: Connection, document: Any) -> Written:
    async with conn.transaction():
        return await put(conn, document)
