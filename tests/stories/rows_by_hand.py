"""The rows that hero snapshots must become, worked out from the profile's description in plain Python.

No mapping, no SQL: dictionaries that are changed capture by capture, to compare the tables with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

Row = dict[str, Any]
Rows = dict[tuple[Any, ...], Row]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNSTORABLE = re.compile("[\0\ud800-\udfff]")

ITEMS: dict[str, tuple[str, str, dict[str, tuple[str, Any]]]] = {
    "user_troops": ("Troops", "TroopId", {
        "Amount": ("amount", 0), "Level": ("level", 1), "CurrentRarity": ("rarity", 0),
        "EliteLevel": ("elite_level", 0), "FusionCards": ("fusion_cards", 0),
        "TraitsOwned": ("traits_owned", 0),
    }),
    "user_pets": ("Pets", "PetId", {
        "Amount": ("amount", 0), "Level": ("level", 1), "XP": ("xp", 0),
        "OrbFusionCards": ("orb_fusion_cards", 0), "AscensionLevel": ("ascension_level", 0),
        "OrbsUsed": ("orbs_used", []),
    }),
    "user_artifacts": ("Artifacts", "ArtifactId", {"Level": ("level", 1), "XP": ("xp", 0)}),
}  # fmt: skip
"""Table → its section of the profile, the name of an item's id, and name → column and default."""

TEAM: dict[str, tuple[str, Any]] = {
    "Name": ("name", None), "Banner": ("banner", None), "TeamLevel": ("team_level", None),
    "Class": ("class", None), "Troops": ("troops", []), "OverrideData": ("override_data", {}),
}  # fmt: skip
LISTED = {
    "Id", "NameCode", "Name", "Level", "PVPTier", "LastLogin", "EquippedPetId", "GuildId", "GuildName",
    "GuildRole", "JoinedGuildAt", "Troops", "Pets", "Artifacts", "Teams",
}  # fmt: skip


def read(data: bytes) -> Any:
    """Parse a document; what no text column can hold becomes U+FFFD."""

    def storable(value: Any) -> Any:
        if isinstance(value, str):
            return UNSTORABLE.sub("\ufffd", value)
        if isinstance(value, list):
            return list(map(storable, value))
        if isinstance(value, dict):
            return {storable(name): storable(item) for name, item in value.items()}
        return value

    return storable(json.loads(data))


def profile_of(document: Row) -> tuple[Row, Row]:
    """Return the fields, and what lies beside them in their envelopes."""
    around: Row = {}
    for name in ("result", "ProfileData"):
        if isinstance(document.get(name), dict):
            around |= {key: value for key, value in document.items() if key != name}
            document = document[name]
    return document, {key: value for key, value in around.items() if key not in ("success", "ServerTime")}


def captured_at(document: Row) -> datetime | None:
    """Return the server's time, where the document has one."""
    there = document.get("result", document)
    return EPOCH + timedelta(milliseconds=there["ServerTime"]) if "ServerTime" in there else None


def _at(seconds: int | None) -> datetime | None:
    return None if seconds is None else EPOCH + timedelta(seconds=seconds)


def _items(section: Any, id_name: str) -> Iterator[tuple[int, Row]]:
    if isinstance(section, list):
        yield from ((item[id_name], item) for item in section)
    else:
        yield from ((int(key), item) for key, item in (section or {}).items())


def _row(item: Row, columns: dict[str, tuple[str, Any]], *taken: str) -> Row:
    row = {
        column: default if item.get(name) is None else item[name]
        for name, (column, default) in columns.items()
    }
    return row | {"extra": {name: item[name] for name in item if name not in (*columns, *taken)}}


@dataclass
class ByHand:
    """The hero tables as dictionaries: natural key → the other columns. References are natural keys too."""

    seen: dict[str, datetime] = field(default_factory=dict)
    named: dict[int, datetime] = field(default_factory=dict)
    tables: dict[str, Rows] = field(
        default_factory=lambda: {
            name: {}
            for name in (
                "users", "guilds", "guild_members", "user_teams", "user_profile_summary",
                "troop_catalog", "pet_catalog", "artifact_catalog", *ITEMS,
            )
        }
    )  # fmt: skip

    def take(self, document: Row, at: datetime) -> bool:
        """Write one capture; return False where a later one of this user was written already."""
        fields, around = profile_of(document)
        user = fields["NameCode"]
        previous = self.seen.get(user)
        if previous is not None and previous > at:
            return False
        self.seen[user] = at
        unlisted = {name: value for name, value in fields.items() if name not in LISTED}
        self.tables["users"][user,] = {
            "external_id": fields.get("Id"), "username": fields.get("Name"), "extra": around | unlisted,
        }  # fmt: skip
        for table in ITEMS:
            self._take_items(table, user, fields, previous)
        self._take_teams(user, fields)
        guild = self._take_guild(user, fields, at)
        self._summarize(user, fields, guild)
        return True

    def _take_items(self, table: str, user: str, fields: Row, previous: datetime | None) -> None:
        section, id_name, columns = ITEMS[table]
        rows = self.tables[table]
        here = {
            (user, id_): _row(item, columns, id_name) for id_, item in _items(fields.get(section), id_name)
        }
        for key, row in rows.items():
            if key[0] == user and key not in here and row["last_seen"] is None:
                row["last_seen"] = previous
        rows |= {key: row | {"last_seen": None} for key, row in here.items()}
        catalogue = self.tables[table.removeprefix("user_").removesuffix("s") + "_catalog"]
        catalogue |= {(id_,): {"name": None, "meta": {"placeholder": True}} for _, id_ in here}

    def _take_teams(self, user: str, fields: Row) -> None:
        teams = self.tables["user_teams"]
        for key in [key for key in teams if key[0] == user]:
            del teams[key]
        teams |= {(user, place): _row(team, TEAM) for place, team in enumerate(fields.get("Teams") or [])}

    def _take_guild(self, user: str, fields: Row, at: datetime) -> int | None:
        guild, name = fields.get("GuildId"), fields.get("GuildName")
        self.tables["guild_members"].pop((user,), None)
        if guild is None:
            return None
        row = self.tables["guilds"].setdefault((guild,), {"name": None})
        if name is not None and at >= self.named.get(guild, at):
            self.named[guild], row["name"] = at, name
        joined_at = _at(fields.get("JoinedGuildAt"))
        self.tables["guild_members"][user,] = {
            "guild": guild, "role": fields.get("GuildRole"), "joined_at": joined_at,
        }  # fmt: skip
        return int(guild)

    def _summarize(self, user: str, fields: Row, guild: int | None) -> None:
        pet = self.tables["user_pets"].get((user, fields.get("EquippedPetId")))
        here = [
            (-row["level"], -row["rarity"], -row["amount"], key[1])
            for key, row in self.tables["user_troops"].items()
            if key[0] == user and row["last_seen"] is None
        ]
        self.tables["user_profile_summary"][user,] = {
            "level": fields.get("Level"),
            "pvp_tier": fields.get("PVPTier"),
            "guild": guild,
            "equipped_pet": None if pet is None or pet["last_seen"] is not None else {
                "pet_id": fields["EquippedPetId"], "level": pet["level"],
                "ascension_level": pet["ascension_level"],
            },
            "top_troops": [
                {"troop_id": id_, "amount": -amount, "level": -level}
                for level, _, amount, id_ in sorted(here)[:10]
            ],
            "last_seen": _at(fields.get("LastLogin")),
        }  # fmt: skip
