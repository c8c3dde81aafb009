"""Migrations: numbered SQL files, each applied once, in order, in a transaction of its own.

The schema and the code move apart. A migration either expands (old code goes on working) or contracts
(`-- phase: contract 7` says: code that knows only schemas older than 7 is no longer served). A process
states which schemas it can work with and refuses the others in one sentence (`check_version`).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import asyncpg

from starforge.clock import failpoint, monotonic_s, randomness
from starforge.db.errors import MigrationChangedError, RolesMissingError, SchemaVersionError
from starforge.db.pool import Connection
from starforge.db.roles import ROLES, grants_script, role_name

NEEDS_SCHEMA = 10
"""The oldest schema that this code can work with."""

LOCK_KEY = 0x5F0_26C6
"""Advisory lock that serialises migrations; transaction-scoped, so that a pooler cannot leak it."""

GRANT_TRIES_MAX = 20
GRANT_PAUSE_S = 0.05

BREAKS_OLD_CODE = re.compile(
    r"\b(DROP\s+(TABLE|COLUMN|VIEW|FUNCTION)|RENAME\s+(TO|COLUMN)|ALTER\s+COLUMN\s+\w+\s+(SET\s+DATA\s+)?TYPE)\b",
    re.IGNORECASE,
)
FUNCTION_BODY = re.compile(r"CREATE (?:OR REPLACE )?FUNCTION[^;]*?\$\$.*?\$\$", re.DOTALL)
HEADER = re.compile(r"^-- phase: (expand|contract (\d+))$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, name, text and the oldest code that the schema serves once it is applied."""

    number: int
    name: str
    text: str
    serves_from: int

    @property
    def file(self) -> str:
        return f"{self.number:04d}_{self.name}"

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Applied:
    """One row of schema_migrations."""

    number: int
    name: str
    checksum: str
    serves_from: int

    @property
    def file(self) -> str:
        return f"{self.number:04d}_{self.name}"


def parse(file_name: str, text: str) -> Migration:
    """Read one migration file; raise ValueError when its name or phase breaks the rules."""
    match = re.fullmatch(r"(\d{4})_([a-z0-9_]+)\.sql", file_name)
    if match is None:
        raise ValueError(f"{file_name}: a migration is called NNNN_words.sql")
    phase = HEADER.search(text)
    if phase is None:
        raise ValueError(f"{file_name}: say `-- phase: expand` or `-- phase: contract N`")
    # What a function's body says happens when it is called, and not in the migration.
    bare = FUNCTION_BODY.sub("", re.sub(r"--[^\n]*", "", text))
    if phase[1] == "expand" and (breaks := BREAKS_OLD_CODE.search(bare)):
        raise ValueError(f"{file_name}: an expanding migration may not {breaks[0]}; old workers still run")
    return Migration(int(match[1]), match[2], text, int(phase[2] or 0))


