"""Gulps: a long string comes to the parser in few pieces, and nothing is lost, changed or late for long."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starforge.etl.document import gulps
from starforge.etl.document.gulps import Gulps
from starforge.etl.gears.stream import Streamed
from tests.etl.gears.test_stream import opened


def given_of(data: bytes, size: int) -> list[tuple[bytes, bool]]:
    taking = Gulps()
    found = [each for at in range(0, len(data), size) for each in taking.feed(data[at : at + size])]
    rest = taking.rest()
    return [*found, (rest, True)] if rest else found


values = st.recursive(
    st.integers() | st.text(alphabet='ab"\\\u00e9\n', max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\', max_size=3), inner, max_size=3)
    ),
)


@given(value=values, size=st.integers(1, 30), least=st.integers(1, 20), broken=st.text('"\\a', max_size=3))
def test_what_is_given_is_what_came_and_what_is_said_to_lie_in_a_string_does(
    value: object, size: int, least: int, broken: str
) -> None:
    data = json.dumps(value, ensure_ascii=False).encode() + broken.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gulps, "HELD_BYTES_MIN", least)
        found = given_of(data, size)
    assert b"".join(gulp for gulp, _ in found) == data
    before = b""
    for gulp, inside in found:
        if inside:
            hidden = (before + gulp[:-1]).replace(b"\\\\", b"..").replace(b'\\"', b"..")
            assert hidden.count(b'"') % 2 == 1
        before += gulp


@pytest.mark.long
@pytest.mark.parametrize("text", [b"x", b'\\"', b"\\\\", b"\xc3\xa9", b" "])
def test_a_string_of_64_mb_comes_in_few_pieces_and_what_follows_in_small_ones(text: bytes) -> None:
    data = b'["' + text * (64_000_000 // len(text)) + b'",' + b"1," * 100_000 + b"1]"
    sizes = [len(gulp) for gulp, _ in given_of(data, 1 << 16)]
    assert len(sizes) < 30
    assert max(sizes[-2:]) <= 1 << 16


@pytest.mark.long
async def test_a_string_of_64_mb_is_read_whole() -> None:
    """In pieces of 64 kB that took 19 s: the parser reads a string that is open again with every piece."""
    data = b'{"a": "' + b"x" * 64_000_000 + b'"}'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("starforge.etl.gears.skeleton.SKELETON_BYTES_MAX", 100_000_000)
        document = await Streamed.read(opened(data, [1 << 20]), ())
    assert len(document.root["a"]) == 64_000_000
