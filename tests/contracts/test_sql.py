"""Every statement of the runbooks runs word for word, as the operator, against the migrated schema."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import httpx
import pytest

from starforge.backfill.pace.pace import Pace
from starforge.backfill.partition.partition import Partition
from starforge.backfill.run.held import Held
from starforge.backfill.scheme.scheme import Window
from starforge.db.pool import Connection, Pool, connect
from starforge.etl.snapshot.latest import last_snapshots
from starforge.etl.snapshot.listing import held, list_snapshots, whole
from starforge.ops.perform import perform
from starforge.queue.complete import complete
from starforge.queue.enqueue import enqueue
from starforge.queue.job import LeasedJob, NewJob
from starforge.web.auth import make_token
from tests.backfill.engine import Engine, daily, engine
from tests.backfill.gates import Gates, day
from tests.contracts.contract import filled, statements
from tests.covers import covers
from tests.etl.load.test_job import offer
from tests.queue.jobs import a_worker, claimed
from tests.web.api.conftest import JSON, SNAPSHOTS, a_server, hero
from tests.worker.processes import a_worker as a_process
from tests.worker.processes import until

pytestmark = pytest.mark.shared

ENTRIES = {entry["id"]: entry for entry in statements()}
EFFECTS = {name for name, entry in ENTRIES.items() if "effect" in entry}

NOT_YET = ("Q-SQL-5", "Q-SQL-7")
"""Effects whose behaviour is not built yet; whoever builds one writes its test and takes it out here."""

SHOWN: dict[str, str] = {}
Test = TypeVar("Test", bound=Callable[..., object])


def shows_effect(*names: str) -> Callable[[Test], Test]:
    """Say that a test shows the `effect` of these statements."""

    def mark(test: Test) -> Test:
        SHOWN.update(dict.fromkeys(names, test.__name__))
        return test

    return mark


@dataclass
class Scene:
    """A database with one of everything that the statements name, and the operator's connection to it."""

    operator: Connection
    engine: Connection
    values: dict[str, str]

    async def run(self, name: str, **values: object) -> list[Any]:
        """Run a statement by its id, as the operator."""
        text = filled(ENTRIES[name]["sql"], {**self.values, **{k: str(v) for k, v in values.items()}})
        return list(await self.operator.fetch(text))


@pytest.fixture
async def scene(database: str) -> AsyncIterator[Scene]:
    operator = await connect(database.replace("tester@", "starforge_operator@"))
    engine = await connect(database.replace("tester@", "starforge_engine@"))
    job_id = (await enqueue(engine, NewJob("process_snapshot", {"snapshot_id": "x"}))).id
    snapshot_id = await engine.fetchval(
        "INSERT INTO hero_snapshots (tenant_id, source, raw, size_bytes, sha256)"
        " VALUES ('default', 'hero', '{}', 2, 'a') RETURNING id"
    )
    await engine.execute(
        "INSERT INTO etl_errors (snapshot_id, error_type, message) VALUES ($1, 'UNKNOWN', 'm')", snapshot_id
    )
    backfill_id = await engine.fetchval(
        "INSERT INTO backfill_jobs (asset_name, total_partitions) VALUES ('a', 1) RETURNING id"
    )
    await engine.execute(
        "INSERT INTO backfill_partitions (backfill_job_id, partition_key, state) VALUES ($1, 'p', 'failed')",
        backfill_id,
    )
    values = {
        "job_id": str(job_id),
        "snapshot_id": str(snapshot_id),
        "snapshot_ids": f"'{snapshot_id}'",
        "tenant_id": "default",
        "type": "process_snapshot",
        "payload": '{"a": 1}',
    }
    yield Scene(operator, engine, values)
    await operator.close()
    await engine.close()


