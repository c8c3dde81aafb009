"""What was packed comes out as it was, however it is cut, and no piece of it is large."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from starforge.etl.errors import MalformedError
from starforge.etl.ingest.unpack import (
    FILE_WINDOW_BYTES_MAX,
    PIECE_BYTES,
    Packing,
    packing_of,
    unpacked,
    unpacker,
)

PACK: dict[Packing | None, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    None: bytes,
}
LARGEST = {"gzip": PIECE_BYTES + 258, "zstd": 5 << 20, None: 1 << 30}

documents = st.one_of(
    st.binary(max_size=3000),
    st.builds(lambda part, times: part * times, st.binary(max_size=50), st.integers(0, 20_000)),
)


@pytest.mark.parametrize("packing", list(PACK))
@settings(max_examples=60, deadline=None)
@given(members=st.lists(documents, min_size=1, max_size=3), size=st.integers(1, 5000))
def test_what_was_packed_comes_out_as_it_was(
    packing: Packing | None, members: list[bytes], size: int
) -> None:
    packed = b"".join(map(PACK[packing], members))
    pieces = fed(packing, packed, max(size, len(packed) // 500))
    assert b"".join(pieces) == b"".join(members)
    assert max(map(len, pieces), default=0) <= LARGEST[packing]


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
@settings(max_examples=60, deadline=None)
@given(members=st.lists(documents, min_size=1, max_size=3), size=st.integers(1, 5000))
def test_a_packed_file_is_known_and_read_as_if_it_were_plain(
    packing: Packing, members: list[bytes], size: int
) -> None:
    file: io.BufferedReader = io.BufferedReader(io.BytesIO(b"".join(map(PACK[packing], members))))
    assert packing_of(file) == packing
    lines = io.BytesIO(b"".join(members))
    document = unpacked(file, packing)
    while line := lines.readline(size):
        assert document.readline(size) == line
    assert document.read() == b""


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
@settings(max_examples=40, deadline=None)
@given(data=documents, cut=st.integers(1, 20))
def test_what_was_cut_short_is_never_taken_for_whole(packing: Packing, data: bytes, cut: int) -> None:
    """All that came was good: the error is where more should have come."""
    packed = PACK[packing](data)[: -min(cut, len(PACK[packing](data)))]
    with pytest.raises(MalformedError, match=f"the {packing} stream is truncated") as as_it_came:
        fed(packing, packed, 1000)
    with pytest.raises(MalformedError) as from_a_file:
        unpacked(io.BytesIO(packed), packing).read()
    assert as_it_came.value.position == from_a_file.value.position == len(packed)


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_what_is_damaged_says_after_how_many_good_bytes(packing: Packing) -> None:
    """And whoever reads on is not told that this was the end."""
    document = unpacked(io.BytesIO(PACK[packing](b"1") + b"tail"), packing)
    with pytest.raises(MalformedError, match=f"the {packing} stream is damaged: ") as damaged:
        document.read()
    assert damaged.value.position == len(PACK[packing](b"1"))
    with pytest.raises(MalformedError):
        document.read()


@settings(max_examples=40, deadline=None)
@given(zeros=st.lists(st.integers(0, 600), min_size=2, max_size=4), size=st.integers(1, 200))
def test_zeros_after_a_member_of_gzip_are_padding(zeros: list[int], size: int) -> None:
    """As tapes and disks leave them; before the first one they are not gzip."""
    packed = b"".join(gzip.compress(b"%d" % count) + bytes(count) for count in zeros)
    assert b"".join(fed("gzip", packed, size)) == b"".join(b"%d" % count for count in zeros)
    with pytest.raises(MalformedError, match="damaged"):
        fed("gzip", b"\0" + packed, size)


def test_zeros_after_a_frame_of_zstd_are_damage() -> None:
    with pytest.raises(MalformedError, match="damaged"):
        fed("zstd", zstandard.compress(b"1") + bytes(8), 100)


def test_what_zstd_tells_to_skip_is_skipped() -> None:
    """Frames of other people's data between the frames (RFC 8878, 3.1.2)."""
    other = struct.pack("<II", 0x184D2A50, 5) + b"hello"
    packed = zstandard.compress(b"1") + other + zstandard.compress(b"2") + other
    assert b"".join(fed("zstd", packed, 3)) == b"12"


@pytest.mark.parametrize(("log", "window_bytes_max"), [(23, 8 << 20), (25, FILE_WINDOW_BYTES_MAX)])
def test_the_window_is_the_largest_that_is_taken(log: int, window_bytes_max: int) -> None:
    """One twice as large is refused before its memory is taken."""
    for asked, taken in ((log, True), (log + 1, False)):
        parameters = zstandard.ZstdCompressionParameters(window_log=asked)
        packs = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        packed = packs.compress(b"[]") + packs.flush()
        unpacking = unpacker("zstd", window_bytes_max)
        if taken:
            assert b"".join(unpacking.feed(packed)) == b"[]"
            unpacking.end()
        else:
            with pytest.raises(MalformedError, match="too much memory"):
                list(unpacking.feed(packed))


def fed(packing: Packing | None, packed: bytes, size: int) -> list[bytes]:
    unpacking = unpacker(packing, FILE_WINDOW_BYTES_MAX)
    pieces = [piece for at in range(0, len(packed), size) for piece in unpacking.feed(packed[at : at + size])]
    unpacking.end()
    return pieces