def migrations() -> list[Migration]:
    """Return the migrations that this code ships, numbered 1, 2, 3 … without a gap."""
    folder = resources.files("starforge.db").joinpath("migrations")
    files = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    found = [parse(name, folder.joinpath(name).read_text("utf-8")) for name in files]
    if [m.number for m in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are not numbered without a gap: {files}")
    return found


def code_version() -> int:
    """Return the newest schema that this code knows."""
    return migrations()[-1].number


async def applied(conn: Connection) -> list[Applied]:
    """Return the migrations that the database has, oldest first; [] where none ever ran."""
    if await conn.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return []
    rows = await conn.fetch(
        "SELECT number, name, checksum, serves_from FROM schema_migrations ORDER BY number"
    )
    return [Applied(**row) for row in rows]


def pending(have: Sequence[Applied], ship: Sequence[Migration]) -> list[Migration]:
    """Return what is to be applied; raise MigrationChangedError where an applied file has changed."""
    known = {migration.number: migration for migration in ship}
    for row in have:
        migration = known.get(row.number)
        if migration is not None and migration.checksum != row.checksum:
            raise MigrationChangedError(
                f"migration {row.file} was applied with another text: "
                f"checksum {row.checksum[:12]} in the database, {migration.checksum[:12]} in the file"
            )
    last = have[-1].number if have else 0
    return [migration for migration in ship if migration.number > last]


async def migrate(
    conn: Connection,
    ship: Sequence[Migration] | None = None,
    *,
    report: Callable[[Migration, float], None] | None = None,
) -> list[Migration]:
    """Apply what is missing and return it; safe when several processes do so at once.

    Args:
        conn: A connection outside a transaction, as a superuser, as starforge_owner or a member of it.
        ship: The migrations to apply; those of this code where not given.
        report: Called after each with its duration in seconds.
    Raises: RolesMissingError, MigrationChangedError; asyncpg's error where a statement fails, with that
        migration rolled back and the ones before it kept.
    """
    ship = migrations() if ship is None else ship
    await _require_roles(conn)
    done: list[Migration] = []
    while True:
        started_s = monotonic_s()
        async with conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
            await conn.execute(f"SET LOCAL ROLE {role_name('owner')}")
            todo = pending(await applied(conn), ship)
            if not todo:
                return done
            migration = todo[0]
            await conn.execute(_BOOK)
            await conn.execute(migration.text)
            failpoint("migrate_before_commit")
            await conn.execute(
                "INSERT INTO schema_migrations (number, name, checksum, serves_from, duration_ms)"
                " VALUES ($1, $2, $3, $4, $5)",
                migration.number,
                migration.name,
                migration.checksum,
                migration.serves_from,
                (monotonic_s() - started_s) * 1000,
            )
        done.append(migration)
        if report is not None:
            report(migration, monotonic_s() - started_s)


_BOOK = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number       integer PRIMARY KEY,
    name         text NOT NULL,
    checksum     text NOT NULL,
    serves_from  integer NOT NULL DEFAULT 0,
    duration_ms  real NOT NULL,
    applied_at   timestamptz NOT NULL DEFAULT now(),
    applied_by   text NOT NULL DEFAULT session_user
)
"""


async def _require_roles(conn: Connection) -> None:
    """Make the roles and this database's grants where they lack and the user may; refuse otherwise."""
    row = await _granted(conn)
    # Roles belong to all databases of the server and the lock to one: who migrates another may be at them.
    for tries in range(1, GRANT_TRIES_MAX):
        if row is not None:
            break
        await asyncio.sleep(randomness.uniform(0.5, 1) * GRANT_PAUSE_S * tries)
        row = await _granted(conn)
    if row is None:
        raise RolesMissingError("another process keeps changing the roles: migrate again when it is done")
    if row["missing"]:
        raise RolesMissingError(
            f"the database has no role {', '.join(row['missing'])}, and {row['who']} may not create roles"
        )
    if not row["member"]:
        raise RolesMissingError(f"{row['who']} is not a member of {role_name('owner')}")
    if not row["owner_may_create"]:
        raise RolesMissingError(
            f"{role_name('owner')} may not create tables in schema {row['schema']} of {row['database']}"
        )


async def _granted(conn: Connection) -> asyncpg.Record | None:
    """Return what `_RIGHTS` finds, after making what lacks; None where another process made it first."""
    asked = ([role_name(role) for role in ROLES], role_name("owner"))
    try:
        async with conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
            row = await conn.fetchrow(_RIGHTS, *asked)
            assert row is not None
            if (row["missing"] or not row["owner_may_create"]) and row["may_create_roles"]:
                await conn.execute(grants_script(row["database"], schema=row["schema"]))
                row = await conn.fetchrow(_RIGHTS, *asked)
            return row
    except (asyncpg.UniqueViolationError, asyncpg.InternalServerError) as error:
        if isinstance(error, asyncpg.InternalServerError) and "concurrently" not in str(error):
            raise
        return None


_RIGHTS = """
WITH wanted AS (
    SELECT name, EXISTS (SELECT 1 FROM pg_roles WHERE rolname = name) AS there FROM unnest($1::text[]) AS name
)
SELECT current_database() AS database, current_schema() AS schema, current_user AS who,
       (SELECT coalesce(array_agg(name), '{}') FROM wanted WHERE NOT there) AS missing,
       (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) AS may_create_roles,
       CASE WHEN (SELECT there FROM wanted WHERE name = $2)
            THEN pg_has_role(current_user, $2::text, 'MEMBER') ELSE false END AS member,
       CASE WHEN (SELECT there FROM wanted WHERE name = $2)
            THEN has_schema_privilege($2::text, current_schema(), 'CREATE') ELSE false END AS owner_may_create
"""


async def check_version(conn: Connection, *, what: str = "this process") -> int:
    """Return the schema's version; raise SchemaVersionError where this code cannot work with it."""
    return serves(await applied(conn), code_version(), what=what)


def serves(have: Iterable[Applied], knows: int, *, needs: int = NEEDS_SCHEMA, what: str) -> int:
    """Decide whether code that `knows` schemas up to a number may use a schema; return its version."""
    have = list(have)
    version = have[-1].number if have else 0
    serves_from = max((row.serves_from for row in have), default=0)
    if version < needs:
        raise SchemaVersionError(
            f"the schema is at version {version} and {what} needs {needs} or newer: run `starforge migrate`"
        )
    if serves_from > knows:
        raise SchemaVersionError(
            f"the schema is at version {version} and serves code that knows {serves_from} or newer; "
            f"{what} knows {knows}: deploy a newer StarForge"
        )
    return version
