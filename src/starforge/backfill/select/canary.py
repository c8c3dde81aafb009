"""The canary: a share of a backfill's partitions that runs before the rest, spread over all of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from starforge.backfill.errors import SelectionError

SHARE = re.compile(r"\s*(\d{1,3}(?:\.\d{1,6})?)\s*(%?)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Canary:
    """So many of the partitions, evenly spread; the first and the last are among them where it has two."""

    share: float
    total: int

    @property
    def count(self) -> int:
        """How many they are: the share rounded up, so at least one of any."""
        # In ten-thousandths of a percent: 7 % of 100 is 7, whatever a float makes of it.
        return min(self.total, -(-self.total * round(self.share * 1_000_000) // 1_000_000))

    def positions(self) -> Iterator[int]:
        """Make their positions in the order of partitions, from 0."""
        count, total = self.count, self.total
        if count == 1:
            yield total // 2
            return
        for step in range(count):
            yield step * (total - 1) // (count - 1)


def share_of(text: str) -> float:
    """Read "5%" or "0.05"; raise SelectionError for what is no share between none and all."""
    found = SHARE.fullmatch(text)
    share = math.nan if found is None else float(found[1]) / (100 if found[2] else 1)
    check_share(share, text)
    return share


def check_share(share: float, shown: object) -> None:
    """Raise SelectionError where a share is not above 0 and below 1."""
    if not 0.000001 <= share < 1:
        raise SelectionError(f"--canary {shown}: write a share above 0 and below 100 %, as in --canary 5%")
