"""Generated heroes: the same bytes everywhere, in the true shape, and as faulty as they say."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from starforge.dev import faults
from starforge.dev.catalogue import ARTIFACT_IDS, PET_IDS, TROOP_IDS, catalogue
from starforge.dev.dice import Dice
from starforge.dev.errors import FolderInUseError, FolderUnwritableError
from starforge.dev.profile import Profile, World
from starforge.dev.seed import GUARD_BYTES, MB, Generated, heroes, write_heroes
from starforge.errors import InvalidInputError

DEMO_MB = (0.05, 3.0)
SMALL_MB = 0.02

# The digest of 60 documents; it changes only where the generator is changed on purpose.
KNOWN_SHA256 = "7443220ba07d454ec6fcd6f56525472facf860f715f9d598a271c3dad543f572"

INT, BIGINT = 2**31, 2**63
RANGES = {
    "Troops": dict.fromkeys(("Amount", "Level", "CurrentRarity", "EliteLevel", "FusionCards"), INT),
    "Pets": {"Amount": INT, "Level": INT, "XP": BIGINT, "OrbFusionCards": INT, "AscensionLevel": INT},
    "Artifacts": {"Level": INT, "XP": BIGINT},
    "profile": {"Id": BIGINT, "Level": INT, "PVPTier": INT, "LastLogin": 2**40},
}
KEYS = {"Troops": "TroopId", "Pets": "PetId", "Artifacts": "ArtifactId"}


@dataclass
class Read:
    """A generated document beside what a strict reader makes of it."""

    made: Generated
    whole: dict[str, Any] | None

    @property
    def profile(self) -> dict[str, Any]:
        """The hero's fields, found with and without the envelopes."""
        assert self.whole is not None, "not JSON"
        inner = self.whole.get("result", self.whole)
        profile = inner.get("ProfileData", inner)
        assert isinstance(profile, dict)
        return profile

    def items(self, section: str) -> dict[int, dict[str, Any]]:
        """A section's items by id, whether it is an object or an array."""
        items = self.profile[section]
        if isinstance(items, dict):
            return {int(each): item for each, item in items.items()}
        by_id = {item[KEYS[section]]: item for item in items}
        assert len(by_id) == len(items)
        return by_id


def digest(documents: Iterable[Generated]) -> str:
    whole = hashlib.sha256()
    for made in documents:
        whole.update(f"{made.name} {made.fault} {made.expect} {made.detail}\n".encode())
        whole.update(made.data)
    return whole.hexdigest()


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def strict(data: bytes) -> Any:
    return json.loads(data.decode(), parse_constant=no_constant)


def read(made: Generated) -> Read:
    try:
        return Read(made, strict(made.data))
    except ValueError:
        return Read(made, None)


def misfits(document: Read) -> Iterator[str]:
    """What a mapping that keeps to the columns' types and ranges must complain about."""
    profile = document.profile
    if not isinstance(profile.get("NameCode"), str):
        yield "NameCode"
    rows = [("profile", profile)]
    for section in KEYS:
        if isinstance(profile[section], str):
            yield section
        else:
            rows += [(section, item) for item in document.items(section).values()]
    for kind, row in rows:
        for name, bound in RANGES[kind].items():
            if not isinstance(row[name], int) or not -bound <= row[name] < bound:
                yield f"{kind}.{name}"


@pytest.fixture(scope="module")
def sound() -> list[Read]:
    return [read(made) for made in heroes(count=200, size_mb=(0.02, 0.06), seed=12)]


@pytest.fixture(scope="module")
def faulty() -> list[Read]:
    return [read(made) for made in heroes(count=80, size_mb=SMALL_MB, seed=5, faults=True)]


def test_the_same_arguments_give_the_same_bytes_and_another_seed_gives_others() -> None:
    first = digest(heroes(count=40, size_mb=SMALL_MB, seed=3, faults=True))
    assert digest(heroes(count=40, size_mb=SMALL_MB, seed=3, faults=True)) == first
    assert digest(heroes(count=40, size_mb=SMALL_MB, seed=4, faults=True)) != first


