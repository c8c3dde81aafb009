"""Redaction: what the rules hide is hidden at any depth, in memory as in pieces, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import ijson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starforge.errors import InvalidSettingError
from starforge.etl.document.redact import REDACTED, Redactor, redaction
from tests.covers import covers

CANARIES = {
    "password": "hunter-canary-1",
    "apiKey": "hunter-canary-2",
    "Session_Id": "hunter-canary-3",
    "note": "write to canary.4@example.org or canary5+x@a.b.co.uk",
    "dsn_text": "postgresql://canary6:canary7@db.internal/app",
    "header": "Authorization: Bearer canary8canary8canary8",
    "jwt": "x eyJhbGciOiJIUzI1NiJ9.canary9canary9.sig y",
    "key": "sk_live_canary10canary10canary",
    "card": "4111 1111 1111 1111",
    "number": 4111111111111111,
    "deep": [{"a": [{"userEmail": {"canary11": ["canary12"]}}]}],
    "pem": "-----BEGIN RSA PRIVATE KEY-----\ncanary13\n-----END RSA PRIVATE KEY-----",
}
KEPT = {
    "Name": "A_1", "Level": 7, "ratio": 0.25, "big": 10**30, "ok": True, "none": None, "list": [],
    "phone": None, "text": "ünï \u0001 \\ \" 😀", "when": "2026-01-02T03:04:05Z", "id": "6024-17",
    "Zip": 3, "order": 1234567890123456,
}  # fmt: skip


def redact(data: bytes, size: int = 7) -> Any:
    redactor = Redactor()
    out = b"".join(redactor.feed(data[at : at + size]) for at in range(0, len(data), size)) + redactor.end()
    return json.loads(out)


@covers("F-54")
def test_no_canary_is_left_in_memory_or_in_pieces() -> None:
    document = {"a": [CANARIES, {"b": CANARIES}]}
    for found in (redaction().value(document), redact(json.dumps(document).encode())):
        text = json.dumps(found)
        assert "canary" not in text
        assert "4111" not in text
        assert found["a"][0]["password"] == REDACTED
        assert found["a"][0]["deep"] == [{"a": [{"userEmail": REDACTED}]}]
        assert found["a"][0]["dsn_text"] == f"postgresql://{REDACTED}@db.internal/app"


@covers("F-54")
def test_what_no_rule_hides_stays_as_it_is() -> None:
    assert redaction().value(KEPT) == KEPT
    assert redact(json.dumps(KEPT).encode()) == KEPT
    assert redact(b"[1, 2.50, -0, 1E5, true]") == [1, 2.5, 0, 1e5, True]
    for bare in ("7", '"a"', "null", "[]", "{}", "[[],{}]"):
        assert redact(bare.encode()) == json.loads(bare)


def test_keys_that_appear_twice_stay_in_their_order() -> None:
    redactor = Redactor()
    assert redactor.feed(b'{"a": 1, "b": 2, "a": {"token": [1]}}') + redactor.end() == (
        b'{"a":1,"b":2,"a":{"token":"(redacted)"}}'
    )


def test_a_path_hides_what_it_names_with_stars_for_any_name_or_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFORGE_REDACT_PATHS", "result.Profile.Name, Teams[*].Name")
    document = {
        "result": {"Profile": {"Name": "A", "X": 1}},
        "Teams": [{"Name": "T", "N": 2}],
        "Name": "kept",
    }
    wanted = {
        "result": {"Profile": {"Name": REDACTED, "X": 1}},
        "Teams": [{"Name": REDACTED, "N": 2}],
        "Name": "kept",
    }
    assert redaction().value(document) == wanted
    assert redact(json.dumps(document).encode()) == wanted


def test_the_patterns_are_settings_and_a_wrong_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFORGE_REDACT_KEYS", "^Level$")
    monkeypatch.setenv("STARFORGE_REDACT_VALUES", r"A_\d+")
    assert redaction().value({"level": 1, "n": "hero A_17", "password": "p"}) == {
        "level": REDACTED, "n": f"hero {REDACTED}", "password": "p",
    }  # fmt: skip
    monkeypatch.setenv("STARFORGE_REDACT_KEYS", "(")
    with pytest.raises(InvalidSettingError, match="it is no regular expression"):
        redaction()


def test_what_is_no_document_is_refused_and_not_shown_half() -> None:
    with pytest.raises(ijson.JSONError):
        redact(b'{"a": 1')
    with pytest.raises(ijson.JSONError):
        redact(b'{"a": 1}}')


NAMES = st.sampled_from(["a", "password", "Level", "userEmail", "x"]) | st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(list(CANARIES.values())[3:9]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_in_pieces_and_in_memory_the_same_is_hidden(value: Any, size: int) -> None:
    data = json.dumps(value).encode()
    assert redact(data, size) == json.loads(json.dumps(redaction().value(json.loads(data))))


def test_the_default_hides_no_field_of_a_hero() -> None:
    """A redacted profile is still of use to a developer."""
    names = [
        "NameCode",
        "Name",
        "Level",
        "GuildId",
        "GuildName",
        "PVPTier",
        "Troops",
        "CurrentRarity",
        "Ships",
    ]
    assert [name for name in names if redaction().hides((name,))] == []
