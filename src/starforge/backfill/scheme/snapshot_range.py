"""Partitions of stored snapshots: windows of a time that each snapshot has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

from starforge.backfill.errors import AssetDeclarationError
from starforge.backfill.scheme.hourly import Hourly
from starforge.backfill.scheme.scheme import SnapshotWindow, Span
from starforge.backfill.scheme.window import Calendar, Daily, Monthly, TimeScheme

SnapshotTime = Literal["captured_at", "created_at"]


@dataclass(frozen=True)
class SnapshotRange(TimeScheme):
    """Stored snapshots of a source, processed again by the code that processes new ones.

    SnapshotRange("orders", by="captured_at", every=Daily("2024-01-01"))

    Its partitions are the windows of `every`, with their keys; each holds the snapshots that were captured
    (or, by="created_at", stored) in it.
    """

    source: str
    by: SnapshotTime = "captured_at"
    every: Daily | Hourly | Monthly = field(kw_only=True)

    def __post_init__(self) -> None:
        if not self.source or not isinstance(self.source, str):
            raise AssetDeclarationError(
                f"a SnapshotRange names the source of its snapshots, not {self.source!r}"
            )
        if self.by not in get_args(SnapshotTime):
            raise AssetDeclarationError(
                f"snapshots are chosen by {' or '.join(get_args(SnapshotTime))}, not by {self.by!r}"
            )
        if not isinstance(self.every, Calendar):
            raise AssetDeclarationError(f"every={self.every!r}: give it a Daily(…), Hourly(…) or Monthly(…)")

    @property
    def first(self) -> int:  # type: ignore[override]  # an attribute of the base; here that of `every`, read only
        return self.every.first

    @property
    def last(self) -> int | None:  # type: ignore[override]  # as above
        return self.every.last

    @property
    def example(self) -> str:  # type: ignore[override]  # as above
        return self.every.example

    def told(self) -> str:
        return f"snapshots of {self.source} by {self.by}, {self.every.told()}"

    def start_of(self, ordinal: int) -> datetime:
        return self.every.start_of(ordinal)

    def at(self, moment: datetime) -> int:
        return self.every.at(moment)

    def label(self, ordinal: int) -> str:
        return self.every.label(ordinal)

    def read(self, key: str) -> int:
        return self.every.read(key)

    def listed(self, spans: Iterable[Span]) -> Iterator[tuple[str, int]]:
        return self.every.listed(spans)

    def window(self, ordinal: int) -> SnapshotWindow:
        return SnapshotWindow(self.start_of(ordinal), self.start_of(ordinal + 1), self.source, self.by)
