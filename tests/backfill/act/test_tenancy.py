"""Backfills of one tenant under hostile SQL of another, as the role that the server speaks with (B-70)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from starforge.backfill.errors import UnknownBackfillError
from starforge.backfill.show.status import unclaimed
from starforge.db.pool import Connection, Pool, connect, set_tenant
from starforge.db.statement import sql
from starforge.ops.perform import perform
from starforge.ops.registry import operations
from tests.backfill.backfills import WHY, a_backfill, row_of
from tests.covers import covers

OURS, THEIRS = "acme", "bolt"
TABLES = ("backfill_jobs", "backfill_partitions", "backfill_ended", "backfill_poison")
ANN: dict[str, Any] = {"actor": "ann", "role": "admin", "tenant": OURS}


@dataclass
class Scene:
    """Two tenants with a backfill each, and a connection of the app that speaks for one of them."""

    app: Connection
    owner: Connection
    ours: UUID
    theirs: UUID

    async def rows_of_theirs(self) -> dict[str, list[Any]]:
        """Return all that is kept of the other tenant."""
        return {
            table: [
                tuple(row)
                for row in await self.owner.fetch(
                    f"SELECT * FROM {table} WHERE tenant_id = $1 ORDER BY 1, 2, 3", THEIRS
                )
            ]
            for table in TABLES
        }


@pytest.fixture
async def scene(database: str) -> AsyncIterator[Scene]:
    owner = await connect(database)
    made = {}
    for tenant in (OURS, THEIRS):
        made[tenant] = await a_backfill(owner, "running", "completed", "failed", "pending", tenant=tenant)
        await owner.execute(
            "INSERT INTO backfill_ended (tenant_id, backfill_job_id, ordinal, outcome, attempt_count)"
            " VALUES ($1, $2, 2, 'failed', 1)",
            tenant,
            made[tenant],
        )
        await owner.execute(
            "INSERT INTO backfill_poison (tenant_id, backfill_job_id, row_key, asset_name, ordinal,"
            " error_type, error_message) VALUES ($1, $2, 1, 'daily', 2, 'E', 'a secret of ' || $1)",
            tenant,
            made[tenant],
        )
    app = await connect(database.replace("tester@", "starforge_app@"))
    await app.execute("SELECT set_config('starforge.tenant_id', $1, false)", OURS)
    yield Scene(app, owner, made[OURS], made[THEIRS])
    await app.close()
    await owner.close()


READS = (
    "SELECT tenant_id FROM {table}",
    "SELECT tenant_id FROM {table} WHERE tenant_id = '{them}' OR true",
    "SELECT tenant_id FROM {table} WHERE tenant_id <> sf_tenant()",
    "SELECT a.tenant_id FROM {table} AS a FULL JOIN {table} AS b ON true WHERE a.tenant_id IS NOT NULL",
    "WITH all_of_it AS MATERIALIZED (SELECT * FROM {table}) SELECT tenant_id FROM all_of_it",
    "SELECT tenant_id FROM ONLY {table} UNION ALL SELECT tenant_id FROM {table}",
    "SELECT tenant_id FROM {table} TABLESAMPLE SYSTEM (100)",
    "SELECT tenant_id FROM {table} WHERE {id} = '{theirs}'",
    # An error would tell of the rows that it was met at: what is not seen must not be computed with.
    "SELECT tenant_id FROM {table} WHERE 1 / (CASE tenant_id WHEN '{them}' THEN 0 ELSE 1 END) = 1",
    "SELECT x.tenant_id FROM backfill_jobs AS j, LATERAL (SELECT * FROM {table} LIMIT 100) AS x",
)

WRITES = (
    "UPDATE {table} SET tenant_id = tenant_id WHERE tenant_id = '{them}'",
    "UPDATE {table} SET tenant_id = '{us}' WHERE {id} = '{theirs}'",
    "UPDATE {table} SET tenant_id = '{us}' FROM backfill_jobs AS j WHERE {table}.tenant_id <> sf_tenant()",
    "DELETE FROM {table} WHERE tenant_id <> '{us}'",
    "DELETE FROM {table} USING backfill_jobs AS j WHERE {table}.{id} = '{theirs}'",
    "WITH gone AS (DELETE FROM {table} WHERE {id} = '{theirs}' RETURNING *) SELECT count(*) FROM gone",
)
"""Statements that are taken, and reach nothing."""

GIFTS = (
    "UPDATE {table} SET tenant_id = '{them}' WHERE {id} = '{ours}'",
    "INSERT INTO backfill_jobs (tenant_id, asset_name) VALUES ('{them}', 'daily')",
    "INSERT INTO backfill_partitions (tenant_id, backfill_job_id, partition_key, ordinal)"
    " VALUES ('{them}', '{theirs}', 'x', 99)",
    # Of ours by its tenant, and under a backfill of theirs: what a foreign key alone lets pass.
    "INSERT INTO backfill_partitions (tenant_id, backfill_job_id, partition_key, ordinal)"
    " VALUES ('{us}', '{theirs}', 'x', 99)",
    "INSERT INTO backfill_partitions (tenant_id, backfill_job_id, partition_key, ordinal)"
    " VALUES (NULL, '{theirs}', 'x', 99)",
    "INSERT INTO backfill_ended (tenant_id, backfill_job_id, ordinal, outcome, attempt_count)"
    " VALUES ('{us}', '{theirs}', 3, 'completed', 1)",
    "INSERT INTO backfill_poison (tenant_id, backfill_job_id, row_key, asset_name, ordinal, error_type,"
    " error_message) VALUES ('{us}', '{theirs}', 9, 'a', 1, 'E', 'm')",
    "UPDATE backfill_partitions SET backfill_job_id = '{theirs}', ordinal = ordinal + 100",
    "UPDATE backfill_ended SET backfill_job_id = '{theirs}'",
    "UPDATE backfill_poison SET backfill_job_id = '{theirs}', row_key = 99",
    "ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY",
    "DROP POLICY {table}_app ON {table}",
    "TRUNCATE {table}",
    "SET ROLE starforge_operator",
    "SET SESSION AUTHORIZATION starforge_owner",
    "COPY {table} FROM PROGRAM 'echo'",
)
"""Statements that are refused."""


def hostile(scene: Scene, statement: str, table: str) -> str:
    return statement.format(
        table=table,
        id="id" if table == "backfill_jobs" else "backfill_job_id",
        us=OURS,
        them=THEIRS,
        ours=scene.ours,
        theirs=scene.theirs,
    )


@pytest.mark.parametrize("table", TABLES)
@covers("B-70", "X-12", "G11")
async def test_whatever_is_asked_no_row_of_another_tenant_is_seen(scene: Scene, table: str) -> None:
    seen = set()
    for statement in READS:
        seen |= {row[0] for row in await scene.app.fetch(hostile(scene, statement, table))}
    assert seen == {OURS}


@pytest.mark.parametrize("table", TABLES)
@covers("B-70", "X-12", "G11")
async def test_whatever_is_written_no_row_of_another_tenant_changes_or_is_added_to(
    scene: Scene, table: str
) -> None:
    before = await scene.rows_of_theirs()
    for statement in WRITES:
        text = hostile(scene, statement, table)
        told = await scene.app.execute(text)
        assert told in ("UPDATE 0", "DELETE 0", "SELECT 1"), text
    for statement in GIFTS:
        text = hostile(scene, statement, table)
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.NotNullViolationError)):
            await scene.app.execute(text)
    assert await scene.rows_of_theirs() == before


@covers("B-70")
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO backfill_assets SELECT * FROM backfill_assets",
        "UPDATE backfill_assets SET concurrency = 1",
        "DELETE FROM backfill_assets",
        "UPDATE backfill_names SET ordinal = ordinal + 1",
        "DELETE FROM backfill_names",
    ],
)
async def test_what_all_tenants_share_is_no_tenants_to_change(scene: Scene, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await scene.app.execute(statement)


@covers("B-70", "G11")
async def test_no_operation_on_backfills_reaches_another_tenant_whoever_asks(
    scene: Scene, database: str
) -> None:
    """Each operation there is, by the server's role and by the operator's, which sees every tenant's rows."""
    before = await scene.rows_of_theirs()
    found = [one for one in operations() if one.noun == "backfill"]
    asked = 0
    for role in ("starforge_app", "starforge_operator", "tester"):
        pool = await Pool.open(database.replace("tester@", f"{role}@"), size=2)
        for one in found:
            named = {parameter.name for parameter in one.parameters}
            if one.verb == "create":
                continue
            arguments: dict[str, Any] = {"reason": WHY}
            if "job_id" in named:
                arguments["job_id"] = str(scene.theirs)
            arguments |= {"concurrency": 9} if one.verb == "set" else {}
            arguments |= {"minutes": 1} if "minutes" in named else {}
            try:
                done = await perform(pool, one.name, arguments, **ANN)
                assert "job_id" not in named, one.name
                assert str(scene.theirs) not in done.summary
            except UnknownBackfillError:
                assert "job_id" in named
            asked += 1
        await pool.close()
    assert asked >= 33
    assert await scene.rows_of_theirs() == before


