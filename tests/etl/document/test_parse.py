"""Guard and parser together: what is accepted, what is refused and where."""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from starforge.etl.document.parse import documents, read_document
from starforge.etl.errors import MalformedError, TooLargeError

KEYS = st.text(max_size=80)
"""Also as escapes of twelve characters each they are shorter than the guard's limit."""

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20)
FRAGMENTS = [
    *(bytes([byte]) for byte in b'{}[],:"\\/ \n\t\r01-+.eEu'),
    *(
        b"\\u",
        b"\\ud83d",
        b"\\udE00",
        b"\\u0000",
        b"\\n",
        b'\\"',
        b"\\\\",
        b"true",
        b"null",
        b"NaN",
        b"1e999",
    ),
    *(b'"a":', b'""', b"[]", b"{}", b"\x00", b"\x0c", b"\x7f", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *("é".encode(), "😀".encode(), b"1.5", b"-0", b"1" * 220, b"12e+301"),
]


def test_every_value_that_python_writes_is_read_back_the_same() -> None:
    """Escaped or not, compact or indented."""

    @given(VALUES, st.booleans(), st.sampled_from([None, 1]))
    def reads_back(value: Any, ascii_only: bool, indent: int | None) -> None:
        text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
        assert read_document(text.encode()) == storable(value)

    reads_back()


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=24).map(b"".join))
@example(b'["\\ud83d\\\\ude00"]')
@example(b'{"\\ud800":1,"\xef\xbf\xbd":2,"\\udc00":3}')
def test_scraps_of_json_are_accepted_exactly_where_the_reference_accepts_them(data: bytes) -> None:
    """The reference is Python's own parser under the guard's rule."""
    agrees_with_reference(data)


@given(VALUES, st.data())
def test_a_damaged_document_is_accepted_exactly_where_the_reference_accepts_it(
    value: Any, data: st.DataObject
) -> None:
    """One scrap put in place of up to two bytes of a good document."""
    text = json.dumps(value, ensure_ascii=False).encode()
    at = data.draw(st.integers(0, len(text)))
    scrap = data.draw(st.sampled_from(FRAGMENTS))
    agrees_with_reference(text[:at] + scrap + text[at + data.draw(st.integers(0, 2)) :])


@given(st.binary(max_size=60))
def test_any_bytes_are_accepted_exactly_where_the_reference_accepts_them(data: bytes) -> None:
    """Nothing but MalformedError is ever raised."""
    agrees_with_reference(data)


@pytest.mark.parametrize(
    ("data", "position", "reason"),
    [
        (b"", 0, "the document ends too early"),
        (b" \n", 2, "the document ends too early"),
        (b'{"a":', 5, "the document ends too early"),
        (b"[1,]", 3, "trailing comma in array"),
        (b'{"a" 1}', 5, "expected ':'"),
        (b"[1 2]", 3, "expected ',' or ']'"),
        (b"{} x", 3, "trailing characters"),
        (b'["\\x"]', 3, "invalid escape character in string"),
        (b'["\\ud800\\u0000\\x"]', 15, "invalid escape character in string"),
        (b"[NaN]", 1, "invalid character"),
        (b"[01]", 2, "invalid number"),
        (b'["a\tb"]', 3, "invalid character"),
    ],
)
def test_broken_grammar_is_refused_with_its_place_and_reason(data: bytes, position: int, reason: str) -> None:
    """The parser's own words, with positions in the bytes as they were offered."""
    error = refusal(data)
    assert error is not None
    assert (error.position, error.reason) == (position, reason)


def test_escaped_nuls_and_lone_surrogates_become_the_replacement_character() -> None:
    """Also in keys, and nowhere else."""
    assert read_document(rb'{"\u0000k":"a\ud800b\\ud800\ud83d\ude00\\\udc00\u0000"}') == {
        "\ufffdk": "a\ufffdb\\ud800😀\\\ufffd\ufffd"
    }


def test_the_last_of_equal_keys_wins_and_large_integers_are_exact() -> None:
    """As in Postgres' jsonb."""
    assert read_document(b'{"a":1,"b":2,"a":' + b"7" * 900 + b"}") == {"a": int("7" * 900), "b": 2}


