"""The pace of a backfill: how much of its concurrency the database's health leaves it, and why.

Each reading has a limit from which the backfill slows down and one from which it stops; in between it goes
down by grades. The worst reading decides. The pace falls at once and comes back one grade at a time, each
after a calm while, with every reading clear of its limit by a margin: so a reading that stands still never
makes it swing. Live traffic comes first: where its pick-up suffers, the first grade is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from starforge.settings import Settings, setting

GRADES = (1.0, 0.5, 0.25, 0.1, 0.0)
"""The shares of its concurrency that a backfill may have, from open to stopped."""

CLEAR = 0.8
"""To come back, each reading must be below this share of the limit that it is measured by."""

BATCH_LEAST = 0.1
"""Batches are made shorter with the pace, to this share of their time at least."""


class PaceSettings(Settings):
    """When a backfill gives way to what else the database does, and when it is paused by itself."""

    connections: float = setting(
        0.8,
        env="STARFORGE_BACKFILL_CONNECTIONS",
        unit="share",
        meaning="Share of the connection budget in use from which backfills slow down; at 1 they stop.",
        gt=0,
        lt=1,
    )
    lock_waits: int = setting(
        5,
        env="STARFORGE_BACKFILL_LOCK_WAITS",
        unit="sessions",
        meaning="Sessions waiting for a lock from which backfills slow down.",
        ge=1,
        le=1_000_000,
    )
    wal_mb_per_s: float = setting(
        100.0,
        env="STARFORGE_BACKFILL_WAL_MB_PER_S",
        unit="MB (1 000 000 bytes) per second",
        meaning="WAL written per second from which backfills slow down.",
        gt=0,
        le=1_000_000,
    )
    replication_lag_s: float = setting(
        10.0,
        env="STARFORGE_BACKFILL_REPLICATION_LAG_S",
        unit="seconds",
        meaning="Lag of the slowest replica from which backfills slow down.",
        gt=0,
        le=86_400,
    )
    live_p95_factor: float = setting(
        1.5,
        env="STARFORGE_BACKFILL_LIVE_P95_FACTOR",
        unit="times its normal",
        meaning="Pick-up p95 of the live queues, against its normal, from which backfills slow down.",
        gt=1,
        le=1_000,
    )
    live_p95_ms: float = setting(
        10.0,
        env="STARFORGE_BACKFILL_LIVE_P95_MS",
        unit="milliseconds",
        meaning="Pick-up p95 of the live queues up to which backfills never slow down for it.",
        gt=0,
        le=3_600_000,
    )
    stop_factor: float = setting(
        2.0,
        env="STARFORGE_BACKFILL_STOP_FACTOR",
        unit="times the limit",
        meaning="Above this multiple of one of these limits backfills start nothing.",
        gt=1,
        le=1_000,
    )
    calm_s: float = setting(
        10.0,
        env="STARFORGE_BACKFILL_CALM_S",
        unit="seconds",
        meaning="How long all readings must be clear of their limits before the pace rises by one grade.",
        ge=0,
        le=86_400,
    )
    breaker_ratio: float = setting(
        0.5,
        env="STARFORGE_BACKFILL_BREAKER_RATIO",
        unit="share",
        meaning="Share of a backfill's ended attempts that must have failed to pause it.",
        gt=0,
        le=1,
    )
    breaker_min: int = setting(
        20,
        env="STARFORGE_BACKFILL_BREAKER_MIN",
        unit="attempts",
        meaning="With fewer ended attempts in the window nothing is concluded.",
        ge=1,
        le=1_000_000,
    )
    breaker_window_s: float = setting(
        300.0,
        env="STARFORGE_BACKFILL_BREAKER_WINDOW_S",
        unit="seconds",
        meaning="How far back a backfill's attempts are judged.",
        gt=0,
        le=86_400,
    )
    batch_s: float = setting(
        0.5,
        env="STARFORGE_BACKFILL_BATCH_S",
        unit="seconds",
        meaning="How long one statement of a key range should take; its rows are chosen for it.",
        gt=0,
        le=60,
    )
    batch_rows_first: int = setting(
        100,
        env="STARFORGE_BACKFILL_BATCH_ROWS_FIRST",
        unit="rows",
        meaning="Rows of a key range's first statement.",
        ge=1,
        le=1_000_000,
    )
    batch_rows_max: int = setting(
        10_000,
        env="STARFORGE_BACKFILL_BATCH_ROWS_MAX",
        unit="rows",
        meaning="Rows of a key range's statement at most, however fast they are.",
        ge=1,
        le=1_000_000,
    )


@dataclass(frozen=True, slots=True)
class Health:
    """What a look at the database found; None: not known, and then not judged."""

    connections_used: int | None = None
    connections_budget: int | None = None
    """What the server has, less what it reserves and the headroom."""

    lock_waits: int | None = None
    wal_bytes_per_s: float | None = None
    replication_lag_s: float | None = None
    live_p95_ms: float | None = None
    live_normal_ms: float | None = None
    """Pick-up p95 of the live queues as it is without the backfill."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a backfill may do now."""

    share: float
    """One of `GRADES`."""

    batch_s: float
    """How long a statement of a key range should take."""

    reason: str
    """In words; empty where it is open."""

    cause: str = ""
    """In a word, for metrics: live, connections, locks, wal, replication."""

    def slots(self, concurrency: int) -> int:
        """Return how many partitions may run at once: one at least, unless it is stopped."""
        return slots_of(concurrency, self.share)


