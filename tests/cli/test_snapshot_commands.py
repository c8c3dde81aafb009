"""Looking at snapshots and taking them apart, as commands."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from rich.console import Console

from starforge.cli import render
from starforge.db.pool import Pool
from starforge.db.statement import sql
from starforge.etl.ingest.offers import Offer
from starforge.etl.ingest.receive import receive
from starforge.etl.store.store import object_store
from starforge.heroes.mapping import HERO
from starforge.ops.errors import RoleDeniedError
from starforge.ops.sensitive import sensitive_read
from tests.covers import covers
from tests.etl.load.test_job import offer, one, types
from tests.etl.load.test_trial import everything
from tests.etl.snapshot.test_quarantine import oversized, quarantine, release
from tests.stories.test_path_of_a_job import run_until


async def command(database: str, *words: object, binary: bool = False) -> tuple[int | None, Any, str]:
    """Run `starforge snapshot …`; return its exit code, what it wrote, and what on standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge", "snapshot", *map(str, words),
        env={**os.environ, "DATABASE_URL": database}, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert "Traceback" not in err.decode()
    return process.returncode, out if binary else out.decode(), err.decode()


async def figures(database: str, *words: object) -> Any:
    code, out, _ = await command(database, *words, "--json")
    assert code in (0, 1)
    return json.loads(out)


# ---- looking


