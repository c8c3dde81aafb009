"""Trial: a document goes all the way, what would change is said, and every table is as it was."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from starforge.db.pool import Pool
from starforge.etl.gears.limits import ProcessSettings
from starforge.etl.load import trial
from starforge.etl.load.trial import Trial, attempt
from starforge.etl.mapping import Mapping
from starforge.heroes.mapping import HERO
from tests.covers import covers
from tests.etl.load.test_job import STRICT, failing_with, offer, profile, types
from tests.stories.test_path_of_a_job import run_until

TABLES = """
SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname = 'public' ORDER BY 1
"""


async def everything(pool: Pool) -> dict[str, list[str]]:
    """Every row of every table, as text."""
    async with pool.connection() as conn:
        names = [row["name"] for row in await conn.fetch(TABLES)]
        return {
            name: sorted(row[0] for row in await conn.fetch(f"SELECT t::text FROM {name} t"))
            for name in names
        }


async def attempted(pool: Pool, data: bytes, mapping: Mapping = HERO) -> Trial:
    async def opened() -> AsyncIterator[bytes]:
        yield data

    return await attempt(pool, opened, len(data), mapping, tenant="default")


async def tried(pool: Pool, mapping: Mapping = HERO, **fields: Any) -> Trial:
    return await attempted(pool, json.dumps(profile(**fields)).encode(), mapping)


@covers("F-55")
async def test_a_trial_says_what_would_change_and_leaves_every_table_as_it_was(pool: Pool) -> None:
    await offer(pool)
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 1)
    before = await everything(pool)
    trial = await tried(pool, Troops={"6024": {"Amount": 2, "Glow": 1}, "7": {}}, Fame={"a": 1})
    assert trial.failure is None
    assert (trial.subject, trial.source) == ("A_1", "hero")
    tables = {one.table: (one.rows, one.inserted, one.updated, one.deleted) for one in trial.tables}
    assert tables["user_troops"] == (2, 1, 1, 0)
    assert tables["users"] == (1, 0, 1, 0)
    assert tables["user_pets"] == (0, 0, 0, 0)
    assert trial.placeholders == {"troop_catalog": 1}
    assert {(one.table, one.field, one.count, one.first) for one in trial.unknown} == {
        ("users", "Fame", 1, "Fame"),
        ("user_troops", "Glow", 1, "Troops.6024.Glow"),
    }
    assert list(trial.took_s) == ["guard", "parse", "map", "write"]
    assert await everything(pool) == before
    assert before["users"]


async def test_a_trial_of_what_was_superseded_says_so(pool: Pool) -> None:
    await offer(pool, ServerTime=1_750_000_000_000)
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 1)
    trial = await tried(pool, ServerTime=1_700_000_000_000, Level=9)
    assert "users" in trial.superseded
    assert sum(one.inserted + one.updated + one.deleted for one in trial.tables) == 0


@covers("F-55")
@pytest.mark.parametrize(
    ("mapping", "data", "stage", "error_type", "path", "message"),
    [
        (HERO, b'{"a": 1e400}', "guard", "PARSE_ERROR", None, "number out of range"),
        (HERO, b'{"a": 1,}', "parse", "PARSE_ERROR", None, "malformed at line 1, column 9"),
        (
            HERO,
            b'{"NameCode": "A", "Pets": {"1": {"XP": "x"}}}',
            "map",
            "MAPPING_ERROR",
            "Pets.1.XP",
            "integer",
        ),
        (STRICT, b'{"NameCode": "A", "Troops": {"9": {}}}', "write", "FK_VIOLATION", None, "user_troops"),
        (
            failing_with(RuntimeError("mail a@b.io")),
            b'{"NameCode": "A"}',
            "map",
            "UNKNOWN",
            None,
            "mail (redacted)",
        ),
    ],
)
async def test_a_failure_names_its_stage_its_path_and_its_stack_and_writes_nothing(
    pool: Pool, mapping: Mapping, data: bytes, stage: str, error_type: str, path: str | None, message: str
) -> None:
    before = await everything(pool)
    trial = await attempted(pool, data, mapping)
    failure = trial.failure
    assert failure is not None
    assert (failure.stage, failure.error_type, failure.path) == (stage, error_type, path)
    assert message in failure.message
    assert failure.trace.startswith("Traceback")
    assert "a@b.io" not in failure.trace
    assert await everything(pool) == before


@covers("F-55", "O-33")
async def test_a_document_in_pieces_is_tried_as_one_in_memory(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await offer(pool)
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 1)
    before = await everything(pool)
    troops = {str(number): {"Amount": number, "Glow": 1} for number in range(3_000)}
    fields: dict[str, Any] = {"Troops": troops, "Fame": 1, "Pets": {"7": {}}, "GuildId": 5}
    whole = await tried(pool, **fields)
    monkeypatch.setenv("STARFORGE_ETL_WHOLE_MAX_MB", "0.01")
    monkeypatch.setattr(trial, "process_settings", ProcessSettings.read)
    streamed = await tried(pool, **fields)
    assert whole.failure is streamed.failure is None
    assert list(streamed.took_s) == ["parse", "map", "write"]
    assert replace(streamed, took_s={}) == replace(whole, took_s={})
    assert await everything(pool) == before
