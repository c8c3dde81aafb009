"""The checkpoint: the last partition before which every one is terminal, in declared order.   (D-14)

Partitions end out of order, so the greatest key that is completed is no safe place to go on from; and keys
as text have an order of their own. What counts is the ordinal, in the order in which the asset declares its
partitions. `Frontier` follows it as partitions end, `judge` holds a stored one against the partitions.

A partition is terminal here when nothing more will be done to it: it is completed, cancelled, or failed with
its attempts used up. One that failed and is to be tried again is pending.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from starforge.errors import InvalidInputError

TERMINAL = frozenset({"completed", "failed", "cancelled"})
NAMED = 3
"""So many partitions are named in words; the others are counted."""


class Frontier:
    """The checkpoint of a backfill that runs: one bit for each partition, 63 kB for 500 000.

    It never goes back, nor over a gap, in whatever order partitions end and however often they are told.
    """

    def __init__(self, ordinals: Sequence[int], *, upto: int | None = None) -> None:
        """Begin with a job's ordinals.

        Args:
            ordinals: All of them, ascending: a range, or an array.
            upto: A stored checkpoint: every partition up to and with this ordinal is terminal. One that is
                not among them, as where somebody deleted it, says nothing.
        """
        self._ordinals = ordinals
        self._ended = bytearray(self.total // 8 + 1)
        self._at = self.position(upto) + 1 if upto is not None and upto in self else 0
        self._ahead = 0

    @property
    def total(self) -> int:
        """How many partitions the job has."""
        return len(self._ordinals)

    @property
    def reached(self) -> int:
        """How many partitions lie up to and with the checkpoint."""
        return self._at

    @property
    def terminal(self) -> int:
        """How many partitions are known to be terminal."""
        return self._at + self._ahead

    @property
    def ordinal(self) -> int | None:
        """The checkpoint; None as long as the first partition is not terminal."""
        return self._ordinals[self._at - 1] if self._at else None

    def fold(self, ordinals: Iterable[int]) -> int | None:
        """Take in partitions that are terminal now, in any order, and return the checkpoint.

        Raises: InvalidInputError for an ordinal that is not of this job; nothing is taken in then.
        """
        ended = self._ended
        for position in [self.position(ordinal) for ordinal in ordinals]:
            bit = 1 << (position & 7)
            if position >= self._at and not ended[position >> 3] & bit:
                ended[position >> 3] |= bit
                self._ahead += 1
        self._advance()
        return self.ordinal

    def fold_places(self, first: int, over: str) -> None:
        """Take in many at once: which partitions are terminal, from a place on.

        Args:
            first: Place of the first one, counted from 0.
            over: 1 or 0 for each.
        """
        over = over[max(0, self._at - first) :]
        first = max(first, self._at)
        if not over:
            return
        low, high = first >> 3, (first + len(over) + 7) >> 3
        before = int.from_bytes(self._ended[low:high], "little")
        after = before | int(over[::-1], 2) << (first & 7)
        self._ended[low:high] = after.to_bytes(high - low, "little")
        self._ahead += (after ^ before).bit_count()
        self._advance()

    def _advance(self) -> None:
        """Go on over what is terminal, eight at a time where eight are."""
        ended, begun_at, total = self._ended, self._at, self.total
        at = begun_at
        while at < total:
            if not at & 7 and ended[at >> 3] == 0xFF:
                at += 8
            elif ended[at >> 3] >> (at & 7) & 1:
                at += 1
            else:
                break
        self._at = at
        self._ahead -= at - begun_at

    def __contains__(self, ordinal: int) -> bool:
        return self.place(ordinal) is not None

    def place(self, ordinal: int) -> int | None:
        """Return how many partitions are before this one; None where it is none."""
        ordinals = self._ordinals
        if isinstance(ordinals, range):  # nothing has to be sought
            found = ordinal - ordinals.start
            return found if 0 <= found < len(ordinals) else None
        found = bisect_left(ordinals, ordinal)
        return found if found < self.total and ordinals[found] == ordinal else None

    def position(self, ordinal: int) -> int:
        """Return how many partitions are before this one; raise InvalidInputError where it is none."""
        found = self.place(ordinal)
        if found is None:
            raise InvalidInputError(f"ordinal {ordinal} is not a partition of this backfill")
        return found


@dataclass(frozen=True, slots=True)
class Stored:
    """What a backfill's row says of its partitions."""

    checkpoint: str | None
    total: int
    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A partition's row."""

    key: str
    state: str
    again: bool = False
    """It was terminal before and is to run again: its retry was asked for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not fit, and whether the backfill must not go on before it does."""

    text: str
    blocks: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison found (B-35)."""

    checkpoint: str | None
    """What the checkpoint is by the partitions' rows."""

    total: int
    completed: int
    failed: int
    open: int
    findings: tuple[Finding, ...]

    @property
    def fits(self) -> bool:
        """Nothing was found."""
        return not self.findings

    @property
    def blocks(self) -> bool:
        """The backfill must not be resumed before this is resolved."""
        return any(finding.blocks for finding in self.findings)


