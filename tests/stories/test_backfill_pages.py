"""The pages on backfills: their examples do what they say, and the names on them are those that there are."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from starforge.app import StarForge
from starforge.backfill.asset.declared import declare
from starforge.cli.main import app as command_line
from starforge.db.pool import Connection, Pool
from starforge.telemetry.metrics import CATALOGUE
from tests.backfill.engine import engine
from tests.cli.test_main import Starforge, invoke
from tests.worker.processes import a_worker, until

pytestmark = pytest.mark.once("its statements are prepared on both versions by tests/db/test_statement.py")

__all__ = ["invoke"]

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "backfills.md").read_text("utf-8")
ON_CALL = (DOCS / "backfill-operations.md").read_text("utf-8")
BOTH = PAGE + ON_CALL
README = (DOCS.parent / "README.md").read_text("utf-8")

SHOP = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "app.asset(" in block]
[CALL] = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "app.backfill(" in block]
[CREATED] = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
[DONE] = re.findall(r"```sh\n(.*?)```", ON_CALL, re.DOTALL)
[BY_HAND] = re.findall(r"```sql\n(.*?)```", ON_CALL, re.DOTALL)

ASSETS = ("heroes_again", "net_prices", "orders_by_day", "orders_by_month")
OPEN = "SELECT count(*) FROM backfill_jobs WHERE closed_at IS NULL"
ENDS = """
SELECT array_agg(format('%s %s %s', asset_name, state, total_partitions) ORDER BY created_at, asset_name)
FROM backfill_jobs
"""
TABLES = """
CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz NOT NULL, gross numeric NOT NULL, net numeric);
CREATE TABLE orders_by_day (day date PRIMARY KEY, orders bigint NOT NULL);
INSERT INTO orders SELECT n, timestamptz '2023-12-31 23:30+00' + n * interval '1 hour', 119
FROM generate_series(0, 400) AS n;
"""
FIRST_DAY = 24
"""Of the orders, those that Berlin's 2024-01-01 has: the first one is at half past midnight there."""


@asynccontextmanager
async def shop(conn: Connection, database: str, folder: Path) -> AsyncIterator[None]:
    """Run a worker of the page's app, once it has said what it declares."""
    (folder / "shop.py").write_text("\n\n".join(SHOP))
    async with a_worker(database, app="shop:app", PYTHONPATH=paths(folder)):
        await until(conn, "SELECT array_agg(name ORDER BY name) FROM backfill_assets", list(ASSETS))
        await until(conn, "SELECT count(*) FROM workers WHERE state = 'running'", 1)
        yield


def paths(folder: Path) -> str:
    return os.pathsep.join([str(folder), *(path for path in sys.path if path)])


async def in_shell(database: str, command: str, **variables: str) -> tuple[int | None, str]:
    """Run what a page shows; return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", f'starforge() {{ "{sys.executable}" -m starforge "$@"; }}\n{command}',
        env={**os.environ, "DATABASE_URL": database, **variables},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def test_the_app_of_the_page_is_backfilled_by_its_commands(
    pool: Pool, database: str, tmp_path: Path, invoke: Starforge
) -> None:
    async with pool.connection() as conn:
        await conn.execute(TABLES)
        async with shop(conn, database, tmp_path):
            for command in CREATED.splitlines():
                code, said = await in_shell(database, command)
                assert code == 0, said
                await until(conn, OPEN, 0)
            assert await conn.fetchval(ENDS) == [
                "orders_by_day completed 366",
                "orders_by_day completed 60",
                "orders_by_month completed 2",
                "orders_by_day completed 90",
            ]
            orders = await conn.fetchval("SELECT orders FROM orders_by_day WHERE day = '2024-01-01'")
            assert orders == FIRST_DAY

            program = "import asyncio\nfrom shop import app\n\nasync def main():\n"
            program += textwrap.indent(CALL, "    ") + "\nasyncio.run(main())\n"
            called = await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "DATABASE_URL": database, "PYTHONPATH": paths(tmp_path)},
            )  # fmt: skip
            assert len((await called.communicate())[0].split()) == 2
            await until(conn, OPEN, 0)
            assert (await conn.fetchval(ENDS))[-2:] == [
                "orders_by_day completed 366",
                "orders_by_month completed 12",
            ]

            for words in (("net_prices",), ("heroes_again", "--from", "2024-01-05", "--to", "2024-01-06")):
                made = await invoke("backfill", "create", *words)
                assert made.code == 0, made.err
            await until(conn, OPEN, 0)
            assert await conn.fetchval("SELECT count(*) FROM orders WHERE net IS DISTINCT FROM 100") == 0
            assert await conn.fetchval("SELECT count(*) FROM backfill_jobs WHERE state <> 'completed'") == 0


async def test_the_asset_of_the_readme_is_made_and_made_again(pool: Pool) -> None:
    [block] = [one for one in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "@app.asset(" in one]
    page: dict[str, Any] = {"app": StarForge("shop")}
    exec(block, page)
    async with pool.connection() as conn:
        await conn.execute(TABLES)
    async with engine(pool, page["app"].assets) as running:
        for _ in range(2):
            made = await running.create("orders_by_day", 2)
            assert (await running.over(made))["state"] == "completed"
    async with pool.connection() as conn:
        counted = await conn.fetch("SELECT day::text, orders FROM orders_by_day ORDER BY day")
        assert [tuple(row) for row in counted] == [("2024-01-01", FIRST_DAY), ("2024-01-02", 24)]


@pytest.fixture
async def backfill_id(pool: Pool, invoke: Starforge) -> str:
    """A backfill of the page's app, whose workers have all ended."""
    page: dict[str, Any] = {}
    exec("\n\n".join(SHOP), page)
    async with pool.transaction() as conn:
        await declare(conn, page["app"].assets)
        await conn.execute("INSERT INTO job_types (name, queue) VALUES ('asset:orders_by_day', 'backfill')")
    made = await invoke("backfill", "create", "orders_by_day", "--to", "2024-02-29", "--json")
    assert made.code == 0, made.err
    return str(json.loads(made.out)["after"]["id"])


