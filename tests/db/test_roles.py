"""Roles: made by a script that may run again, by whoever may make them, and never quietly missing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from starforge.db import migrate as m
from starforge.db.errors import RolesMissingError
from starforge.db.pool import Connection, connect
from starforge.db.roles import ROLES, create_roles, grants_script, role_name
from starforge.ops.doctor import examine
from tests.postgres import TestServer

NAMES = [role_name(role) for role in ROLES]


@pytest.fixture(scope="module")
def own_server() -> Iterator[TestServer]:
    """A server of these tests' own: roles belong to a whole server, and here they come and go."""
    started = TestServer(os.environ.get("STARFORGE_TEST_POSTGRES", "18"))
    yield started
    started.stop()


@pytest.fixture
async def bare(own_server: TestServer, server: TestServer) -> AsyncIterator[Connection]:
    """A superuser's connection to the database `bare` of a server that has none of the four roles.

    The session's server is asked for only so that a missing Postgres is skipped with its one line.
    """
    admin = await connect(own_server.url())
    await admin.execute("CREATE DATABASE bare")
    conn = await connect(own_server.url("bare"))
    yield conn
    await conn.close()
    await admin.execute("DROP DATABASE bare WITH (FORCE)")
    for name in await admin.fetch("SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_'"):
        await admin.execute(f'DROP OWNED BY "{name[0]}"; DROP ROLE "{name[0]}"')
    await admin.close()


async def _standing(conn: Connection) -> list[Any]:
    """Everything that the script gives, as the catalogue has it."""
    roles = await conn.fetch(
        "SELECT rolname, rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolconfig,"
        " has_schema_privilege(rolname, 'public', 'CREATE') AS makes_tables,"
        " has_schema_privilege(rolname, 'public', 'USAGE') AS uses,"
        " has_database_privilege(rolname, current_database(), 'CONNECT, TEMPORARY') AS connects,"
        " pg_has_role(rolname, 'pg_read_all_stats', 'MEMBER') AS reads_stats"
        " FROM pg_roles WHERE rolname LIKE 'starforge_%' ORDER BY rolname"
    )
    extensions = await conn.fetch("SELECT extname FROM pg_extension ORDER BY extname")
    return [tuple(row) for row in (*roles, *extensions)]


async def test_the_script_makes_four_roles_that_row_security_binds_and_changes_nothing_when_run_again(
    bare: Connection,
) -> None:
    await bare.execute(grants_script("bare"))
    first = await _standing(bare)
    assert [row[0] for row in first[:4]] == sorted(NAMES)
    for name, logs_in, superuser, bypasses, makes_roles, *_ in first[:4]:
        assert (logs_in, superuser, bypasses, makes_roles) == (True, False, False, False), name
    assert {row[0] for row in first[4:]} >= {"btree_gist", "pg_stat_statements"}
    await bare.execute(grants_script("bare"))
    assert await _standing(bare) == first


async def test_only_the_owner_may_make_tables_and_a_page_is_cut_sooner_than_a_batch(bare: Connection) -> None:
    await bare.execute(grants_script("bare"))
    makers = await bare.fetch(
        "SELECT rolname FROM pg_roles"
        " WHERE rolname = ANY ($1) AND has_schema_privilege(oid, 'public', 'CREATE')",
        NAMES,
    )
    assert [row[0] for row in makers] == ["starforge_owner"]
    limits = await bare.fetchval(
        "SELECT jsonb_object_agg(rolname, substring(setting FROM '=(.*)s')::int)"
        " FROM pg_roles, unnest(rolconfig) AS setting WHERE setting LIKE 'statement_timeout=%'"
    )
    assert limits["starforge_app"] < limits["starforge_engine"] <= limits["starforge_operator"]
    assert "starforge_owner" not in limits, "a migration may take its time"


async def test_a_name_that_must_be_quoted_is(bare: Connection) -> None:
    await bare.execute('CREATE DATABASE "it\'s ""odd"""; ')
    try:
        await bare.execute('CREATE SCHEMA "sta-r"')
        await bare.execute(grants_script('it\'s "odd"', schema="sta-r"))
        assert await bare.fetchval("SELECT has_schema_privilege('starforge_owner', 'sta-r', 'CREATE')")
    finally:
        await bare.execute('DROP DATABASE "it\'s ""odd"""')


