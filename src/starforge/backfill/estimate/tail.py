"""The end of a backfill: how long its last partitions run, and what waits for retries keep it from ending.

Work is shared out evenly until none waits; from then on the slots fall empty one by one, and the longest of
those that still run sets the time. With many slots and skewed durations that is a good part of a small job.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from starforge.backfill.estimate.durations import Lognormal, above

OLDEST = 16
"""Of those that run, the oldest so many are looked at: they end last or are about to be joined by others."""

SEARCH_ROUNDS = 12
DOUBLINGS_MOST = 40
CHAIN_MOST = 10
"""A partition is expected to fail at most so often in a row."""

SURE, POSSIBLE = 0.7, 0.105
"""With so many expected failures one happens in half of all cases, and in one of ten."""

SHARE_LEAST = 1e-12

Spread = tuple[float, float, float]
"""p10, p50 and p90, in seconds."""


def levelling(lognormal: Lognormal, slots: int) -> Spread:
    """Return how much later the last of so many ends than if they shared what is left of their work.

    Each is met somewhere within its own duration, so what is left of it follows the distribution of a
    renewal process met at random.

    Args:
        lognormal: What durations are like.
        slots: How many run when the last one starts, 1 or more.
    """
    if slots == 1:
        return 0.0, 0.0, 0.0
    mean_s = lognormal.mean_s
    shared_s = mean_s * (1 + lognormal.scatter**2) / 2

    def later_s(decile: float) -> float:
        each = decile ** (1 / slots)
        found_s = _first(lambda seconds: _ended(lognormal, seconds) >= each, mean_s)
        return max(found_s - shared_s, -shared_s)

    return later_s(0.1), later_s(0.5), later_s(0.9)


def last_of(lognormal: Lognormal, ages_s: Sequence[float]) -> Spread:
    """Return how long until the last of the running partitions ends, none waiting behind them."""
    if not ages_s:
        mean_s, scatter = lognormal.mean_s, lognormal.scatter
        return 0.0, mean_s, mean_s * (1 + 2 * scatter)
    oldest = [
        (age_s, max(lognormal.beyond(age_s), SHARE_LEAST)) for age_s in sorted(ages_s, reverse=True)[:OLDEST]
    ]

    def all_ended(seconds: float) -> float:
        share = 1.0
        for age_s, alive in oldest:
            share *= 1 - min(lognormal.beyond(age_s + seconds) / alive, 1.0)
        return share

    start_s = lognormal.mean_s + oldest[0][0]

    def found_s(decile: float) -> float:
        return _first(lambda seconds: all_ended(seconds) >= decile, start_s)

    return found_s(0.1), found_s(0.5), found_s(0.9)


def retried_s(end_s: float, left: int, failing: float, again_s: float, expected: float) -> float:
    """Return when the last chain of retries ends, if later than `end_s`.

    Args:
        end_s: When the work ends without waits, in seconds from now.
        left: Partitions that are not terminal.
        failing: The share of the attempts that fail, in [0, 1).
        again_s: How long a retry takes with the wait before it.
        expected: A chain counts if so many of its length are expected.
    """
    latest, chains = end_s, left * failing
    for length in range(1, CHAIN_MOST + 1):
        if chains < expected:
            break
        begun_s = end_s * (1 - 1 / (chains + 1))  # the last of them, if they begin evenly
        latest = max(latest, begun_s + length * again_s)
        chains *= failing
    return latest


def _ended(lognormal: Lognormal, seconds: float) -> float:
    """Return the share of running partitions, met at random, that end within so many seconds."""
    if seconds <= 0:
        return 0.0
    z = (math.log(seconds) - lognormal.centre) / lognormal.spread
    return 1 - above(z - lognormal.spread) + seconds * above(z) / lognormal.mean_s


def _first(reached: Callable[[float], bool], start_s: float) -> float:
    """Return the first time at which something that stays reached is reached, near enough."""
    least_s, most_s = 0.0, max(start_s, 1e-6)
    for _ in range(DOUBLINGS_MOST):
        if reached(most_s):
            break
        least_s, most_s = most_s, most_s * 2
    for _ in range(SEARCH_ROUNDS):
        middle_s = (least_s + most_s) / 2
        least_s, most_s = (least_s, middle_s) if reached(middle_s) else (middle_s, most_s)
    return most_s
