"""How many rows a statement of a key range takes: as many as fit into a stated time, found by doing it.

The time for a row is smoothed; a size grows to twice the last one at most and shrinks at once. A batch that
does not get through (it took too long, or a row of it is refused) is halved until the row at fault is alone:
every half that gets through leaves the fault in the other, so that n rows take about log2 n statements.
"""

from __future__ import annotations

from starforge.backfill.pace.pace import PaceSettings

SLOWER_WEIGHT, FASTER_WEIGHT = 0.7, 0.3
"""How much of the last batch's time for a row is believed: what is slower, sooner."""

GROWTH = 2.0


class Batch:
    """The size of the next batch of rows."""

    def __init__(self, settings: PaceSettings | None = None) -> None:
        self._settings = settings or PaceSettings.read()
        self._row_s = 0.0  # smoothed; 0 before the first
        self._last = min(self._settings.batch_rows_first, self._settings.batch_rows_max)
        self._suspect = 0  # rows ahead of which one or more are at fault
        self._fresh = True

    @property
    def suspect(self) -> int:
        """How many of the rows ahead hold one at fault; 0: none is known."""
        return self._suspect

    def rows(self, target_s: float | None = None) -> int:
        """Return how many rows to take next; 1 or more.

        Args:
            target_s: How long it may take, above 0: what the pace says; else what the settings say.
        """
        if self._suspect:
            return max(1, self._suspect // 2)
        if self._fresh:
            return self._last
        target_s = self._settings.batch_s if target_s is None else target_s
        most = min(self._settings.batch_rows_max, int(self._last * GROWTH))
        if self._row_s * most <= target_s:
            return max(1, most)
        return max(1, min(most, int(target_s / self._row_s)))

    def took(self, rows: int, seconds: float) -> None:
        """Learn from a batch that got through; rows is how many it had, 0 where none were left."""
        if rows <= 0 or self._suspect:
            self._suspect = max(0, self._suspect - rows) if rows > 0 else 0
            return  # halves are small on purpose: their time for a row says little
        row_s = max(seconds, 0.0) / rows
        weight = SLOWER_WEIGHT if row_s > self._row_s else FASTER_WEIGHT
        self._row_s = row_s if self._fresh else self._row_s + weight * (row_s - self._row_s)
        self._last, self._fresh = rows, False

    def broke(self, rows: int) -> bool:
        """Learn from a batch that did not get through; True: it was one row, and that is the poison row.

        A poison row is to be quarantined and stepped over; the next batch begins behind it.
        """
        self._fresh = False
        self._last = max(1, rows // 2)
        if rows > 1:
            self._suspect = rows
            return False
        self._suspect = 0
        return True