def test_the_deepest_allowed_document_is_parsed() -> None:
    """The guard's bound lies below the parser's own."""
    assert read_document(b"[" * 512 + b"]" * 512)
    assert read_document(b'{"a":' * 511 + b"[1]" + b"}" * 511)


@pytest.mark.shared
def test_the_minefield_is_accepted_refused_and_located(shared: Path) -> None:
    """318 files: y_ accepted, n_ refused at a place and for a reason, i_ either."""
    files = sorted((shared / "data" / "malformed-json").glob("*.json"))
    assert len(files) == 318
    for file in files:
        data = file.read_bytes()
        error = refusal(data)
        if file.name.startswith("y_"):
            assert error is None, file.name
        elif file.name.startswith("n_"):
            assert error is not None, file.name
        if error is not None:
            assert 0 <= error.position <= len(data), file.name
            assert error.reason, file.name
            assert (error.line, error.column) >= (1, 1), file.name


@pytest.mark.shared
def test_no_file_of_the_minefield_costs_64_mb_of_memory(shared: Path) -> None:
    """Measured in a process of its own, over what it needs when idle."""
    program = """
import contextlib, pathlib, resource, sys
from starforge.etl.errors import MalformedError
from starforge.etl.document.parse import read_document
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_document(b"{}")
idle = peak()
for path in pathlib.Path(sys.argv[1]).glob("*.json"):
    with contextlib.suppress(MalformedError):
        read_document(path.read_bytes())
print((peak() - idle) * 1024)
"""
    folder = str(shared / "data" / "malformed-json")
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64_000_000


@pytest.mark.shared
def test_the_hero_sample_and_the_fhir_bundles_are_read_as_python_reads_them(shared: Path) -> None:
    """Twelve bundles that nobody here wrote."""
    bundles = sorted((shared / "data" / "fhir-r4").glob("*.json.gz"))
    assert len(bundles) == 12
    for data in (
        (shared / "data/hero/sample.json").read_bytes(),
        *(gzip.decompress(path.read_bytes()) for path in bundles),
    ):
        assert read_document(data) == json.loads(data)


def test_ndjson_gives_each_document_with_its_line_number() -> None:
    """Blank lines count and are skipped; line ends of either kind are no part of a document."""
    stream = io.BytesIO(b'{"a":1}\n\n  \r\n[2]\r\n3')
    assert list(documents(stream)) == [(1, b'{"a":1}'), (4, b"[2]"), (5, b"3")]


def test_a_line_that_is_too_long_is_passed_over_and_the_next_one_is_read() -> None:
    """It is told as too large, with its number."""
    stream = io.BytesIO(b"1" * 10 + b"\r\n" + b"2" * 11 + b"\n" + b"3" * 200_000 + b"\n4\n" + b"5" * 11)
    found = list(documents(stream, line_bytes_max=10))
    assert found[0] == (1, b"1" * 10)
    assert found[3] == (4, b"4")
    for at, line in ((1, 2), (2, 3), (4, 5)):
        number, error = found[at]
        assert isinstance(error, TooLargeError)
        assert number == line
        assert str(error) == f"line {line} is larger than 10 bytes"


def agrees_with_reference(data: bytes) -> None:
    assume(len(data) < 1000)  # longer numbers and keys are the guard's to refuse, and not the grammar's
    try:
        expected = reference(data)
    except (ValueError, RecursionError):
        error = refusal(data)
        assert error is not None
        assert 0 <= error.position <= len(data)
        assert error.reason
    else:
        assert read_document(data) == expected


def reference(data: bytes) -> Any:
    def number(text: str) -> float:
        if math.isinf(float(text)):
            raise ValueError(text)
        return float(text)

    def constant(text: str) -> float:
        raise ValueError(text)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {storable(key): storable(value) for key, value in items}

    text = data.decode()
    return storable(
        json.loads(text, parse_float=number, parse_constant=constant, object_pairs_hook=pairs, strict=True)
    )


def storable(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub("[\0\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return value


def refusal(data: bytes) -> MalformedError | None:
    try:
        read_document(data)
    except MalformedError as error:
        return error
    return None
