"""The encoded parts that generated profiles are put together from: one troop, one pet, one battle …"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from starforge.dev.catalogue import (
    CLASSES,
    KINGDOM_IDS,
    RARITIES,
    TEAM_NAMES,
    TROOP_IDS,
    WEAPON_IDS,
    hero_name,
)
from starforge.dev.dice import Dice

LEVEL_MAX = 20
ELITE_MAX = 5
TRAITS_MAX = 3
TEAM_SLOTS = 4
STAGES = 3
"""How far a hero is: newcomer, regular, veteran."""
LEVEL_AT_STAGE = (5, 12, 18)
NOON_S = 1_764_590_400
DAY_S = 86_400

Item = tuple[int, bytes]
"""The id of a troop, pet or artifact and its encoded body, which does not repeat the id."""

encode = msgspec.json.encode


def stage(level: int) -> int:
    """The stage of a hero of this level: an index below STAGES."""
    return (level >= 150) + (level >= 700)


def section(key: str, items: Sequence[Item], as_array: bool) -> msgspec.Raw:
    """Encode items as an object keyed by id, or as an array whose items carry their id under `key`."""
    if as_array:
        head = key.encode()
        return msgspec.Raw(
            b"[" + b",".join([b'{"%b":%d,%b' % (head, each, body[1:]) for each, body in items]) + b"]"
        )
    return msgspec.Raw(b"{" + b",".join([b'"%d":%b' % item for item in items]) + b"}")


def mean_bytes(bodies: Sequence[bytes]) -> int:
    """The mean length of the bodies, rounded."""
    return round(sum(map(len, bodies)) / len(bodies))


def changed(body: bytes, **fields: Any) -> bytes:
    """The body with these fields set to other values."""
    return encode({**msgspec.json.decode(body), **fields})


def trained(body: bytes, steps: int) -> bytes:
    """The troop's body after `steps` more captures in which it grew."""
    troop = msgspec.json.decode(body)
    level = min(LEVEL_MAX, troop["Level"] + steps)
    return changed(body, Level=level, Amount=troop["Amount"] + steps)


def troop(dice: Dice, at_stage: int, rarity: int) -> bytes:
    """A troop of base rarity `rarity` as a hero at this stage owns it."""
    level = 1 if dice.chance(0.2) else LEVEL_AT_STAGE[at_stage] + dice.between(-4, 4)
    level = min(LEVEL_MAX, max(1, level))
    body: dict[str, Any] = {
        "Amount": 1 + dice.low(20 * (at_stage + 1) * (RARITIES - rarity) // 2),
        "Level": level,
        "CurrentRarity": min(RARITIES - 1, rarity + dice.low(at_stage + 2)),
        "EliteLevel": dice.low(ELITE_MAX + 1) if level == LEVEL_MAX else 0,
        "FusionCards": dice.low(12),
        "TraitsOwned": min(TRAITS_MAX, dice.below(level // 5 + 1)),
    }
    if dice.chance(0.25):
        body["ShinyLevelProgress"] = dice.below(500)
    if dice.chance(0.08):
        body["MythicMark"] = True
    return encode(body)


def pet(dice: Dice) -> bytes:
    """A pet as a hero owns it."""
    level = 1 + dice.low(LEVEL_MAX)
    orbs = [{"OrbId": dice.between(1, 8), "Amount": 1 + dice.low(4)} for _ in range(dice.low(4))]
    body: dict[str, Any] = {
        "Amount": 1 + dice.low(12),
        "Level": level,
        "XP": level * level * dice.between(100, 500),
        "OrbFusionCards": dice.low(6),
        "AscensionLevel": dice.low(4),
        "OrbsUsed": orbs,
    }
    if dice.chance(0.1):
        body["Costume"] = dice.between(1, 40)
    return encode(body)


def artifact(dice: Dice) -> bytes:
    """An artifact as a hero owns it."""
    level = 1 + dice.low(50)
    return encode({"Level": level, "XP": level * level * dice.between(400, 700)})


def team(dice: Dice, level: int, troops: Sequence[Item]) -> dict[str, Any]:
    """A team of a hero of this level, made of its own troops; 0 is an empty slot."""
    return {
        "Name": dice.pick(TEAM_NAMES),
        "Banner": dice.pick(KINGDOM_IDS),
        "TeamLevel": level,
        "Class": None if dice.chance(0.2) else dice.pick(CLASSES),
        "Troops": [0 if dice.chance(0.08) else dice.pick(troops)[0] for _ in range(TEAM_SLOTS)],
        "OverrideData": {} if dice.chance(0.4) else {"Weapon": dice.pick(WEAPON_IDS)},
    }


def progress(dice: Dice, level: int) -> dict[str, Any]:
    """The purse and the weapons of a hero of this level."""
    return {
        "Souls": dice.low(5_000 * level),
        "Gold": dice.low(90_000 * level),
        "Glory": dice.low(60_000),
        "Gems": dice.low(4_000),
        "Weapons": {
            str(dice.pick(WEAPON_IDS)): {"Level": dice.between(1, 10)} for _ in range(dice.below(25))
        },
    }


def battle(dice: Dice) -> bytes:
    """A line of the battle log, which no mapping lists."""
    return encode(
        {
            "At": NOON_S - dice.below(14 * DAY_S),
            "Mode": dice.pick(("PVP", "GuildWar", "Explore", "Delve", "Arena", "Raid")),
            "Opponent": hero_name(dice),
            "Kingdom": dice.pick(KINGDOM_IDS),
            "Won": dice.chance(0.8),
            "Turns": 3 + dice.low(60),
            "Team": [dice.pick(TROOP_IDS) for _ in range(TEAM_SLOTS)],
            "Reward": {"Gold": dice.low(4_000), "Souls": dice.low(90), "Trophies": dice.low(12)},
        }
    )


def event(dice: Dice) -> bytes:
    """A past event's result, which no mapping lists."""
    return encode(
        {
            "EventId": dice.between(1_000, 9_000),
            "Type": dice.pick(("Invasion", "Bounty", "Tower of Doom", "Weekly", "Journey")),
            "EndedAt": NOON_S - dice.below(400 * DAY_S),
            "Score": dice.low(250_000),
            "Rank": 1 + dice.low(20_000),
            "Stages": dice.below(13),
            "Claimed": dice.chance(0.9),
        }
    )


def quest(dice: Dice) -> bytes:
    """A quest under `Progress`."""
    goal = dice.pick((1, 3, 5, 10, 25, 100))
    return encode(
        {
            "QuestId": dice.between(10_000, 40_000),
            "Kingdom": dice.pick(KINGDOM_IDS),
            "Step": dice.below(9),
            "Done": dice.between(0, goal),
            "Goal": goal,
            "StartedAt": NOON_S - dice.below(900 * DAY_S),
        }
    )
