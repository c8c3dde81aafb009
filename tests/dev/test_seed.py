"""Generated heroes: the same bytes everywhere, in the true shape, and as faulty as they say."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from starforge.dev import faults
from starforge.dev.catalogue import ARTIFACT_IDS, PET_IDS, TROOP_IDS, catalogue
from starforge.dev.dice import Dice
from starforge.dev.errors import FolderInUseError, FolderUnwritableError
from starforge.dev.seed import GUARD_BYTES, MB, Generated, heroes, write_heroes
from starforge.errors import InvalidInputError

DEMO_MB = (0.05, 3.0)
SMALL_MB = 0.02

# The digest of 60 documents; it changes only where the generator is changed on purpose.
KNOWN_SHA256 = "0"


def digest(documents: Any) -> str:
    whole = hashlib.sha256()
    for document in documents:
        whole.update(f"{document.name} {document.fault} {document.expect} {document.detail}\n".encode())
        whole.update(document.data)
    return whole.hexdigest()


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def strict(data: bytes) -> Any:
    return json.loads(data.decode(), parse_constant=no_constant)


def profile_of(document: Generated) -> dict[str, Any]:
    """The hero's fields, found with and without the envelopes."""
    whole = strict(document.data)
    whole = whole.get("result", whole)
    profile = whole.get("ProfileData", whole)
    assert isinstance(profile, dict)
    return profile


def items_of(profile: dict[str, Any], section: str, key: str) -> dict[int, dict[str, Any]]:
    """A section's items by id, whether it is an object or an array."""
    items = profile[section]
    if isinstance(items, list):
        by_id = {item[key]: item for item in items}
        assert len(by_id) == len(items)
        return by_id
    return {int(each): item for each, item in items.items()}


@pytest.fixture(scope="module")
def sound() -> list[Generated]:
    return list(heroes(count=400, size_mb=(0.02, 0.2), seed=11))


@pytest.fixture(scope="module")
def faulty() -> list[Generated]:
    return list(heroes(count=900, size_mb=SMALL_MB, seed=5, faults=True))


def test_the_same_arguments_give_the_same_bytes_and_another_seed_gives_others():
    first = digest(heroes(count=40, size_mb=SMALL_MB, seed=3, faults=True))
    assert digest(heroes(count=40, size_mb=SMALL_MB, seed=3, faults=True)) == first
    assert digest(heroes(count=40, size_mb=SMALL_MB, seed=4, faults=True)) != first


def test_the_bytes_are_those_that_every_other_machine_makes():
    assert digest(heroes(count=60, size_mb=(0.02, 0.3), seed=2, faults=True)) == KNOWN_SHA256


def test_no_document_depends_on_the_hash_seed_of_the_process():
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


def test_a_shorter_run_gives_the_first_documents_of_a_longer_one():
    long = list(heroes(count=50, size_mb=SMALL_MB, seed=8, faults=True))
    assert list(heroes(count=20, size_mb=SMALL_MB, seed=8, faults=True)) == long[:20]


def test_a_run_without_end_gives_its_first_document_at_once():
    (first,) = islice(heroes(count=10**12, size_mb=SMALL_MB, seed=1), 1)
    assert first.name == "hero-000001"


@pytest.mark.parametrize("size_mb", [0.02, 0.05, 0.4, 2.5, 6.0])
def test_every_document_is_within_five_percent_of_the_size_asked_for(size_mb):
    count = 200 if size_mb < 1 else 8
    sizes = [len(document.data) for document in heroes(count=count, size_mb=size_mb, seed=1)]
    assert 0.95 * size_mb * MB <= min(sizes)
    assert max(sizes) <= 1.05 * size_mb * MB


def test_sizes_between_bounds_are_drawn_evenly_over_their_logarithm():
    sizes = [len(document.data) for document in heroes(count=300, size_mb=DEMO_MB, seed=1)]
    assert 0.95 * DEMO_MB[0] * MB <= min(sizes)
    assert max(sizes) <= 1.05 * DEMO_MB[1] * MB
    # The geometric mean of the bounds is 0.387 MB; the arithmetic one would be 1.5.
    assert 0.3 * MB < statistics.median(sizes) < 0.5 * MB


def test_a_usual_profile_of_two_or_three_megabytes_has_thousands_of_troops():
    for document in heroes(count=12, size_mb=(2.0, 3.0), seed=6):
        assert 7_000 <= len(profile_of(document)["Troops"]) <= 15_000


