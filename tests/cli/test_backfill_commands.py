"""Commands that look at backfills: what people read, what programs get, and the exit codes."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from starforge.backfill.asset.asset import Assets, asset
from starforge.backfill.asset.declared import declare
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.window import Daily
from starforge.db.pool import Connection, connect, set_tenant
from tests.backfill.rows import a_backfill, a_backfill_worker, now, parts
from tests.cli.test_main import Starforge, invoke, running, starforge
from tests.covers import covers

__all__ = ["invoke", "starforge"]


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    """A connection to the test's own database that commits."""
    opened = await connect(database)
    yield opened
    await opened.close()


async def a_running_one(db: Connection, **columns: object) -> UUID:
    """Make one that a live worker coordinates, with half of its partitions over."""
    at = await now(db)
    worker = await a_backfill_worker(db)
    given = {
        "state": "running",
        "worker_id": worker,
        "heartbeat_at": at,
        "progress_at": at,
        "started_at": at,
        "avg_partition_duration_ms": 20.0,
        "estimated_completion_at": at + timedelta(minutes=30),
        "eta_low_at": at + timedelta(minutes=20, seconds=10),
        "eta_high_at": at + timedelta(minutes=40, seconds=10),
        "eta_basis": "from 4 partitions",
        **columns,
    }
    backfill_id = await a_backfill(db, **given)
    await parts(db, backfill_id, completed=4, failed=1, pending=5)
    return backfill_id


@covers("B-29")
async def test_the_list_shows_progress_end_sign_and_who(invoke: Starforge, db: Connection) -> None:
    backfill_id = await a_running_one(db, created_by="ann")
    paused = await a_backfill(db, "sums", state="paused", state_by="bob", state_reason="noise [loud]")
    done = await invoke("backfill", "list")
    assert done.code == 0
    for words in (
        str(backfill_id),
        "4/10 40 %",
        "20–40 min",
        "ann",
        "1 failed",
        "paused by bob: noise [loud]",
    ):
        assert words in done.out
    only = await invoke("backfill", "list", "--state", "paused", "--json")
    assert [one["id"] for one in only.document] == [str(paused)]
    assert (await invoke("backfill", "ls", "--asset", "none")).out == "No backfill fits.\n"
    theirs = await invoke("backfill", "list", "--tenant", "theirs", "--json")
    assert theirs.document == []


@covers("B-29")
async def test_what_is_not_there_is_refused_with_what_is(starforge: Starforge) -> None:
    wrong, unknown, both = await asyncio.gather(
        starforge("backfill", "list", "--health", "bad"),
        starforge("backfill", "status", str(uuid4()), "--json"),
        starforge("backfill", "status", str(uuid4()), "--state", "failed"),
    )
    assert (wrong.code, "there are ok, stale, no-progress" in wrong.err) == (2, True)
    assert (unknown.code, unknown.document["code"]) == (1, "SF530")
    assert (both.code, "give --partitions too" in both.err) == (2, True)


@covers("B-16", "B-34")
async def test_the_status_says_what_is_to_know_and_what_to_do(invoke: Starforge, db: Connection) -> None:
    backfill_id = await a_running_one(db, sla_at=await now(db, 60))
    await db.execute(
        "INSERT INTO log_lines (worker_id, job_id, level, line) VALUES (gen_random_uuid(), $1, 'info', $2)",
        backfill_id, json.dumps({"event": "backfill.claimed", "epoch": 3}),
    )  # fmt: skip
    done = await invoke("backfill", "status", str(backfill_id))
    assert done.code == 0
    for words in (
        f"backfill {backfill_id} of orders is running",
        "4 of 10 completed · 1 failed (it tolerates 0) · 50 % is over",
        "in 20–40 min",
        "from 4 partitions",
        "at risk",
        "alive",
        "backfill.claimed epoch=3",
        f"→ starforge backfill failures {backfill_id}",
    ):
        assert words in done.out, words
    document = (await invoke("backfill", "status", str(backfill_id), "--json")).document
    assert (document["completed"], document["sla"]["verdict"]) == (4, "at-risk")
    assert json.loads(document["log"][0]["line"])["epoch"] == 3


