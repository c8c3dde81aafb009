"""The hero profile: what a snapshot of source `hero` becomes.

With and without the `result` envelope, with and without `ProfileData` around the fields; `Troops`,
`Pets` and `Artifacts` as objects keyed by id or as arrays. What is not listed here ends in `extra`: that
of the item, or of the user (so `KingdomLevels` and `Progress`).
"""

from __future__ import annotations

import heapq
from itertools import chain
from operator import neg
from typing import Any

from starforge.etl.mapping import (
    BIGINT,
    EPOCH_MS,
    EPOCH_S,
    ID,
    INTEGER,
    JSON,
    POSITION,
    TEXT,
    Catalogue,
    Column,
    Delete,
    Derived,
    Each,
    Keep,
    Mapping,
    One,
    Ref,
    Rows,
    Table,
    array,
    text,
)

TOP_TROOPS = 10

Rank = tuple[int, int, int, int]
"""Level, rarity and amount of a troop, each negative so that the best is least, and its id."""

USER = Ref("user_id", "users", "/NameCode")


def equipped_pet(
    pets: Rows | None, pet_id: int | None, before: dict[str, int] | None
) -> dict[str, int] | None:
    """Return the equipped pet as the profile lists it; None when it is absent, 0 or not among the pets."""
    assert pets is not None
    if not pet_id or pet_id not in pets["pet_id"]:
        return before
    row = pets["pet_id"].index(pet_id)
    return {
        "pet_id": pet_id,
        "level": pets["level"][row],
        "ascension_level": pets["ascension_level"][row],
    }


def best_troops(troops: Rows | None, _: Any, before: list[Rank] | None) -> list[Rank]:
    """Return the best troops so far: by level, rarity and amount descending, then id ascending."""
    assert troops is not None
    ranks = zip(
        map(neg, troops["level"]),
        map(neg, troops["rarity"]),
        map(neg, troops["amount"]),
        troops["troop_id"],
        strict=True,
    )
    return heapq.nsmallest(TOP_TROOPS, chain(before or (), ranks))


def top_troops(best: list[Rank]) -> list[dict[str, int]]:
    """Write the best troops down as the summary shows them."""
    return [{"troop_id": id_, "amount": -amount, "level": -level} for level, _, amount, id_ in best]


HERO = Mapping(
    "hero",
    subject="users",
    root=["result.ProfileData", "ProfileData", "result", ""],
    captured_at=["result.ServerTime", "ServerTime"],
    captured_as=EPOCH_MS,
    ignored=["result.success", "success"],
    known=["KingdomLevels", "Progress"],
    tables=[
        Table(
            "users",
            key=("tenant_id", "namecode"),
            columns=[
                Column("namecode", "NameCode", text(1, 64)),
                Column("external_id", "Id", BIGINT),
                Column("username", "Name", TEXT),
            ],
        ),
        Table(
            "user_troops",
            rows=Each("Troops", id="TroopId"),
            key=("user_id", "troop_id"),
            left=Keep("last_seen"),
            columns=[
                USER,
                Column("troop_id", ID, INTEGER, catalogue=Catalogue("troop_catalog")),
                Column("amount", "Amount", INTEGER, default=0),
                Column("level", "Level", INTEGER, default=1),
                Column("rarity", "CurrentRarity", INTEGER, default=0),
                Column("elite_level", "EliteLevel", INTEGER, default=0),
                Column("fusion_cards", "FusionCards", INTEGER, default=0),
                Column("traits_owned", "TraitsOwned", INTEGER, default=0),
            ],
        ),
        Table(
            "user_pets",
            rows=Each("Pets", id="PetId"),
            key=("user_id", "pet_id"),
            left=Keep("last_seen"),
            columns=[
                USER,
                Column("pet_id", ID, INTEGER, catalogue=Catalogue("pet_catalog")),
                Column("amount", "Amount", INTEGER, default=0),
                Column("level", "Level", INTEGER, default=1),
                Column("xp", "XP", BIGINT, default=0),
                Column("orb_fusion_cards", "OrbFusionCards", INTEGER, default=0),
                Column("ascension_level", "AscensionLevel", INTEGER, default=0),
                Column("orbs_used", "OrbsUsed", JSON, default=[]),
            ],
        ),
        Table(
            "user_artifacts",
            rows=Each("Artifacts", id="ArtifactId"),
            key=("user_id", "artifact_id"),
            left=Keep("last_seen"),
            columns=[
                USER,
                Column("artifact_id", ID, INTEGER, catalogue=Catalogue("artifact_catalog")),
                Column("level", "Level", INTEGER, default=1),
                Column("xp", "XP", BIGINT, default=0),
            ],
        ),
        Table(
            "user_teams",
            rows=Each("Teams"),
            key=("user_id", "position"),
            left=Delete(),
            columns=[
                USER,
                Column("position", POSITION, INTEGER),
                Column("name", "Name", TEXT),
                Column("banner", "Banner", INTEGER),
                Column("team_level", "TeamLevel", INTEGER),
                Column("class", "Class", TEXT),
                Column("troops", "Troops", array(INTEGER), default=[]),
                Column("override_data", "OverrideData", JSON, default={}),
            ],
        ),
        # Guilds stand here, late: a guild's members wait for each other from here to the commit only.
        Table(
            "guilds",
            rows=One(when="GuildId"),
            key=("tenant_id", "external_id"),
            shared=True,
            extra=None,
            columns=[
                Column("external_id", "GuildId", BIGINT),
                Column("name", "GuildName", TEXT),
            ],
        ),
        Table(
            "guild_members",
            rows=One(when="GuildId"),
            key=("user_id",),
            left=Delete(),
            extra=None,
            columns=[
                USER,
                Ref("guild_id", "guilds", "GuildId"),
                Column("role", "GuildRole", TEXT),
                Column("joined_at", "JoinedGuildAt", EPOCH_S),
            ],
        ),
        Table(
            "user_profile_summary",
            key=("user_id",),
            extra=None,
            touched=("updated_at", "cached_at"),
            columns=[
                USER,
                Column("level", "Level", INTEGER),
                Column("pvp_tier", "PVPTier", INTEGER),
                Ref("guild_id", "guilds", "GuildId"),
                Derived(
                    "equipped_pet", JSON, equipped_pet, over="user_pets", path="EquippedPetId", reads=INTEGER
                ),
                Derived("top_troops", JSON, best_troops, over="user_troops", then=top_troops),
                Column("last_seen", "LastLogin", EPOCH_S),
            ],
        ),
    ],
)
"""The mapping of source `hero`."""
