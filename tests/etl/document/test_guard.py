"""The guard's written rule, case by case."""

from __future__ import annotations

import json

import pytest

from starforge.errors import InvalidSettingError
from starforge.etl.document import guard
from starforge.etl.document.guard import GuardSettings, Verdict, check
from starforge.etl.errors import MalformedError
from tests.covers import covers


def settings(**values: object) -> GuardSettings:
    return GuardSettings.model_construct(**{**GuardSettings().model_dump(), **values})


def refused(data: bytes, limits: GuardSettings | None = None) -> MalformedError:
    with pytest.raises(MalformedError) as caught:
        check(data, limits)
    return caught.value


def test_an_ordinary_document_passes_with_its_size_and_depth() -> None:
    """The verdict holds what was found."""
    data = b'{"result":{"Troops":{"6024":{"Level":20}}}}'
    assert check(data) == Verdict(
        size_bytes=len(data),
        depth=4,
        oversized=False,
        inline=True,
        has_lone_surrogates=False,
        has_nul_escapes=False,
    )


def test_a_byte_order_mark_is_refused_by_name() -> None:
    """Postgres refuses it too, so raw could not be kept byte for byte."""
    error = refused(b"\xef\xbb\xbf{}")
    assert (error.position, error.reason) == (0, "byte order mark")


@pytest.mark.parametrize(
    ("data", "position"),
    [
        (b'["\xff"]', 2),
        (b'["caf\xe9"]', 5),
        (b'["\xc0\xaf"]', 2),
        (b'["\xed\xa0\x80"]', 2),
        (b'["\xf4\xbf\xbf\xbf"]', 2),
        (b'["\xe2\x82', 2),
        ('["é"]'.encode("utf-16"), 0),
    ],
)
def test_bytes_that_are_not_utf8_are_refused_at_the_first_of_them(data: bytes, position: int) -> None:
    """Overlong forms, surrogates, truncation and UTF-16 included."""
    error = refused(data)
    assert error.position == position
    assert error.reason.startswith("not UTF-8")


def test_utf8_cut_by_a_piece_is_still_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces may end in the middle of a character."""
    for size in range(4, 9):
        monkeypatch.setattr(guard, "PIECE_BYTES", size)
        assert check('["añ€😀€ña"]'.encode()).depth == 1
        assert refused('["añ€😀€ña'.encode() + b"\xff").position == len('["añ€😀€ña'.encode())


@pytest.mark.parametrize("control", [0x00, 0x01, 0x08, 0x0B, 0x0C, 0x0E, 0x1F])
def test_a_control_character_is_refused_wherever_it_stands(control: int) -> None:
    """In a string, between tokens and after the document."""
    raw = bytes([control])
    assert refused(b'{"a":"b' + raw + b'"}').position == 7
    assert refused(b'{"a":' + raw + b"1}").position == 5
    error = refused(b"{}\n\n" + raw)
    assert (error.position, error.line, error.column) == (4, 3, 1)
    assert error.reason == f"control character 0x{control:02x}"


def test_tab_newline_and_carriage_return_pass_between_tokens() -> None:
    """They are JSON's white space, and delete is no control character of JSON."""
    assert check(b'\t{\r\n"a\x7f":\n1}\n').depth == 1


