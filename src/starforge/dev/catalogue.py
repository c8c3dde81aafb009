"""The made-up game that generated heroes play: its catalogues, kingdoms, guilds and names."""

from __future__ import annotations

from typing import Any

from starforge.dev.dice import Dice

TROOP_IDS = range(6_000, 21_000)
PET_IDS = range(8_000, 8_500)
ARTIFACT_IDS = range(1, 121)
KINGDOM_IDS = range(3_000, 3_046)
WEAPON_IDS = range(1_000, 1_400)
MISSING_IDS = range(99_000, 100_000)
"""Ids that no catalogue has."""

RARITIES = 6
_RARITY_OF_100 = [0] * 30 + [1] * 26 + [2] * 20 + [3] * 13 + [4] * 8 + [5] * 3
"""How often each rarity (0 common … 5 mythic) comes in a hundred catalogue entries."""

CLASSES = ("Dragonguard", "Frostmage", "Hierophant", "Necromancer", "Plaguelord", "Runepriest", "Warden")
RACES = ("Human", "Elf", "Dwarf", "Orc", "Goblin", "Undead")
GUILD_ROLES = ("Member",) * 15 + ("Officer",) * 3 + ("Champion", "Leader")
TEAM_NAMES = (
    "Daily",
    "Boss",
    "PvP",
    "Guild War",
    "Raid",
    "Delve 500",
    "Événement",
    "探索",
    "Ночной рейд",
    "x",
)


def _words(text: str) -> list[str]:
    return text.split()


_MOODS = _words(
    "Ember Frost Storm Shadow Silver Golden Iron Crimson Azure Ancient Hollow Radiant Savage Silent Thorn "
    "Gilded Rune Moon Sun Star Bone Ash Coral Jade Obsidian Ivory Sable Wild Fallen Sworn"
)
_CREATURES = _words(
    "Wyvern Knight Golem Seer Archer Drake Witch Warg Titan Sprite Hydra Monk Reaver Griffin Shaman Lich "
    "Paladin Basilisk Nymph Colossus Ranger Imp Kraken Valkyrie Chimera"
)
_PLACES = _words("Karak Zhul Glade Maw Drift Suncrest Wraithmoor Highforge Lorn Merrow Ashfen Talon Vael")
_ANIMALS = _words("Cub Owl Fox Toad Hound Lynx Raven Ferret Drakelet Bat Mole Pup Stag Crab Moth")
_RELICS = _words("Crown Chalice Orb Horn Blade Mirror Ring Mask Lantern Tome Anvil Sceptre")
_COURTS = _words("Court Legion Circle Watch Order Pact Banner Guard Choir Forge Keep Table")
_FIRST = _words(
    "coco luna dark mister lady sir toxic lazy happy king queen pixel nova rusty tiny grim lucky zen fire "
    "ice sky raven storm gold mad old shy wild"
)
_SECOND = _words(
    "rider wolf mage fox hunter smith bane blade hawk dragon knight bear witch rogue storm star claw heart "
    "song walker eater lord"
)
UNICODE_NAMES = (
    "Zoë", "Łukasz", "Ærnhild", "Jürgen", "Ольга", "Дракон", "龍騎士", "さくら", "용기사", "محارب",
    "Nguyễn", "Κρόνος", "🐉Drake", "Señor Gem", "Ragnarök", "Élodie", "שומר", "ราชา",
)  # fmt: skip


def catalogue(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Make the catalogues that heroes of `seed` draw from.

    Returns: `troops` (15 000), `pets` (500) and `artifacts` (120), each entry with `id`, `name` (unique
    within its list) and `rarity` (0 common … 5 mythic); troops and pets have their `kingdom` too.
    """
    dice = Dice(seed)
    rarities = _rarities(dice)
    return {
        "troops": [
            {"id": troop, "name": _troop_name(place), "rarity": rarity, "kingdom": dice.pick(KINGDOM_IDS)}
            for place, (troop, rarity) in enumerate(zip(TROOP_IDS, rarities, strict=True))
        ],
        "pets": [
            {
                "id": pet,
                "name": _pet_name(place),
                "rarity": dice.pick(_RARITY_OF_100),
                "kingdom": dice.pick(KINGDOM_IDS),
            }
            for place, pet in enumerate(PET_IDS)
        ],
        "artifacts": [
            {"id": artifact, "name": _artifact_name(place), "rarity": dice.pick(_RARITY_OF_100)}
            for place, artifact in enumerate(ARTIFACT_IDS)
        ],
    }


def troop_rarities(seed: int) -> list[int]:
    """The rarities of the troops of `catalogue(seed)`, in the order of TROOP_IDS."""
    return _rarities(Dice(seed))


def guild_id(guild: int) -> int:
    """The id of the guild with the number `guild`, 0 or more."""
    return 90_000 + 7 * guild


def guild_name(guild: int) -> str:
    """The guild's name: it follows from its number alone, so that every document agrees on it."""
    return _numbered(f"{_part(_MOODS, guild)} {_part(_COURTS, guild // len(_MOODS))}", guild, _MOODS, _COURTS)


def hero_name(dice: Dice) -> str:
    """Draw a player's name; about one in eight is not plain ASCII."""
    if dice.chance(0.12):
        return dice.pick(UNICODE_NAMES)
    name = dice.pick(_FIRST) + dice.pick(_SECOND)
    return f"{name.capitalize()}{dice.below(100)}" if dice.chance(0.2) else name.capitalize()


def _rarities(dice: Dice) -> list[int]:
    return [dice.pick(_RARITY_OF_100) for _ in TROOP_IDS]


def _part(words: list[str], place: int) -> str:
    return words[place % len(words)]


def _numbered(name: str, place: int, *words: list[str]) -> str:
    combinations = 1
    for each in words:
        combinations *= len(each)
    again = place // combinations
    return f"{name} {again + 1}" if again else name


def _troop_name(place: int) -> str:
    pairs = len(_MOODS) * len(_CREATURES)
    name = f"{_part(_MOODS, place)} {_part(_CREATURES, place // len(_MOODS))}"
    home = place // pairs
    if not home:
        return name
    return _numbered(f"{name} of {_part(_PLACES, home - 1)}", home - 1, _PLACES)


def _pet_name(place: int) -> str:
    return _numbered(
        f"{_part(_MOODS, place)} {_part(_ANIMALS, place // len(_MOODS))}", place, _MOODS, _ANIMALS
    )


def _artifact_name(place: int) -> str:
    return f"{_part(_RELICS, place)} of {_part(_PLACES, place // len(_RELICS))}"
