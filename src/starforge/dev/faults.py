"""What is wrong with some generated snapshots, and what ingest should make of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from starforge.dev.bodies import Item, changed
from starforge.dev.catalogue import MISSING_IDS
from starforge.dev.dice import Dice
from starforge.dev.profile import Profile

Expect = Literal["accepted", "malformed", "oversized", "mapping_error"]

EXPECTED: dict[str | None, Expect] = {
    None: "accepted",
    "unknown_field": "accepted",
    "missing_catalogue_id": "accepted",
    "malformed": "malformed",
    "oversized": "oversized",
    "wrong_type": "mapping_error",
    "out_of_range": "mapping_error",
    "surrogate": "accepted",
    "empty": "malformed",
}
"""What each fault leads to: the one list of the kinds of faults."""

FAULT_EVERY = 10
"""One document in this many has a fault."""
OVERSIZED_BYTES = (5_500_000, 7_000_000)


def planned(dice: Dice) -> Iterator[str | None]:
    """Give one document after the other its fault, or None, without end.

    One document of every ten has a fault, and each kind comes up before any comes up again, so that a
    run of 80 shows them all.
    """
    kinds = [kind for kind in EXPECTED if kind]
    while True:
        for kind in dice.shuffled(kinds):
            at = dice.below(FAULT_EVERY)
            yield from (kind if place == at else None for place in range(FAULT_EVERY))


def alter(profile: Profile, kind: str, dice: Dice) -> str:
    """Work the fault into the capture and say where; "" when the fault is not one of the content."""
    if kind == "unknown_field":
        return _unknown_field(profile, dice)
    if kind == "missing_catalogue_id":
        return _missing_ids(profile, dice)
    content = CONTENT.get(kind)
    if content is None:
        return ""
    where = dice.pick(list(content))
    content[where](profile)
    return where


def corrupt(data: bytes, how: str) -> bytes:
    """Break a document's bytes in the way named `how`, one of MALFORMED; no way adds a line feed."""
    return MALFORMED[how](data)


def _unknown_field(profile: Profile, dice: Dice) -> str:
    profile.unlisted["SeasonPass"] = {
        "Tier": dice.below(50),
        "Premium": dice.chance(0.3),
        "Track": [1, None, "a"],
    }
    profile.unlisted["ProfileVersion"] = 7
    profile.troops = _change_some(profile.troops, dice, ArmourSlots=[1, 0, 2], Awakened={"Rank": 3})
    profile.pets = _change_some(profile.pets, dice, Mood="happy")
    profile.teams[0]["Formation"] = "wedge"
    return (
        "SeasonPass, ProfileVersion, Troops.*.ArmourSlots, Troops.*.Awakened, Pets.*.Mood, Teams[0].Formation"
    )


def _missing_ids(profile: Profile, dice: Dice) -> str:
    first = dice.below(900)
    missing = [MISSING_IDS[first + 9 * place] for place in range(dice.between(3, 10))]
    profile.troops += [(each, profile.troops[0][1]) for each in missing]
    profile.pets.append((missing[0], profile.pets[0][1]))
    profile.artifacts.append((missing[0], profile.artifacts[0][1]))
    profile.teams[0]["Troops"][0] = missing[0]
    return f"{len(missing)} troops, a pet and an artifact from {missing[0]}"


def _change_some(items: list[Item], dice: Dice, **fields: Any) -> list[Item]:
    first = dice.below(min(7, len(items)))
    return [
        (each, changed(body, **fields) if place % 7 == first else body)
        for place, (each, body) in enumerate(items)
    ]


def _set_first(section: str, **fields: Any) -> Callable[[Profile], None]:
    def change(profile: Profile) -> None:
        items: list[Item] = getattr(profile, section)
        items[0] = (items[0][0], changed(items[0][1], **fields))

    return change


def _set_field(name: str, value: Any) -> Callable[[Profile], None]:
    return lambda profile: profile.unlisted.update({name: value})


def _drop_namecode(profile: Profile) -> None:
    del profile.fields["NameCode"]


def _name_with(escape: bytes) -> Callable[[Profile], None]:
    def change(profile: Profile) -> None:
        profile.fields["Name"] = msgspec.Raw(b'"Hero' + escape + b'rider"')

    return change


def _team_name_with(escape: bytes) -> Callable[[Profile], None]:
    def change(profile: Profile) -> None:
        profile.teams[0]["Name"] = msgspec.Raw(b'"' + escape + b'"')

    return change


CONTENT: dict[str, dict[str, Callable[[Profile], None]]] = {
    "wrong_type": {
        "NameCode missing": _drop_namecode,
        "NameCode is a number": _set_field("NameCode", 4711),
        "Level is text": _set_field("Level", "abc"),
        "Troops is text": _set_field("Troops", "none"),
        "a troop's Amount is a list": _set_first("troops", Amount=[14]),
        "a pet's XP is an object": _set_first("pets", XP={"Value": 5}),
    },
    "out_of_range": {
        "a troop's Amount is 2**40": _set_first("troops", Amount=2**40),
        "a pet's XP is 2**63": _set_first("pets", XP=2**63),
        "Level is below -2**31": _set_field("Level", -(2**31) - 1),
        "LastLogin is 2**62": _set_field("LastLogin", 2**62),
    },
    "surrogate": {
        "a high surrogate in Name": _name_with(rb"\ud83d"),
        "a low surrogate in Name": _name_with(rb"\udc09"),
        "an escaped NUL in Name": _name_with(rb"\u0000"),
        "a high surrogate in a team's Name": _team_name_with(rb"Boss \uD800"),
    },
}
"""The faults that lie in the content of valid JSON: kind → where → what it does to a capture."""

MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) * 2 // 3],
    "raw NUL byte": lambda data: _in_namecode(data, b"\x00"),
    "invalid UTF-8": lambda data: _in_namecode(data, b"\xff\xc3"),
    "raw control character": lambda data: _in_namecode(data, b"\x1f"),
    "trailing comma": lambda data: data[:-1] + b",}",
    "single quotes": lambda data: data.replace(b'"', b"'"),
    "NaN": lambda data: re.sub(rb'"Level":\d+', b'"Level":NaN', data, count=1),
    "leading zero": lambda data: re.sub(rb'"Level":', b'"Level":0', data, count=1),
    "closed twice": lambda data: data + b"}",
    # The length makes two of them different content.
    "a gateway's error page": lambda data: b"<html><title>502 Bad Gateway</title>%d</html>" % len(data),
}
"""The ways in which a document's bytes can be broken; every strict JSON reader refuses each."""


def _in_namecode(data: bytes, inserted: bytes) -> bytes:
    return data.replace(b'"NameCode":"', b'"NameCode":"' + inserted, 1)
