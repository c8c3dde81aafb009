"""Partitions of time: nothing twice and nothing left out, also where clocks change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starforge.backfill.errors import AssetDeclarationError, PartitionKeyError
from starforge.backfill.scheme.hourly import Hourly
from starforge.backfill.scheme.scheme import SnapshotWindow
from starforge.backfill.scheme.snapshot_range import SnapshotRange
from starforge.backfill.scheme.window import Daily, Monthly, TimeScheme
from tests.covers import covers

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Havana"]

SCHEMES: list[TimeScheme] = [
    scheme
    for zone in ZONES
    for scheme in (
        Daily("1971-01-01", zone=zone),
        Hourly("1971-01-01T00", zone=zone),
        Monthly("1971-01", zone=zone),
        SnapshotRange("hero", every=Daily("1971-01-01", zone=zone)),
    )
]

MOMENTS = st.datetimes(datetime(1972, 1, 1), datetime(2037, 12, 1), timezones=st.just(UTC))
"""Before 2038: what a zone's rules say of later years is computed, not listed."""


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SCHEMES), MOMENTS)
def test_every_moment_lies_in_exactly_one_partition(scheme: TimeScheme, moment: datetime) -> None:
    ordinal = scheme.at(moment)
    assert scheme.window(ordinal).start <= moment < scheme.window(ordinal).end
    assert scheme.window(ordinal - 1).end == scheme.window(ordinal).start
    assert scheme.window(ordinal).end == scheme.window(ordinal + 1).start


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SCHEMES), MOMENTS)
def test_a_key_names_the_partition_that_it_was_made_for(scheme: TimeScheme, moment: datetime) -> None:
    ordinal = scheme.at(moment)
    key = scheme.label(ordinal)
    assert scheme.ordinal(key) == scheme.read(f" {key} ") == ordinal
    assert scheme.bounds(key) == scheme.window(ordinal)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SCHEMES), MOMENTS, st.integers(0, 80))
@covers("D-14")
def test_the_partitions_of_a_range_are_in_order_and_leave_no_gap(
    scheme: TimeScheme, moment: datetime, more: int
) -> None:
    first = scheme.at(moment)
    span = scheme.span(scheme.label(first), scheme.label(first + more))
    listed = list(scheme.listed([span]))
    assert scheme.count(span) == len(listed) == more + 1
    assert [ordinal for _, ordinal in listed] == list(range(first, first + more + 1))
    assert len({key for key, _ in listed}) == len(listed)
    windows = [scheme.bounds(key) for key, _ in listed]
    assert all(before.end == after.start for before, after in pairwise(windows))
    assert scheme.covers(key for key, _ in listed) == [span]
    assert scheme.last_key([span]) == listed[-1][0]
    assert scheme.first_key([span]) == listed[0][0]


@pytest.mark.parametrize(
    ("zone", "short", "long"),
    [
        ("Europe/Berlin", "2024-03-31", "2024-10-27"),
        ("America/New_York", "2024-03-10", "2024-11-03"),
    ],
)
def test_a_day_has_23_or_25_hours_where_clocks_change(zone: str, short: str, long: str) -> None:
    days, hours = Daily("2024-01-01", zone=zone), Hourly("2024-01-01T00", zone=zone)
    for day, expected in ((short, 23), (long, 25), ("2024-06-01", 24)):
        window = days.bounds(day)
        assert window.end - window.start == timedelta(hours=expected)
        found = [key for key, _ in hours.listed([hours.during(window.start, window.end)])]
        assert len(found) == len(set(found)) == expected
        assert {key[:10] for key in found} == {day}


def test_the_hour_that_comes_twice_is_two_partitions_told_apart_by_their_offsets() -> None:
    hours = Hourly("2024-01-01T00", zone="Europe/Berlin")
    window = Daily("2024-01-01", zone="Europe/Berlin").bounds("2024-10-27")
    keys = [key for key, _ in hours.listed([hours.during(window.start, window.end)])]
    assert keys[1:5] == ["2024-10-27T01", "2024-10-27T02+02:00", "2024-10-27T02+01:00", "2024-10-27T03"]
    assert hours.bounds("2024-10-27T02+02:00").start == datetime(2024, 10, 27, 0, tzinfo=UTC)
    assert hours.bounds("2024-10-27T02+01:00").start == datetime(2024, 10, 27, 1, tzinfo=UTC)
    with pytest.raises(
        PartitionKeyError, match=r"comes twice .* 2024-10-27T02\+02:00 or 2024-10-27T02\+01:00"
    ):
        hours.bounds("2024-10-27T02")