def test_the_deepest_allowed_nesting_passes_and_one_more_is_refused_at_its_bracket() -> None:
    """512 levels by default."""
    assert check(b"[" * 512 + b"]" * 512).depth == 512
    error = refused(b" " * 3 + b"[" * 513 + b"]" * 513)
    assert error.position == 3 + 512
    assert error.reason == "nested deeper than 512 levels"


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1 << 20])
def test_brackets_in_strings_never_count(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the strings hold and wherever the pieces end."""
    monkeypatch.setattr(guard, "PIECE_BYTES", size)
    document = [{"[[[": ['"[', "\\", '\\"[{', "]]", ""]}, {"]": "[\\\\"}, [[], {}], "[" * 20]
    for data in (json.dumps(document), json.dumps(document, indent=1), json.dumps(document[::-1])):
        assert check(data.encode()).depth == 3
        too_deep = data.replace("[]", "[" * 20).encode()
        error = refused(too_deep, settings(depth_max=8))
        assert too_deep[error.position - 6 : error.position + 1] == b"[" * 7


def test_a_too_deep_bracket_is_found_in_a_document_of_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The position is the document's, not the piece's."""
    monkeypatch.setattr(guard, "PIECE_BYTES", 1000)
    data = b'[\n"' + b"]x\\\\" * 700 + b'",\n' + b"[1,2]," * 900 + b"[" * 600
    error = refused(data)
    assert error.position == len(data) - 600 + 511
    assert (error.line, error.column) == (3, 900 * 6 + 512)


@pytest.mark.parametrize("number", ["1e400", "-1E+400", "1e0000309", "9" * 250 + "e99", "9" * 400 + ".5"])
def test_a_number_too_large_for_a_double_is_refused_at_its_first_character(number: str) -> None:
    """Infinity could be written nowhere."""
    data = b'{"e":"1e400","a":[1,' + number.encode() + b"]}"
    error = refused(data)
    assert (error.position, error.reason) == (20, "number out of range")


@pytest.mark.parametrize(
    "number",
    ["1.7976931348623157e308", "0e999999", "1e-99999", "-0.0", "9" * 1000, "1" + "0" * 300 + "e-250"],
)
def test_a_number_that_a_double_or_an_integer_can_hold_passes(number: str) -> None:
    """Underflow is zero and integers are exact."""
    assert check(f'{{"a":{number}}}'.encode()).depth == 1


def test_a_number_is_refused_once_it_is_longer_than_allowed() -> None:
    """Python's own bound for integers is 4 300 digits and quadratic below it."""
    assert check(b"[" + b"7" * 1000 + b"]").depth == 1
    error = refused(b"[1,-" + b"7" * 1000 + b"]")
    assert (error.position, error.reason) == (3, "number longer than 1000 characters")
    assert "longer than 200" in refused(b"[0." + b"7" * 199 + b"1]", settings(number_chars_max=200)).reason
    assert "longer than 1000" in refused(b"7" * 100_000).reason


@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_what_looks_like_a_number_in_a_string_is_left_alone(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids and digests are full of digits and e's, and pieces may end inside them."""
    monkeypatch.setattr(guard, "PIECE_BYTES", size)
    text = {"id": "0e999999-1e400", "\\": "1e400", '"1e400': '\\"1e400', "n": "7" * 5000}
    assert check(json.dumps([text, 1]).encode()).depth == 2
    assert refused(json.dumps([text, 1]).encode()[:-2] + b"1e400]").reason == "number out of range"


@pytest.mark.parametrize(
    ("text", "lone"),
    [
        (r"\ud800", True),
        (r"\uDC00", True),
        (r"\ud83d\ude00", False),
        (r"\ude00\ud83d", True),
        (r"\ud83d\ud83d\ude00", True),
        (r"\ud83d\ude00\ude00", True),
        (r"\\ud800", False),
        (r"\\\ud800", True),
        (r"\ud83d\\ude00", True),
        (r"\"\ud83d\ude00\"", False),
        (r"\ud83d\ude0", True),
        (r"\u00e9", False),
    ],
)
def test_only_an_escaped_surrogate_without_its_other_half_is_lone(text: str, lone: bool) -> None:
    """A backslash that is itself escaped begins no escape."""
    assert check(f'["{text}"]'.encode()).has_lone_surrogates is lone


def test_an_escaped_nul_passes_and_is_told() -> None:
    """It is legal JSON; the parser writes U+FFFD for it."""
    assert check(rb'["\u0000"]').has_nul_escapes
    assert check(rb'["\\\u0000"]').has_nul_escapes
    assert not check(rb'["\\u0000"]').has_nul_escapes


@covers("O-34", "F-46")
def test_a_document_above_the_size_guard_is_oversized_and_not_malformed() -> None:
    """Size and form are two questions."""
    limits = settings(size_max_mb=0.001, inline_max_mb=0.002)
    assert not check(b'"' + b"x" * 998 + b'"', limits).oversized
    above = check(b'"' + b"x" * 999 + b'"', limits)
    assert (above.oversized, above.inline) == (True, True)
    assert not check(b'"' + b"x" * 2000 + b'"', limits).inline


def test_the_size_guard_is_five_megabytes_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a bad value is refused by name."""
    monkeypatch.delenv("STARFORGE_SNAPSHOT_SIZE_MAX_MB", raising=False)
    assert GuardSettings.read().size_bytes_max == 5_000_000
    assert GuardSettings.read().inline_bytes_max == 64_000_000
    monkeypatch.setenv("STARFORGE_SNAPSHOT_SIZE_MAX_MB", "2.5")
    assert GuardSettings.read().size_bytes_max == 2_500_000
    monkeypatch.setenv("STARFORGE_SNAPSHOT_SIZE_MAX_MB", "0")
    with pytest.raises(InvalidSettingError, match="STARFORGE_SNAPSHOT_SIZE_MAX_MB='0'"):
        GuardSettings.read()


def test_line_and_column_count_from_one_and_the_column_in_bytes() -> None:
    """As an editor shows them for ASCII text."""
    error = refused('{\n"é":\x0c1}'.encode())
    assert (error.position, error.line, error.column) == (7, 2, 6)
    assert str(error) == "malformed at line 2, column 6 (byte 7): control character 0x0c"
