"""How long a failed job waits: exponential, capped, with a share of it drawn."""

from __future__ import annotations

from starforge.clock import randomness
from starforge.settings import Settings, setting


class BackoffSettings(Settings):
    """The shape of the wait between attempts."""

    base_s: float = setting(
        2.0,
        env="STARFORGE_BACKOFF_BASE_S",
        unit="seconds",
        meaning="Wait after the first failure; doubles with each further one.",
        ge=0,
    )
    max_s: float = setting(
        3600.0,
        env="STARFORGE_BACKOFF_MAX_S",
        unit="seconds",
        meaning="Longest wait between two attempts.",
        ge=0,
    )


def delay_s(attempt: int, *, base_s: float, max_s: float, jitter: float = 0.5) -> float:
    """Return the wait in seconds after failed attempt number `attempt` (1 for the first).

    Drawn evenly from the upper `jitter` share of min(max_s, base_s · 2^(attempt − 1)), so that jobs that
    failed together do not come back together.
    """
    # 2^60 s is beyond any cap; the bound keeps the power finite for absurd attempt numbers.
    longest = min(max_s, base_s * 2.0 ** min(attempt - 1, 60))
    return randomness.uniform(longest * (1 - jitter), longest)