@pytest.mark.parametrize("zone", [*ZONES, "Africa/Casablanca", "Pacific/Apia", "Africa/Monrovia"])
def test_hours_are_listed_with_the_keys_that_they_have_one_by_one(zone: str) -> None:
    """Over years in which clocks changed by an hour, by half of one, by 44.5 minutes, and by a day."""
    hours = Hourly("1971-01-01T00", zone=zone)
    for year in (1971, 2011, 2024):
        first = hours.at(datetime(year, 12, 1, tzinfo=UTC)) - 11 * 30 * 24
        listed = list(hours.listed([(first, first + 400 * 24)]))
        assert listed == [(hours.label(ordinal), ordinal) for _, ordinal in listed]
        assert len({key for key, _ in listed}) == 400 * 24
        assert all(hours.read(key) == ordinal for key, ordinal in listed[::7])


def test_the_hour_that_clocks_skip_is_no_partition() -> None:
    hours = Hourly("2024-01-01T00", zone="Europe/Berlin")
    with pytest.raises(PartitionKeyError, match=r"is no hour of Europe/Berlin; near it are .*T01, .*T03, "):
        hours.bounds("2024-03-31T02")


def test_an_offset_that_is_not_needed_may_be_written_and_must_be_right() -> None:
    hours = Hourly("2024-01-01T00", zone="Europe/Berlin")
    assert hours.ordinal("2024-06-01T02+02:00") == hours.ordinal("2024-06-01T02")
    assert Hourly("2024-01-01T00").ordinal("2024-02-29T13Z") == Hourly("2024-01-01T00").ordinal(
        "2024-02-29T13"
    )
    with pytest.raises(PartitionKeyError, match="is no hour of Europe/Berlin"):
        hours.bounds("2024-06-01T02+01:00")


def test_hours_start_with_those_of_a_zone_that_is_half_an_hour_off() -> None:
    hours = Hourly("2024-01-01T00", zone="Asia/Kolkata")
    assert hours.bounds("2024-01-01T00").start == datetime(2023, 12, 31, 18, 30, tzinfo=UTC)
    assert hours.first == (
        hours.bounds("2024-01-01T00").start - datetime(1970, 1, 1, tzinfo=UTC)
    ) // timedelta(hours=1)


def test_every_hour_has_60_minutes_where_clocks_are_changed_by_30() -> None:
    """Lord Howe Island."""
    hours = Hourly("2024-01-01T00", zone="Australia/Lord_Howe")
    span = hours.span("2024-04-06T20", "2024-04-07T06:30")
    keys = [key for key, _ in hours.listed([span])]
    assert len(set(keys)) == len(keys)
    assert keys[-1] == "2024-04-07T06:30"
    assert {hours.bounds(key).end - hours.bounds(key).start for key in keys} == {timedelta(hours=1)}


@pytest.mark.parametrize(
    ("scheme", "key", "ordinal"),
    [
        (Daily("1960-01-01"), "1970-01-01", 0),
        (Daily("1960-01-01"), "1969-12-31", -1),
        (Daily("1960-01-01"), "2024-02-29", (date(2024, 2, 29) - date(1970, 1, 1)).days),
        (Monthly("1960-01"), "1970-01", 0),
        (Monthly("1960-01"), "1969-12", -1),
        (Monthly("1960-01"), "2024-02", 54 * 12 + 1),
        (Hourly("1960-01-01T00"), "1970-01-01T00", 0),
        (Hourly("1960-01-01T00"), "1970-01-02T01", 25),
    ],
)
@covers("D-14")
def test_an_ordinal_counts_from_1970(scheme: TimeScheme, key: str, ordinal: int) -> None:
    assert scheme.ordinal(key) == ordinal
    assert scheme.label(ordinal) == key


def test_a_day_that_a_zone_left_out_is_a_window_of_no_length() -> None:
    """Samoa went from 29 to 31 December 2011."""
    days = Daily("2011-12-01", zone="Pacific/Apia")
    gone = days.bounds("2011-12-30")
    assert gone.start == gone.end == days.bounds("2011-12-29").end == days.bounds("2011-12-31").start


def test_bounds_subtract_to_the_time_that_passed() -> None:
    """Times of one zone subtract as their clocks read, so bounds are in UTC."""
    window = Daily("2024-01-01", zone="Europe/Berlin").bounds("2024-03-31")
    zone = ZoneInfo("Europe/Berlin")
    assert window.start.tzinfo is window.end.tzinfo is UTC
    assert (window.end.astimezone(zone) - window.start.astimezone(zone)) != window.end - window.start


