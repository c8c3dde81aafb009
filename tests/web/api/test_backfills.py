"""Backfills over HTTP: what a token's tenant sees, and what a question that makes no sense is answered."""

from __future__ import annotations

from uuid import UUID, uuid4

import httpx
import pytest

from starforge.db.pool import Connection, Pool, set_tenant
from tests.backfill.rows import a_backfill, now, parts
from tests.covers import covers
from tests.web.conftest import Bearer

PATH = "/api/v1/backfills"


async def made(pool: Pool, tenant: str = "default", **columns: object) -> UUID:
    async with pool.transaction() as conn:
        await set_tenant(conn, tenant)
        return await _made(conn, **columns)


async def _made(conn: Connection, **columns: object) -> UUID:
    given = {"state": "running", "heartbeat_at": await now(conn), **columns}
    backfill_id = await a_backfill(conn, **given)
    await parts(conn, backfill_id, completed=3, failed=2, pending=1)
    return backfill_id


@covers("B-29", "B-30")
async def test_the_list_and_the_status_have_progress_and_estimate(
    client: httpx.AsyncClient, pool: Pool, bearer: Bearer
) -> None:
    backfill_id = await made(pool, avg_partition_duration_ms=12.5, failed_max=2)
    viewer = await bearer("viewer")
    listed = (await client.get(PATH, headers=viewer)).json()["backfills"]
    assert [(one["id"], one["completed"], one["total"]) for one in listed] == [(str(backfill_id), 3, 6)]
    one = (await client.get(f"{PATH}/{backfill_id}", headers=viewer)).json()
    assert (one["state"], one["completed"], one["failed"], one["left"]) == ("running", 3, 2, 1)
    assert (one["average_ms"], one["eta"]["at"]) == (12.5, None)
    assert one["eta"]["basis"]
    paused = (await client.get(f"{PATH}?state=paused", headers=viewer)).json()
    assert paused == {"backfills": [], "next_after": None}


@covers("B-29")
async def test_the_list_comes_in_pages(client: httpx.AsyncClient, pool: Pool, bearer: Bearer) -> None:
    ids = {str(await made(pool, asset=f"a{n}")) for n in range(3)}
    viewer, seen, after = await bearer("viewer"), [], ""
    for _ in range(2):
        page = (await client.get(f"{PATH}?limit=2{after}", headers=viewer)).json()
        seen += [one["id"] for one in page["backfills"]]
        after = f"&after={page['next_after']}"
    assert (len(seen), set(seen), page["next_after"]) == (3, ids, None)
    answer = await client.get(f"{PATH}?after=what", headers=viewer)
    assert (answer.status_code, "UUID" in answer.text) == (422, True)


@covers("B-33")
async def test_partitions_come_in_pages_and_failures_in_groups(
    client: httpx.AsyncClient, pool: Pool, bearer: Bearer
) -> None:
    backfill_id = await made(pool)
    viewer = await bearer("viewer")
    path, keys, after = f"{PATH}/{backfill_id}/partitions?limit=4", [], ""
    for _ in range(2):
        page = (await client.get(path + after, headers=viewer)).json()
        keys += [one["key"] for one in page["partitions"]]
        after = f"&after={page['next_after']}"
    assert (keys, page["next_after"]) == ([f"k00{n}" for n in range(6)], None)
    [group] = (await client.get(f"{PATH}/{backfill_id}/failures", headers=viewer)).json()["failures"]
    assert (group["count"], group["keys"], group["cause"]) == (2, ["k003", "k004"], "unknown")


@covers("B-70")
async def test_a_token_shows_the_backfills_of_its_tenant_and_nobody_sees_any_without(
    client: httpx.AsyncClient, pool: Pool, bearer: Bearer
) -> None:
    theirs = await made(pool, tenant="theirs")
    assert (await client.get(PATH)).status_code == 401
    ours = await bearer("admin", name="ours")
    assert (await client.get(PATH, headers=ours)).json()["backfills"] == []
    for path in ("", "/partitions", "/failures"):
        found = await client.get(f"{PATH}/{theirs}{path}", headers=ours)
        assert (found.status_code, found.json()["code"]) == (404, "SF530")
    seen = await client.get(PATH, headers=await bearer("viewer", name="theirs", tenant="theirs"))
    assert len(seen.json()["backfills"]) == 1
    assert (await client.get(PATH, headers=await bearer("producer", name="p"))).status_code == 403


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("?state=runing", "there is no state 'runing'"),
        ("?stat=running", "no parameter stat; there are state"),
        ("?limit=0", "0 backfills cannot be listed"),
        ("?limit=many", "limit=many: write a number"),
        ("?older_than_s=nan", "no backfill is nan s old"),
        ("?older_than_s=-1", "no backfill is -1 s old"),
        ("?asset=%00", "NUL"),
        ("/no-id", "that is no backfill's id"),
        ("/{id}?x=1", "no parameter x; there are none"),
        ("/{id}/partitions?after=99999999999999999999", "is no place"),
        ("/{id}/failures?limit=0", "0 groups"),
    ],
)
async def test_a_question_that_makes_no_sense_is_answered_with_what_is_wrong(
    client: httpx.AsyncClient, pool: Pool, bearer: Bearer, path: str, told: str
) -> None:
    found = await client.get(PATH + path.format(id=uuid4()), headers=await bearer("viewer"))
    assert (found.status_code, found.json()["code"]) == (422, "SF001")
    assert told in found.json()["detail"]


async def test_the_description_has_the_shapes(client: httpx.AsyncClient) -> None:
    described = (await client.get("/api/v1/openapi.json")).json()
    answer = described["paths"][PATH + "/{backfill_id}"]["get"]["responses"]["200"]
    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Status"}
    assert {"Backfills", "Status", "Partitions", "Failed"} <= set(described["components"]["schemas"])
    assert "eta" in described["components"]["schemas"]["Status"]["properties"]
