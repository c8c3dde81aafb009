"""Retention: what is through goes when its time is over; what waits, is held or is needed stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from starforge.app import StarForge
from starforge.db.pool import Pool
from starforge.errors import InvalidInputError
from starforge.etl.errors import NoRetentionRuleError
from starforge.etl.ingest.offers import Offer
from starforge.etl.ingest.receive import receive
from starforge.etl.retention import retention
from starforge.etl.store.store import object_store
from starforge.heroes.mapping import HERO
from starforge.ops.errors import RoleDeniedError
from starforge.ops.perform import perform
from starforge.ops.plan import plan
from tests.covers import covers
from tests.etl.load.test_job import UNFINISHED, again, offer, one, types
from tests.etl.snapshot.test_quarantine import oversized, quarantine, release
from tests.stories.test_path_of_a_job import run_until

ADMIN: dict[str, Any] = {"actor": "ann", "role": "admin", "tenant": "default"}
WHY = {"reason": "the law"}


async def processed(pool: Pool, *names: str, tenant: str = "default", source_of: Any = HERO) -> list[UUID]:
    """Offer a profile for each name and have it processed."""
    ids = [await offer(pool, source_of, tenant, NameCode=name) for name in names]
    await run_until(pool, types(source_of), UNFINISHED, 1)
    return ids


async def count(pool: Pool, table: str) -> int:
    return int((await one(pool, f"SELECT count(*) FROM {table}"))["count"])


async def old(pool: Pool, days: int = 40) -> None:
    """Make everything that is stored now as old as that."""
    async with pool.connection() as conn:
        for table, columns in (
            ("hero_snapshots", ("created_at", "updated_at")),
            ("snapshot_captures", ("created_at",)),
            ("etl_errors", ("created_at",)),
            ("snapshot_quarantine", ("created_at", "released_at")),
        ):
            sets = ", ".join(f"{column} = {column} - interval '{days} days'" for column in columns)
            await conn.execute(f"UPDATE {table} SET {sets}")


async def prune(pool: Pool, what: Any) -> int:
    async with pool.connection() as conn:
        return int(await what(conn))


async def test_nothing_accepted_is_deleted_unless_somebody_says_so(pool: Pool) -> None:
    await processed(pool, "A_1", "B_1")
    await old(pool, 4000)
    for kind in (retention.prune_snapshots, retention.prune_captures):
        assert await prune(pool, kind) == 0
    assert await count(pool, "hero_snapshots") == 2


async def test_what_is_through_goes_and_its_rows_stay(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot that waits, is held, or has a live job stays, however old it is."""
    monkeypatch.setenv("STARFORGE_SNAPSHOT_DAYS", "30")
    through, also_job, held = await processed(pool, "A_1", "B_1", "C_1")
    await again(pool, also_job)
    await quarantine(pool, held)
    waits = await offer(pool, NameCode="D_1")
    large = (await oversized(pool)).snapshot_id
    await old(pool)
    [fresh] = [await offer(pool, NameCode="E_1")]
    assert await prune(pool, retention.prune_snapshots) == 1
    async with pool.connection() as conn:
        left = {row["id"] for row in await conn.fetch("SELECT id FROM hero_snapshots")}
    assert left == {also_job, held, waits, large, fresh}
    assert await count(pool, f"snapshot_captures WHERE snapshot_id = '{through}'") == 0
    assert await count(pool, "users") == 3
    assert await prune(pool, retention.prune_snapshots) == 0


async def test_what_was_captured_again_lately_is_not_old(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFORGE_SNAPSHOT_DAYS", "30")
    await processed(pool, "A_1")
    await offer(pool, NameCode="A_1", Level=2)
    await old(pool)
    data = b'{"NameCode": "A_1", "Level": 1, "Troops": {"6024": {"Amount": 1}}}'
    [receipt] = await receive(pool, [Offer("a", data)], mapping=HERO, tenant="default")
    assert receipt.fate == "recaptured"
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 3)
    await prune(pool, retention.prune_snapshots)
    async with pool.connection() as conn:
        assert (
            await conn.fetchval("SELECT count(*) FROM hero_snapshots WHERE id = $1", receipt.snapshot_id) == 1
        )


