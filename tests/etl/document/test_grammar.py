"""The grammar of a stream: what it refuses and where, and that it agrees with the parser in memory."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starforge.etl.document import grammar
from starforge.etl.document.grammar import Grammar
from starforge.etl.document.guard import check
from starforge.etl.errors import MalformedError, NoFastParserError


def fault_of(data: bytes, chunk_bytes: int = 7) -> MalformedError | None:
    parsing = Grammar()
    try:
        for at in range(0, len(data), chunk_bytes):
            parsing.feed(data[at : at + chunk_bytes])
        parsing.end()
    except MalformedError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("data", "position"),
    [
        (b'{"a":1,,}', 7),
        (b"[1 2]", 3),
        (b'{"a":tru}', 8),
        (b"[1]x", 3),
        (b"[1", 2),
        (b"", 0),
        (b"  \n ", 4),
        (b"[NaN]", 1),
        (b"[-Infinity]", 2),
        (b'["a\nb"]', 3),
        (b"[1,]", 3),
        (b"{'a':1}", 1),
        (b'["\\x"]', 3),
    ],
)
@pytest.mark.parametrize("before", [0, 29, 30, 31, 600, 5000])
def test_a_fault_is_found_at_its_byte_wherever_it_stands(data: bytes, position: int, before: int) -> None:
    """Behind lines of white space, and in chunks of any size."""
    space = (b" \n" * 3000)[:before]
    for chunk_bytes in (1, 64, 1 << 20):
        error = fault_of(space + data, chunk_bytes)
        assert error is not None
        expected = MalformedError.at(space + data, before + position, error.reason)
        assert str(error) == str(expected)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no finding
@given(
    value=json_values, cut=st.integers(0, 200), put=st.sampled_from(["", ",", "]", '"', "1", "{", "e", "\\"])
)
def test_it_accepts_what_the_parser_in_memory_accepts(value: object, cut: int, put: str) -> None:
    """Whole documents, and damaged ones that the guard lets pass."""
    text = json.dumps(value, ensure_ascii=False)
    for damaged in (text, text[:cut] + put + text[cut + 1 :]):
        data = damaged.encode("utf-8", "replace")
        try:
            check(data)
        except MalformedError:
            continue
        try:
            msgspec.json.decode(data)
            sound = True
        except msgspec.DecodeError:
            sound = False
        assert (fault_of(data) is None) is sound


def test_without_the_c_backend_it_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise ImportError("no yajl")

    grammar.parser.cache_clear()
    monkeypatch.setattr("ijson.get_backend", missing)
    with pytest.raises(NoFastParserError, match="no yajl"):
        Grammar()
    monkeypatch.undo()
    grammar.parser.cache_clear()


@pytest.mark.parametrize("bad", [b"\n", b"\\x", b"\\u12zz", b"\\u1"])
@pytest.mark.parametrize("chunk_bytes", [999, 1 << 16, 1 << 20])
def test_a_fault_within_a_long_string_is_found_at_its_byte(bad: bytes, chunk_bytes: int) -> None:
    """It comes to the parser in large gulps, whatever escapes and characters they cut."""
    for before in (b"\xc3\xa9" * 150_000, b'\\"' * 150_001, b"\\\\" * 70_000 + b"x"):
        data = b'{"a":"' + before + bad + b"z" * 70_000 + b'"}'
        error = fault_of(data, chunk_bytes)
        assert error is not None
        assert 0 <= error.position - data.index(bad + b"z") <= len(bad)


def test_a_very_long_string_is_left_to_whoever_processes_it() -> None:
    """What stands before it is checked, and it costs no time that grows with its square."""
    text = b'{"a":"' + b"x" * 20_000_000 + b'",,}'
    parsing = Grammar()
    parsing.feed(text)
    parsing.end()
    assert parsing.gave_up
    error = fault_of(b"{,}" + text, 1 << 20)
    assert error is not None
    assert error.position == 1
    assert fault_of(b'["' + b"x" * 8_000_000 + b'",,]', 1 << 20) is not None