@covers("B-33")
async def test_its_partitions_are_paged_and_its_failures_grouped(invoke: Starforge, db: Connection) -> None:
    backfill_id = await a_running_one(db)
    await db.execute(
        "UPDATE backfill_partitions SET error_message = 'connection refused' WHERE state = 'failed'"
    )
    page = await invoke("backfill", "status", str(backfill_id), "--partitions", "--limit", "4")
    assert "k003" in page.out
    assert f"→ starforge backfill status {backfill_id} --partitions --after 3" in page.out
    failed = await invoke(
        "backfill", "status", str(backfill_id), "--partitions", "--state", "failed", "--json"
    )
    assert [(one["key"], one["error"]) for one in failed.document] == [("k004", "connection refused")]
    groups = await invoke("backfill", "failures", str(backfill_id))
    assert "1 × source unavailable" in groups.out
    assert f"→ starforge backfill retry-failed {backfill_id}" in groups.out
    whole = await a_backfill(db, "none")
    none = await invoke("backfill", "failures", str(whole))
    assert none.out.startswith("None of its partitions has failed.")
    assert f"→ starforge backfill status {whole}" in none.out


@covers("X-19", "B-46")
async def test_explain_has_two_doors_that_say_the_same(invoke: Starforge, db: Connection) -> None:
    backfill_id = await a_backfill(db)
    one, other = [
        await invoke(*words, str(backfill_id)) for words in (("backfill", "explain"), ("explain", "backfill"))
    ]
    assert one.out == other.out
    assert "no worker lives to take it" in one.out
    assert "→ starforge worker --app MODULE:ATTR" in one.out


@covers("B-35")
async def test_verify_ends_with_1_where_something_is_broken(invoke: Starforge, db: Connection) -> None:
    backfill_id = await a_running_one(db)
    well = await invoke("backfill", "verify", str(backfill_id))
    assert well.code == 0
    assert "10 partitions, 4 completed, 1 failed, 5 open" in well.out
    assert "broken" not in well.out
    await db.execute("UPDATE backfill_jobs SET checkpoint_partition_key = 'k009'")
    broken = await invoke("backfill", "verify", str(backfill_id))
    assert broken.code == 1
    assert "broken: checkpoint 'k009' is ahead of" in broken.out
    document = (await invoke("backfill", "verify", str(backfill_id), "--json")).document
    assert (document["blocks"], document["findings"][0]["blocks"]) == (True, True)


@covers("B-39", "B-40")
async def test_claimable_lists_what_waits_and_who_lives(invoke: Starforge, db: Connection) -> None:
    nobody = await invoke("backfill", "claimable")
    assert (
        nobody.out
        == "No backfill waits for a coordinator.\nNo worker lives: starforge worker --app MODULE:ATTR\n"
    )
    backfill_id = await a_backfill(db)
    worker = await a_backfill_worker(db)
    done = await invoke("backfill", "claimable")
    assert (str(backfill_id) in done.out, str(worker) in done.out, "idle" in done.out) == (True,) * 3
    document = (await invoke("backfill", "claimable", "--json")).document
    assert [(one["id"], one["claimable"]) for one in document["backfills"]] == [(str(backfill_id), True)]


async def make(partition: Partition[Any]) -> None:
    """Make nothing."""


async def test_stale_says_what_is_to_make_and_with_which_command(invoke: Starforge, db: Connection) -> None:
    await declare(db, Assets([asset("orders", make, partitions=Daily("2026-01-01"), version="v1")]))
    words = ("backfill", "stale", "orders", "--from", "2026-01-01", "--to", "2026-01-03")
    done = await invoke(*words, "--limit", "2")
    assert "3 of 3 partitions of orders are stale: 3 missing" in done.out
    assert "and 1 more" in done.out
    assert "→ starforge backfill create orders --stale --from 2026-01-01 --to 2026-01-03" in done.out
    document = (await invoke(*words, "--json")).document
    assert [one["key"] for one in document["partitions"]] == ["2026-01-01", "2026-01-02", "2026-01-03"]