def slots_of(concurrency: int, share: float) -> int:
    """Return how many may run at once at a share of the concurrency; 0 only where the share is."""
    return max(1, int(concurrency * share)) if share > 0 else 0


@dataclass(frozen=True, slots=True)
class Pressure:
    """One reading against its limit."""

    value: float
    slow: float
    """From here on the backfill slows down."""

    stop: float
    """From here on it starts nothing."""

    words: str
    cause: str

    def grade(self, clear: float = 1.0) -> int:
        """Return the index in `GRADES` that this reading asks for, its limits taken times `clear`."""
        slow, stop = self.slow * clear, self.stop * clear
        if self.value < slow:
            return 0
        if self.value >= stop:
            return len(GRADES) - 1
        between = len(GRADES) - 2  # neither open nor stopped
        grade = min(1 + int((self.value - slow) / (stop - slow) * between), between)
        return max(grade, 2) if self.live else grade

    @property
    def live(self) -> bool:
        """Live traffic suffers: it comes first."""
        return self.cause == "live"


class Throttle:
    """Turns readings into a pace; falls at once, rises step by step."""

    def __init__(self, settings: PaceSettings | None = None) -> None:
        """Begin open: the first look comes before anything is started, and sees what the last holder saw."""
        self._settings = settings or PaceSettings.read()
        self._grade = 0
        self._calm_since_s: float | None = None
        self._reason = self._cause = ""

    def judge(self, health: Health, now_s: float) -> Pace:
        """Return the pace after a look; now_s is on any clock that only moves forward."""
        pressures = list(pressures_of(health, self._settings))
        worst = max(pressures, key=lambda pressure: (pressure.grade(), pressure.live), default=None)
        asked = worst.grade() if worst else 0
        clear = max((pressure.grade(CLEAR) for pressure in pressures), default=self._grade)
        if worst is not None and asked:
            self._reason, self._cause = worst.words, worst.cause
        if asked > self._grade:
            self._grade, self._calm_since_s = asked, None
        elif clear >= self._grade:
            self._calm_since_s = None
        elif self._calm_since_s is None:
            self._calm_since_s = now_s
        if self._calm_since_s is not None and now_s - self._calm_since_s >= self._settings.calm_s:
            self._grade -= 1
            self._calm_since_s = now_s if self._grade else None
        return self._pace(now_s, known=bool(pressures))

    def _pace(self, now_s: float, *, known: bool) -> Pace:
        share = GRADES[self._grade]
        reason = ""
        if self._grade:
            reason = f"{share:.0%} of the concurrency: {self._reason}"
            if not known:
                reason += "; nothing is known of the database's health now"
            elif self._calm_since_s is not None:
                wait_s = self._settings.calm_s - (now_s - self._calm_since_s)
                reason += f"; calm now, next step up in {max(wait_s, 0):.0f} s"
        batch_s = self._settings.batch_s * max(share, BATCH_LEAST)
        return Pace(share, batch_s, reason, self._cause if self._grade else "")


def pressures_of(health: Health, limits: PaceSettings) -> Iterator[Pressure]:
    """Yield each reading that is known, with its limits and what to say of it; live traffic first."""
    stop = limits.stop_factor
    if health.live_p95_ms is not None:
        value, normal = health.live_p95_ms, health.live_normal_ms
        slow = max(limits.live_p95_ms, limits.live_p95_factor * (normal or 0.0))
        beside = "" if normal is None else f", normally {normal:.3g} ms"
        words = f"live jobs wait {value:.3g} ms (p95{beside}; limit {slow:.3g} ms)"
        yield Pressure(value, slow, slow * stop, words, "live")
    if health.connections_used is not None and health.connections_budget is not None:
        value = health.connections_used / max(health.connections_budget, 1)
        words = f"{health.connections_used} of {health.connections_budget} connections are used"
        words += f" (limit {limits.connections:.0%})"
        yield Pressure(value, limits.connections, min(1.0, limits.connections * stop), words, "connections")
    if health.lock_waits is not None:
        words = f"{health.lock_waits} sessions wait for locks (limit {limits.lock_waits})"
        yield Pressure(health.lock_waits, limits.lock_waits, limits.lock_waits * stop, words, "locks")
    if health.wal_bytes_per_s is not None:
        value = health.wal_bytes_per_s / 1e6
        words = f"{value:.3g} MB of WAL per second (limit {limits.wal_mb_per_s:g})"
        yield Pressure(value, limits.wal_mb_per_s, limits.wal_mb_per_s * stop, words, "wal")
    if health.replication_lag_s is not None:
        value = health.replication_lag_s
        words = f"a replica lags {value:.3g} s behind (limit {limits.replication_lag_s:g} s)"
        yield Pressure(value, limits.replication_lag_s, limits.replication_lag_s * stop, words, "replication")
