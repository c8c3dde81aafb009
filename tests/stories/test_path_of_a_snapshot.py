"""The path of a snapshot, from a file to its rows, through the one way there is and a real worker's loop."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import starforge
from starforge.app import app
from starforge.db.pool import Pool
from starforge.dev.seed import heroes
from starforge.etl.ingest.offers import snapshots
from starforge.etl.ingest.receive import Receipt, batches, receive
from starforge.heroes.mapping import HERO
from tests.covers import covers
from tests.postgres import TestServer
from tests.stories.rows_by_hand import ByHand, Row, Rows, captured_at, profile_of, read
from tests.stories.test_path_of_a_job import run_until

PATH = (
    "etl/ingest/offers.py",
    "etl/ingest/judge.py",
    "etl/ingest/receive.py",
    "etl/load/job.py",
    "etl/load/process.py",
    "etl/document/guard.py",
    "etl/document/parse.py",
    "etl/mapping/mapping.py",
    "etl/mapping/reading.py",
    "etl/load/write.py",
    "etl/load/parts.py",
    "etl/load/upsert.py",
    "etl/snapshot/rejects.py",
)
HOUR_MS = 3_600_000
ENDS = {"accepted": "processed", "mapping_error": "failed", "oversized": "quarantined"}
NONE_LEFT = "SELECT (count(*) = 0)::int FROM queue_jobs WHERE status IN ('pending', 'running')"

OF_USER = "t JOIN users u ON u.id = t.user_id"
TABLES = {
    "users": "SELECT namecode, external_id, username, extra FROM users",
    "guilds": "SELECT external_id, name FROM guilds",
    "guild_members": f"SELECT namecode, g.external_id AS guild, role, joined_at FROM guild_members {OF_USER}"
    " JOIN guilds g ON g.id = guild_id",
    "user_troops": "SELECT namecode, troop_id, amount, level, rarity, elite_level, fusion_cards,"
    f" traits_owned, last_seen, t.extra FROM user_troops {OF_USER}",
    "user_pets": "SELECT namecode, pet_id, amount, level, xp, orb_fusion_cards, ascension_level, orbs_used,"
    f" last_seen, t.extra FROM user_pets {OF_USER}",
    "user_artifacts": "SELECT namecode, artifact_id, level, xp, last_seen, t.extra"
    f" FROM user_artifacts {OF_USER}",
    "user_teams": "SELECT namecode, position, name, banner, team_level, class, troops, override_data, t.extra"
    f" FROM user_teams {OF_USER}",
    "user_profile_summary": "SELECT namecode, level, pvp_tier, g.external_id AS guild, equipped_pet,"
    f" top_troops, last_seen FROM user_profile_summary {OF_USER} LEFT JOIN guilds g ON g.id = guild_id",
    "troop_catalog": "SELECT id, name, meta FROM troop_catalog",
    "pet_catalog": "SELECT id, name, meta FROM pet_catalog",
    "artifact_catalog": "SELECT id, name, meta FROM artifact_catalog",
}
KEYS = {"user_troops": 2, "user_pets": 2, "user_artifacts": 2, "user_teams": 2}
"""Columns of the key, which come first, where there is more than one."""


def test_the_path_is_thirteen_files_that_can_be_read_in_one_go() -> None:
    root = Path(starforge.__file__).parent
    assert sum(len((root / file).read_text().splitlines()) for file in PATH) < 3_000


@pytest.fixture
async def engine(database: str, server: TestServer) -> AsyncIterator[Pool]:
    """A pool that logs in as workers and ingest do, bound by row security."""
    pool = await Pool.open(server.url(database.rpartition("/")[2], user="starforge_engine"), size=8)
    yield pool
    await pool.close()


# ---- what is offered


def changed(document: Row, by_ms: int, *, move: bool) -> Row:
    """The same hero in another state: some of it has left, some is other, and the time has moved."""
    found = deepcopy(document)
    fields, _ = profile_of(found)
    for section in ("Troops", "Pets", "Artifacts"):
        held = fields[section]
        fields[section] = held[1::2] if isinstance(held, list) else dict(list(held.items())[1::2])
    fields["Teams"] = fields["Teams"][:1]
    fields["Level"] += 1
    fields["Renamed"] = {"Level": 7}
    if move:
        fields["GuildId"] = 1 + fields.get("GuildId", 0)
        fields.pop("GuildName", None)
    else:
        for name in ("GuildId", "GuildName", "Teams", "EquippedPetId"):
            fields.pop(name, None)
    return timed(found, by_ms)


def timed(document: Row, by_ms: int | None) -> Row:
    """The document at another time, or (None) without any."""
    found = deepcopy(document)
    there = found.get("result", found)
    if by_ms is None:
        there.pop("ServerTime", None)
    elif "ServerTime" in there:
        there["ServerTime"] += by_ms
    return found


def story(number: int, document: Row) -> list[Row]:
    """What is offered of one hero, one after the other."""
    move = number % 2 == 0
    other = changed(document, HOUR_MS, move=move)
    match number % 5:
        case 0:
            return [document, document]
        case 1:
            return [document, other]
        case 2:
            return [other, document]
        case 3:
            timeless, then = timed(document, None), timed(other, None)
            return [timeless, then, timeless]
        case _:
            return [document, other, timed(document, 2 * HOUR_MS)]


def write_offers(folder: Path) -> dict[str, str]:
    """Write generated heroes and their stories as files; return what the generator expects of each file."""
    expected: dict[str, str] = {}
    generated = heroes(count=80, size_mb=(0.02, 0.06), seed=17, faults=True)
    for number, one in enumerate(generated):
        documents = [one.data]
        if one.expect == "accepted":
            documents = [
                json.dumps(told, ensure_ascii=False).encode() for told in story(number, read(one.data))
            ]
        for step, data in enumerate(documents):
            path = folder / f"{number:03d}-{step}.json"
            path.write_bytes(data)
            expected[str(path)] = one.expect
    return expected


async def taken(pool: Pool, folder: Path) -> list[Receipt]:
    """Take a folder in, as `starforge snapshot ingest` does."""
    return [
        receipt
        for batch in batches(snapshots(folder))
        for receipt in await receive(pool, batch, mapping=HERO, tenant="default")
    ]


# ---- what is expected of it


async def by_hand(
    pool: Pool, receipts: list[Receipt], wanted: dict[str, str]
) -> tuple[ByHand, dict[UUID, str]]:
    """Work out the rows, and how each stored snapshot ends, in the order of the offers."""
    captures = """
        SELECT j.id, c.captured_at FROM queue_jobs j
        JOIN snapshot_captures c ON c.id = (j.payload ->> 'capture_id')::uuid
    """
    async with pool.connection() as conn:
        times = {row["id"]: row["captured_at"] for row in await conn.fetch(captures)}
    expected, ends = ByHand(), {}
    for receipt in receipts:
        if receipt.snapshot_id is None or receipt.fate == "duplicate":
            continue
        ends[receipt.snapshot_id] = ENDS[wanted[receipt.name]]
        if receipt.job_id and ends[receipt.snapshot_id] == "processed":
            document, at = read(Path(receipt.name).read_bytes()), times[receipt.job_id]
            assert captured_at(document) in (at, None)
            ends[receipt.snapshot_id] = "processed" if expected.take(document, at) else "superseded"
    return expected, ends


async def held(pool: Pool, table: str) -> Rows:
    """Return what a table holds, as ByHand does."""
    width = KEYS.get(table, 1)
    async with pool.transaction(tenant="default") as conn:
        rows = [list(row.items()) for row in await conn.fetch(TABLES[table])]
    return {tuple(value for _, value in row[:width]): dict(row[width:]) for row in rows}


async def versions(pool: Pool) -> list[Any]:
    """Return what tells any write to any row of the heroes' tables."""
    async with pool.transaction(tenant="default") as conn:
        return [
            sorted(map(tuple, await conn.fetch(f"SELECT ctid::text, xmin::text FROM {name}")))
            for name in TABLES
        ]


