"""The pace falls at once, comes back step by step, and puts live traffic first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starforge.backfill.pace.pace import CLEAR, GRADES, Health, PaceSettings, Throttle, pressures_of, slots_of
from tests.covers import covers

LIMITS = PaceSettings()
CALM = Health(10, 80, 0, 0.0, 0.0, 4.0, 4.0)

HEALTH = st.builds(
    Health,
    st.none() | st.integers(0, 100),
    st.none() | st.integers(1, 100),
    st.none() | st.integers(0, 20),
    st.none() | st.floats(0, 5e8),
    st.none() | st.floats(0, 60),
    st.none() | st.floats(0, 100),
    st.none() | st.floats(0, 30),
)


@pytest.mark.parametrize(
    ("health", "share", "told"),
    [
        (Health(lock_waits=4), 1.0, ""),
        (Health(lock_waits=5), 0.5, "50% of the concurrency: 5 sessions wait for locks (limit 5)"),
        (Health(lock_waits=7), 0.25, "7 sessions"),
        (Health(lock_waits=9), 0.1, "9 sessions"),
        (Health(lock_waits=10), 0.0, "0% of the concurrency: 10 sessions"),
        (Health(63, 80), 1.0, ""),
        (Health(64, 80), 0.5, "64 of 80 connections are used (limit 80%)"),
        (Health(80, 80), 0.0, "80 of 80 connections"),
        (Health(3, 0), 0.0, "3 of 0 connections"),
        (Health(wal_bytes_per_s=1.2e8), 0.5, "120 MB of WAL per second (limit 100)"),
        (Health(replication_lag_s=14), 0.25, "a replica lags 14 s behind (limit 10 s)"),
        (Health(live_p95_ms=9.9, live_normal_ms=2), 1.0, ""),
        (Health(live_p95_ms=11, live_normal_ms=2), 0.25, "live jobs wait 11 ms (p95, normally 2 ms; limit 1"),
        (Health(live_p95_ms=40, live_normal_ms=30), 1.0, ""),
        (Health(live_p95_ms=46, live_normal_ms=30), 0.25, "limit 45 ms"),
        (Health(live_p95_ms=20), 0.0, "live jobs wait 20 ms (p95; limit 10 ms)"),
        (Health(), 1.0, ""),
    ],
)
def test_a_reading_over_its_limit_slows_down_by_grades_and_says_so(
    health: Health, share: float, told: str
) -> None:
    pace = Throttle(LIMITS).judge(health, 0.0)
    assert pace.share == share
    assert told in pace.reason
    assert bool(pace.reason) == (share < 1)


def test_where_several_ask_for_the_same_grade_live_traffic_is_named() -> None:
    pace = Throttle(LIMITS).judge(Health(lock_waits=99, live_p95_ms=99.0), 0.0)
    assert pace.reason.startswith("0% of the concurrency: live jobs wait 99 ms")


def test_it_comes_back_one_step_after_each_calm_while() -> None:
    throttle = Throttle(LIMITS)
    assert throttle.judge(Health(lock_waits=99), 0.0).share == 0.0
    shares = [throttle.judge(CALM, float(second)).share for second in range(1, 53)]
    assert [(second, share) for second, share in enumerate(shares, 1) if second % 10 == 1] == [
        (1, 0.0),
        (11, 0.1),
        (21, 0.25),
        (31, 0.5),
        (41, 1.0),
        (51, 1.0),
    ]
    assert throttle.judge(Health(lock_waits=5), 53.0).share == 0.5, "and falls at once again"


def test_the_reason_says_when_the_next_step_comes() -> None:
    throttle = Throttle(LIMITS)
    throttle.judge(Health(lock_waits=6), 0.0)
    throttle.judge(CALM, 5.0)
    told = throttle.judge(CALM, 9.0).reason
    assert told.endswith("6 sessions wait for locks (limit 5); calm now, next step up in 6 s")


def test_a_reading_that_is_hardly_better_does_not_bring_it_back() -> None:
    throttle = Throttle(LIMITS)
    throttle.judge(Health(replication_lag_s=11.0), 0.0)
    for second in range(1, 100):
        assert throttle.judge(Health(replication_lag_s=9.0), float(second)).share == 0.5
    assert throttle.judge(Health(replication_lag_s=7.9), 100.0).share == 0.5
    assert throttle.judge(Health(replication_lag_s=7.9), 110.0).share == 1.0


def test_without_readings_it_stays_as_it_is() -> None:
    throttle = Throttle(LIMITS)
    throttle.judge(Health(lock_waits=6), 0.0)
    for second in range(0, 100, 9):
        pace = throttle.judge(Health(), float(second))
        assert pace.share == 0.5
    assert "nothing is known of the database's health now" in pace.reason


def test_a_new_holder_is_as_slow_as_the_last_one_from_its_first_look_on() -> None:
    """What slowed the last one down is read anew before anything is started, and named by its cause."""
    assert Throttle(LIMITS).judge(CALM, 0.0).cause == ""
    pace = Throttle(LIMITS).judge(Health(lock_waits=99), 0.0)
    assert (pace.share, pace.cause) == (0.0, "locks")


@given(st.lists(st.tuples(HEALTH, st.floats(0, 20)), max_size=60))
def test_it_is_never_faster_than_any_reading_allows_and_rises_one_grade_at_a_time(
    looks: list[tuple[Health, float]],
) -> None:
    throttle, now_s, before, since_s = Throttle(LIMITS), 0.0, 0, -1e9
    for health, later_s in looks:
        now_s += later_s
        pace = throttle.judge(health, now_s)
        grade = GRADES.index(pace.share)
        allowed = max((pressure.grade() for pressure in pressures_of(health, LIMITS)), default=0)
        assert grade >= allowed
        assert grade == max(before, allowed) or grade == before - 1
        if grade != before:
            if grade < before:
                assert now_s - since_s >= LIMITS.calm_s
            since_s = now_s
        assert 0 < pace.batch_s <= LIMITS.batch_s
        assert bool(pace.reason) == (grade > 0)
        before = grade


@given(HEALTH, st.integers(2, 40))
def test_readings_that_stand_still_never_make_it_swing(health: Health, looks: int) -> None:
    throttle = Throttle(LIMITS)
    shares = {throttle.judge(health, at * LIMITS.calm_s).share for at in range(looks)}
    assert len(shares) == 1


@given(st.floats(0, 100), st.floats(0, 100))
def test_worse_readings_never_give_a_faster_pace(one: float, other: float) -> None:
    low, high = sorted((one, other))

    def share(lag_s: float) -> float:
        return Throttle(LIMITS).judge(Health(replication_lag_s=lag_s), 0.0).share

    assert share(low) >= share(high)
    assert 0 < CLEAR < 1


@covers("B-69")
@given(st.integers(1, 500), st.sampled_from(GRADES))
def test_one_partition_runs_at_least_unless_it_is_stopped(concurrency: int, share: float) -> None:
    slots = slots_of(concurrency, share)
    assert slots <= concurrency
    assert (slots == 0) == (share == 0)
    if share == 1:
        assert slots == concurrency


def test_every_limit_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFORGE_BACKFILL_LOCK_WAITS", "50")
    assert Throttle().judge(Health(lock_waits=20), 0.0).share == 1.0
    names = [str(field.validation_alias) for field in PaceSettings.model_fields.values()]
    assert all(name.startswith("STARFORGE_BACKFILL_") for name in names)
