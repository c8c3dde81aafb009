"""Where snapshots come from, and what is said when one cannot be had."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from starforge.etl.document import guard
from starforge.etl.errors import MalformedError, TooLargeError, UnreadableError
from starforge.etl.ingest.offers import Offer, snapshots


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """An inline limit of 10 000 bytes."""
    monkeypatch.setenv("STARFORGE_SNAPSHOT_INLINE_MAX_MB", "0.01")
    guard.guard_settings.cache_clear()
    yield 10_000
    guard.guard_settings.cache_clear()


def stdin(data: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(data))


def only(offers: Iterator[Offer]) -> Offer:
    (offer,) = offers
    return offer


def test_a_file_is_one_offer_with_its_bytes_untouched(tmp_path: Path) -> None:
    """Whether they are JSON is not asked here."""
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf{nonsense\n")
    assert only(snapshots(path)) == Offer(str(path), b"\xef\xbb\xbf{nonsense\n")


def test_gzip_is_known_by_its_first_bytes_and_not_by_its_name(tmp_path: Path) -> None:
    """Members that follow each other are one document."""
    packed, plain = tmp_path / "packed.json", tmp_path / "plain.json.gz"
    packed.write_bytes(gzip.compress(b'{"a":') + gzip.compress(b"1}"))
    plain.write_bytes(b'{"a":2}')
    assert only(snapshots(packed)).data == b'{"a":1}'
    assert only(snapshots(plain)).data == b'{"a":2}'


@pytest.mark.parametrize("name", ["a.ndjson", "a.jsonl", "a.NDJSON.gz", "a.jsonl.gz"])
def test_the_suffix_makes_it_ndjson(name: str, tmp_path: Path) -> None:
    """Each line is named after its file and number."""
    path = tmp_path / name
    lines = b"[1]\n\n[2]\n"
    path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    assert list(snapshots(path)) == [Offer(f"{path}:1", b"[1]"), Offer(f"{path}:3", b"[2]")]
    assert only(snapshots(path, ndjson=False)).data == lines


def test_ndjson_is_never_guessed(tmp_path: Path) -> None:
    """Two documents in a .json file are one malformed document unless the flag says otherwise."""
    path = tmp_path / "a.json"
    path.write_bytes(b"[1]\n[2]\n")
    assert only(snapshots(path)).data == b"[1]\n[2]\n"
    assert [offer.data for offer in snapshots(path, ndjson=True)] == [b"[1]", b"[2]"]


def test_standard_input_is_one_document_unless_told_otherwise() -> None:
    """Plain or gzip."""
    lines = b"[1]\n[2]\n"
    assert only(snapshots("-", stdin=stdin(lines))) == Offer("-", lines)
    assert only(snapshots("-", stdin=stdin(gzip.compress(lines)))) == Offer("-", lines)
    for data in (lines, gzip.compress(lines)):
        offers = list(snapshots("-", True, stdin=stdin(data)))
        assert offers == [Offer("-:1", b"[1]"), Offer("-:2", b"[2]")]


def test_a_folder_is_walked_in_order_and_other_files_are_left_alone(tmp_path: Path) -> None:
    """Pipes are left alone too: reading one would wait for ever."""
    (tmp_path / "b").mkdir()
    for name in ("z.json", "a.json.gz", "b/c.ndjson", "b/a.JSON", "readme.md", "b/x.csv.gz"):
        (tmp_path / name).write_bytes(b"[]")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    names = [offer.name.removeprefix(f"{tmp_path}/") for offer in snapshots(tmp_path)]
    assert names == ["a.json.gz", "z.json", "b/a.JSON", "b/c.ndjson:1"]


def test_a_folder_without_snapshots_is_told(tmp_path: Path) -> None:
    """A mistyped folder must not look like success."""
    error = only(snapshots(tmp_path)).error
    assert isinstance(error, UnreadableError)
    assert str(error) == f"{tmp_path}: holds no file named *.json, *.ndjson, *.jsonl (or with .gz, .zst)"


def test_a_file_that_cannot_be_read_is_told_by_name_and_the_next_one_is_read(tmp_path: Path) -> None:
    """A broken link stands for all that `open` refuses."""
    (tmp_path / "a.json").symlink_to(tmp_path / "gone")
    (tmp_path / "b.json").write_bytes(b"1")
    first, second = snapshots(tmp_path)
    assert isinstance(first.error, UnreadableError)
    assert str(first.error) == f"{tmp_path / 'a.json'}: No such file or directory"
    assert second == Offer(str(tmp_path / "b.json"), b"1")
    assert isinstance(only(snapshots(tmp_path / "c.json")).error, UnreadableError)


@pytest.mark.parametrize("name", ["n" * 300, "gone/a.json"])
def test_a_name_that_the_system_refuses_is_told_and_raises_nothing(name: str, tmp_path: Path) -> None:
    """Longer than the system allows, or in no folder."""
    offer = only(snapshots(tmp_path / name))
    assert isinstance(offer.error, UnreadableError)
    assert offer.error.reason


def test_a_file_whose_name_is_not_utf_8_is_read_under_a_name_that_is(tmp_path: Path) -> None:
    """What is stored and printed must be text."""
    (tmp_path / os.fsdecode(b"a\xff.json")).write_bytes(b"1")
    assert only(snapshots(tmp_path)) == Offer(f"{tmp_path}/a\ufffd.json", b"1")


@pytest.mark.parametrize("cut", [3, 12, 30])
def test_a_truncated_gzip_is_malformed_and_its_bytes_are_kept(cut: int, tmp_path: Path) -> None:
    """As they are in the file."""
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json_noise(200))[:cut])
    offer = only(snapshots(path))
    assert isinstance(offer.error, MalformedError)
    assert (offer.error.position, offer.error.reason) == (cut, "the gzip stream is truncated")
    assert offer.data == path.read_bytes()


def test_a_damaged_gzip_is_malformed_and_its_bytes_are_kept(tmp_path: Path) -> None:
    """The checksum at its end says so, at the latest."""
    path = tmp_path / "a.json.gz"
    whole = gzip.compress(json_noise(200))
    for at in (2, 20, len(whole) - 6):
        data = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        path.write_bytes(data)
        offer = only(snapshots(path))
        assert isinstance(offer.error, MalformedError)
        assert offer.error.reason.startswith("the gzip stream is damaged")
        assert offer.data == data


def test_a_truncated_gzip_of_ndjson_gives_its_lines_and_then_the_error(tmp_path: Path) -> None:
    """The whole file is kept for what was behind the break."""
    path = tmp_path / "a.ndjson.gz"
    data = gzip.compress(b"[1]\n[2]\n", mtime=0)
    path.write_bytes(data[:-4])
    *lines, last = snapshots(path)
    assert [offer.data for offer in lines] == [b"[1]", b"[2]"]
    assert isinstance(last.error, MalformedError)
    assert last.name == f"{path}:3"
    assert last.data == data[:-4]


def test_what_is_larger_than_the_inline_limit_is_told_and_not_held(small: int, tmp_path: Path) -> None:
    """A file, a gzip bomb and a line; of the bomb the packed bytes are kept."""
    path, bomb, lines = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.ndjson"
    path.write_bytes(b"1" * (small + 1))
    bomb.write_bytes(gzip.compress(b"1" * 1_000_000))
    lines.write_bytes(b"1" * (small + 1) + b"\n[2]\n")
    large, unpacked, line, good = snapshots(tmp_path)
    assert isinstance(large.error, TooLargeError)
    assert str(large.error) == f"{path} is larger than {small} bytes"
    assert large.data == b""
    assert isinstance(unpacked.error, TooLargeError)
    assert str(unpacked.error) == f"{bomb}, unpacked, is larger than {small} bytes"
    assert unpacked.data == bomb.read_bytes()
    assert isinstance(line.error, TooLargeError)
    assert line.name == f"{lines}:1"
    assert good.data == b"[2]"


def test_a_file_of_exactly_the_inline_limit_is_read(small: int, tmp_path: Path) -> None:
    """The bound itself is allowed."""
    path = tmp_path / "a.json"
    path.write_bytes(b"1" * small)
    assert only(snapshots(path)) == Offer(str(path), b"1" * small)


def json_noise(count: int) -> bytes:
    return b"[" + b",".join(str(number * 7919 % 10007).encode() for number in range(count)) + b"]"
