"""One way to change anything: role, reason, plan, key and audit row hold for every operation."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from starforge.clock import FAILPOINTS_ENV
from starforge.db.errors import DatabaseUnreachableError
from starforge.db.pool import Pool, connect
from starforge.errors import InvalidInputError, StarForgeError
from starforge.operation import OPERATIONS, BadArgumentError, Caller, Change, operation
from starforge.ops import registry
from starforge.ops.audit import DENIED, REDACTED
from starforge.ops.errors import (
    KeyReusedError,
    PlanAppliedError,
    PlanExpiredError,
    PlanMismatchError,
    PlanNotFoundError,
    PlanStaleError,
    ReasonMissingError,
    RoleDeniedError,
    RowsBusyError,
    UnknownOperationError,
)
from starforge.ops.perform import perform
from starforge.ops.plan import plan
from starforge.queue.errors import UnknownGateError
from tests.conftest import Travel
from tests.covers import covers
from tests.postgres import TestServer

ANN: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}
PAUSE = {"name": "mail", "reason": "the provider is down", "minutes": 30}


@pytest.fixture(autouse=True)
def declared() -> Iterator[None]:
    """Take the operations away again that a test declares."""
    registry.load()
    before = dict(OPERATIONS)
    yield
    OPERATIONS.clear()
    OPERATIONS.update(before)


async def _audit(pool: Pool) -> list[asyncpg.Record]:
    async with pool.connection() as conn:
        return await conn.fetch("SELECT * FROM audit_logs ORDER BY id")


async def _gates(pool: Pool) -> list[asyncpg.Record]:
    async with pool.connection() as conn:
        return await conn.fetch("SELECT * FROM gates ORDER BY name")


@covers("X-04", "X-05")
async def test_a_change_and_its_audit_row_say_who_what_why_and_how_many(pool: Pool) -> None:
    request_id = uuid4()
    result = await perform(
        pool, "queue pause", PAUSE, **ANN, source_address="127.0.0.1", request_id=request_id
    )
    assert (result.matched, result.changed, result.repeated) == (1, 1, False)
    assert result.before == {"paused": False}
    assert result.after["owner"] == "ann"
    (row,) = await _audit(pool)
    assert (row["actor"], row["role"], row["tenant_id"]) == ("ann", "operator", "default")
    assert (row["operation"], row["reason"]) == ("queue pause", "the provider is down")
    assert row["arguments"] == PAUSE
    assert (row["source_address"], row["request_id"]) == ("127.0.0.1", request_id)
    assert row["id"] == result.audit_id
    assert [gate["name"] for gate in await _gates(pool)] == ["mail"]


@covers("X-12")
async def test_a_viewer_may_not_pause_a_queue_and_the_attempt_is_audited(pool: Pool) -> None:
    with pytest.raises(RoleDeniedError, match="needs the role operator; this caller has viewer"):
        await perform(pool, "queue pause", PAUSE, actor="eve", role="viewer", tenant="default")
    with pytest.raises(RoleDeniedError):
        await plan(pool, "queue pause", PAUSE, actor="eve", role="nobody", tenant="default")
    rows = await _audit(pool)
    assert [row["operation"] for row in rows] == [DENIED, DENIED]
    assert rows[0]["arguments"] == {"operation": "queue pause", "needs": "operator"}
    assert await _gates(pool) == []


@covers("X-12")
async def test_every_operation_is_open_to_exactly_the_roles_from_its_own_upwards(pool: Pool) -> None:
    order = ("viewer", "operator", "admin")
    for declared in registry.operations():
        for role in order:
            denied = order.index(role) < order.index(declared.role)
            try:
                await plan(pool, declared.name, {}, actor="ann", role=role, tenant="default")
            except RoleDeniedError:
                assert denied, (declared.name, role)
            except StarForgeError:
                assert not denied, (declared.name, role)
            else:
                assert not denied, (declared.name, role)


@covers("X-10")
def test_the_inverse_of_every_operation_exists_and_names_it_back() -> None:
    for declared in registry.operations():
        if declared.inverse is not None:
            assert registry.find(declared.inverse).inverse == declared.name


@pytest.mark.parametrize("reason", ["", "   ", "\n"])
@covers("X-04")
async def test_a_blank_reason_is_refused(pool: Pool, reason: str) -> None:
    with pytest.raises(ReasonMissingError):
        await perform(pool, "queue pause", {**PAUSE, "reason": reason}, **ANN)
    assert await _gates(pool) == []
    assert await _audit(pool) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": "mail"}, "needs reason"),
        ({**PAUSE, "colour": "red"}, "takes no argument colour"),
        ({**PAUSE, "minutes": 0}, "minutes: Expected `int` >= 1"),
        ({**PAUSE, "minutes": "soon"}, "minutes: Expected"),
        ({**PAUSE, "reason": 5}, "reason: Expected `str`"),
    ],
)
async def test_arguments_that_do_not_fit_the_signature_are_refused(
    pool: Pool, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadArgumentError, match=told):
        await perform(pool, "queue pause", arguments, **ANN)


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 10_001])
async def test_text_that_the_database_would_not_take_is_refused_by_name(pool: Pool, text: str) -> None:
    with pytest.raises(InvalidInputError, match="queue pause: reason"):
        await perform(pool, "queue pause", {**PAUSE, "reason": text}, **ANN)


async def test_an_operation_that_nobody_declared_is_not_found(pool: Pool) -> None:
    with pytest.raises(UnknownOperationError):
        await perform(pool, "queue explode", {}, **ANN)


@covers("X-06")
async def test_a_repeated_key_returns_the_first_result_and_changes_nothing(pool: Pool) -> None:
    first = await perform(pool, "queue pause", PAUSE, **ANN, idempotency_key="k1")
    await perform(pool, "queue resume", {"name": "mail"}, **ANN)
    again = await perform(pool, "queue pause", PAUSE, **ANN, idempotency_key="k1")
    assert again.repeated
    assert {**again.document(), "repeated": False} == first.document()
    assert await _gates(pool) == []
    assert len(await _audit(pool)) == 2


@covers("X-06")
async def test_a_key_that_was_used_for_something_else_is_refused(pool: Pool) -> None:
    await perform(pool, "queue pause", PAUSE, **ANN, idempotency_key="k1")
    with pytest.raises(KeyReusedError, match="other arguments"):
        await perform(pool, "queue pause", {**PAUSE, "name": "sms"}, **ANN, idempotency_key="k1")
    with pytest.raises(KeyReusedError, match="used for queue pause"):
        await perform(pool, "queue resume", {"name": "mail"}, **ANN, idempotency_key="k1")
    assert [gate["name"] for gate in await _gates(pool)] == ["mail"]


@covers("X-06")
async def test_a_key_belongs_to_its_tenant(pool: Pool) -> None:
    await perform(pool, "queue pause", PAUSE, **ANN, idempotency_key="k1")
    other = {**ANN, "tenant": "other"}
    result = await perform(pool, "queue resume", {"name": "mail"}, **other, idempotency_key="k1")
    assert not result.repeated


@covers("X-06")
async def test_of_concurrent_requests_with_one_key_one_acts_and_all_get_its_result(pool: Pool) -> None:
    await perform(pool, "queue pause", PAUSE, **ANN)
    # A second resume on its own would be refused: only the key makes these four the same request.
    asked = [perform(pool, "queue resume", {"name": "mail"}, **ANN, idempotency_key="k1") for _ in range(4)]
    results = await asyncio.gather(*asked)
    assert sorted(result.repeated for result in results) == [False, True, True, True]
    assert len({result.audit_id for result in results}) == 1


@covers("X-06")
async def test_a_key_that_was_written_without_the_lock_still_resolves_to_the_first_result(
    pool: Pool, database: str
) -> None:
    """The unique index is the last word: a duplicate that slips past the lock ends as a repetition."""
    started, go_on = asyncio.Event(), asyncio.Event()

    @operation("note slow", role="operator", inverse=None)
    async def slow(caller: Caller) -> Change:
        """Wait until the test has written the key."""
        started.set()
        await go_on.wait()
        return Change("done", 1, 1)

    asked = asyncio.create_task(perform(pool, "note slow", {}, **ANN, idempotency_key="k1"))
    await started.wait()
    conn = await connect(database)
    await conn.execute(
        "INSERT INTO audit_logs (tenant_id, actor, role, operation, idempotency_key, before, after, result)"
        " VALUES ('default', 'ann', 'operator', 'note slow', 'k1', '{}', '{}',"
        ' \'{"summary": "first", "sample": []}\')'
    )
    await conn.close()
    go_on.set()
    result = await asked
    assert (result.repeated, result.summary) == (True, "first")


@covers("X-02")
async def test_a_plan_changes_nothing_and_says_what_would_be(pool: Pool) -> None:
    planned = await plan(pool, "queue pause", PAUSE, **ANN)
    assert (planned.matched, planned.changed, planned.sample) == (1, 1, ("mail",))
    assert planned.before == {"paused": False}
    assert planned.after["reason"] == "the provider is down"
    assert planned.expires_at > planned.created_at
    assert "reason: given" in planned.guards
    assert await _gates(pool) == []
    assert await _audit(pool) == []


@covers("X-02")
async def test_an_unchanged_plan_is_applied_once(pool: Pool) -> None:
    planned = await plan(pool, "queue pause", PAUSE, **ANN)
    result = await perform(pool, "queue pause", PAUSE, **ANN, plan_id=planned.id)
    assert result.plan_id == planned.id
    await perform(pool, "queue resume", {"name": "mail"}, **ANN)
    with pytest.raises(PlanAppliedError):
        await perform(pool, "queue pause", PAUSE, **ANN, plan_id=planned.id)
    assert await _gates(pool) == []


@covers("X-02", "X-03")
async def test_a_plan_whose_matter_has_changed_is_refused_and_nothing_is_done(pool: Pool) -> None:
    planned = await plan(pool, "queue pause", PAUSE, **ANN)
    await perform(pool, "queue pause", {**PAUSE, "reason": "another"}, **{**ANN, "actor": "bob"})
    with pytest.raises(PlanStaleError):
        await perform(pool, "queue pause", PAUSE, **ANN, plan_id=planned.id)
    (gate,) = await _gates(pool)
    assert (gate["owner"], gate["reason"]) == ("bob", "another")
    assert len(await _audit(pool)) == 1


@covers("X-02")
async def test_a_plan_expires_on_the_database_clock(pool: Pool, travel: Travel) -> None:
    planned = await plan(pool, "queue pause", PAUSE, **ANN)
    async with pool.connection() as conn:
        await travel(conn, minutes=16)
    with pytest.raises(PlanExpiredError):
        await perform(pool, "queue pause", PAUSE, **ANN, plan_id=planned.id)
    assert await _gates(pool) == []


@covers("X-02", "X-12")
async def test_a_plan_holds_for_its_actor_tenant_operation_and_arguments_only(pool: Pool) -> None:
    planned = await plan(pool, "queue pause", PAUSE, **ANN)
    with pytest.raises(PlanMismatchError, match="somebody else"):
        await perform(pool, "queue pause", PAUSE, **{**ANN, "actor": "bob"}, plan_id=planned.id)
    with pytest.raises(PlanMismatchError, match="another minutes"):
        await perform(pool, "queue pause", {**PAUSE, "minutes": 60}, **ANN, plan_id=planned.id)
    with pytest.raises(PlanMismatchError, match="is for queue pause"):
        await perform(pool, "ingest pause", {"reason": "x"}, **ANN, plan_id=planned.id)
    with pytest.raises(PlanNotFoundError):
        await perform(pool, "queue pause", PAUSE, **{**ANN, "tenant": "other"}, plan_id=planned.id)
    with pytest.raises(PlanNotFoundError):
        await perform(pool, "queue pause", PAUSE, **ANN, plan_id=uuid4())
    assert await _gates(pool) == []


@covers("X-02", "X-06")
async def test_applying_a_plan_again_with_its_key_returns_the_first_result(pool: Pool) -> None:
    planned = await plan(pool, "queue pause", PAUSE, **ANN)
    first = await perform(pool, "queue pause", PAUSE, **ANN, plan_id=planned.id, idempotency_key="k1")
    again = await perform(pool, "queue pause", PAUSE, **ANN, plan_id=planned.id, idempotency_key="k1")
    assert (again.repeated, again.audit_id) == (True, first.audit_id)


async def test_what_its_name_or_form_calls_a_secret_is_in_no_row(pool: Pool) -> None:
    @operation("vault seal", role="operator", inverse=None)
    async def seal(caller: Caller, *, api_token: str, target: str) -> Change:
        """Seal it."""
        return Change(
            "sealed", 1, 1, before={"password": "canary-1"}, after={"deep": [{"secret": "canary-2"}]}
        )

    arguments = {"api_token": "canary-3", "target": "postgresql://ann:canary-4@db/x"}
    planned = await plan(pool, "vault seal", arguments, **ANN)
    result = await perform(pool, "vault seal", arguments, **ANN, plan_id=planned.id)
    async with pool.connection() as conn:
        kept = await conn.fetchval(
            "SELECT string_agg(a::text || p::text, '') FROM audit_logs a, operation_plans p"
        )
    assert "canary" not in kept + repr(planned) + repr(result)
    assert result.before == {"password": REDACTED}
    with pytest.raises(BadArgumentError) as refused:
        await perform(pool, "vault seal", {"api_token": ["canary-5"], "target": "x"}, **ANN)
    assert "canary" not in str(refused.value)


async def test_a_failing_operation_leaves_no_trace(pool: Pool) -> None:
    @operation("note break", role="operator", inverse=None)
    async def break_off(caller: Caller) -> Change:
        """Change something and fail."""
        await caller.conn.execute("UPDATE feature_flags SET data = '{\"broken\": true}'")
        raise UnknownGateError("not this one")

    with pytest.raises(UnknownGateError):
        await perform(pool, "note break", {}, **ANN, idempotency_key="k1")
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM feature_flags WHERE data ? 'broken'") == 0
    assert await _audit(pool) == []


async def test_rows_that_somebody_else_holds_are_reported_as_busy(pool: Pool, database: str) -> None:
    holder = await connect(database)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT 1 FROM feature_flags FOR UPDATE")

    @operation("note hurry", role="operator", inverse=None)
    async def hurry(caller: Caller) -> Change:
        """Change a flag without patience."""
        await caller.conn.execute("SET LOCAL lock_timeout = '20ms'")
        await caller.conn.execute("UPDATE feature_flags SET updated_at = sf_now()")
        return Change("done", 1, 1)

    with pytest.raises(RowsBusyError):
        await perform(pool, "note hurry", {}, **ANN)
    with pytest.raises(RowsBusyError):
        await plan(pool, "note hurry", {}, **ANN)
    await transaction.rollback()
    await holder.close()


async def test_a_connection_that_dies_before_the_commit_has_changed_nothing(pool: Pool) -> None:
    @operation("note die", role="operator", inverse=None)
    async def die(caller: Caller) -> Change:
        """Lose the own connection."""
        await caller.conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return Change("done", 1, 1)

    with pytest.raises(DatabaseUnreachableError, match="nothing was changed"):
        await perform(pool, "note die", {}, **ANN)
    assert await _audit(pool) == []


@covers("X-12")
@pytest.mark.parametrize("user", ["starforge_app", "starforge_operator", "starforge_engine"])
async def test_the_roles_of_the_doors_may_perform_under_row_security(
    server: TestServer, database: str, user: str
) -> None:
    pool = await Pool.open(server.url(database.rpartition("/")[2], user=user), size=2)
    try:
        planned = await plan(pool, "queue pause", PAUSE, **ANN)
        result = await perform(pool, "queue pause", PAUSE, **ANN, plan_id=planned.id, idempotency_key="k")
        again = await perform(pool, "queue pause", PAUSE, **ANN, plan_id=planned.id, idempotency_key="k")
        assert (again.repeated, again.audit_id) == (True, result.audit_id)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with pool.transaction(tenant="default") as conn:
                await conn.execute("DELETE FROM audit_logs")
    finally:
        await pool.close()


PROGRAM = """
import asyncio, sys
from starforge.db.pool import Pool
from starforge.ops.perform import perform
async def main():
    pool = await Pool.open(sys.argv[1], size=1)
    await perform(pool, "queue pause", {"name": "mail", "reason": "x"}, actor="ann", role="operator",
                  tenant="default", idempotency_key="k1")