@covers("B-70")
async def test_the_servers_role_pauses_and_sees_its_own(scene: Scene, database: str) -> None:
    pool = await Pool.open(database.replace("tester@", "starforge_app@"), size=2)
    done = await perform(pool, "backfill pause", {"job_id": str(scene.ours)}, **ANN)
    async with pool.connection() as conn, conn.transaction():
        await set_tenant(conn, OURS)
        assert await conn.fetchval("SELECT state FROM backfill_jobs") == "paused"
    await pool.close()
    whole = await Pool.open(database, size=1)
    assert (await row_of(whole, scene.ours))["version"] == done.after["version"]
    await whole.close()


ONE: dict[str, tuple[str, tuple[Any, ...]]] = {
    "lock_one": ("running", ()),
    "set": ("running", ("ann", 1, 1, 1, 1, None, "backfill set")),
    "uncount": ("running", ("ann", 1, "backfill retry-failed")),
    "plan_resume": ("paused", ("ann", None, "backfill pause")),
    "reopen": ("running", (None, 10)),
    "chosen": ("running", (["failed"], None)),
    "integrity_stored": ("running", ()),
    "integrity_seen": ("running", ()),
}
SEVERAL: dict[str, tuple[str, tuple[Any, ...]]] = {
    "pause": ("running", ("ann", WHY, None, "backfill pause")),
    "resume": ("paused", ("ann", WHY, 121.0, "backfill resume")),
    "cancel": ("running", ("ann", WHY, WHY, "backfill cancel")),
    "reclaim": ("running", ("ann", 121.0, "backfill reclaim")),
}