def test_the_bytes_are_those_that_every_other_machine_makes() -> None:
    assert digest(heroes(count=60, size_mb=(0.02, 0.3), seed=2, faults=True)) == KNOWN_SHA256


def test_no_document_depends_on_the_hash_seed_of_the_process() -> None:
    program = (
        "import hashlib; from starforge.dev.seed import heroes; "
        "print(hashlib.sha256(b''.join(d.data for d in heroes(count=30, size_mb=0.02, seed=9, faults=True)))"
        ".hexdigest())"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(made) == 1


def test_a_shorter_run_gives_the_first_documents_of_a_longer_one() -> None:
    long = list(heroes(count=50, size_mb=SMALL_MB, seed=8, faults=True))
    assert list(heroes(count=20, size_mb=SMALL_MB, seed=8, faults=True)) == long[:20]


def test_a_run_without_end_gives_its_first_document_at_once() -> None:
    (first,) = islice(heroes(count=10**12, size_mb=SMALL_MB, seed=1), 1)
    assert first.name == "hero-000001"


@pytest.mark.parametrize("size_mb", [0.02, 0.05, 0.4, 2.5])
def test_every_document_is_within_five_percent_of_the_size_asked_for(size_mb: float) -> None:
    count = 60 if size_mb < 1 else 6
    sizes = [len(made.data) for made in heroes(count=count, size_mb=size_mb, seed=1)]
    assert min(sizes) >= 0.95 * size_mb * MB
    assert max(sizes) <= 1.05 * size_mb * MB


def test_sizes_between_bounds_are_drawn_evenly_over_their_logarithm() -> None:
    sizes = [len(made.data) for made in heroes(count=100, size_mb=DEMO_MB, seed=1)]
    assert min(sizes) >= 0.95 * DEMO_MB[0] * MB
    assert max(sizes) <= 1.05 * DEMO_MB[1] * MB
    # The geometric mean of the bounds is 0.387 MB; the arithmetic one would be 1.5.
    assert 0.3 * MB < statistics.median(sizes) < 0.5 * MB


def test_a_usual_profile_of_two_or_three_megabytes_has_thousands_of_troops() -> None:
    for made in heroes(count=3, size_mb=(2.0, 3.0), seed=6):
        assert 7_000 <= len(read(made).items("Troops")) <= 15_000


def test_an_accepted_document_has_the_true_shape_with_ids_of_the_catalogue(sound: list[Read]) -> None:
    for document in sound:
        profile = document.profile
        assert document.made.expect == "accepted"
        assert b'": ' not in document.made.data
        assert not list(misfits(document))
        assert 0 < len(profile["NameCode"]) <= 64
        for section, ids in (("Troops", TROOP_IDS), ("Pets", PET_IDS), ("Artifacts", ARTIFACT_IDS)):
            assert all(each in ids for each in document.items(section))
        troops = document.items("Troops")
        for troop in troops.values():
            assert troop["Amount"] >= 1
            assert 1 <= troop["Level"] <= 20
            assert 0 <= troop["CurrentRarity"] <= 5
        assert 1 <= len(profile["Teams"]) <= 12
        for team in profile["Teams"]:
            assert len(team["Troops"]) == 4
            assert set(team["Troops"]) <= troops.keys() | {0}


def test_every_variant_of_the_shape_comes_up(sound: list[Read]) -> None:
    seen: Counter[str] = Counter()
    for document in sound:
        whole, profile = document.whole or {}, document.profile
        equipped = profile.get("EquippedPetId")
        seen["result" if "result" in whole else "profile" if "ProfileData" in whole else "bare"] += 1
        seen["arrays"] += isinstance(profile["Troops"], list)
        seen["no guild"] += "GuildId" not in profile
        seen["guild without a name"] += "GuildId" in profile and "GuildName" not in profile
        seen["no pet"] += equipped is None
        seen["pet 0"] += equipped == 0
        seen["own pet"] += equipped in document.items("Pets")
        seen["pet of another"] += bool(equipped) and equipped not in document.items("Pets")
        seen["empty slot"] += any(0 in team["Troops"] for team in profile["Teams"])
        seen["unicode"] += not profile["Name"].isascii()
        seen["one team"] += len(profile["Teams"]) == 1
    assert {name for name, times in seen.items() if not times} == set()
    assert {"profile", "bare"} <= seen.keys()
    assert seen["result"] > 0.85 * len(sound)
    assert 0.05 < seen["arrays"] / len(sound) < 0.2


def test_a_name_code_comes_again_only_as_a_later_capture_of_the_same_hero(sound: list[Read]) -> None:
    captures: dict[str, list[Read]] = defaultdict(list)
    for document in sound:
        captures[document.profile["NameCode"]].append(document)
    repeated = [taken for taken in captures.values() if len(taken) > 1]
    assert 0.01 < len(repeated) / len(sound) < 0.08
    assert len({taken[0].profile["Id"] for taken in captures.values()}) == len(captures)
    for before, after in (pair for taken in repeated for pair in pairwise(taken)):
        assert before.whole is not None
        assert after.whole is not None
        assert before.whole["result"]["ServerTime"] < after.whole["result"]["ServerTime"]
        assert before.profile["Id"] == after.profile["Id"]
        assert before.profile["Level"] < after.profile["Level"]
        assert before.profile["LastLogin"] <= after.profile["LastLogin"]
        old, new = before.items("Troops"), after.items("Troops")
        stayed = old.keys() & new.keys()
        grown = [troop for troop in stayed if old[troop]["Amount"] < new[troop]["Amount"]]
        assert old.keys() - stayed, "some troops leave"
        assert new.keys() - stayed, "some troops come"
        assert 0 < len(grown) < 0.2 * len(stayed)


def test_a_guild_has_one_name_in_all_documents_and_several_members(sound: list[Read]) -> None:
    names: dict[int, set[str]] = defaultdict(set)
    members: Counter[int] = Counter()
    for profile in (document.profile for document in sound):
        if "GuildId" in profile:
            members[profile["GuildId"]] += 1
            names[profile["GuildId"]] |= {profile["GuildName"]} if "GuildName" in profile else set()
    assert max(len(each) for each in names.values()) == 1
    assert members.most_common(1)[0][1] >= 5


def test_one_document_in_ten_is_faulty_and_every_kind_comes_up(faulty: list[Read]) -> None:
    kinds = Counter(document.made.fault for document in faulty)
    assert kinds.pop(None) == 0.9 * len(faulty)
    assert kinds == {kind: 1 for kind in faults.EXPECTED if kind}


def test_what_is_expected_follows_from_the_fault(faulty: list[Read]) -> None:
    for made in (document.made for document in faulty):
        assert made.expect == faults.EXPECTED[made.fault]
        assert bool(made.detail) == (made.fault not in (None, "empty", "oversized"))


def test_malformed_documents_and_no_others_are_refused_by_a_strict_reader(faulty: list[Read]) -> None:
    for document in faulty:
        assert (document.whole is None) == (document.made.expect == "malformed"), document.made.name


def test_a_mapping_error_is_expected_exactly_where_a_value_does_not_fit(faulty: list[Read]) -> None:
    for document in faulty:
        if document.whole is not None:
            assert bool(list(misfits(document))) == (document.made.expect == "mapping_error")


@pytest.mark.parametrize("how", list(faults.MALFORMED))
def test_each_way_of_breaking_a_document_breaks_it_on_one_line(how: str) -> None:
    broken = faults.corrupt(_one_capture(None), how)
    with pytest.raises(ValueError, match=r".+"):
        strict(broken)
    assert b"\n" not in broken


@pytest.mark.parametrize("kind", ["wrong_type", "out_of_range", "surrogate"])
def test_each_fault_of_the_content_leaves_valid_json_and_only_mapping_errors_misfit(kind: str) -> None:
    untouched = _one_capture(None)
    for where, change in faults.CONTENT[kind].items():
        data = _one_capture(change)
        document = read(Generated("x", data, kind, faults.EXPECTED[kind], where))
        assert data != untouched, where
        assert bool(list(misfits(document))) == (document.made.expect == "mapping_error"), where


def _one_capture(change: Callable[[Profile], None] | None) -> bytes:
    world = World(Dice(1), 1)
    profile = world.capture(world.subject(1, 20_000))
    if change:
        change(profile)
    return world.document(profile)


def test_oversized_documents_are_sound_and_above_the_guard(faulty: list[Read]) -> None:
    oversized = [document for document in faulty if document.made.fault == "oversized"]
    for document in oversized:
        assert GUARD_BYTES < 5.4 * MB < len(document.made.data) < 7.1 * MB
        assert len(document.items("Troops")) == 15_000


def test_a_size_above_the_guard_is_expected_to_be_held_back_without_any_fault() -> None:
    (made,) = heroes(count=1, size_mb=5.6, seed=1)
    assert (made.fault, made.expect) == (None, "oversized")


def test_missing_ids_are_ids_that_the_catalogue_lacks(faulty: list[Read]) -> None:
    known = {name: {entry["id"] for entry in entries} for name, entries in catalogue(5).items()}
    for document in faulty:
        missing = [
            len(document.items(section).keys() - known[section.lower()])
            for section in KEYS
            if document.made.fault == "missing_catalogue_id"
        ]
        assert not missing or (3 <= missing[0] <= 10 and missing[1:] == [1, 1])


def test_catalogues_have_unique_ids_and_names_and_fewer_of_the_rarer() -> None:
    made = catalogue(1)
    assert made == catalogue(1)
    for entries, ids in zip(made.values(), (TROOP_IDS, PET_IDS, ARTIFACT_IDS), strict=True):
        assert [entry["id"] for entry in entries] == list(ids)
        assert len({entry["name"] for entry in entries}) == len(entries)
    rarities = Counter(entry["rarity"] for entry in made["troops"])
    assert [rarity for rarity, _ in rarities.most_common()] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "wrong", [{"count": -1}, {"seed": -1}, {"size_mb": 0.001}, {"size_mb": (3.0, 1.0)}, {"size_mb": 1e9}]
)
def test_an_argument_outside_its_bounds_is_refused_before_anything_is_made(wrong: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"count": 1, "size_mb": 1.0, "seed": 1, **wrong}
    with pytest.raises(InvalidInputError):
        heroes(**asked)