async def _said(process: asyncio.subprocess.Process, wanted: str, told: list[str]) -> None:
    """Read lines until one holds what is wanted."""
    assert process.stdout is not None
    async with asyncio.timeout(20):
        while not any(wanted in line for line in told):
            line = await process.stdout.readline()
            assert line, told
            told.append(line.decode())


@covers("B-25")
@pytest.mark.parametrize(("ending", "code"), [("completed", 0), ("failed", 1), ("cancelled", 1)])
async def test_watch_writes_a_line_for_each_change_and_ends_with_the_backfill(
    database: str, db: Connection, ending: str, code: int
) -> None:
    backfill_id = await a_running_one(db)
    told: list[str] = []
    async with running("backfill", "status", str(backfill_id), "--watch", DATABASE_URL=database) as process:
        await _said(process, "running   4/10 40 %", told)
        await db.execute("UPDATE backfill_jobs SET completed_partitions = 9")
        await _said(process, "running   9/10 90 %", told)
        await db.execute("UPDATE backfill_jobs SET state = $1, completed_at = sf_now()", ending)
        await _said(process, ending, told)
        await db.execute("UPDATE backfill_jobs SET closed_at = sf_now()")
        async with asyncio.timeout(20):
            await process.communicate()
    assert process.returncode == code
    assert len(told) == len({line[9:] for line in told})


@covers("B-25")
async def test_watch_as_json_is_a_document_a_line_and_is_left_by_ctrl_c(
    database: str, db: Connection
) -> None:
    backfill_id = await a_running_one(db)
    told: list[str] = []
    words = ("backfill", "status", str(backfill_id), "--watch", "--json")
    async with running(*words, DATABASE_URL=database) as process:
        await _said(process, "running", told)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(10):
            _, err = await process.communicate()
        assert (process.returncode, b"Traceback" in err) == (130, False)
    assert json.loads(told[0])["id"] == str(backfill_id)


@covers("B-25")
async def test_watch_on_a_terminal_leaves_it_as_it_was(database: str, db: Connection) -> None:
    """The screen of its own is left, the cursor is back, at any size that the terminal gets meanwhile."""
    look = {"strip": [[1, 0, 0, 1]] * 4 + [[0, 1, 0, 1]] + [[0, 0, 0, 1]] * 5, "rate_per_s": 1.5}
    backfill_id = await a_running_one(db, look=look)
    code, drawn = await asyncio.to_thread(_on_a_terminal, database, backfill_id)
    assert code == 130
    for on, off in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h")):
        assert drawn.count(on) == drawn.count(off) >= 1
    left = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.split(b"\x1b[?1049l")[1].decode())
    assert "████!·····" in left
    assert left.rstrip().endswith("This was its last state seen; it goes on by itself.")
    assert max(map(len, left.splitlines())) <= 60
    assert b"Traceback" not in drawn


def _on_a_terminal(database: str, backfill_id: UUID) -> tuple[int, bytes]:
    """Run the watch on a terminal that becomes smaller and then gets a Ctrl-C; return code and output."""
    words = [sys.executable, "-m", "starforge", "backfill", "status", str(backfill_id), "--watch"]
    env = {**os.environ, "DATABASE_URL": database, "TERM": "xterm", "STARFORGE_DISK_FREE_MB_MIN": "10"}
    for name in ("COLUMNS", "LINES"):
        env.pop(name, None)
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(words[0], words, env)
    drawn, steps = b"", 0
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    while True:
        try:
            read = os.read(fd, 65536)
        except OSError:
            break
        if not read:
            break
        drawn += read
        if steps == 0 and b"slots" in drawn:
            fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 60, 0, 0))
            os.kill(pid, signal.SIGWINCH)
            steps, mark = 1, len(drawn)
        elif steps == 1 and b"slots" in drawn[mark:]:
            os.write(fd, b"\x03")
            steps = 2
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), drawn


