"""The guard over a stream: the same verdict however a document is cut, and never more held than a piece."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from starforge.etl.document import guard
from starforge.etl.document.guard import Guard, GuardSettings, Verdict, check
from starforge.etl.errors import DocumentTimeoutError, MalformedError
from starforge.etl.snapshot.rejects import error_type
from tests.covers import covers

Outcome = Verdict | tuple[int, int, int, str]

AWKWARD = [
    *('"', "\\", '\\"', "\\\\", "\\u", "\\ud83d", "\\ude00", "\\uD83D\\uDE00", "\\u0000", "\\n"),
    *("[", "{", "]", "}", ":", ",", " ", "\n", "\t", "\x0c", "é", "€", "😀", '"a":', '"x"', "true"),
    *("1", "0", "-", "e+", "1e400", "9" * 250, "7" * 70, "e000", ".5", "k" * 70, "é" * 66),
]


def settings(**values: object) -> GuardSettings:
    return GuardSettings.model_construct(**{**GuardSettings().model_dump(), **values})


PATIENT = examples(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no finding."""

LIMITS = settings(depth_max=8, number_chars_max=200, key_chars_max=64, size_max_mb=0.001)


def judged(data: bytes, cuts: list[int], limits: GuardSettings = LIMITS) -> Outcome:
    """What the guard says of a document that comes in chunks."""
    judge = Guard(limits)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    try:
        for begin, end in pairwise(places):
            judge.feed(data[begin:end])
        return judge.end()
    except MalformedError as error:
        return error.position, error.line, error.column, error.reason


documents = st.one_of(
    st.lists(st.sampled_from(AWKWARD), max_size=60).map(lambda parts: "".join(parts).encode()),
    st.lists(st.sampled_from(AWKWARD), max_size=30).map(lambda parts: ('["' + "".join(parts)).encode()),
    st.binary(max_size=60),
    st.recursive(
        st.none() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    ).map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")),
)
cuts = st.lists(st.integers(0, 5000), max_size=12)


@PATIENT
@given(data=documents, cuts=cuts)
def test_the_verdict_does_not_depend_on_the_chunks(data: bytes, cuts: list[int]) -> None:
    """Also in the middle of an escape, a character, a number, or a pair of surrogates."""
    once = judged(data, [])
    assert judged(data, cuts) == once
    assert judged(data, list(range(len(data)))) == once


@PATIENT
@given(data=documents, size=st.integers(1, 40))
def test_the_verdict_does_not_depend_on_the_pieces(data: bytes, size: int) -> None:
    """Of several faults another may be met first; what passes passes, and with the same findings."""
    once = judged(data, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "PIECE_BYTES", size)
        cut = judged(data, [])
    if isinstance(once, Verdict) or isinstance(cut, Verdict):
        assert cut == once


@pytest.mark.parametrize("size", range(1, 14))
def test_a_single_fault_is_found_at_the_same_place_in_pieces_of_any_size(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = [
        '{"a":\n"\\\\\\"[[[", "b": 1e400}',
        '["' + "x" * 30 + '",\n\n [[[[[[[[[]]]]]]]]]',
        '{"' + "k" * 65 + '"\n :1}',
        '{"a":"' + "v" * 500 + '","' + "ключ" * 17 + '" : 1}',
        '{"n":-' + "1" * 201 + "}",
        '["€\n\x01"]',
    ]
    for text in faulty:
        data = text.encode()
        monkeypatch.undo()
        once = judged(data, [])
        assert not isinstance(once, Verdict)
        monkeypatch.setattr(guard, "PIECE_BYTES", size)
        assert judged(data, []) == once
    monkeypatch.setattr(guard, "PIECE_BYTES", size)
    pair = judged(rb'["\ud83d\ude00 \\ud83d \ud83d\ude00"]', [])
    assert isinstance(pair, Verdict)
    assert not pair.has_lone_surrogates


@pytest.mark.parametrize("size", [9, 50, 1 << 18])
def test_a_key_is_refused_once_it_is_longer_than_allowed(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters count, as they are written; a value may be of any length, and so may what stands between."""
    monkeypatch.setattr(guard, "PIECE_BYTES", size)
    for key in ("k" * 64, "é" * 64, "\\n" * 32, '\\"' * 32):
        assert isinstance(judged(f'{{"a":1,"{key}" : 1}}'.encode(), []), Verdict)
        longer = judged(f'{{"a":1,"{key}x" : 1}}'.encode(), [])
        assert longer == (7, 1, 8, "key longer than 64 characters")
    values = {"a": "v" * 5000, "b": ["v" * 65, "w" * 65], "c": [1] * 500}
    for indent in (None, 100):
        assert isinstance(judged(json.dumps(values, indent=indent).encode(), []), Verdict)


def test_the_longest_key_is_1024_characters_unless_set() -> None:
    assert check(b'{"' + b"k" * 1024 + b'":1}').depth == 1
    with pytest.raises(MalformedError, match="key longer than 1024 characters"):
        check(b'{"' + b"k" * 1025 + b'":1}')


def test_a_document_that_takes_too_long_is_a_timeout_and_not_malformed() -> None:
    """Time that is spent elsewhere, waiting for bytes, does not count."""
    slow = Guard(settings(time_max_s=1e-9))
    with pytest.raises(DocumentTimeoutError, match="2 bytes took") as caught:
        slow.feed(b"[]")
    assert error_type(caught.value) == "TIMEOUT"
    judge = Guard()
    judge.feed(b"[]")
    assert 0 < judge.spent_s < 1


def test_what_was_refused_stays_refused() -> None:
    judge = Guard()
    with pytest.raises(MalformedError):
        judge.feed(b"\0" * (1 << 19))
    with pytest.raises(MalformedError):
        judge.end()


PEAK = """
import sys
from starforge.etl.document.guard import Guard
from starforge.etl.errors import MalformedError
def resident(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024
kind = sys.argv[1]
chunk = {"bomb": b"[" * 120_000, "large": b'{"a":["x\\u00e9",1.5,null,"' + b"y" * 400 + b'"]},' * 1000}[kind]
Guard().feed(b'{"warm": 1}')
open("/proc/self/clear_refs", "w").write("5")
idle = resident("VmRSS")
judge = Guard()
try:
    if kind == "large":
        judge.feed(b"[")
    for _ in range(1 if kind == "bomb" else 250):
        judge.feed(chunk)
    judge.end()
    print("passed")
except MalformedError as error:
    print(error.reason)
print(resident("VmHWM") - idle)
"""


@covers("F-46")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("kind", "outcome", "mb_max"), [("bomb", "nested deeper than 512 levels", 16), ("large", "passed", 12)]
)
def test_memory_stays_small(kind: str, outcome: str, mb_max: int) -> None:
    """A bomb of 120 000 brackets, and a hundred megabytes of an ordinary document in a stream."""
    out = subprocess.run(
        [sys.executable, "-c", PEAK, kind], capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    assert out[0] == outcome
    assert int(out[1]) < mb_max * 2**20
