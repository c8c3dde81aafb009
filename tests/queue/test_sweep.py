"""The sweep: in pieces where there is much to pass over, all of it, and for a small share of the time."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest

from starforge.queue.sweep import PIECE_S, SHARE_MAX, SHARE_MAX_HURRIED, SWEEP_S, Sweep

DENSE_S = 60.0


class Piece(NamedTuple):
    """When a piece was begun, how long it took, and how far before the watermark it began and ended."""

    at_s: float
    took_s: float
    begins_s: float
    ends_s: float


def dense(begins_s: float, ends_s: float) -> float:
    """What a piece costs where the last minute is full of what was done: 10 ms of work for each second."""
    return 0.0003 + 0.01 * (min(begins_s, DENSE_S) - min(ends_s, DENSE_S))


def quick(_begins_s: float, _ends_s: float) -> float:
    """What a piece costs where next to nothing is to be passed over."""
    return 0.001


def swept(
    sweep: Sweep, cost_s: Callable[[float, float], float], until_s: float, *, since_s: float = 0.0
) -> list[Piece]:
    """Sweep until a time on a clock that only the pieces and the pauses between them move."""
    now_s, pieces = since_s, []
    while now_s < until_s:
        if (piece := sweep.piece(now_s)) is None:
            now_s += 0.001
            continue
        pieces.append(Piece(now_s, cost_s(*piece), *piece))
        now_s += pieces[-1].took_s
        sweep.settle(now_s, pieces[-1].took_s, full=False)
    return pieces


def test_what_is_quick_is_swept_in_one_piece_every_sweep_s() -> None:
    pieces = swept(Sweep(), quick, 20)
    assert {(piece.begins_s, piece.ends_s) for piece in pieces} == {(math.inf, 0.0)}
    assert len(pieces) == pytest.approx(20 / SWEEP_S, abs=1)


def test_what_is_much_is_swept_in_short_pieces_for_a_small_share_of_the_time() -> None:
    late = [piece for piece in swept(Sweep(), dense, 600) if piece.at_s > 60]
    assert max(piece.took_s for piece in late) < 4 * PIECE_S
    assert 0.01 < sum(piece.took_s for piece in late) / 540 <= SHARE_MAX * 1.1


def test_the_pieces_of_a_sweep_leave_nothing_out_and_the_last_reaches_to_the_beginning() -> None:
    pieces = swept(Sweep(), dense, 600)
    for piece, after in pairwise(pieces):
        assert after.ends_s == (0.0 if piece.begins_s == math.inf else piece.begins_s)
    assert sum(piece.begins_s == math.inf for piece in pieces) >= 5


def test_a_sweep_that_was_told_of_something_behind_begins_at_once_and_is_through_soon() -> None:
    sweep = Sweep()
    swept(sweep, dense, 60)
    sweep.hurry()
    pieces = swept(sweep, dense, 70, since_s=60)
    assert (pieces[0].at_s, pieces[0].ends_s) == (60.0, 0.0)
    last = next(piece for piece in pieces if piece.begins_s == math.inf)
    assert last.at_s - 60 < 2 * dense(math.inf, 0) / SHARE_MAX_HURRIED


def test_once_there_is_little_to_pass_over_again_it_is_one_piece_again() -> None:
    sweep = Sweep()
    swept(sweep, dense, 60)
    late = [piece for piece in swept(sweep, quick, 180, since_s=60) if piece.at_s > 120]
    assert {piece.begins_s for piece in late} == {math.inf}


def test_a_piece_that_took_all_it_was_asked_for_is_followed_by_another_sweep_at_once() -> None:
    sweep = Sweep()
    assert sweep.piece(0.0) is not None
    sweep.settle(0.5, 0.5, full=True)
    assert sweep.piece(0.5) == (math.inf, 0.0)
