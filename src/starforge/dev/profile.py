"""One generated hero: who it is, what one capture of it holds, and the document that results.

Most bytes of a profile are troops, so those are put together from pools of bodies that are encoded
once: a body is chosen by the troop's id and the hero's own salt, and a later capture of the same hero
finds the same bodies again, but for those that have grown since.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from starforge.dev import bodies
from starforge.dev.bodies import DAY_S, Item, encode, mean_bytes, section
from starforge.dev.catalogue import (
    ARTIFACT_IDS,
    CLASSES,
    GUILD_ROLES,
    KINGDOM_IDS,
    PET_IDS,
    RACES,
    RARITIES,
    TROOP_IDS,
    guild_id,
    guild_name,
    hero_name,
    troop_rarities,
)
from starforge.dev.dice import Dice

TROOPS_MAX = 15_000
TEAMS_MAX = 12
POOL = 251
"""Bodies per pool: a prime, so that ids in any regular step still meet every body."""
EPOCH_MS = 1_764_633_600_123
"""Server time before the first capture: 2 December 2025."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CODES = len(LETTERS) ** 4

Envelope = Literal["result", "profile", "bare"]


@dataclass(slots=True)
class Subject:
    """What stays a hero's own from one capture to the next."""

    namecode: str
    name: str
    external_id: int
    guild: int | None
    level: int
    salt: int
    deck_at: int
    troops: int
    size_bytes: int
    envelope: Envelope
    arrays: tuple[bool, bool, bool]
    captures: int = 0
    last_login: int = 0


@dataclass(slots=True)
class Profile:
    """One capture before it is encoded: `fields` first, then the sections, then what is not listed."""

    subject: Subject
    server_ms: int
    fields: dict[str, Any]
    troops: list[Item]
    pets: list[Item]
    artifacts: list[Item]
    teams: list[dict[str, Any]]
    progress: dict[str, Any]
    unlisted: dict[str, Any] = field(default_factory=dict)