asyncio.run(main())
"""


@covers("X-05", "X-06")
@pytest.mark.parametrize(("failpoint", "done"), [("perform_before_commit", 0), ("perform_after_commit", 1)])
async def test_a_kill_around_the_commit_leaves_the_change_with_its_audit_row_or_neither(
    pool: Pool, database: str, failpoint: str, done: int
) -> None:
    def killed() -> int:
        environment = {**os.environ, FAILPOINTS_ENV: f"{failpoint}:kill"}
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, database], env=environment, check=False
        ).returncode

    assert await asyncio.to_thread(killed) == -signal.SIGKILL
    assert len(await _gates(pool)) == done
    assert len(await _audit(pool)) == done
    repeated = await perform(
        pool, "queue pause", {"name": "mail", "reason": "x"}, **ANN, idempotency_key="k1"
    )
    assert repeated.repeated is bool(done)
    assert len(await _gates(pool)) == len(await _audit(pool)) == 1


def test_a_destructive_operation_without_a_reason_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match="takes no reason"):

        @operation("vault burn", role="admin", inverse=None, risk="destructive")
        async def burn(caller: Caller) -> Change:
            """Burn it."""
            return Change("burnt", 1, 1)


def test_an_argument_may_not_have_the_name_of_something_that_the_doors_take() -> None:
    with pytest.raises(TypeError, match="the doors use the name plan_id"):

        @operation("vault open", role="admin", inverse=None)
        async def open_vault(caller: Caller, *, plan_id: Annotated[UUID, "Mine."]) -> Change:
            """Open it."""
            return Change("open", 1, 1)