@pytest.mark.parametrize("name", list(ENTRIES))
@covers("D-02", "X-15", "B-71", "D-09", "F-19", "F-20", "Q-23", "Q-49", "O-26", "B-04", "B-05")
async def test_each_statement_runs_as_the_operator_and_gives_its_columns(scene: Scene, name: str) -> None:
    entry = ENTRIES[name]
    text = filled(entry["sql"], scene.values)
    await scene.operator.execute(text)
    prepared = await scene.operator.prepare(text.rstrip(";"))
    columns = [attribute.name for attribute in prepared.get_attributes()]
    if "columns" in entry:
        assert columns == entry["columns"]
    if "columns_include" in entry:
        assert set(entry["columns_include"]) <= set(columns)
    assert {"columns", "columns_include", "effect"} & set(entry)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[pytest.mark.xfail(strict=True, reason="its behaviour is not built yet")]
            if name in NOT_YET
            else [],
        )
        for name in sorted(EFFECTS)
    ],
)
def test_each_effect_is_shown_by_a_test(name: str) -> None:
    assert name in SHOWN


async def _running(scene: Scene) -> tuple[LeasedJob, Any]:
    """Let a worker be in the middle of a job when the operator's hand comes in."""
    await scene.engine.execute("DELETE FROM queue_jobs")
    await enqueue(scene.engine, NewJob("t", {"n": 1}))
    worker_id = await a_worker(scene.engine)
    [job] = await claimed(scene.engine, worker_id)
    return job, worker_id


@shows_effect("Q-SQL-4")
@covers("X-14", "D-10")
async def test_a_job_quarantined_by_hand_stays_failed_with_its_reason_whatever_its_worker_does(
    scene: Scene,
) -> None:
    job, worker_id = await _running(scene)
    await scene.run("Q-SQL-4", job_id=job.id)
    assert await complete(scene.engine, [job], [1.0], worker_id=worker_id) == set()
    assert await claimed(scene.engine, worker_id) == []
    row = await scene.engine.fetchrow("SELECT status, last_error FROM queue_jobs")
    assert row is not None
    assert tuple(row) == (
        "failed",
        {"reason": "quarantined for manual review", "original_status": "running"},
    )


@covers("Q-29", "X-14")
@shows_effect("Q-SQL-6")
async def test_the_flag_set_by_hand_closes_every_server_within_5_s_and_opens_them_again(
    scene: Scene, pool: Pool, database: str
) -> None:
    app_url = database.replace("tester@", "starforge_app@")
    async with AsyncExitStack() as stack:
        users = []
        for _ in range(2):
            own = await Pool.open(app_url, size=2)
            stack.push_async_callback(own.close)
            host, port = await stack.enter_async_context(a_server(own))
            user = httpx.AsyncClient(base_url=f"http://{host}:{port}")
            users.append(await stack.enter_async_context(user))
        async with pool.connection() as conn:
            token = await make_token(conn, name="ann", role="producer", tenant="default")
        headers = {**JSON, "Authorization": f"Bearer {token}"}
        number = 0

        async def offers() -> list[httpx.Response]:
            nonlocal number
            number += 1
            return [
                await user.post(SNAPSHOTS, content=hero(f"A_{number}_{n}"), headers=headers)
                for n, user in enumerate(users)
            ]

        async def until_all(status: int) -> list[httpx.Response]:
            async with asyncio.timeout(5):
                while True:
                    answers = await offers()
                    if {one.status_code for one in answers} == {status}:
                        return answers
                    await asyncio.sleep(0.02)

        assert [one.status_code for one in await offers()] == [202, 202]
        await scene.run("Q-SQL-6")
        for answer in await until_all(503):
            assert int(answer.headers["Retry-After"]) > 0
            assert "paused" in answer.json()["detail"]
        before = await scene.engine.fetchval("SELECT count(*) FROM hero_snapshots")
        assert [one.status_code for one in await offers()] == [503, 503]
        assert await scene.engine.fetchval("SELECT count(*) FROM hero_snapshots") == before
        await scene.operator.execute(ENTRIES["Q-SQL-6"]["sql"].replace("'true'", "'false'"))
        await until_all(202)