# ---- from files to rows


@covers("F-20", "F-41", "Q-67")
async def test_files_become_the_rows_that_the_fields_description_asks_for(
    engine: Pool, tmp_path: Path
) -> None:
    """Among them duplicates, older captures, A → B → A, what left and came back, and every kind of fault."""
    wanted = write_offers(tmp_path)
    receipts = await taken(engine, tmp_path)
    fates, faults = Counter(receipt.fate for receipt in receipts), Counter(wanted.values())
    stored = fates["accepted"] + fates["recaptured"] + fates["duplicate"]
    assert stored == faults["accepted"] + faults["mapping_error"]
    assert (fates["malformed"], fates["oversized"]) == (faults["malformed"], faults["oversized"])
    expected, ends = await by_hand(engine, receipts, wanted)
    met = Counter(ends.values())
    assert min(fates["recaptured"], fates["duplicate"], met["superseded"]) >= 10
    assert min(met["failed"], met["quarantined"], fates["malformed"]) >= 1

    await run_until(engine, app.job_types(), NONE_LEFT, 1, concurrency=1)
    for table in TABLES:
        assert await held(engine, table) == expected.tables[table], table
    async with engine.connection() as conn:
        snapshot_rows = await conn.fetch("SELECT id, status, processing, error_count FROM hero_snapshots")
        errors = Counter(row[0] for row in await conn.fetch("SELECT error_type FROM etl_errors"))
        jobs = Counter(row[0] for row in await conn.fetch("SELECT status FROM queue_jobs"))
    assert {row["id"]: row["status"] for row in snapshot_rows} == ends
    assert all(row["error_count"] == (row["status"] == "failed") for row in snapshot_rows)
    assert not any(row["processing"] for row in snapshot_rows)
    assert errors == {"MAPPING_ERROR": faults["mapping_error"], "PARSE_ERROR": faults["malformed"]}
    assert jobs == {"failed": faults["mapping_error"]}

    before = await versions(engine)
    async with engine.connection() as conn:
        await conn.execute(
            "INSERT INTO queue_jobs (type, payload) SELECT type, payload FROM job_history ORDER BY random()"
        )
    await run_until(engine, app.job_types(), NONE_LEFT, 1)
    assert await versions(engine) == before