@covers("B-70")
async def test_the_commands_show_nothing_of_another_tenant(invoke: Starforge, db: Connection) -> None:
    async with db.transaction():
        await set_tenant(db, "theirs")
        backfill_id = await a_backfill(db)
    for words in (("status",), ("failures",), ("explain",), ("verify",), ("status", "--partitions")):
        with pytest.raises(AssertionError, match="there is no backfill"):
            await invoke("backfill", words[0], str(backfill_id), *words[1:])
    assert (await invoke("backfill", "list", "--json")).document == []
    seen = await invoke("backfill", "status", str(backfill_id), "--json", TENANT_ID="theirs")
    assert seen.document["tenant"] == "theirs"


async def test_a_status_names_commands_that_work_as_they_stand(invoke: Starforge, db: Connection) -> None:
    """What needs a reason says so, and a clone of one that was cancelled makes what is left."""
    cancelled = await a_backfill(db, state="cancelled", state_by="ann", completed_at=await now(db))
    done = await invoke("backfill", "status", str(cancelled))
    assert f"→ starforge backfill clone {cancelled} --unfinished --reason TEXT" in done.out


async def test_a_sample_that_did_not_pass_is_not_said_to_have_passed(
    invoke: Starforge, db: Connection
) -> None:
    at = await now(db)
    paused = {"state": "paused", "paused_at": at, "state_by": "canary", "state_reason": "2 failed"}
    failed = await a_backfill(db, canary_partitions=3, canary_judged_at=at, **paused)
    await parts(db, failed, failed=2, pending=1)
    shown = (await invoke("backfill", "status", str(failed))).out
    assert "it did not pass, judged at" in shown
    assert f"→ starforge backfill failures {failed}" in shown


@covers("B-25")
async def test_a_status_tells_of_rows_that_were_stepped_over(invoke: Starforge, db: Connection) -> None:
    backfill_id = await a_backfill(db, state="completed", completed_at=await now(db))
    await db.execute(
        "INSERT INTO backfill_poison (backfill_job_id, row_key, tenant_id, asset_name, ordinal, error_type,"
        " error_message) SELECT $1, k, 'default', 'days', 0, 'E', 'm' FROM generate_series(1, 3) AS k",
        backfill_id,
    )
    shown = (await invoke("backfill", "status", str(backfill_id))).out
    assert "stepped over  3 rows\n" in re.sub(r" +\n", "\n", shown)
    assert f"\n→ starforge backfill poison {backfill_id}\n" in shown


@covers("B-33")
async def test_a_message_that_is_cut_says_so_and_the_document_has_all_of_it(
    invoke: Starforge, db: Connection
) -> None:
    backfill_id = await a_running_one(db)
    long = "duplicate key " + "x" * 400
    await db.execute(
        "INSERT INTO backfill_poison (backfill_job_id, row_key, tenant_id, asset_name, ordinal, error_type,"
        " error_message) VALUES ($1, 7, 'default', 'orders', 0, 'E', $2)",
        backfill_id, long,
    )  # fmt: skip
    await db.execute("UPDATE backfill_partitions SET error_message = $1 WHERE state = 'failed'", long)
    for words in (("poison",), ("status", "--partitions")):
        shown = (await invoke("backfill", words[0], str(backfill_id), *words[1:])).out
        assert "xxx…" in shown, words
        assert "x" * 300 not in shown
    whole = (await invoke("backfill", "poison", str(backfill_id), "--json")).document
    assert whole[0]["error_message"] == long
    assert "xxx…" in (await invoke("backfill", "failures", str(backfill_id))).out


async def test_what_a_worker_has_claimed_is_no_share_of_what_it_runs_at_once(
    invoke: Starforge, db: Connection
) -> None:
    """It claims a little ahead, and its concurrency may have been lowered: 13 of 8 would be no answer."""
    worker = await a_backfill_worker(db)
    await db.execute(
        "INSERT INTO queue_jobs (queue, type, status, worker_id)"
        " SELECT 'backfill', 'asset:orders', 'running', $1 FROM generate_series(1, 13)",
        worker,
    )
    shown = (await invoke("backfill", "claimable")).out
    assert "13 jobs, runs 4 at once" in shown