@pytest.mark.parametrize("name", [*ONE, *SEVERAL])
@covers("B-70", "G11")
async def test_each_statement_of_an_act_is_confined_by_itself(scene: Scene, name: str) -> None:
    """Also where who runs it sees every tenant's rows, and whatever was looked at before it."""
    state, values = (ONE | SEVERAL)[name]
    which = scene.theirs if name in ONE else [scene.theirs]
    told = {}
    for tenant in (OURS, THEIRS):
        transaction = scene.owner.transaction()
        await transaction.start()
        await scene.owner.execute("UPDATE backfill_jobs SET state = 'paused' WHERE $1 = 'paused'", state)
        rows = await scene.owner.fetch(sql("backfill", name), which, tenant, *values)
        told[tenant] = [row for row in rows if row.get("reopened", 1)]
        await transaction.rollback()
    assert told[OURS] == []
    assert told[THEIRS] != []


@covers("B-70", "B-40")
async def test_what_waits_for_a_coordinator_elsewhere_is_not_listed(scene: Scene) -> None:
    await scene.owner.execute("UPDATE backfill_jobs SET worker_id = NULL")
    async with scene.owner.transaction():
        await set_tenant(scene.owner, OURS)
        assert [one.id for one in await unclaimed(scene.owner)] == [scene.ours]
