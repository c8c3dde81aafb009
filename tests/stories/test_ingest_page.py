"""The examples of docs/ingest.md do what the page says."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from starforge.db.pool import Pool
from starforge.web.auth import make_token
from starforge.web.settings import IngestSettings
from tests.web.api.conftest import a_server

PAGE = Path(__file__).parents[2] / "docs" / "ingest.md"
TEXT = PAGE.read_text("utf-8")


def examples(language: str) -> list[str]:
    """Return the page's blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


async def test_the_program_of_the_page_offers_a_snapshot(database: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", examples("python")[0],
        env={**os.environ, "DATABASE_URL": database}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert said.decode().split()[0] == "accepted"


@pytest.mark.system("curl")
async def test_the_commands_of_the_page_answer_as_it_says(pool: Pool, database: str, tmp_path: Path) -> None:
    async with pool.connection() as conn:
        token = await make_token(conn, name="ann", role="producer", tenant="default")
    served = await Pool.open(database.replace("tester@", "starforge_app@"), size=4)
    said = []
    async with a_server(served) as (host, port):
        for command in examples("sh"):
            process = await asyncio.create_subprocess_exec(
                "bash", "-euc", command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "URL": f"http://{host}:{port}", "TOKEN": token},
            )  # fmt: skip
            out, _ = await process.communicate()
            said.append(out.decode())
    await served.close()
    one, packed, bad, state, batch = said
    assert '"fate":"accepted"' in one
    assert '"fate":"duplicate"' in packed
    assert '"kept":true' in bad
    assert '"status":"received"' in state
    assert '"complete":true' in batch
    assert re.findall(r'"fate":"(\w+)"', batch) == ["accepted", "refused", "accepted"]


def test_every_setting_of_the_server_is_named_on_the_page() -> None:
    for field in IngestSettings.model_fields.values():
        assert str(field.validation_alias) in TEXT
