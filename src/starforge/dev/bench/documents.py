"""The documents that the ETL is measured with: a hero of exactly so many troops, small ones, and a bomb."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from starforge.dev import bodies
from starforge.dev.bodies import encode, section
from starforge.dev.catalogue import RARITIES, TROOP_IDS
from starforge.dev.dice import Dice
from starforge.dev.profile import EPOCH_MS
from starforge.dev.seed import heroes

HERO_BYTES = 2_800_000
HERO_TROOPS, HERO_PETS = 12_000, 1_500
SMALL_MB = 0.05
BOMB_BYTES = 120_000
POOL = 251
FIRST_PET = 8_000


class Heroes:
    """Makes profiles of HERO_TROOPS troops and HERO_PETS pets; the rest of their size is battles."""

    def __init__(self, seed: int = 4) -> None:
        self._dice = Dice(seed)
        self._troops = [bodies.troop(self._dice, 2, each % RARITIES) for each in range(POOL)]
        self._pets = [bodies.pet(self._dice) for _ in range(POOL)]
        self._battles = [bodies.battle(self._dice) for _ in range(POOL)]

    def document(
        self, number: int, *, troops: int = HERO_TROOPS, pets: int = HERO_PETS, size: int = HERO_BYTES
    ) -> bytes:
        """Make hero number `number`; the same number gives the same bytes."""
        mine = [(each, self._troops[(each * 31 + number) % POOL]) for each in TROOP_IDS[:troops]]
        pets_of_it = [(FIRST_PET + each, self._pets[(each * 31 + number) % POOL]) for each in range(pets)]
        profile = {
            "NameCode": f"BENCH_{number}",
            "Id": 1_000_000 + number,
            "Name": f"Bench {number}",
            "Level": 1200,
            "PVPTier": 3,
            "GuildId": 90_000 + number % 50,
            "GuildName": f"Guild {number % 50}",
            "LastLogin": EPOCH_MS // 1000,
            "EquippedPetId": FIRST_PET,
            "Troops": section("TroopId", mine, False),
            "Pets": section("PetId", pets_of_it, False),
        }
        document = {"result": {"success": True, "ServerTime": EPOCH_MS + number, "ProfileData": profile}}
        left = size - len(encode(document))
        battles: list[bytes] = []
        used = len(b',"BattleLog":[]')
        while left > 0:
            battle = self._battles[(len(battles) * 7 + number) % POOL]
            used += len(battle) + 1
            if used > left:
                break
            battles.append(battle)
        return encode(document).replace(
            b'"Troops":{', b'"BattleLog":[' + b",".join(battles) + b'],"Troops":{', 1
        )


def write_huge(file: Path, size: int, *, made: Heroes) -> None:
    """Write a profile of so many bytes, most of them teams with long overrides, to a file."""
    head = made.document(0, troops=HERO_TROOPS, pets=0, size=0)
    opened = head.index(b'"Troops":')
    team = b'{"Name":"T%d","Troops":[1,2,3,4],"OverrideData":{"Log":"%b","Weapons":{"1":{"Level":7}}}}'
    text = b"the same long line of text " * 40
    with file.open("wb") as out:
        out.write(head[:opened] + b'"Teams":[')
        written, number = len(head), 0
        while written < size:
            one = team % (number, text)
            out.write((b"," if number else b"") + one)
            written, number = written + len(one) + 1, number + 1
        out.write(b"]," + head[opened:])


def small_documents(count: int, seed: int = 7) -> Iterator[bytes]:
    """Make so many generated heroes of 50 kB each; about one in 25 is a later capture of an earlier one."""
    for each in heroes(count=count, size_mb=SMALL_MB, seed=seed):
        yield each.data


def bomb() -> bytes:
    """Make a document that is nothing but nesting."""
    return b"[" * (BOMB_BYTES // 2) + b"]" * (BOMB_BYTES // 2)