def test_every_document_becomes_a_file_of_exactly_its_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    made = list(heroes(count=30, size_mb=SMALL_MB, seed=5, faults=True))
    seen: list[Generated] = []
    summary = write_heroes(folder, count=30, size_mb=SMALL_MB, seed=5, faults=True, progress=seen.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        f"{each.name}.json": each.data for each in made
    }
    assert seen == made
    assert (summary.documents, summary.bytes) == (30, sum(len(each.data) for each in made))
    assert (summary.faults.total(), summary.expected.total()) == (3, 30)


def test_ndjson_has_one_document_per_line_but_for_those_of_no_bytes(tmp_path: Path) -> None:
    made = list(heroes(count=80, size_mb=SMALL_MB, seed=5, faults=True))
    summary = write_heroes(tmp_path, count=80, size_mb=SMALL_MB, seed=5, faults=True, ndjson=True)
    lines = (tmp_path / "heroes.ndjson").read_bytes().split(b"\n")
    assert lines == [*(each.data for each in made if each.data), b""]
    assert summary.documents == len(lines) - 1 == 79


def test_a_folder_with_other_content_is_refused_unless_forced(tmp_path: Path) -> None:
    def write(count: int, *, force: bool = False) -> None:
        write_heroes(tmp_path, count=count, size_mb=SMALL_MB, seed=5, force=force)

    write(3)
    write(4)
    with pytest.raises(FolderInUseError, match=r"hero-000003\.json"):
        write(2)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FolderInUseError, match=r"notes\.txt"):
        write(4)
    write(2, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(FolderUnwritableError, match="taken"):
        write_heroes(tmp_path / "taken", count=1, size_mb=SMALL_MB, seed=1)
