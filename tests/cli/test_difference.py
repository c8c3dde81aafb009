"""What an act would change, as a person reads it."""

from __future__ import annotations

from starforge.cli.difference import SHOWN_MAX, difference
from tests.covers import covers


def told(before: object, after: object) -> list[str]:
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    return list(difference(before, after))


@covers("X-02")
def test_a_field_is_told_before_and_after_and_what_stays_is_not() -> None:
    assert told(
        {"state": "running", "version": 3, "owner": "ann", "paused_at": "2026-01-02T03:04:05.678Z"},
        {"state": "paused", "version": 4, "owner": "ann", "resume_at": None, "blink": True},
    ) == [
        "state: running → paused",
        "version: 3 → 4",
        "paused at: 2026-01-02 03:04:05 UTC → –",
        "blink: yes",
    ]


def test_a_list_tells_what_comes_and_goes_one_to_a_line_and_no_more_than_a_screen() -> None:
    parts = [{"asset": "orders", "partitions": 31, "canary": 0}, {"asset": "totals", "partitions": 1}]
    assert told({}, {"backfills": parts}) == [
        "backfills:",
        "  + asset orders, partitions 31",
        "  + asset totals, partitions 1",
    ]
    assert told({}, {"warned": []}) == []
    assert told({"queues": ["a", "b"]}, {"queues": ["b", "c"]}) == ["queues:", "  - a", "  + c"]
    many = told({}, {"keys": [f"k{n}" for n in range(400)]})
    assert len(many) == SHOWN_MAX + 2
    assert many[-1] == f"  … and {400 - SHOWN_MAX} more"


def test_many_things_that_change_alike_have_a_line_each_and_the_rest_is_counted() -> None:
    before = {f"id{n:03}": {"asset": "orders", "state": "running", "version": 1} for n in range(300)}
    after = {name: {**one, "state": "paused", "version": 2} for name, one in before.items()}
    found = told(before, {**after, "cancelled_too": ["x"]})
    assert found[:3] == ["cancelled too:", "  + x", "id000: state running → paused, version 1 → 2"]
    assert found[-1] == f"… and {300 - SHOWN_MAX} more"
    assert told({"id1": {"state": "open"}}, {}) == ["id1: state open → –"]


def test_no_line_shows_how_python_writes_things_and_none_is_endless() -> None:
    lines = told(
        {"detail": {"trips": 2, "note": None}},
        {"detail": {"trips": 3}, "text": "x\n" * 900, "at": "2026-99-99T00:00Z", "deep": [{"a": [1, 2]}]},
    )
    assert lines == [
        f"text: {'x ' * 149}x…",
        "at: 2026-99-99T00:00Z",
        "deep:",
        "  + a 1, 2",
        "detail: trips 2 → 3",
    ]
    assert not [line for line in lines if "{" in line or "None" in line]