async def test_on_a_narrow_terminal_ids_stay_whole_and_reasons_go_below_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids share their first eight characters for a minute: one that is cut names nothing."""
    monkeypatch.setattr(render, "out", Console(width=100, file=sys.stdout, highlight=False))
    ids = [uuid4(), uuid4()]
    why = "result.ProfileData.Troops.6014.Amount: 1099511627776 is out of range for integer"
    rows = [(ids[0], "hero", "Z" * 40, "0.20 MB", "quarantined", 1063, "11-22 17:00", why),
            (ids[1], "hero", "B", "0.20 MB", "processed", 7, "11-22 17:00", None)]  # fmt: skip
    render.as_table(
        ("snapshot", "source", "subject", "size", "status", "rows", "came", "reason"), rows, reason_last=True
    )
    told = capsys.readouterr().out
    assert all(str(each) in told for each in ids)
    assert max(map(len, told.splitlines())) <= 100
    assert "…" not in told
    assert "reason" not in told.splitlines()[0]
    assert "1099511627776" in told
    assert told.count("Z") == 40


async def test_an_id_of_bytes_in_quarantine_is_told_as_such(database: str, pool: Pool) -> None:
    await receive(pool, [Offer("bad.json", b"{bad")], mapping=HERO, tenant="default")
    held = (await figures(database, "quarantined"))[0]["id"]
    for words in (("show", held), ("try", held), ("reproduce", held)):
        code, _, err = await command(database, *words)
        assert (code, "bytes of bad.json" in err, "snapshot export ID --raw" in err) == (1, True, True)


@pytest.mark.parametrize("most", [0, -1, 5000])
async def test_a_list_of_quarantine_has_bounds(database: str, most: int) -> None:
    code, _, err = await command(database, "quarantined", "--limit", most)
    assert code == 2
    assert "ask for 1 to 1000" in err


async def test_what_was_not_processed_yet_is_said_in_words(database: str, pool: Pool) -> None:
    snapshot_id = await offer(pool)
    _, out, _ = await command(database, "show", snapshot_id)
    assert "not processed" in out
    assert "None" not in out


@covers("O-17")
async def test_the_largest_are_listed_by_size_and_nobody_elses(database: str, pool: Pool) -> None:
    small = await offer(pool)
    large = (await oversized(pool)).snapshot_id
    await offer(pool, tenant="them")
    assert [line["id"] for line in await figures(database, "list")] == [str(large), str(small)]
    found = await figures(database, "list", "--largest", "--limit", "1")
    assert [(line["id"], line["source"], line["size_bytes"] > 5e6) for line in found] == [
        (str(large), "hero", True)
    ]
    assert "created_at" in found[0]
    assert [line["id"] for line in await figures(database, "list", "--status", "received")] == [str(small)]
    assert await figures(database, "list", "--source", "shop") == []
    code, _, err = await command(database, "list", "--status", "gone")
    assert (code, "a snapshot is failed, processed, quarantined" in err) == (2, True)


@covers("O-26", "O-34")
async def test_quarantine_is_listed_with_who_holds_what_and_why(database: str, pool: Pool) -> None:
    await receive(pool, [Offer("bad.json", b"{bad")], mapping=HERO, tenant="default")
    held = await offer(pool)
    await quarantine(pool, held)
    large = (await oversized(pool)).snapshot_id
    found = await figures(database, "quarantined")
    assert [(line["snapshot_id"], line["cause"]) for line in found] == [
        (str(large), "size"), (str(held), "hand"), (None, "malformed"),
    ]  # fmt: skip
    assert (found[1]["created_by"], found[1]["reason"]) == ("ann", "it kills workers")
    assert large is not None
    await release(pool, large, "highmem")
    assert len(await figures(database, "quarantined")) == 2
    code, out, _ = await command(database, "quarantined", "--source", "hero")
    assert code == 0
    assert "bytes of bad.json" in out


async def test_one_snapshot_is_shown_with_all_but_its_content(database: str, pool: Pool) -> None:
    snapshot_id = await offer(pool, note="canary")
    await run_until(pool, types(), "SELECT count(*) FROM job_history", 1)
    await quarantine(pool, snapshot_id)
    found = await figures(database, "show", snapshot_id)
    assert (found["id"], found["status"], found["subject"], found["error_count"]) == (
        str(snapshot_id), "processed", "A_1", 1,
    )  # fmt: skip
    assert [job["status"] for job in found["jobs"]] == ["completed"]
    assert [hold["reason"] for hold in found["holds"]] == ["it kills workers"]
    assert {"users", "user_troops"} <= {entity["entity"] for entity in found["entities"]}
    assert len(found["captures"]) == 1
    code, out, _ = await command(database, "show", snapshot_id)
    assert code == 0
    assert "canary" not in out + json.dumps(found)
    assert "held:" in out
    code, _, err = await command(database, "show", uuid4())
    assert (code, err.startswith("SF450")) == (1, True)


async def test_a_failed_one_is_shown_with_its_errors(database: str, pool: Pool) -> None:
    snapshot_id = await offer(pool, Level="abc")
    await run_until(pool, types(), "SELECT count(*) FROM etl_errors", 1)
    found = await figures(database, "show", snapshot_id)
    assert [(error["error_type"], error["path"]) for error in found["errors"]] == [("MAPPING_ERROR", "Level")]
    assert [job["status"] for job in found["jobs"]] == ["failed"]


@covers("O-41")
async def test_the_report_shows_sizes_with_the_share_above_2_mb_peaks_and_what_is_streamed(
    database: str, pool: Pool
) -> None:
    await offer(pool)
    await oversized(pool)
    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO job_types (name, queue, peak_bytes, peak_at) VALUES ('process_snapshot', 'default',"
            " 50000000, sf_now())"
        )
    found = await figures(database, "report")
    assert (found["sizes"]["snapshots"], found["sizes"]["above_2_mb"]) == (2, 0.5)
    assert found["sizes"]["largest_bytes"] > 5_000_000
    assert sum(bucket["snapshots"] for bucket in found["sizes"]["buckets"]) == 2
    assert found["peak_bytes"]["process_snapshot"] == pytest.approx(50_000_000, rel=0.01)
    assert set(found["streaming"]) == {"from_bytes", "share_of_bytes"}
    code, out, _ = await command(database, "report")
    assert (code, "50.0 % above 2 MB" in out) == (0, True)


# ---- export


@covers("F-54", "O-30")
async def test_an_export_is_redacted_unless_raw_and_each_is_a_sensitive_read(
    database: str, pool: Pool, tmp_path: Path
) -> None:
    data = b'{ "NameCode": "A_1", "email": "canary@example.org", "Nested": [{"apiToken": "canary"}] }'
    [receipt] = await receive(pool, [Offer("a.json", data)], mapping=HERO, tenant="default")
    code, out, err = await command(database, "export", receipt.snapshot_id, binary=True)
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "NameCode": "A_1", "email": "(redacted)", "Nested": [{"apiToken": "(redacted)"}],
    }  # fmt: skip
    file = tmp_path / "a.json"
    code, out, err = await command(
        database, "export", receipt.snapshot_id, "--raw", "-o", file, "--reason", "a bug"
    )
    assert (code, out) == (0, "")
    assert file.read_bytes() == data
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    async with pool.connection() as conn:
        rows = await conn.fetch("SELECT operation, arguments, reason, matched FROM audit_logs ORDER BY id")
    assert [(row["operation"], row["arguments"]["raw"], row["reason"]) for row in rows] == [
        ("sensitive_read", False, None),
        ("sensitive_read", True, "a bug"),
    ]
    assert rows[0]["arguments"]["snapshot_id"] == str(receipt.snapshot_id)


@covers("F-54")
async def test_a_large_snapshot_and_bytes_in_quarantine_are_exported_byte_for_byte(
    database: str, pool: Pool, tmp_path: Path
) -> None:
    large = json.dumps({"NameCode": "B", "Log": ["ü" * 100] * 60_000}).encode()
    bad = b"\x00{bad" * 1000
    offers = [Offer("large.json", large), Offer("bad.json", bad)]
    [first, _] = await receive(pool, offers, mapping=HERO, tenant="default")
    kept = (await one(pool, "SELECT id FROM snapshot_quarantine WHERE bytes IS NOT NULL"))["id"]
    for which, data in ((first.snapshot_id, large), (kept, bad)):
        code, out, _ = await command(database, "export", which, "--raw", binary=True)
        assert (code, out == data) == (0, True)
    code, out, err = await command(database, "export", kept, "-o", tmp_path / "never.json")
    assert (code, "it cannot be redacted, for it is no JSON" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


async def test_an_export_to_where_no_file_can_be_made_is_misused_and_says_why(
    database: str, pool: Pool, tmp_path: Path
) -> None:
    snapshot_id = await offer(pool)
    code, out, err = await command(database, "export", snapshot_id, "-o", tmp_path / "none" / "a.json")
    assert (code, out) == (2, "")
    assert f"no file can be made in {tmp_path / 'none'}: No such file or directory" in err


async def test_bytes_in_the_object_store_are_exported_from_there(
    database: str, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_OBJECT_STORE", (tmp_path / "objects").as_uri())

    async def chunks() -> AsyncIterator[bytes]:
        yield b"{bad"

    await object_store().put("raw/default/1", chunks())
    async with pool.connection() as conn:
        kept = await conn.fetchval(
            sql("etl", "quarantine_large"), "default", "hero", "bad.json", "raw/default/1", 4, b"x", "bad", {}
        )
    code, out, _ = await command(database, "export", kept, "--raw", binary=True)
    assert (code, out) == (0, b"{bad")
    assert [line["cause"] for line in await figures(database, "quarantined")] == ["malformed"]


@covers("F-54", "X-12")
async def test_who_may_not_read_a_payload_is_refused_and_that_is_audited(pool: Pool) -> None:
    for role, needs in (("viewer", "operator"), ("operator", "admin")):
        with pytest.raises(RoleDeniedError):
            await sensitive_read(
                pool, "snapshot export", {"raw": needs == "admin"}, needs=needs, actor="eve", role=role,
                tenant="default",
            )  # fmt: skip
    async with pool.connection() as conn:
        told = [row["operation"] for row in await conn.fetch("SELECT operation FROM audit_logs")]
    assert told == ["authz_fail", "authz_fail"]


# ---- try and reproduce


@covers("F-55")
async def test_a_stored_snapshot_and_a_file_are_tried_and_nothing_is_written(
    database: str, pool: Pool, tmp_path: Path
) -> None:
    snapshot_id = await offer(pool, Fame=1)
    file = tmp_path / "a.json"
    file.write_bytes(b'{"NameCode": "F_1", "Level": "x"}')
    before = await everything(pool)
    found = await figures(database, "try", snapshot_id)
    assert found["failure"] is None
    assert [(field["table"], field["field"]) for field in found["unknown"]] == [("users", "Fame")]
    assert found["peak_bytes"] >= 0
    code, out, _ = await command(database, "try", file, "--source", "hero")
    assert code == 1
    assert "it fails in map at Level: MAPPING_ERROR" in out
    assert "Traceback" in out
    code, _, err = await command(database, "try", tmp_path / "none.json")
    assert (code, "No such file" in err) == (2, True)
    assert await everything(pool) == before


@pytest.mark.once("it measures processes of our own")
@covers("O-30", "O-31")
async def test_what_a_document_costs_is_measured_for_each_gear_in_a_process_of_its_own(
    database: str, pool: Pool, tmp_path: Path
) -> None:
    troops = {str(number): {"Amount": number, "Level": 1} for number in range(20_000)}
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"NameCode": "A_1", "Troops": troops}))
    [whole, streamed] = await figures(database, "reproduce", file)
    assert (whole["gear"], whole["error"], whole["rows"]) == ("whole", None, 20_002)
    assert (streamed["gear"], streamed["error"], streamed["rows"]) == ("streamed", None, 20_002)
    assert streamed["traced_peak_bytes"] < whole["traced_peak_bytes"]
    assert whole["traced_peak_bytes"] > 1_000_000
    assert 1_000_000 < whole["peak_bytes"] < 200_000_000
    assert whole["lines"][0]["bytes"] > 0
    assert ".py:" in whole["lines"][0]["line"]
    file.write_text('{"Level": 1}')
    [whole, *_] = await figures(database, "reproduce", file)
    assert whole["error"].startswith("MappingError: NameCode")
    snapshot_id: UUID = await offer(pool)
    code, out, _ = await command(database, "reproduce", snapshot_id)
    assert (code, "whole" in out) == (0, True)


@pytest.mark.long
async def test_a_file_is_measured_without_a_database(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"NameCode": "A_1"}')
    gears = await figures("postgresql://nobody@127.0.0.1:1/none", "reproduce", tmp_path / "a.json")
    assert [each["error"] for each in gears] == [None, None]
