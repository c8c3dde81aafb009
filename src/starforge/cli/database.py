"""Commands for the database: migrate, db url, db grants, db psql."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from typing import Annotated

import typer

from starforge.cli.render import as_table, err, out, print_json
from starforge.cli.work import JsonOption
from starforge.errors import InvalidInputError, NotFoundError, UnreachableError

RoleOption = Annotated[str, typer.Option("--role", help="owner, engine, app or operator.")]

db = typer.Typer(help="The database: addresses, rights and a prompt.", no_args_is_help=True)


class NotRunningError(UnreachableError):
    """The embedded server has an address only while it runs."""

    code = "SF810"
    remedy = "Start it: `starforge up` — or set DATABASE_URL."


class NoPsqlError(NotFoundError):
    """No psql was found."""

    code = "SF811"
    remedy = "Install Debian's postgresql-client, or the extra starforge-jobs[embedded]."


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("migrate")(migrate)
    app.add_typer(db, name="db")


def migrate(
    status: Annotated[bool, typer.Option("--status", help="Only show what is applied and pending.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be applied.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the schema up to date; safe to run from several processes at once."""
    from starforge.db import migrate as m
    from starforge.db.pool import connect
    from starforge.db.server import database

    async def run() -> tuple[list[m.Applied], list[m.Migration], list[m.Migration]]:
        async with database(migrated=False) as opened:
            conn = await connect(opened.url("admin"))
            try:
                have = await m.applied(conn)
                todo = m.pending(have, m.migrations())
                done = [] if status or dry_run else await m.migrate(conn)
                return have, todo, done
            finally:
                await conn.close()

    have, todo, done = asyncio.run(run())
    if as_json:
        print_json(
            {
                "applied_before": [row.file for row in have],
                "pending": [row.file for row in todo if row not in done],
                "applied_now": [row.file for row in done],
            }
        )
        return
    if status:
        rows = [(f"{row.number:04d}", row.name, "applied") for row in have]
        as_table(
            ("number", "migration", "state"), rows + [(f"{m.number:04d}", m.name, "pending") for m in todo]
        )
        return
    verb = "would apply" if dry_run else "applied"
    for migration in todo if dry_run else done:
        out.print(f"{verb} {migration.file}", highlight=False)
    if not todo:
        out.print(f"nothing to do: the schema is at version {have[-1].number}", highlight=False)


@db.command("url")
def url(role: RoleOption = "operator") -> None:
    """Print the address to connect to as a role: psql "$(starforge db url --role operator)"."""
    from starforge.db.embedded import peek
    from starforge.db.pool import PoolSettings
    from starforge.db.server import address_of_role
    from starforge.settings import HomeSettings

    _check_role(role)
    given = PoolSettings.read().url
    if given:
        address = address_of_role(given, role)
        typer.echo(address)
        if address != given:
            err.print("The password is not in it: add it, or let PGPASSWORD or ~/.pgpass supply it.")
        return
    running = peek(HomeSettings.read().home)
    if running is None:
        raise NotRunningError("the embedded Postgres is not running, so it has no address")
    typer.echo(running.dsn(role))


@db.command("grants")
def grants(
    database: Annotated[str, typer.Option(help="Name of the database.")] = "starforge",
    schema: Annotated[str, typer.Option(help="Schema that StarForge's tables are in.")] = "public",
) -> None:
    """Print the SQL that makes the four roles; a superuser runs it once per database."""
    from starforge.db.roles import grants_script

    typer.echo(grants_script(database, schema=schema), nl=False)


@db.command("psql", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context, role: RoleOption = "operator") -> None:
    """Open psql as a role; further arguments are psql's: starforge db psql --role owner -f tables.sql."""
    from starforge.db.server import address_of_role, open_database

    _check_role(role)
    opened = open_database()
    try:
        bundled = opened.embedded.psql if opened.embedded else None
        program = shutil.which("psql") or (str(bundled) if bundled else None)
        if program is None:
            raise NoPsqlError("there is no psql on the PATH nor in the embedded Postgres")
        address = opened.url(role) if opened.embedded else address_of_role(opened.url(role), role)
        done = subprocess.run([program, address, *context.args], check=False)
    finally:
        opened.release()
    sys.exit(done.returncode)


def _check_role(role: str) -> None:
    from starforge.db.roles import ROLES

    if role not in ROLES:
        raise InvalidInputError(f"--role {role}: use one of {', '.join(ROLES)}")
