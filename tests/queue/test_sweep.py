"""The sweep: in pieces where there is much to pass over, all of it, and for a small share of the time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest

from starforge.queue.sweep import FIXED_TIMES, PIECE_S, SHARE_MAX, SHARE_MAX_HURRIED, SWEEP_S, Sweep


class Piece(NamedTuple):
    """When a piece was begun, of which kind, how long it took, and what due times it covered."""

    at_s: float
    kind: str
    took_s: float
    since_s: float
    until_s: float


@dataclass
class World:
    """One lane whose watermark is at now, and whose jobs since second 0 are done and cannot be vacuumed."""

    dense_s: float = 0.0
    """What it takes to pass over the jobs of one second."""

    fixed_s: float = 0.0003
    stall_s: Callable[[float], float] = lambda _now_s: 0.0
    known: bool = True
    """Whether looks show what a statement takes at least."""

    sweep: Sweep = field(default_factory=Sweep)
    now_s: float = 0.0
    frame_s: float = 0.0

    def run(self, until_s: float, told: Callable[[float], bool] = lambda _now_s: False) -> list[Piece]:
        """Sweep until a time, on a clock that only the pieces and the pauses between them move."""
        pieces = []
        while self.now_s < until_s:
            if told(self.now_s):
                self.sweep.hurry()
            if (piece := self.sweep.piece(self.now_s)) is None:
                self.now_s += 0.005
                continue
            kind, begins_s, ends_s = piece
            if kind == "first":
                self.frame_s = self.now_s
            frame_s = self.now_s if kind == "near" else self.frame_s
            since_s, until = frame_s - begins_s, frame_s - ends_s
            took_s = (
                self.fixed_s + self.stall_s(self.now_s) + self.dense_s * max(0.0, until - max(0.0, since_s))
            )
            pieces.append(Piece(self.now_s, kind, took_s, since_s, until))
            self.now_s += took_s
            self.sweep.settle(self.now_s, kind, took_s, self.fixed_s if self.known else 0.0, full=False)
        return pieces


def found_s(pieces: list[Piece], due_s: float, committed_s: float) -> float:
    """Return how long after its commit a job was found."""
    for piece in pieces:
        if piece.at_s >= committed_s and piece.since_s <= due_s <= piece.until_s:
            return piece.at_s - committed_s
    return math.inf


def each(seconds: float) -> Callable[[float], bool]:
    """Return a function that is true once every so many seconds."""
    next_s = seconds

    def told(now_s: float) -> bool:
        nonlocal next_s
        if now_s < next_s:
            return False
        next_s += seconds
        return True

    return told


def test_what_is_quick_is_swept_in_one_piece_every_sweep_s() -> None:
    pieces = World().run(20)
    assert {(piece.kind, piece.since_s) for piece in pieces} == {("first", -math.inf)}
    assert len(pieces) == pytest.approx(20 / SWEEP_S, abs=1)


@pytest.mark.parametrize("dense_s", [0.005, 0.02, 0.075])
def test_what_is_much_is_swept_in_short_pieces_for_a_small_share_of_the_time(dense_s: float) -> None:
    """Two minutes under a long transaction, at up to 50 000 jobs per second."""
    late = [piece for piece in World(dense_s).run(120) if piece.at_s > 30]
    assert max(piece.took_s for piece in late) < 0.4
    assert sum(piece.took_s > 5 * PIECE_S for piece in late) <= len(late) / 20
    assert sum(piece.took_s for piece in late) / 90 <= SHARE_MAX + 0.02


@pytest.mark.parametrize("dense_s", [0.005, 0.02, 0.04])
def test_what_commits_late_is_found_however_fast_the_watermark_rises(dense_s: float) -> None:
    pieces = World(dense_s).run(1200)
    for committed_s in (10.0, 30.0, 60.0):
        # The sweep that goes on then, and the one after it, which has more to do by so much.
        most_s = 2 * SWEEP_S + 6 * dense_s * committed_s / SHARE_MAX
        assert found_s(pieces, committed_s - 3, committed_s) < most_s


@pytest.mark.parametrize(
    "world",
    [
        World(fixed_s=0.2),
        World(fixed_s=0.006, stall_s=lambda now_s: 0.05 if now_s < 0.02 else 0.0),
        World(fixed_s=0.03, dense_s=0.001),
    ],
    ids=["far away", "one stall", "slow"],
)
def test_what_takes_long_for_other_reasons_is_swept_all_the_same(world: World) -> None:
    pieces = world.run(120)
    for committed_s in (20.0, 50.0, 80.0):
        assert found_s(pieces, committed_s - 3, committed_s) < 35


def test_a_sweep_gets_through_also_where_everything_is_slow_and_nobody_knows_why() -> None:
    pieces = World(fixed_s=0.05, known=False).run(600)
    for committed_s in (60.0, 120.0, 240.0):
        assert found_s(pieces, committed_s - 3, committed_s) < 120


def test_a_sweep_goes_on_where_every_piece_takes_so_long_that_it_is_time_for_the_nearest_again() -> None:
    pieces = World(fixed_s=0.1, known=False).run(900)
    assert found_s(pieces, 117.0, 120.0) < 300


def test_the_pieces_of_a_sweep_leave_nothing_out_and_the_last_reaches_to_the_beginning() -> None:
    whole = 0
    last: Piece | None = None
    for piece in World(0.02).run(1200):
        if piece.kind == "next":
            assert last is not None
            assert piece.until_s == pytest.approx(last.since_s)
        if piece.kind != "near":
            last = piece
            whole += piece.since_s == -math.inf
    assert whole >= 5


def test_a_word_that_something_is_behind_is_followed_at_once_and_all_is_looked_at_soon() -> None:
    world = World(0.02)
    world.run(120)
    world.sweep.hurry()
    pieces = world.run(300)
    assert pieces[0].at_s - 120 < PIECE_S * (1 + FIXED_TIMES) / SHARE_MAX_HURRIED
    # The rest of the sweep that went on, and another one.
    assert found_s(pieces, 60.0, 120.0) < 2 * 0.02 * 130 / SHARE_MAX_HURRIED + 2


def test_words_that_keep_coming_do_not_keep_a_sweep_from_its_far_end() -> None:
    pieces = World(0.02).run(1200, each(1.0))
    assert found_s(pieces, 30.0, 200.0) < 300
    assert sum(piece.took_s for piece in pieces) / 1200 < SHARE_MAX_HURRIED + 0.05


@pytest.mark.parametrize("dense_s", [0.0, 0.02])
def test_a_word_that_comes_while_a_piece_is_under_way_is_not_forgotten(dense_s: float) -> None:
    world = World(dense_s)
    world.run(60)
    sweep, now_s = world.sweep, world.now_s + 60
    piece = sweep.piece(now_s)
    assert piece is not None
    sweep.hurry()
    sweep.settle(now_s + 0.01, piece[0], 0.01, 0.0003, full=False)
    again = sweep.piece(now_s + 0.01 + 0.01 / SHARE_MAX_HURRIED)
    assert again is not None
    assert again[2] == 0.0, "the nearest is looked at again"


def test_once_there_is_little_to_pass_over_again_it_is_one_piece_again() -> None:
    world = World(0.02)
    world.run(60)
    world.dense_s = 0.0
    late = [piece for piece in world.run(240) if piece.at_s > 180]
    assert {piece.since_s for piece in late} == {-math.inf}


def test_a_piece_that_took_all_it_was_asked_for_is_made_again_at_once() -> None:
    sweep = Sweep()
    assert sweep.piece(0.0) == ("first", math.inf, 0.0)
    sweep.settle(0.5, "first", 0.5, 0.0, full=True)
    assert sweep.piece(0.5) == ("first", math.inf, 0.0)


def test_a_piece_that_was_not_answered_is_followed_by_shorter_ones() -> None:
    sweep = Sweep()
    assert sweep.piece(0.0) == ("first", math.inf, 0.0)
    sweep.fail(30.0)
    piece = sweep.piece(30.0 + SWEEP_S)
    assert piece is not None
    assert piece[1] < 60
