"""The in-flight record: what a killed process had marked is there for its heirs, and for nobody too early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from starforge.clock import new_id
from starforge.queue.job import LeasedJob
from starforge.worker.inflight import APART, SLOTS_MAX, InFlight, left_behind
from tests.covers import covers

URL = "postgresql://someone@127.0.0.1:1/shop"
OTHER = "postgresql://someone@127.0.0.1:1/other"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STARFORGE_HOME", str(tmp_path))
    return tmp_path


def a_job() -> LeasedJob:
    return LeasedJob(new_id(), "default", "default", "t", {}, 0, 5, 7)


def taken(url: str = URL) -> list[InFlight]:
    return list(left_behind(url))


def test_what_runs_is_marked_and_what_has_ended_is_not() -> None:
    record = InFlight.nowhere()
    jobs = [a_job() for _ in range(3)]
    first, _, last = [record.start(job, APART if job is jobs[1] else 1) for job in jobs]
    record.end(first)
    record.overdue(jobs[2].id)
    marks = {mark.job_id: mark for mark in record.marks()}
    assert set(marks) == {jobs[1].id, jobs[2].id}
    assert [marks[job.id].apart for job in jobs[1:]] == [True, False]
    assert [marks[job.id].overdue for job in jobs[1:]] == [False, True]
    assert marks[jobs[1].id].lease_epoch == 7
    assert 0 <= marks[jobs[1].id].ran_s(record.beat_ns or 1) < 60
    record.end(last)
    assert {mark.job_id for mark in record.marks()} == {jobs[1].id}


def test_more_handlers_than_there_are_marks_run_unmarked() -> None:
    record = InFlight.nowhere()
    marks = [record.start(a_job()) for _ in range(SLOTS_MAX + 5)]
    assert len(record.marks()) == SLOTS_MAX
    for mark in marks:
        record.end(mark)
    assert record.marks() == []
    assert record.start(a_job())


@covers("O-16")
def test_what_a_killed_process_had_marked_is_there() -> None:
    worker_id = uuid4()
    record = InFlight.create(worker_id, URL)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, record.path], stdout=subprocess.PIPE, env=dict(os.environ)
    )
    assert child.stdout is not None
    job_id = child.stdout.readline().decode().strip()
    assert [str(mark.job_id) for mark in record.marks()] == [job_id]
    record.close()  # the supervisor is dead; its child is not
    assert taken() == []
    child.send_signal(signal.SIGKILL)
    child.wait()
    [left] = taken()
    assert left.worker_id == worker_id
    assert [str(mark.job_id) for mark in left.marks()] == [job_id]
    assert not left.rebooted
    left.remove()
    assert taken() == []


CHILD = """
import sys, time
from starforge.worker.inflight import InFlight
from tests.worker.test_inflight import a_job
record, job = InFlight.open(sys.argv[1]), a_job()
record.end(record.start(a_job()))
record.start(job)
print(job.id, flush=True)
time.sleep(600)
"""


def test_only_one_heir_gets_a_record_and_only_of_its_own_database() -> None:
    record = InFlight.create(uuid4(), URL)
    assert taken() == []
    record.close()
    assert taken(OTHER) == []
    [left] = taken()
    assert taken() == []
    left.close()
    [again] = taken()
    again.remove()


def test_what_is_known_of_an_end_is_kept_beside_what_the_dying_said() -> None:
    record = InFlight.create(uuid4(), URL)
    os.write(record.last_words(), b"Fatal Python error: Segmentation fault\n\nCurrent thread\n")
    assert record.noted() == ("Fatal Python error: Segmentation fault\n\nCurrent thread\n", None)
    record.note(b'{"cause":"signal"}')
    record.close()
    [left] = taken()
    said, noted = left.noted()
    assert said.startswith("Fatal Python error")
    assert noted == b'{"cause":"signal"}'
    left.remove()


def test_what_is_no_record_is_left_alone(home: Path) -> None:
    folder = home / "run" / "inflight"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    (folder / "empty").touch()
    assert taken() == []
    assert (folder / "notes.txt").exists()


def test_where_the_home_cannot_be_written_the_record_is_kept_in_memory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("no folder")
    monkeypatch.setenv("STARFORGE_HOME", str(home / "file"))
    record = InFlight.create(uuid4(), URL)
    child = InFlight.open(record.path)
    job = a_job()
    child.start(job)
    child.beat()
    assert [mark.job_id for mark in record.marks()] == [job.id]
    assert record.beat_ns > 0
    record.note(b"{}")
    assert record.noted() == ("", b"{}")
    assert record.marks() != []
    record.remove()
