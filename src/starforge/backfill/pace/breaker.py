"""The breaker of a backfill: when too much of it fails lately it is paused, with the reason in words.

A handler that is broken fails every partition; without a breaker 500 000 of them would use up their attempts
before somebody looks. Counts are kept by slices of the window, so memory does not depend on how many ended.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from starforge.backfill.pace.pace import PaceSettings

SLICES = 30


class FailureBreaker:
    """Counts what ended within a sliding window and says when to pause."""

    def __init__(self, settings: PaceSettings | None = None) -> None:
        self._settings = settings or PaceSettings.read()
        self._slice_s = self._settings.breaker_window_s / SLICES
        self._slices: deque[tuple[int, int, int]] = deque()  # which, succeeded, failed
        self._succeeded = self._failed = 0

    def count(self, now_s: float, *, succeeded: int = 0, failed: int = 0) -> None:
        """Count attempts that ended about now."""
        which = int(now_s // self._slice_s)
        if self._slices and self._slices[-1][0] >= which:
            which, before, failed_before = self._slices.pop()
            self._slices.append((which, before + succeeded, failed_before + failed))
        else:
            self._slices.append((which, succeeded, failed))
        self._succeeded += succeeded
        self._failed += failed
        self._forget(now_s)

    def tripped(self, now_s: float) -> str | None:
        """Return why the backfill must be paused, or None."""
        self._forget(now_s)
        ended = self._succeeded + self._failed
        limits = self._settings
        if ended < limits.breaker_min or self._failed < limits.breaker_ratio * ended:
            return None
        return (
            f"{self._failed} of {ended} attempts failed within {limits.breaker_window_s:g} s;"
            f" from {limits.breaker_ratio:.0%} on a backfill is paused"
        )

    def state(self, now_s: float) -> list[list[int]]:
        """Return what was counted, as JSON has it: for each slice how many slices ago, succeeded, failed."""
        self._forget(now_s)
        now = int(now_s // self._slice_s)
        return [[now - which, succeeded, failed] for which, succeeded, failed in self._slices]

    def restore(self, state: Any, now_s: float) -> None:
        """Go on from what another holder counted; what cannot be read is not counted."""
        try:
            kept = [(int(ago), int(succeeded), int(failed)) for ago, succeeded, failed in state]
        except (TypeError, ValueError):
            return
        for ago, succeeded, failed in sorted(kept, reverse=True):
            self.count(now_s - ago * self._slice_s, succeeded=succeeded, failed=failed)

    def reset(self) -> None:
        """Begin anew: what failed before a resume no longer counts."""
        self._slices.clear()
        self._succeeded = self._failed = 0

    def _forget(self, now_s: float) -> None:
        oldest = int(now_s // self._slice_s) - SLICES
        while self._slices and self._slices[0][0] <= oldest:
            _, succeeded, failed = self._slices.popleft()
            self._succeeded -= succeeded
            self._failed -= failed