@pytest.mark.parametrize(
    ("scheme", "key", "told"),
    [
        (Daily("2024-01-01"), "2023-02-29", "is not in the calendar: day"),
        (Daily("2024-01-01"), "2024-13-01", "is not in the calendar: month must be in 1..12"),
        (Daily("2024-01-01"), "2024-02", "is not written as a day is: 2024-02-29"),
        (Daily("2024-01-01"), "2024-2-9", "is not written as a day is"),
        (Daily("2024-01-01"), "٢٠٢٤-٠١-٠١", "is not written as a day is"),
        (Daily("2024-01-01"), "0001-01-01", "is out of reach: years go from 1000 to 9998"),
        (Daily("2024-01-01"), "9999-12-31", "is out of reach"),
        (Monthly("2024-01"), "2024-00", "is not in the calendar"),
        (Monthly("2024-01"), "2024-01-01", "is not written as a month is: 2024-02"),
        (Hourly("2024-01-01T00"), "2024-01-01", "is not written as an hour is: 2024-02-29T13"),
        (Hourly("2024-01-01T00"), "2024-01-01T24", "is not written as an hour is"),
        (Hourly("2024-01-01T00"), "2023-02-29T00", "is not in the calendar"),
        (Hourly("2024-01-01T00"), "2024-01-01T00:30", "is no hour of UTC"),
    ],
)
def test_a_text_that_is_no_key_is_refused_with_how_one_is_written(
    scheme: TimeScheme, key: str, told: str
) -> None:
    with pytest.raises(PartitionKeyError, match=told):
        scheme.bounds(key)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SCHEMES), st.text(max_size=30) | st.from_regex(r"[0-9T:+Z-]{0,30}"))
def test_any_text_is_a_key_or_refused_as_none(scheme: TimeScheme, text: str) -> None:
    try:
        ordinal = scheme.read(text)
    except PartitionKeyError:
        return
    assert scheme.read(scheme.label(ordinal)) == ordinal


def test_only_what_has_ended_is_there() -> None:
    days = Daily("2024-01-01", zone="Europe/Berlin")
    before = datetime(2024, 3, 31, 21, 59, 59, tzinfo=UTC)
    assert days.last_key([days.reach(before)]) == "2024-03-30"
    assert days.last_key([days.reach(before + timedelta(seconds=1))]) == "2024-03-31"
    first, end = days.reach(datetime(2023, 6, 1, tzinfo=UTC))
    assert first == end


def test_a_declared_end_is_included_and_nothing_follows_it() -> None:
    months = Monthly("2024-01", end="2024-03")
    reach = months.reach(datetime(2030, 1, 1, tzinfo=UTC))
    assert [key for key, _ in months.listed([reach])] == ["2024-01", "2024-02", "2024-03"]


def test_a_start_may_be_a_date_or_a_time() -> None:
    assert Daily(date(2024, 1, 2)).label(Daily(date(2024, 1, 2)).first) == "2024-01-02"
    noon = datetime(2024, 7, 1, 12, tzinfo=UTC)
    berlin = Hourly(noon, zone="Europe/Berlin")
    assert berlin.label(berlin.first) == "2024-07-01T14"
    assert Hourly(date(2024, 7, 1)).first == Hourly("2024-07-01T00").first
    assert Monthly(date(2024, 7, 1)).first == Monthly("2024-07").first


def test_snapshots_are_taken_by_windows_of_one_of_their_times() -> None:
    scheme = SnapshotRange("hero", by="created_at", every=Daily("2024-01-01"))
    window = scheme.bounds("2024-02-29")
    assert isinstance(window, SnapshotWindow)
    assert (window.source, window.by) == ("hero", "created_at")
    assert window.start == datetime(2024, 2, 29, tzinfo=UTC)
    assert scheme.told() == "snapshots of hero by created_at, daily from 2024-01-01"


@pytest.mark.parametrize(
    ("declare", "told"),
    [
        (lambda: Daily("2024-02-30"), "start of daily partitions: '2024-02-30' is not in the calendar"),
        (lambda: Daily("2024-02-02", end="2024-02-01"), "end at 2024-02-01, before their start 2024-02-02"),
        (lambda: Daily("2024-01-01", zone="Europe/Atlantis"), "'Europe/Atlantis' is not known"),
        (lambda: Daily("2024-01-01", zone="../etc/passwd"), "is not known to this machine"),
        (
            lambda: Hourly("2024-03-31T02", zone="Europe/Berlin"),
            "start of hourly .* is no hour of Europe/Berlin",
        ),
        (lambda: Hourly("2023-02-29T00"), "is not in the calendar"),
        (lambda: Monthly(cast(Any, 7)), "is not written as a month is"),
        (lambda: SnapshotRange("", every=Daily("2024-01-01")), "names the source"),
        (
            lambda: SnapshotRange("hero", by=cast(Any, "size"), every=Daily("2024-01-01")),
            "by captured_at or created_at, not",
        ),
        (lambda: SnapshotRange("hero", every=cast(Any, Daily)), "give it a Daily"),
    ],
)
def test_a_scheme_that_cannot_be_is_refused_where_it_is_declared(
    declare: Callable[[], object], told: str
) -> None:
    with pytest.raises(AssetDeclarationError, match=told):
        declare()
