"""How long partitions take: what was seen of it, and what that says about those to come.

Only sums are kept, each older duration counting a little less than the one after it, so a state is a dozen
numbers however many partitions have ended. Two models share them. The mean of those to come is a straight
line through the durations over the job, its slope held close to level until the data speak against that:
later partitions are often larger. How far durations scatter, and how long one that runs already will still
take, is a lognormal's: durations are skewed, and few of them show too little of their own tail.

Those that are still running count as well, as durations of at least their age. Without them the first ones
to end, which are the shortest, would speak for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

WINDOW = 2_000.0
"""So many durations count at most, in effect."""

DRIFT_SD = 0.6
"""How far, as a share of the mean, durations are expected to drift over a whole job."""

SCATTER_LEAST = 0.02
"""No duration is taken to be known better than this, as a share of it."""

SCATTER_MOST = 2.0
"""Standard deviation of the logarithm at most: beyond it a mean says nothing."""

SCATTER_TOLD_MOST = 3.0
"""Relative scatter that the lognormal may claim beyond what was seen."""

HIDDEN_MOST = 3.0
"""How much longer the running ones may make the mean than the ended ones say, as a factor."""

AGES_MOST = 64
"""So many of the running partitions are looked at, the oldest."""

FIT_ROUNDS = 4
SHORTEST_S = 1e-6
"""A duration of 0 has no logarithm."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """The mean duration of the partitions to come, and how well it is known."""

    mean_s: float
    unsure: float
    """Standard deviation of the mean, as a share of it."""

    scatter: float
    """Standard deviation of one duration, as a share of the mean."""


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Durations whose logarithms have this mean and standard deviation."""

    centre: float
    spread: float

    @property
    def mean_s(self) -> float:
        """The mean duration."""
        return math.exp(self.centre + self.spread**2 / 2)

    @property
    def scatter(self) -> float:
        """Standard deviation of a duration, as a share of the mean."""
        return math.sqrt(math.expm1(self.spread**2))

    def left_mean_s(self, age_s: float) -> float:
        """How long a partition of this age will still run, on average."""
        if age_s <= SHORTEST_S:
            return self.mean_s
        z = (math.log(age_s) - self.centre) / self.spread
        beyond = above(z)
        if beyond < 1e-12:
            return age_s * self.spread / max(z, 1.0)  # the tail's own expansion
        return max(self.mean_s * above(z - self.spread) / beyond - age_s, 0.0)

    def beyond(self, seconds: float) -> float:
        """The share of durations that are longer than this."""
        return above((math.log(max(seconds, SHORTEST_S)) - self.centre) / self.spread)


def above(z: float) -> float:
    """Return the share of a standard normal above z."""
    return 0.5 * math.erfc(z / math.sqrt(2))


@dataclass(slots=True)
class Durations:
    """Sums over the durations of ended partitions; x is where in the job each stood, in [0, 1]."""

    n: float = 0.0
    x: float = 0.0
    xx: float = 0.0
    y: float = 0.0
    xy: float = 0.0
    yy: float = 0.0
    logs: float = 0.0
    logs_squared: float = 0.0

    def add(self, seconds: float, position: float) -> None:
        """Count a duration; position is the share of the job that had ended by then."""
        self._scale(1 - 1 / WINDOW)
        seconds = max(seconds, SHORTEST_S)
        log = math.log(seconds)
        self.n += 1
        self.x += position
        self.xx += position * position
        self.y += seconds
        self.xy += position * seconds
        self.yy += seconds * seconds
        self.logs += log
        self.logs_squared += log * log

    @property
    def mean_s(self) -> float:
        """The mean of what was seen; 0 before the first."""
        return self.y / self.n if self.n else 0.0

    def fit(self, ages_s: Sequence[float]) -> Lognormal:
        """Return the lognormal of what was seen, the running ones counted as at least their age.

        Source: A. P. Dempster, N. M. Laird, D. B. Rubin, "Maximum Likelihood from Incomplete Data via the
        EM Algorithm", Journal of the Royal Statistical Society B 39(1), 1977; the censored normal.
        """
        centre, spread = _moments(self.n, self.logs, self.logs_squared)
        if len(ages_s) * 50 < self.n:
            return Lognormal(centre, spread)
        logs = [math.log(max(age, SHORTEST_S)) for age in sorted(ages_s, reverse=True)[:AGES_MOST]]
        for _ in range(FIT_ROUNDS):
            total, squared = self.logs, self.logs_squared
            for log in logs:
                first, second = _given_above(log, centre, spread)
                total += first
                squared += second
            centre, spread = _moments(self.n + len(logs), total, squared)
        return Lognormal(centre, spread)

    def ahead(self, position: float, fitted: Lognormal) -> Ahead:
        """Return the mean of the durations that stand around a position of the job.

        Args:
            position: Where the middle of them stands, in [0, 1].
            fitted: The lognormal that counts the running ones too.
        """
        plain = self.fit(())
        hidden = min(max(fitted.mean_s / plain.mean_s, 1.0), HIDDEN_MOST)
        mean = self.mean_s * hidden
        seen = math.sqrt(max(self.yy / self.n / self.mean_s**2 - 1, 0.0))
        scatter = max(seen, min(fitted.scatter, SCATTER_TOLD_MOST), SCATTER_LEAST)
        noise = scatter**2  # relative to the mean, as everything below
        about = self.xx - self.x**2 / self.n
        along = (self.xy - self.x * self.y / self.n) / self.mean_s
        known = about + noise / DRIFT_SD**2
        reach = position - self.x / self.n
        factor = max(1 + along / known * reach, 0.3)
        unsure = math.sqrt(noise / self.n + noise / known * reach**2) / factor + (hidden - 1) / hidden / 2
        return Ahead(mean * factor, unsure, scatter)

    def state(self) -> dict[str, float]:
        """Return the sums, to be stored."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _scale(self, factor: float) -> None:
        self.n *= factor
        self.x *= factor
        self.xx *= factor
        self.y *= factor
        self.xy *= factor
        self.yy *= factor
        self.logs *= factor
        self.logs_squared *= factor


def _moments(n: float, total: float, squared: float) -> tuple[float, float]:
    """Return mean and standard deviation; few values are assumed to scatter somewhat."""
    centre = total / n
    variance = max(squared / n - centre**2, 0.0)
    variance = (variance * n + 0.25) / n if n < 2 else variance * n / (n - 1)
    return centre, min(max(math.sqrt(variance), SCATTER_LEAST), SCATTER_MOST)


def _given_above(log: float, centre: float, spread: float) -> tuple[float, float]:
    """Return the mean and the mean square of a normal value, given that it is above `log`."""
    z = (log - centre) / spread
    beyond = above(z)
    if beyond < 1e-12:
        return log, log * log
    hazard = math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / beyond
    mean = centre + spread * hazard
    return mean, centre**2 + spread**2 + spread * hazard * (log + centre)