async def test_the_owner_migrates_and_the_operator_works_with_no_superuser_about(
    bare: Connection, own_server: TestServer
) -> None:
    await bare.execute(grants_script("bare"))
    owner = await connect(own_server.url("bare", user="starforge_owner"))
    assert [x.number for x in await m.migrate(owner)] == [x.number for x in m.migrations()]
    await owner.close()
    operator = await connect(own_server.url("bare", user="starforge_operator"))
    await operator.execute("INSERT INTO queue_jobs (type, payload) VALUES ('t', '{}')")
    assert await operator.fetchval("SELECT tenant_id FROM queue_jobs") == "default"
    assert await operator.execute("UPDATE queue_jobs SET status = 'paused'") == "UPDATE 1"
    assert await operator.fetchval("SELECT count(*) FROM pg_stat_statements") >= 0
    assert await m.check_version(operator) == m.code_version()
    with pytest.raises(RolesMissingError, match="starforge_operator is not a member of starforge_owner"):
        await m.migrate(operator)
    await operator.close()


async def test_an_owner_of_a_database_who_may_not_make_roles_is_refused_while_they_are_missing(
    bare: Connection, own_server: TestServer
) -> None:
    await bare.execute("CREATE ROLE plain LOGIN; ALTER DATABASE bare OWNER TO plain")
    conn = await connect(own_server.url("bare", user="plain"))
    with pytest.raises(RolesMissingError) as refused:
        await m.migrate(conn)
    assert str(refused.value) == (
        f"the database has no role {', '.join(NAMES)}, and plain may not create roles"
    )
    assert "starforge db grants" in refused.value.remedy
    assert await m.applied(conn) == []
    await conn.close()


async def test_roles_without_rights_in_this_database_are_refused_where_the_login_cannot_give_them(
    bare: Connection, own_server: TestServer
) -> None:
    """Roles belong to the server, rights to a database: the script runs once for each."""
    await bare.execute("CREATE ROLE starforge_owner LOGIN")
    for name in NAMES[1:]:
        await bare.execute(f"CREATE ROLE {name} LOGIN")
    conn = await connect(own_server.url("bare", user="starforge_owner"))
    with pytest.raises(
        RolesMissingError, match="starforge_owner may not create tables in schema public of bare"
    ):
        await m.migrate(conn)
    await conn.close()


async def test_a_managed_servers_administrator_migrates_without_being_superuser(
    bare: Connection, own_server: TestServer
) -> None:
    """What a hosted Postgres gives: a login that owns its database and may make roles."""
    await bare.execute("CREATE ROLE chief LOGIN CREATEROLE; ALTER DATABASE bare OWNER TO chief")
    conn = await connect(own_server.url("bare", user="chief"))
    assert [x.number for x in await m.migrate(conn)] == [x.number for x in m.migrations()]
    assert await m.migrate(conn) == []
    await conn.close()


async def test_a_login_made_for_a_role_gets_its_password_whatever_is_in_it(bare: Connection) -> None:
    await create_roles(bare, {"app": 'it\'s \\ "quoted"; DROP ROLE tester', "nobody": "ignored"})
    with_password = (
        "SELECT rolname FROM pg_authid WHERE rolpassword IS NOT NULL AND rolname LIKE 'starforge_%'"
    )
    assert [row[0] for row in await bare.fetch(with_password)] == ["starforge_app"]
    assert await bare.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = 'tester'") == 1


async def test_the_doctor_names_the_missing_roles_and_the_script_that_makes_them(
    bare: Connection, own_server: TestServer
) -> None:
    found = {finding.check: finding async for finding in examine(own_server.url("bare"))}
    assert (found["roles"].state, found["roles"].found) == ("fault", f"missing: {', '.join(NAMES)}")
    assert "starforge db grants" in found["roles"].mend
    assert (found["extensions"].state, found["extensions"].mend) == ("fault", "CREATE EXTENSION btree_gist;")
    await bare.execute(grants_script("bare"))
    await bare.execute("ALTER ROLE starforge_app BYPASSRLS")
    found = {finding.check: finding async for finding in examine(own_server.url("bare"))}
    assert found["roles"].state == "warning"
    assert found["roles"].mend == "ALTER ROLE starforge_app NOSUPERUSER NOBYPASSRLS;"
    assert found["extensions"].state == "ok"


async def test_an_extension_that_is_only_wished_for_may_be_absent(
    bare: Connection, own_server: TestServer
) -> None:
    await bare.execute(grants_script("bare"))
    await bare.execute("DROP EXTENSION pg_stat_statements")
    found = {finding.check: finding async for finding in examine(own_server.url("bare"))}
    assert found["extensions"].state == "warning"
    with pytest.raises(asyncpg.UndefinedTableError):
        await bare.execute("SELECT FROM pg_stat_statements")