def judge(stored: Stored, partitions: Iterable[Seen]) -> Verdict:
    """Compare what is stored of a backfill with its partitions, and say what does not fit.

    Args:
        stored: The backfill's row.
        partitions: All its partitions in the order of their ordinals; read once, and not kept.
    """
    comparison = Comparison(stored)
    for partition in partitions:
        comparison.take(partition)
    return comparison.verdict()


class Comparison:
    """What one pass over the partitions adds up, for those who read them in pieces."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._checkpoint = stored.checkpoint
        self.found = False
        self.reached: str | None = None
        self.total = self.completed = self.failed = self.open = 0
        self.skipped = self.again = self.behind = 0
        """Open ones up to the checkpoint: never ended, ended before. Terminal ones right behind it."""
        self.named: list[str] = []
        self._gap = False

    def take(self, partition: Seen) -> None:
        """Take in the next partition, in the order of ordinals."""
        state = partition.state
        self.total += 1
        self.completed += state == "completed"
        self.failed += state == "failed"
        before = self._checkpoint is not None and not self.found
        if state not in TERMINAL:
            self.open += 1
            self._gap = True
            if before:
                self._skip(partition)
        elif not self._gap:
            self.reached = partition.key
            self.behind += not before
        self.found = self.found or partition.key == self._checkpoint

    def verdict(self) -> Verdict:
        """Say what does not fit, once every partition was taken in."""
        findings = (*_checkpoint_findings(self._stored, self), *_count_findings(self._stored, self))
        return Verdict(self.reached, self.total, self.completed, self.failed, self.open, findings)

    def _skip(self, partition: Seen) -> None:
        if partition.again:
            self.again += 1
        else:
            self.skipped += 1
            if len(self.named) < NAMED:
                self.named.append(f"{partition.key} ({partition.state})")


def _checkpoint_findings(stored: Stored, look: Comparison) -> Iterable[Finding]:
    told = "none" if look.reached is None else repr(look.reached)
    if stored.checkpoint is not None and not look.found:
        yield Finding(
            f"checkpoint {stored.checkpoint!r} is not a partition of this backfill;"
            f" by its partitions the checkpoint is {told}",
            blocks=True,
        )
        return
    if look.skipped:
        more = look.skipped - len(look.named)
        yield Finding(
            f"checkpoint {stored.checkpoint!r} is ahead of {_count(look.skipped, 'partition')} that did not"
            f" end: {', '.join(look.named)}{f' and {more} more' if more else ''};"
            f" going on from it would skip {_them(look.skipped)}, the safe checkpoint is {told}",
            blocks=True,
        )
    if look.again:
        yield Finding(
            f"{_count(look.again, 'partition')} up to checkpoint {stored.checkpoint!r} ended before and"
            f" {_is(look.again)} to run again, as was asked for; the backfill ends after {_them(look.again)}",
            blocks=False,
        )
    if look.behind:
        yield Finding(
            f"checkpoint {'none' if stored.checkpoint is None else repr(stored.checkpoint)} is"
            f" {_count(look.behind, 'partition')} behind {told}: they ended after the last fold,"
            " which the next one makes good; none of them runs again",
            blocks=False,
        )


def _count_findings(stored: Stored, look: Comparison) -> Iterable[Finding]:
    if stored.total != look.total:
        yield Finding(
            f"the backfill says {_count(stored.total, 'partition')}, there are {look.total}:"
            " its list is frozen when it is created, so rows were added or deleted by hand",
            blocks=True,
        )
    for word, told, seen in (
        ("completed", stored.completed, look.completed),
        ("failed", stored.failed, look.failed),
    ):
        if told > seen:
            yield Finding(
                f"the backfill says {told} {word}, its partitions {seen}:"
                f" {told - seen} counted that {_is(told - seen)} not {word}, or no more",
                blocks=word == "completed",  # failed ones go back to pending when they are retried
            )
        elif told < seen:
            yield Finding(
                f"the backfill says {told} {word}, its partitions {seen}:"
                f" {seen - told} ended after the last fold, which the next one makes good",
                blocks=False,
            )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _them(number: int) -> str:
    return "it" if number == 1 else "them"