@shows_effect("Q-SQL-8")
@covers("X-14")
async def test_a_job_failed_by_hand_keeps_its_last_error_whatever_its_worker_does(scene: Scene) -> None:
    job, worker_id = await _running(scene)
    await scene.engine.execute('UPDATE queue_jobs SET last_error = \'{"reason": "before"}\'')
    await scene.run("Q-SQL-8", job_id=job.id)
    assert await complete(scene.engine, [job], [1.0], worker_id=worker_id) == set()
    assert await claimed(scene.engine, worker_id) == []
    row = await scene.engine.fetchrow("SELECT status, last_error FROM queue_jobs")
    assert row is not None
    assert tuple(row) == ("failed", {"reason": "before"})


@pytest.mark.parametrize("name", ["O-SQL-2", "O-SQL-5"])
@shows_effect("O-SQL-2", "O-SQL-5")
async def test_a_snapshot_marked_by_hand_is_one_row_with_one_error_more(scene: Scene, name: str) -> None:
    await scene.run(name)
    row = await scene.operator.fetchrow("SELECT processing, error_count, last_error FROM hero_snapshots")
    assert row is not None
    assert (row["processing"], row["error_count"]) == (False, 1)
    assert row["last_error"].startswith("Quarantined")


LISTED = "SELECT status FROM hero_snapshots WHERE id = $1"
BUILT_IN = "starforge.app:app"


@shows_effect("O-SQL-4")
@covers("O-25", "O-26")
async def test_a_snapshot_held_by_hand_is_listed_so_and_no_ordinary_worker_runs_it_until_it_is_released(
    scene: Scene, pool: Pool, database: str
) -> None:
    await scene.engine.execute("DELETE FROM queue_jobs")
    snapshot_id = await offer(pool)
    await scene.run("O-SQL-4", snapshot_id=snapshot_id)
    async with a_process(database, app=BUILT_IN):
        await until(scene.operator, "SELECT status FROM queue_jobs", "quarantined")
        assert await listed_as(scene.operator, snapshot_id) == {"quarantined"}
        assert await scene.operator.fetchval("SELECT count(*) FROM users") == 0
        # By hand as well: its job is pending again without anybody's doing.
        await scene.operator.execute("UPDATE snapshot_quarantine SET released_at = now()")
        await until(scene.operator, "SELECT count(*) FROM job_history", 1)
    assert await listed_as(scene.operator, snapshot_id) == {"processed"}
    assert await scene.operator.fetchval("SELECT count(*) FROM users") == 1


@covers("O-25", "O-44")
async def test_a_snapshot_held_by_its_command_waits_under_a_live_worker_until_its_release(
    scene: Scene, pool: Pool, database: str
) -> None:
    await scene.engine.execute("DELETE FROM queue_jobs")
    snapshot_id = await offer(pool)
    who: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}
    arguments = {"snapshot_id": str(snapshot_id), "reason": "a look first"}
    await perform(pool, "snapshot quarantine", arguments, **who)
    async with a_process(database, app=BUILT_IN), a_process(database, "--high-memory", app=BUILT_IN):
        await until(scene.operator, "SELECT status FROM queue_jobs", "quarantined")
        assert await listed_as(scene.operator, snapshot_id) == {"quarantined"}
        await perform(pool, "snapshot release", {**arguments, "to": "highmem"}, **who)
        await until(scene.operator, "SELECT count(*) FROM job_history", 1)
        ran = await scene.operator.fetchrow(
            "SELECT h.type, w.high_memory FROM job_history h JOIN workers w ON w.id = h.worker_id"
        )
    assert ran is not None
    assert tuple(ran) == ("process_snapshot_highmem", True)
    assert await listed_as(scene.operator, snapshot_id) == {"processed"}


