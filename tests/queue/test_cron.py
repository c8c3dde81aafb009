"""Cron in time zones: no tick is missed or doubled where clocks change, by an independent reckoning."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starforge.queue.cron import Cron
from starforge.queue.errors import ScheduleError
from tests.covers import covers
from tests.queue.clockwork import ZONES, Reckoning, changes

MINUTES = st.sampled_from(["0", "30", "*", "*/15", "0,30", "59", "*/7", "15-45/10"])
HOURS = st.sampled_from(["*", "2", "0", "1", "3", "*/2", "1-3", "23", "0-5", "0,2", "*/5"])
DAYS = st.sampled_from(["*", "*", "*/2", "29", "15,31"])
WEEKDAYS = st.sampled_from(["*", "*", "0", "6,7", "1-5"])
CRONS = st.builds("{} {} {} * {}".format, MINUTES, HOURS, DAYS, WEEKDAYS)


@st.composite
def around_changes(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone and a moment within a day before its clocks change."""
    zone = draw(st.sampled_from(ZONES))
    day = draw(st.sampled_from(changes(zone)))
    return zone, day + timedelta(seconds=draw(st.integers(-6 * 3600, 24 * 3600)))


@settings(max_examples=80, deadline=None)
@given(CRONS, around_changes())
def test_every_tick_around_a_change_of_clocks_comes_once(text: str, where: tuple[str, datetime]) -> None:
    """FAULTS 24."""
    zone, start = where
    end = start + timedelta(hours=30)
    cron, found, tick = Cron(text, zone), [], start
    while (tick := cron.next(tick)) <= end:
        found.append(tick)
    assert found == Reckoning(text, zone).ticks(start, end)


@settings(max_examples=30, deadline=None)
@given(CRONS, around_changes(), st.integers(1, 40))
def test_the_newest_ticks_are_the_last_of_all_of_them(
    text: str, where: tuple[str, datetime], most: int
) -> None:
    zone, start = where
    end = start + timedelta(hours=30)
    assert Cron(text, zone).newest(start, end, most=most) == Reckoning(text, zone).ticks(start, end)[-most:]


def _next(text: str, zone: str, after: str) -> str:
    return f"{Cron(text, zone).next(datetime.fromisoformat(after).replace(tzinfo=UTC)):%Y-%m-%d %H:%M}"


def test_a_time_that_clocks_skip_ticks_right_after_the_gap() -> None:
    assert _next("30 2 * * *", "Europe/Berlin", "2026-03-28 12:00") == "2026-03-29 01:00"
    assert _next("30 2 * * *", "Europe/Berlin", "2026-03-29 01:00") == "2026-03-30 00:30"


def test_a_time_that_comes_twice_ticks_the_first_time() -> None:
    assert _next("30 2 * * *", "Europe/Berlin", "2026-10-24 12:00") == "2026-10-25 00:30"
    assert _next("30 2 * * *", "Europe/Berlin", "2026-10-25 00:30") == "2026-10-26 01:30"
    # A worker that starts between the two runs of the hour does not tick again.
    assert _next("30 2 * * *", "Europe/Berlin", "2026-10-25 01:10") == "2026-10-26 01:30"


def test_every_half_hour_is_every_half_hour_of_real_time() -> None:
    cron, tick = Cron("*/30 * * * *", "Europe/Berlin"), datetime(2026, 10, 24, 22, 0, tzinfo=UTC)
    ticks = [tick := cron.next(tick) for _ in range(12)]
    assert {after - before for before, after in pairwise(ticks)} == {timedelta(minutes=30)}


def test_the_29th_of_february_comes_in_leap_years() -> None:
    assert _next("0 12 29 2 *", "UTC", "2026-01-01") == "2028-02-29 12:00"
    assert _next("0 12 29 2 *", "UTC", "2096-03-01") == "2104-02-29 12:00"


def test_words_for_common_crons_are_read() -> None:
    assert _next("@daily", "Europe/Berlin", "2026-06-01") == "2026-06-01 22:00"
    assert _next("@Hourly", "UTC", "2026-06-01") == "2026-06-01 01:00"


def test_years_of_absence_cost_no_walk_through_every_tick() -> None:
    start, now = datetime(1990, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    newest = Cron("* * * * *", "Europe/Berlin").newest(start, now, most=3)
    assert newest == [now - timedelta(minutes=2), now - timedelta(minutes=1), now]


@pytest.mark.parametrize(
    ("text", "zone", "told"),
    [
        ("* * * *", "UTC", "cron '\\* \\* \\* \\*' has 4 of the five fields"),
        ("* * * * * *", "UTC", "has 6 of the five fields"),
        ("@sometimes", "UTC", "or write one of @hourly"),
        ("61 * * * *", "UTC", "bad minute"),
        ("0 25 * * *", "UTC", "bad hour"),
        ("0 0 31 2 *", "UTC", "bad day-of-month"),
        ("0 0 * 13 *", "UTC", "bad month"),
        ("0 0 * * 9", "UTC", "bad day-of-week"),
        ("* * * * *", "Europe/Atlantis", "time zone 'Europe/Atlantis' is not known to this machine"),
        ("* * * * *", "../../etc/passwd", "is not known"),
        ("* * * * *", "", "is not known"),
    ],
)
@covers("X-17")
def test_what_cannot_be_is_refused_with_what_is_wrong(text: str, zone: str, told: str) -> None:
    with pytest.raises(ScheduleError, match=told):
        Cron(text, zone)
