"""Mappings, catalogues and sources on the command line, as a user runs them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from starforge.db.pool import Pool, connect
from starforge.etl.source import watch
from starforge.heroes.mapping import HERO
from tests.covers import covers
from tests.etl.load.test_job import ERRORS, offer, types
from tests.etl.source.test_catalogue import FAILING, WAITING, held
from tests.stories.test_path_of_a_job import run_until

pytestmark = pytest.mark.once("its statements are prepared on both versions by tests/db/test_statement.py")

DOCUMENT = {
    "Id": "a",
    "Name": "Ann",
    "At": 1764630000,
    "Items": {"7": {"Amount": 1}, "8": {"Amount": 2, "New": 1}},
}
MAPPING = """
from starforge.etl.mapping import EPOCH_S, ID, INTEGER, TEXT, Column, Each, Mapping, Ref, Table

MAPPING = Mapping(
    "shop",
    subject="buyers",
    tables=[
        Table("buyers", key=("tenant_id", "code"), columns=[
            Column("code", "Id", TEXT),
            Column("at", "At", EPOCH_S),
            Column("never", "Never", TEXT),
        ]),
        Table("buyer_items", rows=Each("Items"), key=("buyer_id", "item_id"), columns=[
            Ref("buyer_id", "buyers", "/Id"),
            Column("item_id", ID, INTEGER),
            Column("amount", "Amount", INTEGER),
        ]),
    ],
)
"""


async def run(database: str | None, *words: object, home: Path | None = None) -> tuple[int | None, str, str]:
    """Run a command; return its exit code, what it said, and what it complained of."""
    env = {**os.environ, **({"DATABASE_URL": database} if database else {})}
    env |= {"STARFORGE_HOME": str(home)} if home else {}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge", *map(str, words), env=env, stdout=PIPE, stderr=PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert "Traceback" not in err.decode(), err.decode()
    return process.returncode, out.decode(), err.decode()


async def document(database: str | None, *words: object) -> Any:
    _, out, err = await run(database, *words, "--json")
    return json.loads(out or err)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A file with a mapping, beside a snapshot that it reads."""
    (tmp_path / "shop.py").write_text(MAPPING)
    (tmp_path / "a.json").write_text(json.dumps(DOCUMENT))
    return tmp_path / "shop.py"


@pytest.mark.long
async def test_a_check_shows_rows_left_over_fields_and_columns_without_a_value(
    shop: Path, tmp_path: Path
) -> None:
    told = await document(None, "mapping", "check", shop, "--against", shop.with_name("a.json"))
    assert told["database"] is None
    survey = told["survey"]
    assert {name: table["rows"] for name, table in survey["tables"].items()} == {
        "buyers": 1,
        "buyer_items": 2,
    }
    assert survey["tables"]["buyers"]["empty"] == ["never"]
    assert [(left["path"], left["count"], left["kept"], left["example"]) for left in survey["left"]] == [
        ("Items.*.New", 1, "buyer_items", "an integer of 1 digit"),
        ("Name", 1, "buyers", "text of 3 characters"),
    ]


@pytest.mark.long
async def test_a_check_names_the_path_of_what_does_not_fit(shop: Path, tmp_path: Path) -> None:
    bad = tmp_path / "b.json"
    bad.write_text(json.dumps({**DOCUMENT, "Items": {"7": {"Amount": "many"}}}))
    code, out, _ = await run(
        None, "mapping", "check", shop, "--against", shop.with_name("a.json"), bad, home=tmp_path
    )
    assert code == 1
    assert "Items.7.Amount: expected an integer, found text" in out
    assert "It was not compared with a database" in out


@pytest.mark.long
@covers("F-36")
async def test_a_wrong_declaration_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        MAPPING.replace('Column("amount", "Amount", INTEGER)', 'Ref("amount", "nobody", "Amount")')
    )
    code, _, err = await run(None, "mapping", "check", file)
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "nobody" in text)
    assert code == 2
    assert (
        f"wrong.py:{line}: mapping 'shop': table buyer_items: column amount refers to 'nobody'"
        in " ".join(err.split())
    )


