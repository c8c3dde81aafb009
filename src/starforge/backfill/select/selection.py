"""The selection: the partitions that a backfill is frozen with.

It holds ranges and makes the partitions from them one at a time, so half a million of them take no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from starforge.backfill.asset.asset import Asset
from starforge.backfill.scheme.scheme import Span, merged
from starforge.backfill.scheme.window import TimeScheme
from starforge.backfill.select.canary import Canary

TOLD_KEYS_MAX = 5


class Listed(NamedTuple):
    """One partition of the frozen list."""

    key: str
    ordinal: int
    canary: bool


@dataclass(frozen=True, slots=True)
class Part:
    """The partitions of one asset."""

    asset: Asset
    spans: tuple[Span, ...]
    """Their places, in order."""

    ordinals: Mapping[str, int] | None = None
    """By name, where the asset's scheme registers them."""

    share: float | None = None
    level: int = 0
    """How far upstream of what was asked for."""

    @property
    def total(self) -> int:
        """How many partitions there are."""
        return sum(map(self.asset.partitions.count, self.spans))

    @property
    def covers(self) -> list[Span]:
        """What they cover, for the database's check against overlaps: half-open, merged, in order."""
        if self.ordinals is None:
            return list(self.spans)
        return merged((ordinal, ordinal + 1) for _, ordinal in self.in_order())

    @property
    def canary(self) -> Canary | None:
        """Those that run first; None where there is no canary."""
        return None if self.share is None else Canary(self.share, self.total)

    def partitions(self) -> Iterator[Listed]:
        """Make the partitions in the order in which they run, one at a time; the same ones at each call."""
        if self.canary is None:
            for key, ordinal in self.in_order():
                yield Listed(key, ordinal, False)
            return
        positions = self.canary.positions()
        due = next(positions, None)
        for position, (key, ordinal) in enumerate(self.in_order()):
            chosen = position == due
            if chosen:
                due = next(positions, None)
            yield Listed(key, ordinal, chosen)

    @property
    def first_key(self) -> str:
        return next(iter(self.in_order()))[0]

    @property
    def last_key(self) -> str:
        if self.ordinals is None:
            return self.asset.partitions.last_key(self.spans)
        return self._registered(self.ordinals)[-1][0]

    def told(self) -> str:
        """Return it in one line, for people: the asset, its partitions, and the sample it begins with."""
        return _told(self)

    def document(self) -> dict[str, Any]:
        """Return it as `--json` shows it."""
        return _document(self)

    def in_order(self) -> Iterator[tuple[str, int]]:
        """Make keys and ordinals in the order of ordinals, one at a time."""
        if self.ordinals is None:
            return self.asset.partitions.listed(self.spans)
        return iter(self._registered(self.ordinals))

    def _registered(self, ordinals: Mapping[str, int]) -> list[tuple[str, int]]:
        names = (key for key, _ in self.asset.partitions.listed(self.spans))
        return sorted(((key, ordinals[key]) for key in names), key=lambda listed: listed[1])


class Listing(Protocol):
    """Keys and ordinals in the order of ordinals, each once; see listing.py."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[str, int]]: ...

    @property
    def last_key(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Frozen:
    """Partitions of one asset that were chosen one by one, with the ordinals that they have."""

    asset: Asset
    listed: Listing

    share: float | None = None
    level: int = 0

    @property
    def spans(self) -> tuple[Span, ...]:
        """Their places, in order. Raises: PartitionKeyError for a key that the asset has no more."""
        scheme = self.asset.partitions
        if isinstance(scheme, TimeScheme):
            return tuple(self._ordinals())
        return tuple(scheme.covers(key for key, _ in self.listed))

    @property
    def total(self) -> int:
        """How many partitions there are."""
        return len(self.listed)

    @property
    def covers(self) -> list[Span]:
        """What they cover; see `Part`. Raises: PartitionKeyError for a key that the asset has no more."""
        return self._ordinals() if self.asset.partitions.registers else list(self.spans)

    def _ordinals(self) -> list[Span]:
        return merged((ordinal, ordinal + 1) for _, ordinal in self.listed)

    @property
    def canary(self) -> Canary | None:
        """Those that run first; None where there is no canary."""
        return None if self.share is None else Canary(self.share, self.total)

    def partitions(self) -> Iterator[Listed]:
        """Make the partitions in the order in which they run; the same ones at each call."""
        chosen = frozenset() if self.canary is None else frozenset(self.canary.positions())
        for position, (key, ordinal) in enumerate(self.listed):
            yield Listed(key, ordinal, position in chosen)

    @property
    def first_key(self) -> str:
        return next(iter(self.listed))[0]

    @property
    def last_key(self) -> str:
        return self.listed.last_key

    def told(self) -> str:
        """Return it in one line, for people."""
        return _told(self)

    def document(self) -> dict[str, Any]:
        """Return it as `--json` shows it."""
        return _document(self)


AnyPart = Part | Frozen


@dataclass(frozen=True, slots=True)
class Selection:
    """What a request comes to: a part per asset, upstream first, what was asked for last."""

    parts: tuple[AnyPart, ...]
    notes: tuple[str, ...] = ()
    """What the one who asked should know: inputs that do not exist, upstream that was left out."""

    @property
    def total(self) -> int:
        """How many partitions there are in all."""
        return sum(part.total for part in self.parts)

    @property
    def asked(self) -> AnyPart:
        """The part of the asset that was asked for."""
        return self.parts[-1]


def counted(partitions: int) -> str:
    """Return a number of partitions in words."""
    return "1 partition" if partitions == 1 else f"{partitions} partitions"


def _told(part: AnyPart) -> str:
    line = f"{part.asset.name}: {counted(part.total)}, {part.first_key} to {part.last_key}"
    if part.canary is None:
        return line
    few = part.canary.count <= TOLD_KEYS_MAX
    sample = ", ".join(key for key, _, chosen in part.partitions() if chosen) if few else "its ends included"
    return f"{line}; first {part.canary.count} of them, evenly spread: {sample}"


def _document(part: AnyPart) -> dict[str, Any]:
    canary = None
    if part.canary is not None:
        canary = {"share": part.canary.share, "partitions": part.canary.count}
    return {
        "asset": part.asset.name,
        "level": part.level,
        "partitions": part.total,
        "first": part.first_key,
        "last": part.last_key,
        "version": part.asset.version,
        "canary": canary,
    }
