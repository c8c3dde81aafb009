"""When a backfill will end: an interval that holds, at once, with its basis; or none, with the reason."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starforge.backfill.estimate.durations import Durations, Lognormal
from starforge.backfill.estimate.eta import Estimator, Eta, NoEta, Pulse
from starforge.backfill.estimate.spells import Spells
from starforge.dev.bench.forecast import SHAPES, Run, figures, forecast, hits
from starforge.dev.dice import Dice
from tests.covers import covers


def pulse(now_s: float, left: int, slots: int = 4, concurrency: int = 4, age_s: float = 1.0) -> Pulse:
    """A look at a backfill whose slots are all taken."""
    return Pulse(now_s, left, [age_s] * min(slots, left), slots, concurrency)


def seasoned(total: int = 1_000, done: int = 400, seconds: float = 2.0) -> Estimator:
    """A backfill that ran for a while at concurrency 4, all its slots busy."""
    estimator = Estimator(total)
    dice = Dice(3)
    for at in range(done):
        estimator.finish(seconds * (0.5 + dice.random()))
        if at % 4 == 3:
            estimator.look(pulse((at + 1) / 4 * seconds, total - at - 1))
    return estimator


def told(estimator: Estimator, look: Pulse) -> Eta:
    said = estimator.look(look)
    assert isinstance(said, Eta), said
    return said


@pytest.fixture(scope="module")
def played() -> dict[str, dict[str, float]]:
    """The ratios of every shape, 12 backfills each."""
    found = figures(forecast(2, (200, 2_000)))
    by_shape: dict[str, dict[str, float]] = found.pop("by_shape")
    return {**by_shape, "all": found}


@pytest.mark.long
@covers("B-49", "B-16")
def test_p10_to_p90_holds_the_true_end(played: dict[str, dict[str, float]]) -> None:
    """Over all shapes together, from 5 % of the work on; the pauses that began later are taken off."""
    assert played["all"]["eta_hit_ratio"] >= 0.80
    assert played["all"]["eta_before_p90_ratio"] >= 0.88


@pytest.mark.long
@pytest.mark.parametrize("shape", [shape.name for shape in SHAPES])
def test_no_shape_of_work_is_told_badly(played: dict[str, dict[str, float]], shape: str) -> None:
    assert played[shape]["eta_hit_ratio"] >= 0.65
    assert played[shape]["eta_before_p90_ratio"] >= 0.70


@pytest.mark.long
def test_skewed_durations_with_throttling_hold_the_promise(played: dict[str, dict[str, float]]) -> None:
    shapes = [ratios for shape, ratios in played.items() if "throttled, lognormal" in shape]
    assert len(shapes) == 3
    assert sum(ratios["eta_hit_ratio"] for ratios in shapes) / 3 >= 0.75
    assert sum(ratios["eta_before_p90_ratio"] for ratios in shapes) / 3 >= 0.85


@pytest.mark.long
def test_an_interval_says_something(played: dict[str, dict[str, float]]) -> None:
    """One from now to never would always hold."""
    assert played["constant"]["eta_width"] < 0.2
    assert played["lognormal 0.5"]["eta_width"] < 0.7
    assert played["all"]["eta_width"] < 1.5


@covers("B-48", "B-49")
def test_before_the_first_partition_there_is_none_and_it_says_why() -> None:
    estimator = Estimator(10)
    said = estimator.look(pulse(0.0, 10))
    assert said == NoEta("no partition has completed yet; one is needed for an estimate")
    estimator.finish(1.0, "retried")
    estimator.wait(2.0)
    estimator.finish(1.0, "failed")
    assert isinstance(estimator.look(pulse(1.0, 9)), NoEta), "one that failed has not completed"
    estimator.finish(1.0)
    assert isinstance(estimator.look(pulse(2.0, 8)), Eta)


def test_when_nothing_is_left_there_is_none() -> None:
    assert seasoned(400, 400).look(pulse(999.0, 0)) == NoEta("nothing is left to run")


@covers("B-19")
def test_a_pause_moves_the_end_by_its_own_length_and_nothing_else() -> None:
    estimator = seasoned()
    before = told(estimator, pulse(200.0, 600))
    average = estimator.average_ms
    estimator.pause(200.0)
    said = estimator.look(pulse(2_000.0, 600))
    assert isinstance(said, NoEta)
    assert said.reason == "paused; 5 min of work left once it is resumed"
    estimator.resume(4_000.0)
    after = told(estimator, pulse(4_000.0, 600))
    assert (after.p10_s, after.p50_s, after.p90_s) == (before.p10_s, before.p50_s, before.p90_s)
    assert estimator.average_ms == average
    assert after.basis.endswith("; 63 min paused are not counted")


@covers("B-49")
def test_a_throttle_shows_at_once() -> None:
    estimator = seasoned()
    before = told(estimator, pulse(200.0, 600))
    slower = told(estimator, pulse(200.1, 600, slots=1))
    assert slower.p50_s == pytest.approx(4 * before.p50_s, rel=0.1)
    assert "at concurrency 1 (throttled from 4)" in slower.basis
    again = told(estimator, pulse(200.2, 600))
    assert again.p50_s == pytest.approx(before.p50_s, rel=0.05)


def test_a_change_of_the_concurrency_shows_at_once() -> None:
    estimator = seasoned()
    before = told(estimator, pulse(200.0, 600))
    twice = told(estimator, pulse(200.1, 600, slots=8, concurrency=8))
    assert twice.p50_s == pytest.approx(before.p50_s / 2, rel=0.1)


def test_a_throttle_that_comes_and_goes_is_expected_to_go_on_so() -> None:
    """A third of the time at a quarter of the pace: it takes 4/3 as long, whichever it is now."""
    steady, wavy = seasoned(4_000), seasoned(4_000)
    now_s = 200.0
    for _ in range(20):
        for slots in (4, 1):
            told(wavy, pulse(now_s, 3_600, slots=slots, age_s=0.0))
            for _ in range(5 * slots):
                wavy.finish(2.0)
            now_s += 10.0
    open_ = told(wavy, pulse(now_s, 3_600, age_s=0.0))
    throttled = told(wavy, pulse(now_s + 0.1, 3_600, slots=1, age_s=0.0))
    plain = told(steady, pulse(200.0, 3_600)).p50_s
    assert plain * 1.2 < open_.p50_s < throttled.p50_s < plain * 1.5
    assert open_.basis.endswith("; 33% of the time throttled")


def test_stopped_by_the_throttle_there_is_none_until_a_throttle_has_ended() -> None:
    estimator = seasoned()
    told(estimator, pulse(200.0, 600))
    said = estimator.look(pulse(201.0, 600, slots=0))
    assert said == NoEta("the throttle lets no partition start; 5 min of work left without it")
    told(estimator, pulse(230.0, 600))
    assert told(estimator, pulse(260.0, 600, slots=0)).p50_s < math.inf


def test_slots_that_stay_empty_count_for_what_they_do() -> None:
    """Sixteen may run and only four do, as there are four workers."""
    estimator = Estimator(1_000)
    for at in range(400):
        estimator.finish(2.0)
        if at % 4 == 3:
            estimator.look(Pulse((at + 1) / 2, 1_000 - at - 1, [0.0] * 4, 16, 16))
    assert told(estimator, Pulse(200.5, 600, [0.5] * 4, 16, 16)).p50_s == pytest.approx(300, rel=0.1)


def test_the_first_to_end_do_not_speak_for_those_that_still_run() -> None:
    """Ten short ones ended; the other slots have been at theirs for ten times as long."""
    quick, slow = Estimator(200), Estimator(200)
    for estimator in (quick, slow):
        for _ in range(10):
            estimator.finish(0.5)
    short = told(quick, Pulse(0.0, 190, [0.2] * 16, 16, 16))
    long = told(slow, Pulse(0.0, 190, [5.0] * 16, 16, 16))
    assert long.p50_s > 2 * short.p50_s
    assert long.p90_s / long.p50_s > short.p90_s / short.p50_s


def test_with_none_waiting_the_oldest_that_runs_sets_the_time() -> None:
    estimator = seasoned(400, 398)
    fresh = told(estimator, Pulse(200.0, 2, [0.0, 0.0], 4, 4))
    late = told(estimator, Pulse(200.0, 2, [1.9, 1.9], 4, 4))
    assert late.p50_s < fresh.p50_s
    stuck = told(estimator, Pulse(900.0, 2, [700.0, 1.0], 4, 4))
    assert stuck.p10_s > 0


def test_a_retry_that_waits_is_waited_for() -> None:
    estimator = seasoned(400, 399)
    estimator.finish(1.0, "retried")
    estimator.wait(60.0)
    said = told(estimator, Pulse(200.0, 1, [], 4, 4, retry_in_s=60.0))
    assert said.p10_s >= 60
    assert 61 < said.p50_s < 65
    assert "1 attempt retried" in said.basis


def test_attempts_that_failed_are_work_too() -> None:
    plain, failing = seasoned(1_000, 400), seasoned(1_000, 400)
    for _ in range(400):
        failing.finish(2.0, "retried")
    ratio = told(failing, pulse(200.0, 600)).p50_s / told(plain, pulse(200.0, 600)).p50_s
    assert ratio == pytest.approx(2.0, rel=0.1)
    assert failing.average_ms == pytest.approx(2 * (plain.average_ms or 0), rel=0.05)


def test_durations_that_grow_are_taken_to_grow_on() -> None:
    estimator = Estimator(1_000)
    for at in range(500):
        estimator.finish(1 + at / 1_000)
    mean_s = told(estimator, Pulse(0.0, 500, [], 1, 1)).p50_s / 500
    assert mean_s == pytest.approx(1.75, rel=0.05)


@covers("B-19")
def test_it_goes_on_from_its_state_as_if_nothing_had_happened() -> None:
    estimator = seasoned()
    told(estimator, pulse(200.0, 600, slots=2))
    told(estimator, pulse(230.0, 600))
    state = json.loads(json.dumps(estimator.state()))
    again = Estimator.restore(state, 1_000)
    before, after = told(estimator, pulse(230.0, 600)), told(again, pulse(9e9, 600))
    assert after == before
    assert again.state() == estimator.state()
    assert again.average_ms == estimator.average_ms
    assert len(json.dumps(state)) < 1_000


@pytest.mark.parametrize("state", [None, {}, {"v": 99}, {"v": 1}, {"v": 1, "done": "x"}])
def test_a_state_that_cannot_be_read_costs_only_the_statistics(state: dict[str, object] | None) -> None:
    assert isinstance(Estimator.restore(state, 10).look(pulse(0.0, 10)), NoEta)


@covers("B-19")
def test_the_stored_average_alone_gives_an_estimate() -> None:
    said = told(Estimator.from_average(2_000.0, 1_000), pulse(0.0, 600, age_s=0.0))
    assert said.p10_s < 300 < said.p90_s
    assert said.basis == "from 1 partition at concurrency 4"


def test_the_basis_says_what_it_rests_on() -> None:
    assert (
        told(seasoned(), pulse(200.0, 600)).basis == "from 400 partitions of the last 3 min at concurrency 4"
    )


MOMENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("finish"),
            st.floats(0, 1e6),
            st.sampled_from(["completed", "failed", "retried"]),
        ),
        st.tuples(st.just("pause"), st.floats(0, 1e5), st.just("")),
        st.tuples(st.just("look"), st.floats(0, 1e5), st.sampled_from(["0", "1", "4", "16"])),
    ),
    max_size=40,
)


@covers("B-49")
@given(MOMENTS, st.integers(1, 1_000), st.lists(st.floats(0, 1e6), max_size=20))
def test_whatever_happens_the_end_is_in_the_future_and_finite(
    moments: list[tuple[str, float, str]], left: int, ages_s: list[float]
) -> None:
    estimator, now_s = Estimator(100), 0.0
    for what, value, word in moments:
        if what == "finish":
            estimator.finish(value, word)  # type: ignore[arg-type]  # any word is tried
            estimator.wait(value)
            continue
        if what == "pause":
            estimator.pause(now_s)
            now_s += value
            estimator.resume(now_s)
            continue
        now_s += value
        said = estimator.look(Pulse(now_s, left, ages_s[:left], int(word), 16))
        if isinstance(said, Eta):
            assert 0 < said.p10_s <= said.p50_s <= said.p90_s < math.inf
            assert said.basis.startswith("from ")
    again = Estimator.restore(json.loads(json.dumps(estimator.state())), 100)
    assert again.state() == estimator.state()


def test_a_look_costs_less_than_a_millisecond() -> None:
    """It is asked several times a second; measured as the least of several, so that a busy machine passes."""
    estimator = seasoned(500_000)
    for left, running in ((499_000, 16), (499_000, 64), (16, 16)):
        look = Pulse(200.0, left, [0.1 * at for at in range(running)], running, running)
        spent_s = math.inf
        for _ in range(30):
            began_s = time.perf_counter()
            estimator.look(look)
            spent_s = min(spent_s, time.perf_counter() - began_s)
        assert spent_s < 0.001


@given(st.floats(0.02, 2), st.floats(-5, 8), st.floats(0, 1e4))
def test_what_a_running_partition_still_needs_is_never_less_than_nothing(
    spread: float, centre: float, age_s: float
) -> None:
    left_s = Lognormal(centre, spread).left_mean_s(age_s)
    assert 0 <= left_s < math.inf


def test_the_fit_finds_the_lognormal_that_the_durations_were_drawn_from() -> None:
    dice, durations = Dice(11), Durations()
    for _ in range(1_500):
        durations.add(math.exp(1.0 + 0.8 * dice.gauss(0, 1)), 0.5)
    fitted = durations.fit(())
    assert fitted.centre == pytest.approx(1.0, abs=0.08)
    assert fitted.spread == pytest.approx(0.8, abs=0.06)


def test_half_of_the_durations_cut_off_are_put_back_by_the_running_ones() -> None:
    """Those above the median are still running at just that age: the fit comes near the whole again."""
    dice, durations, median_s = Dice(12), Durations(), math.e
    drawn = [math.exp(1.0 + 0.8 * dice.gauss(0, 1)) for _ in range(60)]
    for seconds in drawn:
        if seconds <= median_s:
            durations.add(seconds, 0.5)
    running = sum(seconds > median_s for seconds in drawn)
    assert durations.fit(()).mean_s < 2
    assert durations.fit([median_s] * running).mean_s == pytest.approx(math.exp(1.32), rel=0.4)


@given(
    st.floats(0.01, 1e5),
    st.lists(st.tuples(st.floats(0, 1e4), st.sampled_from([0.1, 0.5, 1.0])), max_size=12),
)
def test_a_work_takes_at_least_as_long_throttled_as_open(
    work_s: float, spent: list[tuple[float, float]]
) -> None:
    spells = Spells()
    for seconds, share in spent:
        spells.spend(seconds, share)
    seconds, unsure = spells.time_for(work_s)
    assert work_s * 0.999 <= seconds <= work_s / 0.1 * 1.001
    assert unsure >= 0


def test_a_simulated_backfill_is_the_same_each_time_and_ends_all_its_partitions() -> None:
    for shape in SHAPES:
        runs = [Run(shape, 60, 4, Dice(1)) for _ in range(2)]
        first, second = (run.play() for run in runs)
        assert first == second
        assert runs[0].terminal == runs[0].estimator.done == 60
        assert hits(first).checks > 20
        assert all(check.true_s >= -1e-6 for check in first)
