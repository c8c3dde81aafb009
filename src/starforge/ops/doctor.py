"""Doctor: is this deployment fit to run? Each check says what it found and how to mend it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import asyncpg

from starforge.clock import new_id
from starforge.db.budget import read_budget
from starforge.db.errors import DatabaseUnreachableError, RoleUnsafeError
from starforge.db.migrate import applied, code_version, migrations, pending, serves
from starforge.db.pool import Connection, PoolSettings, connect, require_bound_role
from starforge.db.roles import EXTENSIONS, REQUIRED_EXTENSIONS, ROLES, role_name
from starforge.db.url import shown
from starforge.errors import RefusedError, StarForgeError
from starforge.etl.ingest.control import ingest_control
from starforge.etl.mapping import Mapping
from starforge.etl.source.fit import misfits
from starforge.etl.store.store import object_store
from starforge.settings import HomeSettings, Settings, setting

State = Literal["ok", "warning", "fault"]
POSTGRES_MIN = 150_000
CHECK_LOGIN = "Log in as one of the four roles (`starforge db url`), or GRANT one of them to this login."


class DoctorSettings(Settings):
    """From when on the doctor worries."""

    disk_free_mb_min: int = setting(
        2048,
        env="STARFORGE_DISK_FREE_MB_MIN",
        unit="MB",
        meaning="Less free space than this where StarForge keeps its data is a warning; a tenth, a fault.",
        ge=10,
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What is examined."""

    url: str
    embedded: bool
    mappings: tuple[Mapping, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    state: State
    found: str
    mend: str = ""


async def examine(
    url: str, *, embedded: bool = False, mappings: Iterable[Mapping] = ()
) -> AsyncIterator[Finding]:
    """Run every check against the database of `url`, the most fundamental first.

    Args:
        url: The login to check; without `embedded` the one that worker and server use too.
        embedded: The database is StarForge's own, which `starforge up` looks after.
        mappings: Those of the app that is to run here, to compare with the tables.
    """
    yield _disk()
    yield await _objects()
    try:
        conn = await connect(url, application="starforge doctor")
    except DatabaseUnreachableError as error:
        yield Finding("connection", "fault", str(error), error.remedy)
        return
    try:
        for name, check in CHECKS.items():
            try:
                finding = await check(conn, Asked(url, embedded, tuple(mappings)))
            except asyncpg.InsufficientPrivilegeError as error:
                finding = Finding(name, "fault", f"cannot be checked: {error}", CHECK_LOGIN)
            yield finding
    finally:
        await conn.close()


async def _connection(conn: Connection, asked: Asked) -> Finding:
    number = int(await conn.fetchval("SELECT current_setting('server_version_num')"))
    version = await conn.fetchval("SELECT current_setting('server_version')")
    told = f"Postgres {version} at {shown(asked.url)}"
    if number < POSTGRES_MIN:
        return Finding("connection", "fault", told, "StarForge needs Postgres 15 or newer.")
    unsafe = [
        name
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if await conn.fetchval("SELECT current_setting($1)", name) == "off"
    ]
    if unsafe:
        return Finding(
            "connection",
            "warning",
            f"{told}; {', '.join(unsafe)} off: accepted jobs do not survive a crash",
            f"Set {' and '.join(unsafe)} = on in postgresql.conf and reload.",
        )
    return Finding("connection", "ok", told)


async def _roles(conn: Connection, asked: Asked) -> Finding:
    rows = await conn.fetch(
        "SELECT rolname, rolsuper OR rolbypassrls AS unbound FROM pg_roles WHERE rolname = ANY ($1)",
        [role_name(role) for role in ROLES],
    )
    there = {row["rolname"]: row["unbound"] for row in rows}
    missing = [role_name(role) for role in ROLES if role_name(role) not in there]
    if missing:
        return Finding(
            "roles",
            "fault",
            f"missing: {', '.join(missing)}",
            "As a superuser: starforge db grants | psql DATABASE",
        )
    unbound = [name for name, free in there.items() if free]
    if unbound:
        return Finding(
            "roles",
            "warning",
            f"row security does not bind {', '.join(unbound)}",
            f"ALTER ROLE {unbound[0]} NOSUPERUSER NOBYPASSRLS;",
        )
    if not asked.embedded:
        # Worker and server log in with this URL as well, and would refuse to start.
        try:
            await require_bound_role(conn, "this login")
        except RoleUnsafeError as error:
            return Finding("roles", "fault", str(error), error.remedy)
    me = await conn.fetchval("SELECT current_user")
    return Finding(
        "roles", "ok", f"all four exist; this login is {me}; tenancy {HomeSettings.read().tenancy}"
    )


async def _migrations(conn: Connection, asked: Asked) -> Finding:
    try:
        have = await applied(conn)
        if not have:
            mend = "starforge migrate"
            mend += " (or starforge up, which does it)" if asked.embedded else ""
            return Finding("migrations", "fault", "this database was never migrated", mend)
        todo = pending(have, migrations())
        version = serves(have, code_version(), what="this StarForge")
    except RefusedError as error:
        return Finding("migrations", "fault", str(error), error.remedy)
    if todo:
        names = ", ".join(f"{m.number:04d}_{m.name}" for m in todo)
        return Finding("migrations", "warning", f"pending: {names}", "starforge migrate")
    return Finding("migrations", "ok", f"schema {version}, code {code_version()}")


async def _extensions(conn: Connection, _asked: Asked) -> Finding:
    have = {row[0] for row in await conn.fetch("SELECT extname FROM pg_extension")}
    missing = [name for name in EXTENSIONS if name not in have]
    if any(name in REQUIRED_EXTENSIONS for name in missing):
        return Finding(
            "extensions", "fault", f"missing: {', '.join(missing)}", f"CREATE EXTENSION {missing[0]};"
        )
    if missing or not await _counts_statements(conn):
        fault = f"missing: {', '.join(missing)}" if missing else "pg_stat_statements is not loaded"
        return Finding(
            "extensions",
            "warning",
            f"{fault}; reports of slow statements stay empty",
            "Add pg_stat_statements to shared_preload_libraries, restart Postgres, CREATE EXTENSION.",
        )
    return Finding("extensions", "ok", ", ".join(EXTENSIONS))


async def _counts_statements(conn: Connection) -> bool:
    """Tell whether pg_stat_statements works: created without being preloaded it only raises."""
    try:
        await conn.execute("SELECT 1 FROM pg_stat_statements LIMIT 1")
    except asyncpg.ObjectNotInPrerequisiteStateError:
        return False
    return True


async def _pooler(conn: Connection, asked: Asked) -> Finding:
    pooled = await conn.fetchval("SELECT pg_backend_pid()") != conn.get_server_pid()
    if not pooled:
        return Finding("pooler", "ok", "direct connection")
    return Finding(
        "pooler",
        "ok",
        "behind a pooler: statement cache and listener are off, new work is found by polling",
        f"For quicker pick-up give workers a direct DATABASE_URL instead of {shown(asked.url)}.",
    )


async def _budget(conn: Connection, _asked: Asked) -> Finding:
    pool_max = PoolSettings.read().pool_max
    try:
        budget = await read_budget(conn)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        return Finding("connection budget", "ok", "told once the database is migrated")
    told = f"{budget.formula(pool_max)}; {budget.remainder()}; {budget.used} connections in use"
    if budget.fit(pool_max) < 1:
        return Finding("connection budget", "fault", told, "Raise max_connections or lower PG_POOL_MAX.")
    if budget.used > budget.capacity:
        return Finding("connection budget", "warning", told, "See who holds them: starforge capacity.")
    return Finding("connection budget", "ok", told)


async def _mappings(conn: Connection, asked: Asked) -> Finding:
    """Compare the app's mappings with the tables; a fault stops the jobs of its source and no other."""
    if not await conn.fetchval("SELECT to_regclass('hero_snapshots') IS NOT NULL"):
        return Finding("mappings", "ok", "told once the database is migrated")
    found = [(mapping.name, each) for mapping in asked.mappings for each in await misfits(conn, mapping)]
    if not found:
        names = ", ".join(mapping.name for mapping in asked.mappings) or "none"
        return Finding("mappings", "ok", f"they fit their tables: {names}")
    faults = [(source, each) for source, each in found if each.level == "fault"]
    source, first = (faults or found)[0]
    more = f" (and {len(found) - 1} more: starforge mapping check)" if len(found) > 1 else ""
    return Finding(
        "mappings",
        "fault" if faults else "warning",
        f"source {source}: {first}{more}",
        "Run the migration that makes the tables fit (`starforge mapping ddl`), or correct the mapping.",
    )


async def _ingestion(conn: Connection, _asked: Asked) -> Finding:
    """Say what is paused: a pause is right while somebody knows of it."""
    if not await conn.fetchval("SELECT to_regclass('feature_flags') IS NOT NULL"):
        return Finding("ingestion", "ok", "told once the database is migrated")
    control = await ingest_control(conn)
    if control.whole is not None:
        return Finding("ingestion", "warning", f"paused: {control.whole}", "starforge ingest resume")
    if control.sources:
        paused = "; ".join(f"source {name!r} is paused: {each}" for name, each in control.sources.items())
        return Finding("ingestion", "warning", paused, "starforge source resume NAME")
    return Finding("ingestion", "ok", "snapshots are accepted")


CHECKS: dict[str, Callable[[Connection, Asked], Awaitable[Finding]]] = {
    "connection": _connection,
    "roles": _roles,
    "migrations": _migrations,
    "extensions": _extensions,
    "pooler": _pooler,
    "connection budget": _budget,
    "mappings": _mappings,
    "ingestion": _ingestion,
}
"""The checks that need a connection, the most fundamental first, by the name of their finding."""


async def _objects() -> Finding:
    """Write an object, read it and delete it, as an ingest and its worker would."""
    said = b"starforge doctor"

    async def chunks() -> AsyncIterator[bytes]:
        yield said

    try:
        store, key = object_store(), f"doctor/{new_id()}"
        await store.put(key, chunks())
        read = b"".join([chunk async for chunk in store.get(key)])
        await store.delete(key)
    except StarForgeError as error:
        return Finding("object store", "fault", str(error), error.remedy)
    if read != said:
        mend = "Give each deployment a folder or a prefix of its own: STARFORGE_OBJECT_STORE."
        return Finding("object store", "fault", f"{store.name} gives back other bytes than it took", mend)
    return Finding("object store", "ok", f"{store.name} takes, gives back and deletes")


def _disk() -> Finding:
    home = HomeSettings.read().home
    place = next(path for path in (home, *home.parents) if path.exists())
    free_mb = shutil.disk_usage(place).free // 1_000_000
    least = DoctorSettings.read().disk_free_mb_min
    told = f"{free_mb} MB free for {home}"
    if free_mb >= least:
        return Finding("disk", "ok", told)
    state: State = "fault" if free_mb < least / 10 else "warning"
    return Finding("disk", state, told, "Free space there, or set STARFORGE_HOME to a larger disk.")
