"""The command `capacity`: how many workers the server's connections carry, term by term."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from starforge.cli.render import as_table, print_json, run, say

if TYPE_CHECKING:
    from starforge.db.budget import Budget, Holder
    from starforge.db.pool import Pool

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
PoolOption = Annotated[
    int | None, typer.Option("--pool-max", min=2, help="Size of a worker; else PG_POOL_MAX.")
]


def add(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("capacity")(capacity)


def capacity(pool_max: PoolOption = None, as_json: JsonOption = False) -> None:
    """Show how many workers the server's connections carry, term by term, and who holds them."""
    from starforge.db.budget import holders, read_budget
    from starforge.db.pool import PoolSettings

    async def read(pool: Pool) -> tuple[Budget, list[Holder]]:
        async with pool.connection() as conn:
            return await read_budget(conn), await holders(conn)

    budget, held = run(read)
    size = pool_max or PoolSettings.read().pool_max
    if as_json:
        terms = {**asdict(budget), "capacity": budget.capacity, "free": budget.free}
        fit = {"pool_max": size, "workers_fit": budget.fit(size), "workers_more": budget.more(size)}
        print_json({**terms, **fit, "holders": held})
        return
    say(f"{budget.formula(size)} in all")
    say(f"{budget.remainder()}; / PG_POOL_MAX {size} = {budget.more(size)} more workers")
    say(f"{budget.used} connections are in use:")
    as_table(
        ("role", "application", "address", "connections", "idle"),
        [(who.role, who.application, who.address, who.connections, who.idle) for who in held],
    )
