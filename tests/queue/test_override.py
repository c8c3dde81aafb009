"""Overrides: changed at run time with owner, reason and end; they win until they expire or are reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest

from starforge.clock import new_id
from starforge.db.pool import Connection, Pool
from starforge.operation import Caller, Change
from starforge.ops.registry import find
from starforge.queue.claim import claim
from starforge.queue.declare import Limit, Rate, Retry
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.errors import UnknownOverrideError, UnknownWorkerError
from starforge.queue.flow import Flow
from starforge.queue.handler import Context, JobType, JobTypes
from starforge.queue.job import NewJob
from starforge.queue.override import CATALOGUE, enqueued_since, overlaid, overrides, overrides_for
from starforge.queue.plan import Plan
from tests.conftest import Travel
from tests.covers import covers
from tests.queue.jobs import a_worker


def _caller(conn: Connection, actor: str = "ann") -> Caller:
    return Caller(actor, "operator", "default", conn)


async def do(conn: Connection, name: str, *words: Any, by: str = "ann", **options: Any) -> Change:
    """Perform an operation as declared, on an open transaction."""
    options.setdefault("reason", "storm")
    return await find(name).act(_caller(conn, by), *words, **options)


SETS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "worker concurrency": ((0,), {}),
    "worker batch": ((10,), {}),
    "queue limit": (("mail", 3), {}),
    "type batch": (("t", 10), {}),
    "type attempts": (("t", 2), {}),
    "type backoff": (("t",), {"base_s": 1.0, "max_s": 60.0}),
    "type timeout": (("t", 1.5), {}),
    "type rate": (("t", 5.0), {}),
    "type limit": (("t", 0), {}),
}


@pytest.mark.parametrize("name", SETS)
@covers("X-04", "X-11", "X-16", "F-26", "F-45", "F-52", "J-33", "J-34")
async def test_each_override_has_owner_reason_and_end_and_an_operation_that_undoes_it(
    conn: Connection, travel: Travel, name: str
) -> None:
    words, options = SETS[name]
    subject = words[:-1] if len(words) > 1 or options else ()
    change = await do(conn, name, *words, **options)
    [made] = await overrides(conn)
    assert (made.owner, made.reason) == ("ann", "storm")
    assert (made.expires_at - made.created_at).total_seconds() == 3600
    assert change.changed == 1
    assert dict(change.before) == {}
    assert made.scope in CATALOGUE[made.setting].scopes
    same = await do(conn, name, *words, **options)
    assert (same.changed, dict(same.before)) == (0, made.document())
    undo = find(name).inverse
    assert undo == f"{name} reset"
    undone = await do(conn, undo, *(subject or words[:1] if name.startswith(("type", "queue")) else ()))
    assert "ann had set it to" in undone.summary
    assert await overrides(conn) == []
    with pytest.raises(UnknownOverrideError):
        await do(conn, undo, *(subject or words[:1] if name.startswith(("type", "queue")) else ()))
    await do(conn, name, *words, minutes=5, **options)
    await travel(conn, minutes=6)
    assert await overrides(conn) == []


async def test_overriding_again_renews_the_override_and_keeps_its_beginning(
    conn: Connection, travel: Travel
) -> None:
    await do(conn, "type attempts", "t", 3)
    [first] = await overrides(conn)
    await travel(conn, minutes=10)
    change = await do(conn, "type attempts", "t", 2, by="bob")
    [second] = await overrides(conn)
    assert (second.owner, second.value, change.before["value"]) == ("bob", 2, 3)
    assert second.created_at == first.created_at
    assert (second.expires_at - first.expires_at).total_seconds() == pytest.approx(600, abs=5)


@covers("F-26")
async def test_a_workers_own_override_wins_over_that_of_all_and_outlives_its_child(conn: Connection) -> None:
    mine, other = await a_worker(conn), await a_worker(conn)
    await do(conn, "worker concurrency", 4)
    await do(conn, "worker concurrency", 1, worker=mine)
    assert (await overrides_for(conn, mine)).concurrency == 1
    assert (await overrides_for(conn, other)).concurrency == 4
    heir = await a_worker(conn)
    await conn.execute("UPDATE workers SET previous_id = $1 WHERE id = $2", mine, heir)
    assert (await overrides_for(conn, heir)).concurrency == 1
    await do(conn, "worker concurrency reset", worker=mine)
    assert (await overrides_for(conn, heir)).concurrency == 4


async def test_a_worker_that_does_not_live_is_refused(conn: Connection) -> None:
    with pytest.raises(UnknownWorkerError):
        await do(conn, "worker batch", 5, worker=uuid4())


async def test_a_mistyped_type_is_told_to_be_unknown(conn: Connection) -> None:
    assert "names this type" in (await do(conn, "type limit", "nobody", 1)).summary
    await enqueue(conn, NewJob("t"))
    assert "names this type" not in (await do(conn, "type limit", "t", 1)).summary


async def _run(_ctx: Context, _payload: Mapping[str, Any]) -> None:
    return None


async def test_a_type_runs_as_it_is_overridden_and_otherwise_as_it_declares(conn: Connection) -> None:
    retry = Retry(attempts=7, base_s=10.0, max_s=20.0, jitter=0.0)
    types = JobTypes(
        [JobType("t", _run, retry=retry, timeout_s=9.0, limit=Limit(total=3)), JobType("u", _run)]
    )
    worker_id = await a_worker(conn)
    flow = Flow(worker_id, types)
    await do(conn, "type backoff", "t", base_s=1.0, max_s=2.0)
    await do(conn, "type timeout", "t", 1.5)
    await do(conn, "type rate", "u", 200.0)
    await flow.read(conn)
    now, other = types.get("t"), types.get("u")
    assert now is not None
    assert other is not None
    assert [now.retry.delay_s(n) for n in (1, 2, 3)] == [1.0, 2.0, 2.0]
    assert (now.retry.attempts, now.timeout_s, now.rate, now.limit) == (7, 1.5, None, Limit(total=3))
    assert (other.rate, other.timeout_s) == (Rate(200.0, 20), None)
    await conn.execute("DELETE FROM setting_overrides")
    await flow.read(conn)
    assert types.get("t") is types.declared("t")
    assert overlaid(types, flow.overrides) == {}


@covers("F-45", "Q-34")
async def test_a_claim_takes_no_more_of_a_type_than_its_batch(pool: Pool) -> None:
    async with pool.connection() as conn:
        worker_id, types = await a_worker(conn), JobTypes([JobType("t", _run), JobType("u", _run)])
        plan = Plan(["default"], types.names(), Flow(worker_id, types))
        await do(conn, "type batch", "t", 3)
        await enqueue_many(conn, [NewJob(name, priority=n) for n in range(2) for name in "tu" * 10])
        names = [job.type for job in await claim(conn, plan, n=100, worker_id=worker_id)]
        assert (names.count("t"), names.count("u")) == (3, 20)
        assert len(await claim(conn, plan, n=100, worker_id=worker_id)) == 3


@covers("F-32", "Q-37")
async def test_jobs_enqueued_since_a_time_are_told_from_older_ones(conn: Connection, travel: Travel) -> None:
    old = (await enqueue(conn, NewJob("t"))).id
    await travel(conn, minutes=1)
    await do(conn, "type attempts", "t", 2)
    [lowered] = await overrides(conn)
    await travel(conn, minutes=1)
    new = (await enqueue(conn, NewJob("t"))).id
    by_hand: UUID = await conn.fetchval("INSERT INTO queue_jobs (type) VALUES ('t') RETURNING id")
    known = await enqueued_since(conn, [old, new, by_hand, new_id()], lowered.created_at)
    assert known == {new, by_hand}