def test_an_accepted_document_has_the_true_shape_with_ids_of_the_catalogue(sound):
    for document in sound:
        profile = profile_of(document)
        assert document.expect == "accepted"
        assert b": " not in document.data[:200]
        assert 0 < len(profile["NameCode"]) <= 64
        troops = items_of(profile, "Troops", "TroopId")
        assert troops.keys() <= set(TROOP_IDS)
        assert items_of(profile, "Pets", "PetId").keys() <= set(PET_IDS)
        assert items_of(profile, "Artifacts", "ArtifactId").keys() <= set(ARTIFACT_IDS)
        for troop in troops.values():
            assert troop["Amount"] >= 1
            assert 1 <= troop["Level"] <= 20
            assert 0 <= troop["CurrentRarity"] <= 5
        assert 1 <= len(profile["Teams"]) <= 12
        for team in profile["Teams"]:
            assert len(team["Troops"]) == 4
            assert set(team["Troops"]) <= troops.keys() | {0}


def test_every_variant_of_the_shape_comes_up(sound):
    seen: Counter[str] = Counter()
    for document in sound:
        whole, profile = strict(document.data), profile_of(document)
        pets = items_of(profile, "Pets", "PetId")
        equipped = profile.get("EquippedPetId")
        seen["result" if "result" in whole else "profile" if "ProfileData" in whole else "bare"] += 1
        seen["arrays"] += isinstance(profile["Troops"], list)
        seen["no guild"] += "GuildId" not in profile
        seen["guild without a name"] += "GuildId" in profile and "GuildName" not in profile
        seen["no pet"] += equipped is None
        seen["pet 0"] += equipped == 0
        seen["own pet"] += equipped in pets
        seen["empty slot"] += any(0 in team["Troops"] for team in profile["Teams"])
        seen["unicode"] += not profile["Name"].isascii()
        seen["one team"] += len(profile["Teams"]) == 1
    assert min(seen.values()) >= 2
    assert seen["result"] > 0.85 * len(sound)
    assert 0.05 < seen["arrays"] / len(sound) < 0.2


def test_a_name_code_comes_again_only_as_a_later_capture_of_the_same_hero(sound):
    captures = defaultdict(list)
    for document in sound:
        whole, profile = strict(document.data), profile_of(document)
        captures[profile["NameCode"]].append((whole.get("result", {}).get("ServerTime"), profile))
    repeated = [taken for taken in captures.values() if len(taken) > 1]
    assert 0.02 < len(repeated) / len(sound) < 0.07
    assert len({taken[0][1]["Id"] for taken in captures.values()}) == len(captures)
    for taken in repeated:
        for (before_ms, before), (after_ms, after) in zip(taken, taken[1:], strict=False):
            assert before_ms < after_ms
            assert before["Id"] == after["Id"]
            assert before["Level"] < after["Level"]
            assert before["LastLogin"] <= after["LastLogin"]
            old, new = (items_of(each, "Troops", "TroopId") for each in (before, after))
            same = [troop for troop in old.keys() & new.keys() if old[troop] == new[troop]]
            assert old.keys() - new.keys(), "some troops leave"
            assert 0 < len(old.keys() & new.keys()) - len(same), "some troops grow"


def test_a_guild_has_one_name_in_all_documents_and_several_members(sound):
    names, members = defaultdict(set), Counter[int]()
    for document in sound:
        profile = profile_of(document)
        if "GuildId" in profile:
            members[profile["GuildId"]] += 1
            names[profile["GuildId"]] |= {profile["GuildName"]} if "GuildName" in profile else set()
    assert all(len(each) <= 1 for each in names.values())
    assert members.most_common(1)[0][1] >= 5


def test_one_document_in_ten_is_faulty_and_every_kind_comes_up(faulty):
    kinds = Counter(document.fault for document in faulty)
    assert kinds.pop(None) == 0.9 * len(faulty)
    assert kinds.keys() == {kind for kind in faults.EXPECTED if kind}
    assert max(kinds.values()) - min(kinds.values()) <= 2


def test_what_is_expected_follows_from_the_fault(faulty):
    for document in faulty:
        assert document.expect == faults.EXPECTED[document.fault]
        assert bool(document.detail) == (document.fault not in (None, "empty", "oversized"))


