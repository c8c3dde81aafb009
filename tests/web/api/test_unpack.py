"""What was packed comes out as it was, however it is cut, and no piece of it is large."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from starforge.etl.errors import MalformedError
from starforge.web.api.unpack import PIECE_BYTES, unpacker
from starforge.web.errors import EncodingError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "identity": bytes,
}
LARGEST = {"gzip": PIECE_BYTES + 258, "zstd": 5 << 20, "identity": 1 << 30}

documents = st.one_of(
    st.binary(max_size=3000),
    st.builds(lambda part, times: part * times, st.binary(max_size=50), st.integers(0, 20_000)),
)


@pytest.mark.parametrize("encoding", list(PACK))
@settings(max_examples=60, deadline=None)
@given(members=st.lists(documents, min_size=1, max_size=3), size=st.integers(1, 5000))
def test_what_was_packed_comes_out_as_it_was(encoding: str, members: list[bytes], size: int) -> None:
    packed = b"".join(map(PACK[encoding], members))
    pieces = _unpacked(encoding, packed, max(size, len(packed) // 500))
    assert b"".join(pieces) == b"".join(members)
    assert max(map(len, pieces), default=0) <= LARGEST[encoding]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@settings(max_examples=40, deadline=None)
@given(data=documents, cut=st.integers(1, 20))
def test_what_was_cut_short_is_never_taken_for_whole(encoding: str, data: bytes, cut: int) -> None:
    packed = PACK[encoding](data)
    with pytest.raises(MalformedError):
        _unpacked(encoding, packed[: -min(cut, len(packed))], 1000)


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, zstd", "compress", "x"])
def test_other_encodings_are_refused_by_name(encoding: str) -> None:
    with pytest.raises(EncodingError, match="not known"):
        unpacker(encoding)


def _unpacked(encoding: str, packed: bytes, size: int) -> list[bytes]:
    unpacking = unpacker(encoding)
    pieces = [piece for at in range(0, len(packed), size) for piece in unpacking.feed(packed[at : at + size])]
    unpacking.end()
    return pieces