async def test_a_rule_of_tenant_and_source_wins_over_the_tenants_and_that_over_the_setting(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_SNAPSHOT_DAYS", "30")
    [ours] = await processed(pool, "A_1")
    [theirs] = await processed(pool, "A_1", tenant="them")
    await old(pool)
    await perform(pool, "retention set", {"kind": "snapshots", "days": 10, **WHY}, **ADMIN)
    await perform(pool, "retention set", {"kind": "snapshots", "days": 0, "source": "hero", **WHY}, **ADMIN)
    assert await prune(pool, retention.prune_snapshots) == 1
    async with pool.connection() as conn:
        assert [row["id"] for row in await conn.fetch("SELECT id FROM hero_snapshots")] == [ours]
    assert theirs != ours
    result = await perform(pool, "retention reset", {"kind": "snapshots", "source": "hero"}, **ADMIN)
    assert result.before["days"] == 0
    assert await prune(pool, retention.prune_snapshots) == 1
    with pytest.raises(NoRetentionRuleError):
        await perform(pool, "retention reset", {"kind": "snapshots", "source": "hero"}, **ADMIN)
    with pytest.raises(RoleDeniedError):
        await perform(
            pool, "retention set", {"kind": "errors", "days": 1, **WHY}, **{**ADMIN, "role": "operator"}
        )


async def test_old_errors_bytes_and_holds_that_ended_go_by_default_and_holds_that_hold_stay(
    pool: Pool,
) -> None:
    released, held = await processed(pool, "A_1", "B_1")
    await receive(pool, [Offer("bad", b"{bad")], mapping=HERO, tenant="default")
    for snapshot_id in (released, held):
        await quarantine(pool, snapshot_id)
    await release(pool, released)
    large = (await oversized(pool)).snapshot_id
    assert large is not None
    await release(pool, large, "highmem")
    await old(pool, 170)
    assert await prune(pool, retention.prune_errors) == 1
    assert await prune(pool, retention.prune_quarantine) == 0
    await old(pool, 20)
    assert await prune(pool, retention.prune_quarantine) == 2
    async with pool.connection() as conn:
        left = {row["snapshot_id"] for row in await conn.fetch("SELECT snapshot_id FROM snapshot_quarantine")}
    assert left == {held, large}


async def test_captures_go_but_the_latest_of_each_subject_and_snapshot(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_CAPTURE_DAYS", "30")
    for level in (1, 2, 1, 2, 1):
        data = b'{"NameCode": "A_1", "Level": %d}' % level
        await receive(pool, [Offer("a", data)], mapping=HERO, tenant="default")
    assert await count(pool, "snapshot_captures") == 5
    await old(pool)
    assert await prune(pool, retention.prune_captures) == 3
    assert await count(pool, "snapshot_captures") == 2
    [receipt] = await receive(
        pool, [Offer("a", b'{"NameCode": "A_1", "Level": 1}')], mapping=HERO, tenant="default"
    )
    assert receipt.fate == "duplicate"


def test_a_leader_does_all_of_it() -> None:
    names = {task.name for task in StarForge().upkeep()}
    assert {"snapshots", "captures", "quarantine", "errors", "objects"} <= names


# ---- by hand


async def test_a_prune_is_planned_first_counts_and_is_audited(pool: Pool) -> None:
    await processed(pool, "A_1", "B_1")
    await offer(pool, NameCode="C_1")
    await processed(pool, "A_1", tenant="them")
    async with pool.connection() as conn:
        await conn.execute("UPDATE hero_snapshots SET status = 'received' WHERE subject = 'C_1'")
    await old(pool)
    arguments = {"before": "2100-01-01", **WHY}
    made = await plan(pool, "snapshot prune", arguments, **ADMIN)
    assert (made.matched, made.changed) == (2, 2)
    assert await count(pool, "hero_snapshots") == 4
    result = await perform(pool, "snapshot prune", arguments, **ADMIN, plan_id=made.id)
    assert result.changed == 2
    assert result.before["captures"] == 2
    assert await count(pool, "hero_snapshots") == 2
    audit = await one(
        pool, "SELECT reason, matched, changed FROM audit_logs WHERE operation = 'snapshot prune'"
    )
    assert audit == {"reason": "the law", "matched": 2, "changed": 2}
    with pytest.raises(InvalidInputError, match="is no time"):
        await perform(pool, "snapshot prune", {"before": "soon", **WHY}, **ADMIN)


async def test_a_prune_leaves_what_a_job_waits_for_and_says_how_many(pool: Pool) -> None:
    [first] = await processed(pool, "A_1")
    await again(pool, first)
    await old(pool)
    result = await perform(pool, "snapshot prune", {"before": "2100-01-01", **WHY}, **ADMIN)
    assert (result.matched, result.changed) == (1, 0)
    assert "1 are left, for a job of theirs waits" in result.summary


@covers("O-27")
async def test_an_object_goes_after_the_commit_and_is_tried_again_where_the_store_fails(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_OBJECT_STORE", (tmp_path / "objects").as_uri())

    async def chunks() -> Any:
        yield b'{"NameCode": "A_1"}'

    await object_store().put("raw/default/1", chunks())
    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO hero_snapshots (tenant_id, source, raw_key, size_bytes, sha256, status)"
            " VALUES ('default', 'hero', 'raw/default/1', 19, 'x', 'processed')"
        )
    await perform(pool, "snapshot prune", {"before": "2100-01-01", **WHY}, **ADMIN)
    assert await object_store().head("raw/default/1") is not None
    folder = tmp_path / "objects"
    folder.rename(tmp_path / "away")
    folder.write_text("no folder")
    with pytest.raises(Exception, match=r"objects|folder|directory"):
        await prune(pool, retention.drop_objects)
    folder.unlink()
    (tmp_path / "away").rename(folder)
    assert await prune(pool, retention.drop_objects) == 1
    assert await object_store().head("raw/default/1") is None
    assert await count(pool, "dropped_objects") == 0
