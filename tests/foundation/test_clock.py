"""Time, ids and failpoints: the three things that tests must be able to steer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from uuid import RFC_4122, UUID

import pytest

from starforge.clock import (
    ACTIONS,
    FAILPOINTS_ENV,
    SEED_ENV,
    FailpointError,
    Failpoints,
    monotonic_s,
    new_id,
)
from starforge.errors import InvalidSettingError

PASSES = """
from starforge.clock import failpoint
for number in range(1, 6):
    print(number, flush=True)
    failpoint("here")
"""


def _millisecond(made: UUID) -> int:
    return made.int >> 80


def test_an_id_is_a_version_7_uuid_of_this_millisecond() -> None:
    before = time.time_ns() // 1_000_000
    made = new_id()
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, RFC_4122)
    assert before <= _millisecond(made) <= after


def test_ids_rise_from_one_millisecond_to_the_next_and_never_repeat() -> None:
    made = [new_id() for _ in range(5000)]
    assert len(set(made)) == 5000
    times = [_millisecond(one) for one in made]
    assert times == sorted(times)
    assert len(set(times)) > 1, "5000 ids take longer than a millisecond"
    firsts = [made[times.index(ms)] for ms in sorted(set(times))]
    assert firsts == sorted(firsts)


def test_the_bits_of_an_id_that_are_not_time_are_all_random() -> None:
    made = [new_id().int for _ in range(500)]
    fixed = {*range(76, 80), 62, 63}
    for bit in set(range(80)) - fixed:
        ones = sum(value >> bit & 1 for value in made)
        assert 150 < ones < 350, f"bit {bit} is set in {ones} of 500 ids"


def test_the_monotonic_clock_counts_seconds_and_never_steps_back() -> None:
    seen = [monotonic_s() for _ in range(1000)]
    assert seen == sorted(seen)
    assert abs(monotonic_s() - time.monotonic()) < 1


@pytest.mark.parametrize(
    "text", ["here", "here:", "here:boom", "here:kill@x", "here:kill@-1", "a:exit,b:kil"]
)
def test_a_failpoint_that_cannot_be_read_is_refused_with_what_may_be_written(text: str) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        Failpoints(text)
    assert refused.value.env == FAILPOINTS_ENV
    assert refused.value.value in text
    assert all(action in refused.value.allowed for action in ACTIONS)


def test_without_the_environment_no_failpoint_does_anything() -> None:
    none = Failpoints("")
    for _ in range(3):
        none.hit("anywhere")


def test_a_failpoint_raises_at_the_pass_it_was_told_and_at_no_other() -> None:
    points = Failpoints(" other:raise , here:raise@3 ")
    points.hit("elsewhere")
    for number in range(1, 6):
        if number == 3:
            with pytest.raises(FailpointError, match="failpoint here was told to raise"):
                points.hit("here")
        else:
            points.hit("here")


def test_a_failpoint_without_a_number_raises_at_every_pass() -> None:
    points = Failpoints("here:raise")
    for _ in range(3):
        with pytest.raises(FailpointError):
            points.hit("here")


@pytest.fixture(scope="module")
def ended() -> dict[str, tuple[int, str]]:
    """Status and output of a program that passes the failpoint `here` five times, by what it was told."""
    running = {
        told: subprocess.Popen(
            [sys.executable, "-c", PASSES],
            env={**os.environ, FAILPOINTS_ENV: told},
            stdout=subprocess.PIPE,
            text=True,
        )
        for told in ("here:kill@3", "here:exit@2", "here:kill@9")
    }
    return {told: (process.wait(10), _output(process)) for told, process in running.items()}


def _output(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with process.stdout as output:
        return output.read()


@pytest.mark.parametrize(
    ("told", "status", "passes"),
    [("here:kill@3", -signal.SIGKILL, 3), ("here:exit@2", 1, 2), ("here:kill@9", 0, 5)],
)
def test_a_process_dies_at_the_pass_that_its_environment_names(
    ended: dict[str, tuple[int, str]], told: str, status: int, passes: int
) -> None:
    assert ended[told] == (status, "".join(f"{number}\n" for number in range(1, passes + 1)))


def test_a_paused_process_stands_still_until_it_is_continued() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PASSES],
        env={**os.environ, FAILPOINTS_ENV: "here:pause@2"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        assert process.wait(10) == 0
        assert _output(process) == "1\n2\n3\n4\n5\n"
    finally:
        process.kill()


def test_a_seed_makes_the_jitter_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    from starforge import clock

    monkeypatch.setenv(SEED_ENV, "7")
    assert [clock._seeded().random() for _ in range(2)] == [clock._seeded().random()] * 2
    monkeypatch.delenv(SEED_ENV)
    assert clock._seeded().random() != clock._seeded().random()
