"""Group commit: nobody waits for company, what comes meanwhile goes together, the guilty one fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from starforge.db import group_commit
from starforge.db.group_commit import GroupCommit, GroupLeftError


@pytest.fixture(autouse=True)
def _groups_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "UNITS_MAX", 4)


class Committed:
    """Takes groups, each as soon as it is let through."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.open = asyncio.Event()
        self.bad: set[str] = set()
        self.away = False

    async def commit(self, units: Sequence[str], stay: Callable[[], None]) -> list[str]:
        self.groups.append(list(units))
        await self.open.wait()
        if self.away:
            raise ConnectionResetError("gone")
        if self.bad & set(units):
            raise ValueError(f"{sorted(self.bad & set(units))} cannot be committed")
        stay()
        return [f"{unit} is committed" for unit in units]


async def started(
    line: GroupCommit[str, str], *units: str, kind: str = "k"
) -> list[asyncio.Task[str | None]]:
    """Hand in units one after the other; the key of each is its first letter."""
    tasks = [asyncio.create_task(line.take(unit, kind=kind, key=unit[0])) for unit in units]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_what_comes_while_the_lanes_are_busy_goes_together() -> None:
    made = Committed()
    line = GroupCommit(made.commit)
    first = await started(line, "a")
    second = await started(line, "b")
    rest = await started(line, "c", "d", "e", "f", "g")
    assert made.groups == [["a"], ["b"]], "nobody waits for company, and there are two lanes"
    made.open.set()
    answers = await asyncio.gather(*first, *second, *rest)
    assert answers == [f"{unit} is committed" for unit in "abcdefg"]
    assert made.groups[2:] == [["c", "d", "e", "f"], ["g"]]


async def test_units_with_one_key_and_units_of_two_kinds_are_never_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_commit, "LANES", 1)
    made = Committed()
    line = GroupCommit(made.commit)
    first = await started(line, "x")
    rest = await started(line, "a1", "b", "a2", "c") + await started(line, "d", "e", kind="other")
    made.open.set()
    await asyncio.gather(*first, *rest)
    assert made.groups == [["x"], ["a1", "b", "c"], ["a2"], ["d", "e"]]


async def test_a_group_that_fails_is_taken_apart_and_the_next_one_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_commit, "LANES", 1)
    made = Committed()
    made.bad = {"b"}
    line = GroupCommit(made.commit)
    first = await started(line, "x")
    rest = await started(line, "a", "b", "c", "d", "e")
    made.open.set()
    assert await asyncio.gather(*first, *rest) == ["x is committed", *[None] * 4, "e is committed"]


async def test_what_all_would_meet_is_told_to_all() -> None:
    made = Committed()
    made.away = True
    line = GroupCommit(made.commit, everywhere=(OSError,))
    tasks = await started(line, "a", "b", "c")
    made.open.set()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in told] == [ConnectionResetError] * 3


async def test_a_group_that_somebody_left_is_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "LANES", 1)
    made, seen = Committed(), []

    async def commit(units: Sequence[str], stay: Callable[[], None]) -> list[str]:
        try:
            return await made.commit(units, stay)
        except GroupLeftError:
            seen.append(list(units))
            raise

    line = GroupCommit(commit)
    [first] = await started(line, "x")
    a, b = await started(line, "a", "b")
    first.cancel()
    made.open.set()
    await asyncio.sleep(0)
    while ["a", "b"] not in made.groups:
        await asyncio.sleep(0)
    assert [await a, await b] == ["a is committed", "b is committed"], "who left was not in theirs"
    assert seen == [["x"]]


async def test_who_gave_up_before_the_turn_came_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "LANES", 1)
    made = Committed()
    line = GroupCommit(made.commit)
    first = await started(line, "x")
    a, b = await started(line, "a", "b")
    a.cancel()
    made.open.set()
    assert await asyncio.gather(*first, b) == ["x is committed", "b is committed"]
    assert made.groups == [["x"], ["b"]]


async def test_a_unit_that_comes_as_a_lane_ends_is_not_left_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes between the last look of a lane and the end of its task found all lanes taken once."""
    monkeypatch.setattr(group_commit, "LANES", 1)
    made = Committed()
    made.open.set()
    line = GroupCommit(made.commit)

    async def one_after_the_other(name: str) -> None:
        for number in range(50):
            assert await line.take(f"{name}{number}", kind="k", key=name) == f"{name}{number} is committed"

    async with asyncio.timeout(5):
        await asyncio.gather(*(one_after_the_other(name) for name in "abcde"))