async def test_the_acts_of_the_page_on_call_are_done_as_they_stand_there(
    pool: Pool, database: str, backfill_id: str
) -> None:
    code, said = await in_shell(database, DONE, ID=backfill_id)
    assert code == 0, said
    async with pool.connection() as conn:
        states = "SELECT array_agg(state ORDER BY created_at) FROM backfill_jobs"
        assert await conn.fetchval(states) == ["cancelled", "resuming"]


async def test_the_statements_by_hand_change_the_state_that_they_are_for(
    pool: Pool, backfill_id: str
) -> None:
    pause, resume, age = BY_HAND.replace("'ID'", f"'{backfill_id}'").split("\n\n")
    async with pool.connection() as conn:
        await conn.execute("UPDATE backfill_jobs SET state = 'running'")
        assert await conn.execute(pause) == "UPDATE 1"
        assert await conn.execute(resume) == "UPDATE 1"
        await conn.execute("UPDATE backfill_jobs SET state = 'running', heartbeat_at = sf_now()")
        assert await conn.execute(age) == "UPDATE 1"
        assert await conn.fetchval("SELECT version FROM backfill_jobs") == 4


async def test_every_setting_of_backfills_is_on_the_pages_with_its_default(invoke: Starforge) -> None:
    known = {line["env"]: line["default"] for line in json.loads((await invoke("settings", "--json")).out)}
    there = {name for name in known if name.startswith("STARFORGE_BACKFILL_")}
    assert set(re.findall(r"`(STARFORGE_BACKFILL_\w+)`", BOTH)) == there
    defaults = re.findall(r"`(STARFORGE_\w+)`(?: \((?:\w+: )?|, | \| )([\d.][\d .]*)", BOTH)
    assert len(defaults) > 20
    for name, default in defaults:
        assert float(default.replace(" ", "")) == float(known[name]), name


def test_every_metric_of_backfills_is_on_the_page_on_call() -> None:
    there = {name for name in CATALOGUE if "backfill" in name}
    assert set(re.findall(r"`((?:servo|starforge)_backfill_\w+)[{`]", ON_CALL)) == there


@pytest.mark.parametrize("page", ["docs/backfills.md", "docs/backfill-operations.md", "README.md"])
def test_every_command_and_option_of_a_page_is_there(page: str) -> None:
    text = (DOCS.parent / page).read_text("utf-8")
    group = commands()
    for command, words in re.findall(r"(?:starforge |`)backfill ([a-z][a-z-]+)([^`\n]*)", text):
        options = {option for each in group[command] for option in each}
        assert set(re.findall(r"--[a-z][a-z-]+", words)) <= options, command


def test_every_command_is_on_the_page_on_call() -> None:
    named = set(re.findall(r"`(?:starforge )?backfill ([a-z][a-z-]+)", BOTH))
    assert named | {"create"} >= set(commands()) - {"ls"}


def commands() -> dict[str, list[list[str]]]:
    """Return the commands under `starforge backfill`, with the names of what each takes."""
    from typer.main import get_group

    group: Any = get_group(command_line).commands["backfill"]
    return {
        name: [list(parameter.opts) for parameter in command.params]
        for name, command in group.commands.items()
    }