@pytest.mark.parametrize("seed", [0.1, 0.7])
async def test_in_any_order_and_many_at_once_they_lead_to_the_same_present(
    engine: Pool, tmp_path: Path, seed: float
) -> None:
    """What had left before depends on what was seen; heroes share guilds and catalogues all the time."""
    wanted = write_offers(tmp_path)
    expected, ends = await by_hand(engine, await taken(engine, tmp_path), wanted)
    async with engine.connection() as conn:
        await conn.execute("SELECT setseed($1)", seed)
        await conn.execute("UPDATE queue_jobs SET run_after = run_after - random() * interval '1 day'")
    await run_until(engine, app.job_types(), NONE_LEFT, 1, concurrency=7)
    for table in ("users", "guild_members", "user_teams", "user_profile_summary"):
        assert await held(engine, table) == expected.tables[table], table
    for table in ("user_troops", "user_pets", "user_artifacts"):
        assert present(await held(engine, table)) == present(expected.tables[table]), table
    async with engine.connection() as conn:
        errors = await conn.fetch("SELECT message FROM etl_errors WHERE snapshot_id IS NOT NULL")
    assert len(errors) == Counter(ends.values())["failed"]


def present(rows: Rows) -> Rows:
    return {key: row for key, row in rows.items() if row["last_seen"] is None}