async def listed_as(conn: Connection, snapshot_id: UUID) -> set[str]:
    """The statuses under which a snapshot is listed, wherever people look for it."""
    found = {one.status for one in await last_snapshots(conn) if one.id == snapshot_id}
    found |= {one.status for one in await list_snapshots(conn, "default") if one.id == snapshot_id}
    found.add((await whole(conn, snapshot_id, "default")).snapshot.status)
    found |= {"quarantined" for one in await held(conn, "default") if one.snapshot_id == snapshot_id}
    return found


@shows_effect("O-SQL-6")
@covers("O-44", "O-45")
async def test_a_high_memory_job_made_by_hand_runs_on_a_high_memory_worker_though_its_snapshot_is_held(
    scene: Scene, pool: Pool, database: str
) -> None:
    await scene.engine.execute("DELETE FROM queue_jobs")
    snapshot_id = await offer(pool)
    await scene.run("O-SQL-4", snapshot_id=snapshot_id)
    await scene.run("O-SQL-6", snapshot_id=snapshot_id)
    status = "SELECT status FROM queue_jobs WHERE type = $1"
    async with a_process(database, app=BUILT_IN):
        await until(scene.operator, status, "quarantined", "process_snapshot")
        assert await scene.operator.fetchval(status, "process_snapshot_highmem") == "pending"
        async with a_process(database, "--high-memory", app=BUILT_IN):
            await until(scene.operator, "SELECT count(*) FROM job_history", 1)
    assert await scene.operator.fetchval(LISTED, snapshot_id) == "processed"
    assert await scene.operator.fetchval("SELECT count(*) FROM users") == 1
    # It is held all the same: for whoever comes with another job of it.
    assert (
        await scene.operator.fetchval("SELECT count(*) FROM snapshot_quarantine WHERE released_at IS NULL")
        == 1
    )


@asynccontextmanager
async def a_backfill_at_work(pool: Pool) -> AsyncIterator[tuple[Engine, UUID, Counter[str]]]:
    """A backfill of 200 days in the middle of its work, and how often each day was made."""
    made: Counter[str] = Counter()

    async def make(day: Partition[Window]) -> None:
        await asyncio.sleep(0.01)
        made[day.key] += 1

    async with engine(pool, [daily("days", make)], coordinators=2) as running:
        backfill_id = await running.create("days", 200, concurrency=4)
        await running.until(backfill_id, lambda row: row["completed_partitions"] >= 20)
        yield running, backfill_id, made


@shows_effect("B-SQL-1")
@covers("X-14", "B-21", "B-18", "G7")
async def test_a_backfill_paused_by_hand_stops_at_the_boundary_and_keeps_its_checkpoint(
    scene: Scene, pool: Pool
) -> None:
    async with a_backfill_at_work(pool) as (running, backfill_id, made):
        await scene.run("B-SQL-1", job_id=backfill_id)
        row = await running.until(backfill_id, lambda row: row["worker_id"] is None)
        assert (row["state"], row["completed_partitions"]) == ("paused", len(made))
        assert row["paused_at"] is not None
        assert 20 <= len(made) < 200
        found = await scene.run("B-SQL-6", job_id=backfill_id)
        assert [each["pending_partitions"] for each in found] == [200 - len(made)]
        assert found[0]["job_checkpoint"] <= found[0]["last_completed_partition"]
        who: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}
        await perform(pool, "backfill resume", {"job_id": str(backfill_id)}, **who)
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"]) == ("completed", 200)
    assert set(made.values()) == {1}


@shows_effect("B-SQL-7")
@covers("X-14", "B-38", "D-12", "G7")
async def test_a_backfill_reclaimed_by_hand_goes_on_under_another_epoch_and_makes_nothing_twice(
    scene: Scene, pool: Pool
) -> None:
    async with a_backfill_at_work(pool) as (running, backfill_id, made):
        before = await running.row(backfill_id)
        await scene.run("B-SQL-7", job_id=backfill_id)
        row = await running.until(
            backfill_id, lambda row: row["lease_epoch"] > before["lease_epoch"], within_s=5
        )
        assert row["version"] == before["version"] + 1
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"]) == ("completed", 200)
    assert set(made.values()) == {1}