class World:
    """The game at one seed: its catalogue, the pools of bodies and the time that passes in it."""

    def __init__(self, dice: Dice, seed: int) -> None:
        self._dice = dice
        rarities = troop_rarities(seed)
        self._troop_pools: list[list[list[bytes]]] = []
        for stage in range(bodies.STAGES):
            pools = [[bodies.troop(dice, stage, rarity) for _ in range(POOL)] for rarity in range(RARITIES)]
            self._troop_pools.append([pools[rarity] for rarity in rarities])
        self._troop_bytes = mean_bytes(self._troop_pools[-1][0]) + len('"6000":,')
        self._pets = [bodies.pet(dice) for _ in range(POOL)]
        self._artifacts = [bodies.artifact(dice) for _ in range(POOL)]
        self._fillers = {
            "BattleLog": [bodies.battle(dice) for _ in range(POOL)],
            "EventHistory": [bodies.event(dice) for _ in range(POOL)],
            "Quests": [bodies.quest(dice) for _ in range(POOL)],
        }
        self._deck = dice.shuffled(TROOP_IDS) * 2
        self._code_at = dice.below(CODES)
        self._first_id = dice.between(100_000_000, 900_000_000)
        self._now_ms = EPOCH_MS

    def subject(self, number: int, size_bytes: int) -> Subject:
        """Invent the hero with the number `number`, 1 or more, whose documents take `size_bytes`."""
        dice = self._dice
        name = hero_name(dice)
        # Large profiles belong to players who have been there for long.
        played = (dice.random() + min(1.0, size_bytes / 2_500_000)) / 2
        share = 0.45 + 0.2 * dice.random()
        in_arrays = dice.chance(0.1)
        return Subject(
            namecode=f"{name.upper().replace(' ', '')}_{self._code(number)}",
            name=name,
            external_id=self._first_id + 37 * number,
            guild=dice.low(3 + number // 8) if dice.chance(0.78) else None,
            level=1 + int(1_500 * played * played),
            salt=dice.below(1 << 20),
            deck_at=dice.below(len(TROOP_IDS)),
            troops=min(TROOPS_MAX, int(size_bytes * share / self._troop_bytes)),
            size_bytes=size_bytes,
            envelope=dice.pick(("profile", "bare")) if dice.chance(0.08) else "result",
            arrays=(in_arrays, in_arrays and dice.chance(0.8), in_arrays and dice.chance(0.8)),
        )

    def capture(self, subject: Subject) -> Profile:
        """Take a snapshot of the hero; a second one finds it further on than the first."""
        dice = self._dice
        self._now_ms += 1 + dice.below(2_000)
        if subject.captures:
            self._grow(subject)
        login = self._now_ms // 1_000 - dice.low(3 * DAY_S)
        subject.last_login = max(subject.last_login, login)
        troops = self._troops(subject)
        pets = self._owned(subject, PET_IDS, 0.08 / 130, self._pets)
        profile = Profile(
            subject=subject,
            server_ms=self._now_ms,
            fields=self._fields(subject, pets),
            troops=troops,
            pets=pets,
            artifacts=self._owned(subject, ARTIFACT_IDS, 0.03 / 40, self._artifacts),
            teams=[bodies.team(dice, subject.level, troops) for _ in range(dice.between(1, TEAMS_MAX))],
            progress=bodies.progress(dice, subject.level),
        )
        subject.captures += 1
        return profile

    def document(self, profile: Profile) -> bytes:
        """Encode the capture, filled with unlisted sections up to the size that its subject asks for."""
        subject, progress = profile.subject, dict(profile.progress)
        inner = dict(profile.fields)
        inner["Troops"] = section("TroopId", profile.troops, subject.arrays[0])
        inner["Pets"] = section("PetId", profile.pets, subject.arrays[1])
        inner["Artifacts"] = section("ArtifactId", profile.artifacts, subject.arrays[2])
        inner["KingdomLevels"] = _kingdom_levels(subject)
        inner["Teams"] = profile.teams
        inner["Progress"] = progress
        inner.update(profile.unlisted)
        document: dict[str, Any] = inner if subject.envelope == "bare" else {"ProfileData": inner}
        if subject.envelope == "result":
            document = {"result": {"success": True, "ServerTime": profile.server_ms, **document}}

        left = subject.size_bytes - len(encode(document))
        for name, share in (("BattleLog", 0.5), ("EventHistory", 0.2), ("Quests", 0.3)):
            home = progress if name == "Quests" else inner
            home[name] = self._filler(name, int(left * share))
        return encode(document)

    def _code(self, number: int) -> str:
        """Four letters that no other number below CODES has, and more letters above that."""
        again, place = divmod(number, CODES)
        # 174 763 is a prime and no factor of CODES, so the step meets every value once.
        value = (place * 174_763 + self._code_at) % CODES
        letters = ""
        for _ in range(4):
            value, letter = divmod(value, len(LETTERS))
            letters += LETTERS[letter]
        while again:
            again, letter = divmod(again, len(LETTERS))
            letters += LETTERS[letter]
        return letters

    def _grow(self, subject: Subject) -> None:
        dice = self._dice
        subject.level += dice.between(1, 5)
        subject.deck_at = (subject.deck_at + dice.between(1, 5)) % len(TROOP_IDS)
        if dice.chance(0.2):
            subject.guild = None if dice.chance(0.3) else (subject.guild or 0) + 1

    def _troops(self, subject: Subject) -> list[Item]:
        salt, grown, first = subject.salt, subject.captures, TROOP_IDS.start
        pools = self._troop_pools[bodies.stage(subject.level)]
        ids = sorted(self._deck[subject.deck_at : subject.deck_at + subject.troops])
        items = [(troop, pools[troop - first][(troop * 31 + salt) % POOL]) for troop in ids]
        if not grown:
            return items
        # One troop in sixteen starts to grow with each capture, and goes on growing from then.
        return [
            (troop, bodies.trained(body, steps) if (steps := grown - (troop * 17 + salt) % 16) > 0 else body)
            for troop, body in items
        ]

    def _owned(self, subject: Subject, ids: range, per_byte: float, pool: list[bytes]) -> list[Item]:
        most = min(len(ids), 1 + int(subject.size_bytes * per_byte))
        owned = most - subject.salt % (most // 2 + 1)
        # The step 7 shares no factor with the number of ids, so it meets `owned` different ones.
        places = sorted((subject.salt + 7 * step) % len(ids) for step in range(owned))
        return [(ids[place], pool[(place * 31 + subject.salt) % POOL]) for place in places]

    def _fields(self, subject: Subject, pets: list[Item]) -> dict[str, Any]:
        dice = self._dice
        fields: dict[str, Any] = {
            "Id": subject.external_id,
            "NameCode": subject.namecode,
            "Name": subject.name,
            "Level": subject.level,
            "LevelMax": subject.level,
            "Class": dice.pick(CLASSES),
            "Race": RACES[subject.salt % len(RACES)],
            "PortraitId": TROOP_IDS[subject.salt % len(TROOP_IDS)],
        }
        if subject.guild is not None:
            fields["GuildId"] = guild_id(subject.guild)
            if not dice.chance(0.02):
                fields["GuildName"] = guild_name(subject.guild)
            # Who stays in a guild keeps the role and the day in later captures.
            member = subject.salt + 11 * subject.guild
            fields["GuildRole"] = GUILD_ROLES[member % len(GUILD_ROLES)]
            fields["JoinedGuildAt"] = EPOCH_MS // 1_000 - member % 900 * DAY_S
        fields["PVPTier"] = 1 + dice.low(12)
        fields["PVPRegion"] = dice.pick(KINGDOM_IDS)
        fields["PVPVictories"] = dice.low(20 * subject.level + 1)
        fields["LastLogin"] = subject.last_login
        draw = dice.random()
        if draw < 0.8:
            fields["EquippedPetId"] = dice.pick(pets)[0]
        elif draw < 0.92:
            fields["EquippedPetId"] = 0 if draw < 0.88 else dice.pick(PET_IDS)
        return fields

    def _filler(self, name: str, size_bytes: int) -> msgspec.Raw:
        pool = self._fillers[name]
        entries = max(0, size_bytes - len(f'"{name}":[],')) // (mean_bytes(pool) + 1)
        first = self._dice.below(POOL)
        rounds = (first + entries) // POOL + 1
        return msgspec.Raw(b"[" + b",".join((pool * rounds)[first : first + entries]) + b"]")


def _kingdom_levels(subject: Subject) -> dict[str, int]:
    highest = 3 + min(12, subject.level // 100)
    return {str(kingdom): 1 + (kingdom * 13 + subject.salt) % highest for kingdom in KINGDOM_IDS}
