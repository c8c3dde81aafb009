"""The four database roles and the script that makes them.

owner migrates; engine runs workers; app serves the web; operator runs the runbooks' SQL. Only a role
that may create roles can run this script, so it stands apart from the migrations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from starforge.db.statement import quoted

if TYPE_CHECKING:
    from starforge.db.pool import Connection

ROLES = ("owner", "engine", "app", "operator")
EXTENSIONS = ("btree_gist", "pg_stat_statements")
REQUIRED_EXTENSIONS = ("btree_gist",)


def role_name(role: str) -> str:
    """Return the name that a role has in the database: starforge_engine for engine."""
    return f"starforge_{role}"


def grants_script(database: str, *, schema: str = "public") -> str:
    """Return the SQL that a superuser runs once per database: roles, their membership and limits.

    It may be run again. Passwords are left to the administrator: `ALTER ROLE … PASSWORD`.
    """
    lines = [
        "-- StarForge: roles and rights. Run once per database as a superuser; running it again is safe.",
    ]
    for role in ROLES:
        lines.append(
            f"DO $$ BEGIN CREATE ROLE {role_name(role)} LOGIN NOSUPERUSER NOBYPASSRLS; "
            "EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        )
    owner = role_name("owner")
    lines += [
        f"GRANT {owner} TO CURRENT_USER;",
        f"GRANT CREATE, TEMPORARY ON DATABASE {quoted(database)} TO {owner};",
        f"GRANT USAGE, CREATE ON SCHEMA {quoted(schema)} TO {owner};",
    ]
    for role in ("engine", "app", "operator"):
        lines += [
            f"GRANT CONNECT, TEMPORARY ON DATABASE {quoted(database)} TO {role_name(role)};",
            f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {role_name(role)};",
        ]
    # The time limits of each role: a page may not hang, a worker's batch may take longer.
    for role, statement_s, idle_s in (("engine", 120, 120), ("app", 15, 15), ("operator", 300, 300)):
        lines += [
            f"ALTER ROLE {role_name(role)} SET statement_timeout = '{statement_s}s';",
            f"ALTER ROLE {role_name(role)} SET lock_timeout = '{min(statement_s, 30)}s';",
            f"ALTER ROLE {role_name(role)} SET idle_in_transaction_session_timeout = '{idle_s}s';",
        ]
    lines += [
        "DO $$ BEGIN GRANT pg_read_all_stats TO "
        f"{role_name('operator')}, {role_name('app')}, {role_name('engine')}; "
        "EXCEPTION WHEN insufficient_privilege THEN NULL; END $$;",
    ]
    for extension in EXTENSIONS:
        optional = extension not in REQUIRED_EXTENSIONS
        create = f"CREATE EXTENSION IF NOT EXISTS {extension}"
        if optional:
            lines.append(
                f"DO $$ BEGIN {create}; EXCEPTION WHEN OTHERS THEN "
                f"RAISE NOTICE '{extension} is not available: slow-statement reports will be empty'; END $$;"
            )
        else:
            lines.append(f"{create};")
    return "\n".join(lines) + "\n"


async def create_roles(conn: Connection, passwords: Mapping[str, str]) -> None:
    """Make the four roles in the connection's database and give them these passwords.

    Args:
        conn: A connection whose user may create roles.
        passwords: One per name of `ROLES`; other keys are ignored.
    """
    database = await conn.fetchval("SELECT current_database()")
    await conn.execute(grants_script(database))
    for role in ROLES:
        password = passwords.get(role)
        if password:
            literal = await conn.fetchval("SELECT quote_literal($1)", password)
            await conn.execute(f"ALTER ROLE {role_name(role)} PASSWORD {literal}")