@shows_effect("B-SQL-1")
@covers("X-14", "B-17", "B-21")
async def test_a_backfill_paused_by_hand_ends_what_runs_keeps_its_checkpoint_and_stops(
    scene: Scene, pool: Pool
) -> None:
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=2)]) as running:
        backfill_id = await running.create("days", 9)
        gates.let(day(1), day(2), day(3))
        await running.until(backfill_id, lambda row: row["completed_partitions"] == 3)
        await gates.until(lambda seen: seen.came[day(4)] and seen.came[day(5)])
        version = (await running.row(backfill_id))["version"]
        await scene.run("B-SQL-1", job_id=backfill_id)
        gates.let(day(4), day(5))
        row = await running.until(backfill_id, lambda row: row["worker_id"] is None)
        assert (row["state"], row["completed_partitions"]) == ("paused", 5)
        assert (row["checkpoint_partition_key"], row["version"]) == (day(5), version + 1)
        gates.let()
        await scene.operator.execute("UPDATE backfill_jobs SET state = 'resuming' WHERE id = $1", backfill_id)
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"]) == ("completed", 9)
    assert gates.came == {day(n): 1 for n in range(1, 10)}


@shows_effect("B-SQL-7")
@covers("X-14", "D-11", "D-12", "D-13")
async def test_a_backfill_aged_by_hand_goes_on_elsewhere_and_its_old_coordinator_writes_nothing(
    scene: Scene, pool: Pool
) -> None:
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=1)]) as running:
        backfill_id = await running.create("days", 5)
        gates.let(day(1), day(2))
        before = await running.until(backfill_id, lambda row: row["completed_partitions"] == 2)
        running.stop.set()  # it lets go: this hold of its row is the one that nobody has told
        await asyncio.gather(*running.coordinating)
        assert running.worker_id is not None
        old = Held(backfill_id, running.worker_id, before["lease_epoch"], before["heartbeat_at"], "running")
        await scene.engine.execute(
            "UPDATE backfill_jobs SET worker_id = $2, heartbeat_at = $3 WHERE id = $1",
            backfill_id, running.worker_id, before["heartbeat_at"],
        )  # fmt: skip
        async with pool.connection() as conn:
            assert await old.tick(conn, Pace(1.0, 0.5, ""))
        await scene.run("B-SQL-7", job_id=backfill_id)
        seen = await running.row(backfill_id)
        async with pool.connection() as conn:
            assert not await old.tick(conn, Pace(1.0, 0.5, ""))
        assert await running.row(backfill_id) == seen
        running.stop.clear()
        running.coordinate(await running.enter())
        row = await running.until(backfill_id, lambda row: row["lease_epoch"] > before["lease_epoch"])
        assert (row["checkpoint_partition_key"], row["worker_id"] == running.worker_id) == (day(2), False)
        gates.let()
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"]) == ("completed", 5)
    assert gates.came == {day(n): 1 for n in range(1, 6)}


async def test_rows_made_by_hand_take_the_tenant_of_what_they_name(database: str) -> None:
    conn = await connect(database)
    snapshot_id = await conn.fetchval(
        "INSERT INTO hero_snapshots (tenant_id, source, raw, size_bytes, sha256)"
        " VALUES ('acme', 'hero', '{}', 2, 'a') RETURNING id"
    )
    job_id = (await enqueue(conn, NewJob("t", tenant="acme"))).id
    scene = Scene(
        conn, conn, {"snapshot_id": str(snapshot_id), "job_id": str(job_id), "type": "t", "payload": "{}"}
    )
    for name in ("Q-SQL-5", "Q-SQL-7", "O-SQL-4", "O-SQL-6"):
        await scene.run(name)
    for table in ("queue_jobs_dlq", "snapshot_quarantine", "queue_jobs"):
        assert {row[0] for row in await conn.fetch(f"SELECT tenant_id FROM {table}")} == {"acme"}
    await conn.close()