def test_malformed_documents_are_refused_by_a_strict_reader_and_no_others_are(faulty):
    for document in faulty:
        if document.expect == "malformed":
            with pytest.raises(ValueError, match=r".+"):
                strict(document.data)
        else:
            assert profile_of(document)


@pytest.mark.parametrize("how", list(faults.MALFORMED))
def test_each_way_of_breaking_a_document_breaks_it_on_one_line(how):
    (document,) = heroes(count=1, size_mb=SMALL_MB, seed=1)
    broken = faults.corrupt(document.data, how)
    with pytest.raises(ValueError, match=r".+"):
        strict(broken)
    assert b"\n" not in broken


def test_oversized_documents_are_sound_and_above_the_guard(faulty):
    oversized = [document for document in faulty if document.fault == "oversized"]
    for document in oversized:
        assert GUARD_BYTES < 5.4 * MB < len(document.data) < 7.2 * MB
    assert len(profile_of(oversized[0])["Troops"]) == 15_000


def test_a_size_above_the_guard_is_expected_to_be_held_back_without_any_fault():
    (document,) = heroes(count=1, size_mb=5.6, seed=1)
    assert (document.fault, document.expect) == (None, "oversized")


def test_missing_ids_are_ids_that_the_catalogue_lacks(faulty):
    for document in faulty:
        if document.fault == "missing_catalogue_id":
            profile = profile_of(document)
            known = {entry["id"] for entry in catalogue(5)["troops"]}
            assert len(items_of(profile, "Troops", "TroopId").keys() - known) >= 3
            assert len(items_of(profile, "Pets", "PetId").keys() - set(PET_IDS)) == 1


@pytest.mark.parametrize("kind", ["wrong_type", "out_of_range", "surrogate"])
def test_each_fault_of_the_content_leaves_valid_json_and_touches_what_it_names(kind):
    for where, change in faults.CONTENT[kind].items():
        changed, untouched = (_documents_of_one_capture(change) for change in (change, None))
        assert changed != untouched, where
        assert profile_of(Generated("x", changed, kind, "accepted"))


def _documents_of_one_capture(change: Any) -> bytes:
    from starforge.dev.profile import World

    world = World(Dice(1), 1)
    profile = world.capture(world.subject(1, 20_000))
    if change:
        change(profile)
    return world.document(profile)


def test_catalogues_have_unique_ids_and_names_and_fewer_of_the_rarer():
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
def test_an_argument_outside_its_bounds_is_refused_before_anything_is_made(wrong):
    with pytest.raises(InvalidInputError):
        heroes(**{"count": 1, "size_mb": 1.0, "seed": 1, **wrong})


def test_every_document_becomes_a_file_of_exactly_its_bytes(tmp_path: Path):
    asked = {"count": 30, "size_mb": SMALL_MB, "seed": 5, "faults": True}
    seen: list[Generated] = []
    summary = write_heroes(tmp_path / "new", **asked, progress=seen.append)
    assert {path.stem: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {
        document.name: document.data for document in heroes(**asked)
    }
    assert seen == list(heroes(**asked))
    assert summary.documents == 30
    assert summary.bytes == sum(len(document.data) for document in seen)
    assert summary.faults.total() == 3
    assert summary.expected.total() == 30


def test_ndjson_has_one_document_per_line_but_for_those_of_no_bytes(tmp_path: Path):
    asked = {"count": 90, "size_mb": SMALL_MB, "seed": 5, "faults": True}
    summary = write_heroes(tmp_path, **asked, ndjson=True)
    lines = (tmp_path / "heroes.ndjson").read_bytes().split(b"\n")
    assert lines == [document.data for document in heroes(**asked) if document.data] + [b""]
    assert summary.documents == len(lines) - 1 == 89


def test_a_folder_with_other_content_is_refused_unless_forced(tmp_path: Path):
    asked = {"size_mb": SMALL_MB, "seed": 5}
    write_heroes(tmp_path, count=3, **asked)
    write_heroes(tmp_path, count=4, **asked)
    with pytest.raises(FolderInUseError, match=r"hero-000003\.json"):
        write_heroes(tmp_path, count=2, **asked)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FolderInUseError, match=r"notes\.txt"):
        write_heroes(tmp_path, count=4, **asked)
    write_heroes(tmp_path, count=2, **asked, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_named_in_the_error(tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(FolderUnwritableError, match="taken"):
        write_heroes(tmp_path / "taken", count=1, size_mb=SMALL_MB, seed=1)
