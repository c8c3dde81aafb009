"""Memory: a worker is sparing before it is killed, learns its types' needs, replaces what has grown."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from structlog.testing import capture_logs

from starforge.clock import monotonic_s
from starforge.db.pool import Connection
from starforge.errors import InvalidInputError
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.job import LeasedJob, NewJob
from starforge.telemetry.process import Memory, Tree, memory_of
from starforge.telemetry.tree import usable_files
from starforge.worker.admit import PASSED_S_MAX, Admission
from starforge.worker.limit import Limit, group_limit, parse_size
from starforge.worker.memory import SAMPLE_S, Governor
from starforge.worker.need import NOISE_BYTES, Ledger, Needs, needs
from starforge.worker.page import Fare, Page, RunningJob
from starforge.worker.reload import Sources
from tests.covers import covers
from tests.worker.processes import APP, ENDED, HISTORY, LINES, MARKS, a_worker, until

pytestmark = pytest.mark.once(
    "it is about processes; its statements are prepared on both versions by tests/db/test_statement.py"
)

MB = 1_000_000
UNTOUCHED = "SELECT count(*) FROM job_history WHERE attempts > 0"


# ---- the limit


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096MB", 4096 * 10**6),
        ("2GiB", 2 * 2**30),
        ("512Mi", 512 * 2**20),
        ("1.5 g", 1_500_000_000),
        ("268435456", 2**28),
        ("3000kB", 3_000_000),
    ],
)
def test_a_size_is_written_as_people_write_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "4096", "12 parsecs", "1e9", "GB"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInputError, match="write 4096MB"):
        parse_size(text)


def _group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@covers("O-36")
def test_the_tightest_group_of_version_2_bounds_and_page_cache_is_nobodys(tmp_path: Path) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text("0::/pod/worker\n")
    stat = "anon 5\nactive_file 3000000\ninactive_file 2000000\n"
    _group(root)
    _group(root / "pod", memory__max="500000000\n", memory__current="9000000\n", memory__stat=stat)
    _group(root / "pod/worker", memory__max="max\n", memory__current="4\n", memory__stat=stat)
    limit = group_limit(root, membership)
    assert limit is not None
    assert (limit.bytes, limit.source) == (500_000_000, "control group pod")
    assert limit.used(1_000_000) == 4_000_000  # neighbours in the group count
    assert limit.used(7_000_000) == 7_000_000


@covers("O-36")
def test_a_group_of_version_1_bounds_also_where_its_path_is_that_of_the_host(tmp_path: Path) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text("9:cpu:/elsewhere\n4:memory:/docker/abc\n0::/\n")
    stat = "total_active_file 100\ntotal_inactive_file 200\n"
    _group(
        root / "memory",
        memory__limit_in_bytes="300000000\n", memory__usage_in_bytes="1300\n", memory__stat=stat,
    )  # fmt: skip
    limit = group_limit(root, membership)
    assert limit is not None
    assert limit.bytes == 300_000_000
    assert limit.used(5) == 1000


def test_no_group_and_no_number_is_no_limit(tmp_path: Path) -> None:
    assert group_limit(tmp_path, tmp_path / "nothing") is None
    (tmp_path / "membership").write_text("4:memory:/\n0::/\n")
    _group(tmp_path / "memory", memory__limit_in_bytes="9223372036854771712\n")
    assert group_limit(tmp_path, tmp_path / "membership") is None


# ---- measuring


def test_a_tree_is_measured_with_what_its_children_started() -> None:
    """A grandchild that holds 50 MB is found within a second."""
    inner = "x = b'x' * 50_000_000; print(flush=True); input()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    tree = Tree(os.getpid())
    before = tree.memory().rss_bytes
    child = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    until_s = monotonic_s() + 5
    while tree.memory().rss_bytes < before + 50 * MB:
        assert monotonic_s() < until_s
    child.communicate(b"\n")
    while tree.memory().rss_bytes > before + 40 * MB:
        assert monotonic_s() < until_s


def test_a_heap_is_part_of_what_is_resident_and_a_dead_process_uses_nothing() -> None:
    mine = memory_of(os.getpid())
    assert mine is not None
    assert 0 < mine.heap_bytes < mine.rss_bytes <= mine.peak_bytes
    assert memory_of(2**22 + 1) is None


@covers("O-49")
def test_gauges_of_a_process_that_ended_leave_the_page_and_its_counts_stay(tmp_path: Path) -> None:
    for name in (f"gauge_livesum_{os.getpid()}", f"gauge_livesum_{2**22 + 1}", f"counter_{2**22 + 1}"):
        (tmp_path / f"{name}.db").write_bytes(b"x")
    assert {file.stem for file in usable_files(str(tmp_path))} == {
        f"gauge_livesum_{os.getpid()}", f"counter_{2**22 + 1}",
    }  # fmt: skip


# ---- the page


def _fare(**changed: Any) -> Fare:
    fare = Fare(
        told_s=1.0, asked_s=1.0, answered_s=1.0, finished=0, running=0, waiting=0, rss_bytes=0, idle_bytes=0,
        needs={}, jobs=[],
    )  # fmt: skip
    return msgspec.structs.replace(fare, **changed)


def test_what_the_child_says_is_read_as_a_whole_and_the_flag_by_the_child() -> None:
    page = Page.make()
    other = Page.open(page.fd)
    assert page.fare() is None
    for wanted in (False, True, False):
        page.rest = wanted
        assert other.rest == wanted
    many = [RunningJob(str(uuid4()), "t" * 1000, 1.0) for _ in range(200)]
    for fare in (_fare(finished=7), _fare(jobs=many), _fare(jobs=many[:3], needs={"a": 1})):
        other.tell(fare)
        found = page.fare()
        assert found is not None
        assert found.finished == fare.finished
        assert found.jobs in (fare.jobs, [])  # what does not fit is left out
    other.close()
    page.close()


# ---- needs


def test_growth_is_the_running_types_and_what_is_known_explains_the_rest() -> None:
    learned = Needs(idle_bytes=50 * MB)
    learned.observe({"small": 3}, 51 * MB)
    learned.observe({"large": 2}, 250 * MB)
    assert learned.seen == {"small": 0, "large": 100 * MB}
    # What small jobs run beside is not theirs.
    learned.observe({"large": 1, "small": 5, "new": 1}, 180 * MB)
    assert learned.seen == {"small": 0, "large": 100 * MB, "new": 30 * MB}
    learned.observe({"large": 1}, 170 * MB)
    assert learned.seen["large"] == 120 * MB
    # What stays after the jobs is the child's, and no later job's.
    learned.idle(170 * MB)
    learned.observe({"small": 1}, 171 * MB)
    assert learned.seen["small"] == 0


@covers("O-36")
async def test_a_need_fades_by_half_a_day_and_a_greater_one_stays(
    conn: Connection, travel: Callable[..., Awaitable[None]]
) -> None:
    ledger = Ledger()
    await ledger.write(conn, {"large": 800 * MB, "other": 10 * MB})
    assert ledger.news({"large": 800 * MB, "other": 12 * MB, "none": NOISE_BYTES - 1}) == {"other": 12 * MB}
    await Ledger().write(conn, {"large": 500 * MB})
    assert (await needs(conn))["large"] == pytest.approx(800 * MB, rel=0.01)
    await travel(conn, hours=24)
    found = await needs(conn)
    assert found["large"] == pytest.approx(400 * MB, rel=0.01)
    assert "other" not in found  # too little to count by now
    await Ledger().write(conn, {"large": 500 * MB})
    assert (await needs(conn))["large"] == pytest.approx(500 * MB, rel=0.01)


# ---- admission


def _job(of: str) -> LeasedJob:
    return LeasedJob(uuid4(), "default", "default", of, {}, 0, 5, 1)


def _waiting(*types: str, since_s: float = 0.0) -> deque[tuple[float, LeasedJob]]:
    return deque((monotonic_s() - since_s, _job(of)) for of in types)


def _picked(admission: Admission, waiting: deque[tuple[float, LeasedJob]]) -> str | None:
    job = admission.pick(waiting)
    return None if job is None else job.type


@covers("O-36")
def test_a_job_that_does_not_fit_beside_what_runs_waits_and_others_pass_it() -> None:
    admission = Admission(room_bytes=100 * MB)
    admission.learned({"large": 70 * MB, "huge": 900 * MB})
    waiting = _waiting("large", "large", "small", "huge")
    assert [_picked(admission, waiting) for _ in range(3)] == ["large", "small", None]
    admission.ended("large")
    assert _picked(admission, waiting) == "large"
    admission.ended("large")
    admission.ended("small")
    assert _picked(admission, waiting) == "huge"  # alone the largest runs too
    assert admission.running == {"huge": 1}


def test_a_job_that_was_passed_for_long_keeps_room_from_others_with_a_need() -> None:
    admission = Admission(room_bytes=100 * MB)
    admission.learned({"large": 80 * MB, "middle": 30 * MB})
    waiting = _waiting("middle", "large", "middle", "small")
    assert _picked(admission, waiting) == "middle"
    waiting = _waiting("large", "middle", "small", since_s=PASSED_S_MAX * 2)
    assert [_picked(admission, waiting), _picked(admission, waiting)] == ["small", None]
    admission.ended("middle")
    admission.ended("small")
    assert [_picked(admission, waiting), _picked(admission, waiting)] == ["large", None]


# ---- the governor


@covers("O-47", "O-51")
def test_above_the_mark_memory_is_short_and_below_it_less_a_margin_no_longer() -> None:
    governor = Governor(Limit(1000 * MB, "a test"))
    seen = []
    with capture_logs() as lines:
        for used in (849, 850, 820, 801, 799, 849, 900):
            governor.keep(monotonic_s(), Memory(used * MB))
            seen.append(governor.judge(None))
    assert seen == [False, True, True, True, False, False, True]
    assert [line["event"] for line in lines] == ["memory.pressure", "memory.calm", "memory.pressure"]
    assert lines[0]["source"] == "a test"


@covers("O-03")
def test_steady_growth_towards_the_limit_is_reported_before_there_is_pressure() -> None:
    told = []
    for per_sample, wobble in ((0.5 * MB, 0), (0.5 * MB, 20 * MB), (0.0, 20 * MB), (0.01 * MB, 0)):
        governor = Governor(Limit(900 * MB, "a test"))
        for n in range(120):
            rss = int(300 * MB + per_sample * n + wobble * (n % 2))
            governor.keep(monotonic_s() + n * SAMPLE_S, Memory(rss))
        with capture_logs() as lines:
            assert governor.judge(None) is False
            governor.judge(None)  # said once, not twice a second
        told.append([(line["event"], line["full_in_s"] // 100) for line in lines])
    # 1 MB a second towards a limit 540 MB away; noise is no growth, and what takes hours is no news.
    assert told == [[("memory.growing", 5)], [("memory.growing", 5)], [], []]


# ---- a worker as a process


def _reports(home: Path) -> list[Path]:
    return sorted((home / "reports").glob("*.json"))


@covers("O-24", "O-36", "O-51", "Q-79")
async def test_a_child_that_keeps_memory_reports_it_and_is_replaced_with_no_attempt_burnt(
    db: Connection, database: str, tmp_path: Path
) -> None:
    await enqueue(db, NewJob("hungry.keep", {"mb": 200}))
    async with a_worker(database, "--memory-limit", "350MB", STARFORGE_HOME=str(tmp_path)):
        await until(db, ENDED, 1, "hungry.keep")
        await until(db, "SELECT count(*) FROM workers WHERE stop_reason LIKE 'replaced: memory is short%'", 1)
        await enqueue(db, NewJob("hungry.small"))
        await until(db, ENDED, 1, "hungry.small")
        await until(db, LINES, True, '%"memory.report"%')
        await until(db, LINES, True, '%"memory.pressure"%')
    first, second = [row["id"] for row in await db.fetch("SELECT id FROM workers ORDER BY started_at")]
    assert await db.fetchval("SELECT previous_id FROM workers WHERE id = $1", second) == first
    assert await db.fetchval("SELECT state FROM workers WHERE id = $1", first) == "stopped"
    assert await db.fetchval(UNTOUCHED) == 0
    [file] = _reports(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    report = json.loads(file.read_text())
    assert report["rss_bytes"] > 200 * MB
    assert next(found for found in report["types"] if found["type"] == "bytearray")["bytes"] >= 200 * MB


@covers("O-36")
async def test_while_memory_is_short_nothing_more_is_claimed_and_then_it_goes_on(
    db: Connection, database: str
) -> None:
    """The job that fills the memory ends by itself; nobody is replaced for it."""
    await enqueue(db, NewJob("hungry.hold", {"mb": 200, "seconds": 4.0}))
    async with a_worker(database, "--memory-limit", "350MB", WORKER_CONCURRENCY="4"):
        # The child writes its report once it has heard; the supervisor's word for it comes a tick earlier.
        await until(db, LINES, True, '%"memory.report"%')
        await enqueue_many(db, [NewJob("hungry.small") for _ in range(20)])
        await until(db, ENDED, 20, "hungry.small")
    # None of them began before the hungry one had ended.
    marks = [row["what"] for row in await db.fetch("SELECT what FROM marks ORDER BY at")]
    assert marks[:2] == ["start", "end"]
    assert await db.fetchval("SELECT count(*) FROM workers") == 1


@covers("O-04", "O-36")
async def test_what_a_type_needs_is_learned_and_its_jobs_then_run_one_by_one(
    db: Connection, database: str
) -> None:
    hold = NewJob("hungry.hold", {"mb": 150, "seconds": 0.7})
    await enqueue(db, hold)
    environment = {"WORKER_CONCURRENCY": "4", "STARFORGE_LEASE_S": "1.5"}
    async with a_worker(database, "--memory-limit", "500MB", **environment):
        await until(db, "SELECT peak_bytes > 140000000 FROM job_types WHERE name = 'hungry.hold'", True)
        await until(db, ENDED, 1, hold.type)
    await db.execute("DELETE FROM marks")
    # A worker that has not seen one itself knows it from the others.
    await enqueue_many(db, [NewJob(hold.type, hold.payload) for _ in range(3)])
    async with a_worker(database, "--memory-limit", "400MB", **environment):
        await until(db, ENDED, 4, "hungry.hold")
    marks = [row["what"] for row in await db.fetch("SELECT what FROM marks ORDER BY at")]
    assert marks == ["start", "end"] * 3
    assert await db.fetchval(LINES, '%"memory.pressure"%') is False


@covers("Q-79")
@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("STARFORGE_CHILD_JOBS_MAX", "4", "replaced: it has finished % jobs"),
        ("STARFORGE_CHILD_AGE_S_MAX", "1.5", "replaced: it is 1.5 s old"),
        ("STARFORGE_CHILD_RSS_MB_MAX", "20", "replaced: it uses % MB"),
    ],
)
async def test_a_child_that_has_served_is_replaced_and_its_jobs_end_first(
    db: Connection, database: str, setting: str, value: str, reason: str
) -> None:
    await enqueue_many(db, [NewJob("hungry.small", {"seconds": 0.6}) for _ in range(12)])
    async with a_worker(database, WORKER_CONCURRENCY="2", **{setting: value}):
        await until(db, HISTORY, 12, within_s=60)
        await until(db, "SELECT count(*) >= 2 FROM workers WHERE stop_reason LIKE $1", True, reason)
    # Each ran once, from its start to its end.
    assert await db.fetchval(MARKS, "start") == await db.fetchval(MARKS, "end") == 12
    assert await db.fetchval(UNTOUCHED) == 0
    assert await db.fetchval("SELECT count(*) FROM workers WHERE state = 'dead'") == 0
    alone = "SELECT count(*) FROM workers w WHERE previous_id IS NULL"
    assert await db.fetchval(alone) == 1


@covers("Q-79")
async def test_a_replaced_child_gives_back_what_it_cannot_end_in_time(db: Connection, database: str) -> None:
    await enqueue(db, NewJob("hungry.small", {"seconds": 3.0}))
    environment = {"STARFORGE_CHILD_AGE_S_MAX": "2", "STARFORGE_RECYCLE_S": "0.2"}
    async with a_worker(database, **environment):
        await until(db, "SELECT count(*) FROM marks WHERE what = 'start'", 2)
    row = await db.fetchrow("SELECT status, attempts FROM queue_jobs")
    assert row is not None
    assert row["attempts"] == 0


async def test_a_child_that_lives_and_never_asks_for_work_is_replaced(db: Connection, database: str) -> None:
    """Its handler holds the loop for good; heartbeats go on, so that nothing else would ever notice."""
    await enqueue(db, NewJob("hungry.hang_first", {"seconds": 600.0}))
    environment = {"STARFORGE_CLAIM_STALE_S": "1.5", "STARFORGE_RECYCLE_S": "0.1", "STARFORGE_LEASE_S": "3"}
    async with a_worker(database, **environment):
        await until(db, HISTORY, 1, within_s=60)
        await until(db, LINES, True, '%"child.stale"%')
    reasons = [row[0] for row in await db.fetch("SELECT stop_reason FROM workers ORDER BY started_at")]
    assert reasons[0].startswith("replaced: it has not asked for work for ")
    assert await db.fetchval(UNTOUCHED) == 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _figures(port: int) -> dict[str, float]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


@covers("O-49", "O-PQL-5", "O-PQL-6", "O-47")
async def test_a_workers_page_and_row_show_the_memory_of_all_its_processes(
    db: Connection, database: str
) -> None:
    port = _free_port()
    await enqueue(db, NewJob("hungry.hold", {"mb": 100, "seconds": 60.0}))
    usage, heap, limit = (
        f'{name}{{process="worker"}}'
        for name in ("memory_usage_bytes", "heap_used_bytes", "memory_limit_bytes")
    )
    environment = {"METRICS_PORT": str(port), "STARFORGE_LEASE_S": "1.5"}
    async with a_worker(database, "--memory-limit", "2GiB", **environment):
        async with asyncio.timeout(30):
            while (figures := await asyncio.to_thread(_figures, port)).get(usage, 0) < 150 * MB:
                await asyncio.sleep(0.05)
        await until(db, "SELECT rss_bytes > 150000000 FROM workers", True)
    assert 100 * MB < figures[heap] < figures[usage]
    assert figures[limit] == 2 * 2**30
    assert await db.fetchval("SELECT memory_limit_bytes FROM workers") == 2 * 2**30


@covers("O-49", "O-PQL-5", "O-PQL-6")
async def test_the_page_of_up_shows_the_memory_of_its_worker_and_its_own(
    database: str, tmp_path: Path
) -> None:
    port = _free_port()
    changed = {"DATABASE_URL": database, "STARFORGE_HOME": str(tmp_path), "STARFORGE_HTTP_PORT": str(port)}
    up = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge", "up", "--log-level", "error",
        env={**os.environ, "STARFORGE_DISK_FREE_MB_MIN": "10", **changed},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    worker, server = (f'memory_usage_bytes{{process="{name}"}}' for name in ("worker", "server"))
    try:
        async with asyncio.timeout(40):
            while (figures := await asyncio.to_thread(_figures, port)).get(worker, 0) < 80 * MB:
                await asyncio.sleep(0.05)
        assert 20 * MB < figures[server] < 500 * MB
        assert 0 < figures['heap_used_bytes{process="worker"}'] < figures[worker]
    finally:
        up.terminate()
        await asyncio.wait_for(up.wait(), 30)


GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def a_group() -> Iterator[Path]:
    """A control group of version 1 for processes of the test."""
    group = GROUPS / f"starforge-test-{uuid4().hex[:8]}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("700000000")
    except OSError:
        # Most machines have version 2 only, or let nobody but their own init make groups.
        pytest.skip("control groups of version 1 cannot be made here")
    yield group
    until_s = monotonic_s() + 5
    while (group / "cgroup.procs").read_text().strip():
        assert monotonic_s() < until_s
    group.rmdir()


@covers("O-36", "O-47")
async def test_a_worker_in_a_control_group_takes_its_limit(
    db: Connection, database: str, a_group: Path
) -> None:
    await enqueue(db, NewJob("hungry.hold", {"mb": 550, "seconds": 60.0}))
    join = f"echo $$ > {a_group}/cgroup.procs && exec {sys.executable} -m starforge worker --app {APP}"
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", join, env={**os.environ, "DATABASE_URL": database}, start_new_session=True,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await until(db, LINES, True, '%control group memory/starforge-test-%"memory.pressure"%')
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    # The kernel counts in pages.
    assert await db.fetchval("SELECT memory_limit_bytes FROM workers") == 700_000_000 // 4096 * 4096


@covers("O-40")
async def test_garbage_is_collected_every_so_many_jobs_and_the_figures_are_in_the_debug_log(
    db: Connection, database: str
) -> None:
    await enqueue(db, NewJob("hungry.small"))
    async with a_worker(database, level="debug", STARFORGE_GC_COLLECT_EVERY="1"):
        await until(db, LINES, True, '%"gc.collected"%')
        await until(db, LINES, True, '%"gc.stats"%')


# ---- reload


async def test_only_a_change_of_a_source_file_counts(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("a = 1")
    (tmp_path / "__pycache__").mkdir()
    sources, stop = Sources(tmp_path), asyncio.Event()
    (tmp_path / "note.txt").write_text("x")
    (tmp_path / "__pycache__" / "app.py").write_text("x")
    changing = asyncio.create_task(sources.changed(stop))
    await asyncio.sleep(0.05)
    (tmp_path / "new.py").write_text("b = 1")
    assert await asyncio.wait_for(changing, 5) == [tmp_path / "new.py"]
    stop.set()
    assert await sources.changed(stop) == []


async def test_a_worker_that_reloads_runs_the_new_code_and_waits_where_that_is_broken(
    db: Connection, database: str, tmp_path: Path
) -> None:
    source = (
        "from starforge.app import StarForge\n"
        "app = StarForge('reloaded')\n"
        "@app.job('reloaded.say')\n"
        "async def say() -> None:\n"
        "    print('{word}')\n"
    )
    file = tmp_path / "reloaded_app.py"
    file.write_text(source.format(word="first"))
    words = {"app": "reloaded_app:app", "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    async with a_worker(database, "--reload", **words):
        await enqueue(db, NewJob("reloaded.say"))
        await until(db, LINES, True, "first")
        file.write_text("this is no Python")
        await until(db, LINES, True, '%"child.broken"%')
        file.write_text(source.format(word="second"))
        await enqueue(db, NewJob("reloaded.say"))
        await until(db, LINES, True, "second")
    assert "reloaded_app.py changed" in await db.fetchval(
        "SELECT stop_reason FROM workers WHERE state = 'stopped' ORDER BY started_at LIMIT 1"
    )


def test_a_child_holds_no_library_for_colours_and_a_handler_may_load_it_all_the_same() -> None:
    """Four megabytes in each child."""
    program = (
        "import sys; sys.orig_argv.append('starforge.worker.child'); import starforge.worker.child\n"
        "assert 'rich.console' not in sys.modules\n"
        "import rich.console"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
