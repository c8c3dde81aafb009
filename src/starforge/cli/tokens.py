"""The commands of API tokens: who may call the server, and as what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from starforge.cli.render import as_table, out, print_json, say
from starforge.cli.work import JsonOption
from starforge.errors import InvalidInputError

if TYPE_CHECKING:
    from starforge.db.pool import Connection

T = TypeVar("T")

token = typer.Typer(help="API tokens: make, list, revoke.", no_args_is_help=True)

NAME_CHARS_MAX = 200
DAYS_MAX = 36_500
"""An end that is later than Python's calendar could never be read again."""

COLUMNS = ("name", "role", "tenant_id", "created_at", "expires_at", "last_used_at")

Name = Annotated[str, typer.Argument(help="Name: the client and the actor that requests act as.")]
Tenant = Annotated[str | None, typer.Option(help="Tenant that it speaks for; else TENANT_ID.")]


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(token, name="token")


@token.command("make")
def make(
    name: Name,
    role: Annotated[str, typer.Option(help="producer (offers snapshots), viewer, operator or admin.")],
    tenant: Tenant = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=DAYS_MAX, help="Days until it ends; else it has no end.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it: it can be seen this once."""
    from starforge.web.auth import TOKEN_ROLES, make_token, record_access

    if role not in TOKEN_ROLES:
        raise InvalidInputError(f"--role {role}: use one of {', '.join(TOKEN_ROLES)}")
    if not name.strip() or len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise InvalidInputError(f"a token's name has 1 to {NAME_CHARS_MAX} printable characters")
    whose = _tenant(tenant)

    async def work(conn: Connection) -> str:
        async with conn.transaction():
            made = await make_token(conn, name=name, role=role, tenant=whose, days=days)
            await record_access(conn, "token make", name=name, tenant=whose, role=role)
        return made

    made = _as_owner(work)
    if as_json:
        print_json({"name": name, "role": role, "tenant": whose, "token": made})
        return
    out.print(made, highlight=False, markup=False, soft_wrap=True)


@token.command("ls")
def ls(as_json: JsonOption = False) -> None:
    """List the tokens that are not revoked; what they are is kept nowhere."""
    from starforge.web.auth import tokens

    async def work(conn: Connection) -> list[dict[str, Any]]:
        return [dict(row) for row in await tokens(conn)]

    found = _as_owner(work)
    if as_json:
        print_json(found)
        return
    as_table(
        ("name", "role", "tenant", "made", "ends", "last used"),
        [tuple(_shown(row[column]) for column in COLUMNS) for row in found],
    )


@token.command("revoke")
def revoke(name: Name, tenant: Tenant = None, as_json: JsonOption = False) -> None:
    """End a tenant's tokens of this name; every server refuses them within a second."""
    from starforge.web.auth import record_access, revoke_tokens

    whose = _tenant(tenant)

    async def work(conn: Connection) -> int:
        async with conn.transaction():
            revoked = await revoke_tokens(conn, name=name, tenant=whose)
            await record_access(conn, "token revoke", name=name, tenant=whose)
        return revoked

    revoked = _as_owner(work)
    if as_json:
        print_json({"name": name, "tenant": whose, "revoked": revoked})
        return
    say(f"{revoked} revoked")


def _tenant(given: str | None) -> str:
    from starforge.settings import HomeSettings

    return given or HomeSettings.read().tenant


def _shown(value: Any) -> Any:
    return f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "strftime") else value


def _as_owner(work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `work` on a connection of the owner: nobody else may say who has access."""
    from starforge.db.migrate import check_version
    from starforge.db.pool import connect
    from starforge.db.server import database

    async def run() -> T:
        async with database() as db:
            conn = await connect(db.url("owner"), application="starforge cli")
            try:
                await check_version(conn, what="this command")
                return await work(conn)
            finally:
                await conn.close()

    return asyncio.run(run())
