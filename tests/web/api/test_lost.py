"""An answer that is lost at any statement is had again by its key, and nothing is stored twice or in half."""

from __future__ import annotations

import httpx
import pytest

from starforge.db.pool import Pool
from starforge.web.serve import create_app
from tests.covers import covers
from tests.postgres import TestServer
from tests.proxy import Fault, Statement, When, cut, nothing, proxied
from tests.web.api.conftest import BATCH, JSON, NDJSON, SNAPSHOTS, count, hero
from tests.web.conftest import Bearer

pytestmark = pytest.mark.direct("counts the statements on their way to the server")

ABOUT = ("hero_snapshots", "snapshot_captures", "queue_jobs", "ingest_keys")


@covers("G10", "X-06")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_whatever_statement_loses_the_connection_the_same_key_gives_one_snapshot(
    server: TestServer, database: str, pool: Pool, bearer: Bearer, when: When
) -> None:
    """FAULTS 15, at every statement from the token's lookup to the commit."""
    headers = {**await bearer(), **JSON}
    async with proxied(server.port) as proxy:
        lossy = await Pool.open(proxy.url(database), size=2, application="lossy")
        transport = httpx.ASGITransport(create_app(lossy), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as user:
            statements = failed = 0
            while True:
                statements += 1
                left = statements

                def rule(statement: Statement) -> Fault | None:
                    nonlocal left
                    left -= statement.runs
                    return Fault(when, cut) if statement.runs and left == 0 else None

                proxy.rule = rule
                keyed = {**headers, "Idempotency-Key": f"k{statements}"}
                data = hero(f"A_{statements}")
                first = await user.post(SNAPSHOTS, content=data, headers=keyed)
                proxy.rule = nothing
                assert first.status_code in (202, 503), first.text
                failed += first.status_code == 503
                again = await user.post(SNAPSHOTS, content=data, headers=keyed)
                assert again.status_code == 202, again.text
                if first.status_code == 202:
                    assert again.content == first.content
                assert [await count(pool, table) for table in ABOUT] == [statements] * 4
                if left > 0:
                    break  # there were fewer statements than that
        await lossy.close()
    assert failed >= 5


@pytest.mark.parametrize("when", ["before", "after"])
async def test_lines_whose_commit_was_not_heard_of_are_unknown_and_harmless_to_offer_again(
    server: TestServer, database: str, pool: Pool, bearer: Bearer, when: When
) -> None:
    headers = {**await bearer(), **NDJSON}
    lines = b"\n".join(hero(f"A_{n}") for n in range(60))
    async with proxied(server.port) as proxy:
        lossy = await Pool.open(proxy.url(database), size=2, application="lossy")
        transport = httpx.ASGITransport(create_app(lossy))
        commits = 0

        def rule(statement: Statement) -> Fault | None:
            nonlocal commits
            commits += statement.runs and statement.text == "COMMIT;"
            return Fault(when, cut) if commits == 2 and statement.text == "COMMIT;" else None

        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as user:
            proxy.rule = rule
            answer = await user.post(BATCH, content=lines, headers=headers)
            proxy.rule = nothing
            fates = [line for line in answer.text.splitlines() if '"unknown"' in line and '"line"' in line]
            assert answer.status_code == 200, answer.text
            assert len(fates) == 10, answer.text
            assert await count(pool, "hero_snapshots") == (50 if when == "before" else 60)
            await user.post(BATCH, content=lines, headers=headers)
        await lossy.close()
    assert await count(pool, "hero_snapshots") == await count(pool, "queue_jobs") == 60
