"""Erase: after it nothing in any table speaks of the subject, and nobody else has lost anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from starforge.app import load
from starforge.db.pool import Pool
from starforge.errors import InvalidInputError
from starforge.etl.errors import StillReferredError, SubjectBusyError, UntraceableError
from starforge.etl.ingest.offers import Offer, snapshots
from starforge.etl.ingest.receive import receive
from starforge.etl.mapping import Column, Mapping, Table, text
from starforge.heroes.mapping import HERO
from starforge.ops.errors import ReasonMissingError, RoleDeniedError
from starforge.ops.perform import perform
from starforge.ops.plan import plan
from starforge.ops.request import hidden_as
from tests.covers import covers
from tests.etl.load.test_job import NAMECODE, UNFINISHED, again, offer, one, profile, types
from tests.etl.load.test_trial import everything
from tests.etl.retention.test_retention import ADMIN, processed
from tests.etl.snapshot.test_quarantine import quarantine
from tests.queue.jobs import a_worker, claimed
from tests.stories.test_path_of_a_job import run_until

WHO = "CANARY_77"
OTHER = "CANARY_778"


async def erase(pool: Pool, subject: str = WHO, source: str = "hero", **changed: Any) -> Any:
    arguments = {"subject": subject, "source": source, "reason": "asked to be forgotten"}
    return await perform(pool, "subject erase", arguments, **{**ADMIN, **changed})


async def planted(pool: Pool, name: str, tenant: str = "default") -> None:
    """Leave traces of a subject wherever there can be any."""
    whole = {
        "Pets": {"1": {}}, "Artifacts": {"1": {}}, "Teams": [{"Name": f"team of {name}"}], "GuildId": 9,
        "GuildName": "G", "Note": f"I am {name}", "Id": 7,
    }  # fmt: skip
    await offer(pool, HERO, tenant, NameCode=name, **whole)
    await offer(pool, HERO, tenant, NameCode=name, Level=2)
    await offer(pool, HERO, tenant, NameCode=name, **whole, More=1)
    await run_until(pool, types(), UNFINISHED, 1)
    # Failed, with its name in the error; malformed; above the size guard, where nobody knows whose it is.
    await offer(pool, HERO, tenant, NameCode=name, Level=f"no number: {name}")
    await run_until(pool, types(), UNFINISHED, 1)
    large = json.dumps(profile(NameCode=name, Log="x" * 5_000_000)).encode()
    bad = b'{"NameCode": "%b", \x00' % name.encode()
    await receive(pool, [Offer(f"{name}.json", large), Offer("b", bad)], mapping=HERO, tenant=tenant)
    held = await offer(pool, HERO, tenant, NameCode=name, Level=3)
    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO snapshot_quarantine (snapshot_id, reason) VALUES ($1, $2)",
            held,
            f"{name} kills workers",
        )
        job = await conn.fetchval("SELECT id FROM queue_jobs WHERE payload ->> 'snapshot_id' = $1", str(held))
        await conn.execute(
            "UPDATE queue_jobs SET last_error = $1 WHERE status = 'failed'",
            {"reason": f"no number: {name}"},
        )
        await conn.execute(
            "INSERT INTO etl_errors (tenant_id, snapshot_id, source, error_type, message, details) VALUES"
            " ($1, $2, 'hero', 'UNKNOWN', $3, '{}'), ($1, NULL, 'hero', 'DB_ERROR', 'duplicate', $4)",
            tenant, held, f"{name} failed", {"detail": f"Key (namecode)=({name}) already exists."},
        )  # fmt: skip
        await conn.execute(
            "INSERT INTO job_progress (job_id, tenant_id, message, lease_epoch) VALUES ($1, $2, $3, 1)",
            job, tenant, f"at {name}",
        )  # fmt: skip
        await conn.execute(
            "INSERT INTO log_lines (worker_id, job_id, level, line)"
            " VALUES (gen_random_uuid(), $1, 'info', $2)",
            job, f"reading {name}",
        )  # fmt: skip
        await conn.execute(
            "INSERT INTO job_kills"
            " (tenant_id, job_id, type, worker_id, lease_epoch, verdict, cause, evidence)"
            " VALUES ($1, $2, 't', gen_random_uuid(), 1, 'guilty', 'oom', $3)",
            tenant, job, {"last": [f"reading {name}"]},
        )  # fmt: skip
        await conn.execute(
            "INSERT INTO queue_jobs_dlq (tenant_id, original_job_id, type, payload, reason, last_error)"
            " SELECT tenant_id, id, type, payload, 'failed', jsonb_build_object('reason', $2::text)"
            " FROM queue_jobs WHERE id = $1",
            job, f"no number: {name}",
        )  # fmt: skip
        await conn.execute(
            "UPDATE job_history SET result = to_jsonb($1::text), last_error = to_jsonb($1::text)"
            " WHERE payload ->> 'snapshot_id' IN (SELECT id::text FROM hero_snapshots WHERE subject = $1)",
            name,
        )


def traces(rows: dict[str, list[str]], name: str) -> dict[str, int]:
    """Count by table the rows that hold the name as a word, in text, or as bytes."""
    found = {}
    for table, texts in rows.items():
        words = (name, name.encode().hex())
        hits = sum(any(word in text.replace(OTHER, "") for word in words) if name == WHO else name in text
                   for text in texts)  # fmt: skip
        if hits:
            found[table] = hits
    return found


@covers("G11", "X-04")
async def test_nothing_in_any_table_speaks_of_an_erased_subject_and_the_others_are_whole(pool: Pool) -> None:
    await planted(pool, WHO)
    before = traces(await everything(pool), WHO)
    assert {
        "hero_snapshots", "snapshot_captures", "snapshot_quarantine", "entity_seen", "etl_errors",
        "queue_jobs", "queue_jobs_dlq", "job_kills", "job_progress", "log_lines_default", "users",
        "user_teams",
    } <= set(before)  # fmt: skip
    assert any(table.startswith("job_history") for table in before)
    await processed(pool, OTHER)
    await offer(pool, tenant="them", NameCode=WHO)
    theirs = (await one(pool, "SELECT id FROM hero_snapshots WHERE tenant_id = 'them'"))["id"]
    others = await one(pool, "SELECT count(*) FROM hero_snapshots WHERE subject = $1", OTHER)
    result = await erase(pool)
    after = await everything(pool)
    left = traces(after, WHO)
    assert left.pop("hero_snapshots") == left.pop("snapshot_captures") == 1  # another tenant's subject
    assert left == {}
    assert any(str(theirs) in text for text in after["hero_snapshots"])
    assert (await one(pool, "SELECT count(*) FROM hero_snapshots WHERE subject = $1", OTHER)) == others
    assert [row[0] for row in await users(pool)] == [OTHER]
    assert len(after["guilds"]) == 1
    assert result.changed == sum(result.before.values())
    audit = await one(
        pool, "SELECT arguments, result, reason FROM audit_logs WHERE operation = 'subject erase'"
    )
    assert audit["arguments"]["subject"] == hidden_as(WHO, "default")
    assert WHO not in json.dumps(audit)


async def users(pool: Pool) -> Any:
    async with pool.connection() as conn:
        return await conn.fetch("SELECT namecode FROM users ORDER BY 1")


async def test_a_plan_counts_the_same_erases_nothing_and_keeps_no_name(pool: Pool) -> None:
    await planted(pool, WHO)
    before = await everything(pool)
    arguments = {"subject": WHO, "source": "hero", "reason": "asked to be forgotten"}
    made = await plan(pool, "subject erase", arguments, **ADMIN)
    after = await everything(pool)
    [kept] = after.pop("operation_plans")
    assert WHO not in kept
    assert after == {table: rows for table, rows in before.items() if table != "operation_plans"}
    result = await perform(pool, "subject erase", arguments, **ADMIN, plan_id=made.id)
    assert dict(result.before) == dict(made.before)


async def test_while_a_job_of_his_runs_nothing_is_erased(pool: Pool) -> None:
    """Its rows would come back after the erasure."""
    await processed(pool, WHO)
    await offer(pool, NameCode=WHO, Level=2)
    async with pool.connection() as conn:
        await claimed(conn, await a_worker(conn))
    with pytest.raises(SubjectBusyError, match="1 jobs that process snapshots of this subject are running"):
        await erase(pool)
    assert len(await users(pool)) == 1


async def test_a_job_that_waits_goes_with_its_snapshot(pool: Pool) -> None:
    snapshot_id = await offer(pool, NameCode=WHO)
    await again(pool, snapshot_id)
    await quarantine(pool, snapshot_id)
    result = await erase(pool)
    assert result.before["queue_jobs"] == 2
    assert (await one(pool, "SELECT count(*) FROM queue_jobs"))["count"] == 0


async def test_an_erased_subject_that_is_offered_again_is_new(pool: Pool) -> None:
    await processed(pool, WHO)
    await erase(pool)
    await processed(pool, WHO)
    assert len(await users(pool)) == 1


async def test_erasing_needs_the_role_a_reason_and_one_without_the_name(pool: Pool) -> None:
    await processed(pool, WHO)
    with pytest.raises(RoleDeniedError):
        await erase(pool, role="operator")
    with pytest.raises(ReasonMissingError):
        await perform(pool, "subject erase", {"subject": WHO, "source": "hero", "reason": " "}, **ADMIN)
    with pytest.raises(InvalidInputError, match="say it without"):
        await perform(
            pool, "subject erase", {"subject": WHO, "source": "hero", "reason": f"{WHO} asked"}, **ADMIN
        )
    assert (await erase(pool, tenant="them")).matched == 0
    assert len(await users(pool)) == 1


async def test_a_table_from_which_nothing_leads_to_the_subject_is_told_before_anything_is_erased(
    pool: Pool,
) -> None:
    mapping = Mapping(
        "loose",
        subject="users",
        tables=[
            Table("users", key=("tenant_id", "namecode"), columns=[NAMECODE]),
            Table("notes", key=("tenant_id", "code"), columns=[Column("code", "NameCode", text(1, 64))]),
        ],
    )
    async with pool.connection() as conn:
        await conn.execute(
            "CREATE TABLE notes (tenant_id text NOT NULL, code text NOT NULL, extra jsonb,"
            " updated_at timestamptz, PRIMARY KEY (tenant_id, code));"
            " ALTER TABLE notes ENABLE ROW LEVEL SECURITY; ALTER TABLE notes FORCE ROW LEVEL SECURITY;"
            " CREATE POLICY notes_all ON notes"
            " USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant());"
            " GRANT SELECT, INSERT, UPDATE, DELETE ON notes"
            " TO starforge_engine, starforge_app, starforge_operator"
        )
    await processed(pool, WHO, source_of=mapping)
    with pytest.raises(UntraceableError, match="of source 'loose' nothing leads from notes to a subject"):
        await erase(pool, source="loose")
    assert len(await users(pool)) == 1


async def test_a_table_of_somebody_else_that_refers_to_the_subject_is_named(pool: Pool) -> None:
    await processed(pool, WHO)
    async with pool.connection() as conn:
        await conn.execute("CREATE TABLE invoices (user_id uuid REFERENCES users (id))")
        await conn.execute("INSERT INTO invoices SELECT id FROM users")
    with pytest.raises(StillReferredError, match="rows of invoices refer to the subject"):
        await erase(pool)
    assert len(await users(pool)) == 1
    assert (await one(pool, "SELECT count(*) FROM hero_snapshots"))["count"] == 1


@pytest.mark.shared
async def test_a_patient_of_the_fhir_example_is_erased_along_its_foreign_keys(
    pool: Pool, shared: Path
) -> None:
    mapping = load("examples.fhir.app:app").mappings.get("fhir")
    root = Path(__file__).parents[3]
    async with pool.connection() as conn:
        await conn.execute((root / "examples" / "fhir" / "tables.sql").read_text())
    files = sorted((shared / "data" / "fhir-r4").glob("*.gz"))[:2]
    offers = [found for file in files for found in snapshots(file)]
    await receive(pool, offers, mapping=mapping, tenant="default")
    await run_until(pool, types(mapping), "SELECT count(*) FROM job_history", 2)
    first, second = [row["id"] for row in await _all(pool, "SELECT id FROM patients ORDER BY id")]
    kept = await _all(pool, "SELECT count(*) FROM observations WHERE patient_id = $1", second)
    result = await erase(pool, first, "fhir")
    assert {"patients", "encounters", "conditions", "observations"} <= set(result.before)
    assert await _all(pool, "SELECT count(*) FROM observations WHERE patient_id = $1", second) == kept
    for texts in (await everything(pool)).values():
        assert not [text for text in texts if first in text]


async def _all(pool: Pool, query: str, *args: object) -> Any:
    async with pool.connection() as conn:
        return await conn.fetch(query, *args)