async def test_a_check_compares_with_the_database_and_the_printed_tables_fit(
    database: str, shop: Path
) -> None:
    code, out, _ = await run(database, "mapping", "check", shop)
    assert code == 1
    assert "fault: table buyers: does not exist" in out
    conn = await connect(database)
    await conn.execute((await run(None, "mapping", "ddl", shop))[1])
    await conn.close()
    code, out, _ = await run(database, "mapping", "check", shop)
    assert (code, "It fits the tables of this database." in out) == (0, True)


async def test_a_stored_snapshot_is_checked_by_its_id(database: str, pool: Pool) -> None:
    snapshot_id = await offer(pool)
    told = await document(
        database, "mapping", "check", "starforge.heroes.mapping:HERO", "--against", snapshot_id
    )
    assert told["database"] == []
    assert told["survey"]["tables"]["user_troops"]["rows"] == 1
    _, out, err = await run(database, "mapping", "check", "starforge.app:app", "--against", "0" * 32)
    assert "is no snapshot of this tenant" in out + err


async def test_a_stored_snapshot_is_looked_at_also_where_it_lies_in_the_object_store(
    database: str, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_OBJECT_STORE", (tmp_path / "objects").as_uri())
    monkeypatch.setenv("STARFORGE_SNAPSHOT_INLINE_MAX_MB", "0.001")
    troops = {str(n): {"Level": n} for n in range(1, 200)}
    (tmp_path / "large.json").write_text(json.dumps({"NameCode": "A_1", "Troops": troops}))
    small = await offer(pool)
    code, _, err = await run(database, "snapshot", "ingest", tmp_path / "large.json")
    assert code == 0, err
    async with pool.connection() as conn:
        large = await conn.fetchval("SELECT id FROM hero_snapshots WHERE raw_key IS NOT NULL")
    words = ("mapping", "check", "starforge.heroes.mapping:HERO", "--against", small, large)
    told = await document(database, *words)
    assert (told["survey"]["documents"], told["survey"]["tables"]["user_troops"]["rows"]) == (2, 200)
    code, out, _ = await run(database, "mapping", "draft", large, "--name", "store", "--subject", "NameCode")
    assert code == 0
    assert "Troops" in out
    async with pool.connection() as conn:
        await conn.execute("UPDATE hero_snapshots SET size_bytes = 300000000 WHERE id = $1", large)
    _, out, err = await run(database, *words)
    assert f"{large} has 300 MB" in " ".join((out + err).split())
    assert "starforge snapshot try" in out + err


@pytest.mark.long
async def test_a_draft_is_a_mapping_that_its_snapshots_fit(shop: Path, tmp_path: Path) -> None:
    code, out, _ = await run(None, "mapping", "draft", shop.with_name("a.json"), "--name", "store")
    assert code == 0
    drafted = tmp_path / "drafted.py"
    drafted.write_text(out)
    told = await document(None, "mapping", "check", drafted, "--against", shop.with_name("a.json"))
    assert (told["source"], told["survey"]["failed"], told["survey"]["left"]) == ("store", 0, [])


async def test_doctor_says_which_mapping_does_not_fit(database: str) -> None:
    conn = await connect(database)
    found = {each["check"]: each for each in await document(database, "doctor")}
    assert (found["mappings"]["state"], found["mappings"]["found"]) == ("ok", "they fit their tables: hero")
    await conn.execute("ALTER TABLE user_pets DROP COLUMN xp")
    await conn.close()
    found = {each["check"]: each for each in await document(database, "doctor")}
    assert found["mappings"]["state"] == "fault"
    assert "table user_pets: has no column xp" in found["mappings"]["found"]


# ---- catalogues and sources


@covers("F-43", "F-67")
async def test_what_a_catalogue_lacks_is_reported_and_seeded_from_a_file(
    database: str, pool: Pool, tmp_path: Path
) -> None:
    await offer(pool, name="B_2", Troops={"7": {}})
    told = await document(database, "catalog", "check")
    assert told["missing"] == {"hero": {"troop_catalog": ["7"]}}
    await run_until(pool, types(HERO), "SELECT count(*) FROM job_history WHERE status = 'completed'", 1)
    await held(pool)
    told = await document(database, "catalog", "check")
    assert [(each["catalogue"], each["id"]) for each in told["placeholders"]] == [("troop_catalog", "7")]
    assert [each["missing"] for each in told["held"]] == [["6024"]]
    file = tmp_path / "troops.csv"
    file.write_text("id,name,rarity\n7,Sol,3\n6024,Lun,\n")
    code, out, _ = await run(
        database, "catalog", "seed", "troop_catalog", file, "--reason", "from the data team"
    )
    assert code == 0
    assert "1 placeholders are resolved, 1 snapshots go on" in out
    assert "0 placeholders of troop_catalog are still unresolved" in out
    told = await document(database, "catalog", "check")
    assert (told["placeholders"], told["held"], told["missing"]) == ([], [], {})


@covers("F-40")
async def test_the_snapshots_behind_a_constraint_are_listed(database: str, pool: Pool) -> None:
    snapshot_id = await offer(pool, FAILING)
    await run_until(pool, types(FAILING), ERRORS, 1)
    told = await document(database, "etl", "offenders", "--constraint", "user_troops_troop_id_fkey")
    assert [each["snapshot_id"] for each in told["offenders"]] == [str(snapshot_id)]
    async with pool.connection() as conn:
        fingerprint = await conn.fetchval("SELECT fingerprint FROM etl_errors")
    told = await document(database, "etl", "offenders", "--fingerprint", fingerprint)
    assert [each["failures"] for each in told["offenders"]] == [1]
    alike = (await document(database, "etl", "offenders"))["alike"]
    assert [(each["fingerprint"], each["constraint_name"], each["snapshots"]) for each in alike] == [
        (fingerprint, "user_troops_troop_id_fkey", 1)
    ]
    code, out, _ = await run(database, "etl", "offenders")
    assert code == 0
    assert fingerprint in out
    async with pool.connection() as conn:
        await conn.execute("DELETE FROM hero_snapshots")
    assert (await document(database, "etl", "offenders"))["alike"] == []  # what is gone cannot be held


async def test_a_catalogue_that_is_none_cannot_be_released(database: str) -> None:
    code, _, err = await run(database, "catalog", "release", "troop_catalgo", "--reason", "a slip")
    assert code == 2
    assert "there is no table troop_catalgo" in err


async def test_a_source_that_nobody_has_seen_is_said_to_be_unknown(database: str) -> None:
    code, out, _ = await run(database, "source", "show", "nosuch")
    assert code == 0
    assert out.startswith("Nothing is known of source 'nosuch'")


@pytest.mark.long
async def test_a_document_that_is_no_json_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text('{"Id": 1}')
    (tmp_path / "bad.json").write_text("{")
    code, _, err = await run("", "mapping", "draft", str(tmp_path))
    assert code == 2
    assert f"{tmp_path / 'bad.json'}: malformed at line 1" in err


@pytest.mark.long
@pytest.mark.parametrize(("name", "told"), [("nosuch.py", "there is no file"), (".", "is no Python file")])
async def test_what_is_no_mapping_file_is_said_plainly(tmp_path: Path, name: str, told: str) -> None:
    code, _, err = await run("", "mapping", "check", str(tmp_path / name))
    assert code == 2
    assert told in err


@covers("F-34", "F-66")
async def test_a_source_shows_its_mode_its_shapes_and_the_first_new_field(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MODES_S", 0.0)
    done = "SELECT count(*) FROM job_history WHERE status = 'completed'"
    await offer(pool)
    await run_until(pool, types(), done, 1)
    await run(database, "source", "mode", "hero", "strict", "--reason", "a change upstream")
    await offer(pool, name="B_2", Aura=1)
    await run_until(pool, types(), ERRORS, 1)
    told = await document(database, "source", "show", "hero")
    assert told["mode"]["mode"] == "strict"
    assert (told["drift"]["field"], told["drift"]["failures"]) == ("Aura integer", 1)
    assert told["shapes"][0]["new_paths"] == ["Aura integer"]
    _, out, _ = await run(database, "source", "show", "hero")
    assert "The first new field: Aura integer, new since" in out
    assert WAITING.name not in out
