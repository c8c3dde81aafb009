"""`starforge explain`: why a job, a queue, a worker or a backfill is as it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from starforge.cli.doors import group
from starforge.cli.render import print_json, run, say
from starforge.cli.work import JsonOption

if TYPE_CHECKING:
    from starforge.db.pool import Connection, Pool
    from starforge.ops.explain import Explanation

explain = typer.Typer(
    help="Say why something is in its state, what would move it, and which command does that.",
    no_args_is_help=True,
)


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(explain, name="explain")
    group(app, "backfill").command("explain")(backfill)


@explain.command("job")
def job(
    job_id: Annotated[UUID, typer.Argument(metavar="JOB_ID", help="The job's id.")],
    as_json: JsonOption = False,
) -> None:
    """Explain job JOB_ID."""
    from starforge.ops.explain import explain_job

    _explain(lambda conn: explain_job(conn, job_id), as_json=as_json)


@explain.command("queue")
def queue(
    name: Annotated[str, typer.Argument(help="The queue's name.")], as_json: JsonOption = False
) -> None:
    """Explain queue NAME."""
    from starforge.ops.explain import explain_queue

    _explain(lambda conn: explain_queue(conn, name), as_json=as_json)


@explain.command("worker")
def worker(
    worker_id: Annotated[str, typer.Argument(metavar="WORKER_ID", help="The worker's id or its beginning.")],
    as_json: JsonOption = False,
) -> None:
    """Explain worker WORKER_ID."""
    from starforge.ops.explain import explain_worker

    _explain(lambda conn: explain_worker(conn, worker_id), as_json=as_json)


@explain.command("backfill")
def backfill(
    backfill_id: Annotated[UUID, typer.Argument(metavar="ID", help="The backfill's id.")],
    as_json: JsonOption = False,
) -> None:
    """Explain backfill ID: why it is in its state, and whether a resume would be done."""
    from starforge.ops.explain import explain_backfill

    _explain(lambda conn: explain_backfill(conn, backfill_id), as_json=as_json)


def _explain(ask: Callable[[Connection], Awaitable[Explanation]], *, as_json: bool) -> None:
    from starforge.db.pool import set_tenant
    from starforge.settings import HomeSettings

    async def read(pool: Pool) -> Explanation:
        async with pool.connection() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            await set_tenant(conn, HomeSettings.read().tenant)
            return await ask(conn)

    found = run(read)
    if as_json:
        print_json(found)
        return
    say(f"{found.subject} is {found.state}: {found.why}.")
    say(f"What would move it: {found.moves}.")
    if found.command:
        say(f"→ {found.command}")
