"""Tokens: who asks. A token is 256 random bits; the database keeps its hash, its name and its role."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.operation import ROLES, Change
from starforge.ops.audit import Entry, record
from starforge.ops.request import local_actor
from starforge.settings import HomeSettings
from starforge.web.errors import TokenNotMadeError, TokenUnknownError

PREFIX = "sf_"
RANDOM_BYTES = 32
TOKEN_CHARS_MAX = 200
FILE_NAME = "token"
FIRST_ROLE = "admin"
ACCESS = "authz_admin"
"""The operation of an audit row about who has access."""

PRODUCER = "producer"
"""The role that stands outside the ladder: it offers snapshots and sees what became of them."""

TOKEN_ROLES = (PRODUCER, *ROLES)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: the token's name is the actor."""

    name: str
    role: str
    tenant: str


def new_token() -> str:
    """Return a new token: the prefix by which a leak can be found, and 256 random bits."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def token_hash(token: str) -> bytes:
    """Return what is kept of a token. It is random, so that a fast hash is enough."""
    return hashlib.sha256(token.encode()).digest()


async def identify(conn: Connection, token: str) -> Identity | None:
    """Return whose token this is, or None where it is unknown, expired or revoked.

    The lookup is by hash: how long it takes tells nothing about a token that somebody guesses at.
    """
    if not token.startswith(PREFIX) or len(token) > TOKEN_CHARS_MAX or not token.isascii():
        return None
    wanted = token_hash(token)
    row = await conn.fetchrow(sql("web", "token"), wanted)
    if row is None or not hmac.compare_digest(row["hash"], wanted):
        return None
    if row["unmarked"]:
        await conn.execute(sql("web", "token_used"), row["id"])
    return Identity(row["name"], row["role"], row["tenant_id"])


async def make_token(conn: Connection, *, name: str, role: str, tenant: str, days: int | None = None) -> str:
    """Make a token and return it; this is the only time that it can be seen."""
    token = new_token()
    await conn.fetchval(sql("web", "token_make"), tenant, name, role, token_hash(token), days)
    return token


async def revoke_tokens(conn: Connection, *, name: str, tenant: str) -> int:
    """End a tenant's tokens of a name; return how many; raise TokenUnknownError where there is none."""
    revoked = len(await conn.fetch(sql("web", "token_revoke"), tenant, name))
    if not revoked:
        raise TokenUnknownError(f"{tenant} has no token {name!r}")
    return revoked


async def tokens(conn: Connection) -> list[asyncpg.Record]:
    """Return what is known of the tokens that are not revoked, by tenant and name."""
    return await conn.fetch(sql("web", "tokens"))


async def record_access(
    conn: Connection, operation: str, *, name: str, tenant: str, role: str | None = None
) -> None:
    """Note a change of who has access in the audit log, in the transaction of the change."""
    about = {"operation": operation, "name": name, **({"role": role} if role else {})}
    await record(conn, Entry(tenant, local_actor(), FIRST_ROLE, ACCESS, about, change=Change("", 1, 1)))


async def ensure_first_token(conn: Connection, home: Path) -> Path:
    """Return the file that holds this installation's own token; make both where they lack.

    A new token is made when the file is lost, or when this database does not know its token (it is
    another database, or the token was revoked).

    Args:
        conn: A connection of a role that may write tokens: owner.
        home: STARFORGE_HOME; made where it lacks.
    Raises: TokenNotMadeError when a token is needed and this database user may not make one.
    """
    file = home / FILE_NAME
    kept = await asyncio.to_thread(_read, file)
    if kept is not None and await _knows(conn, kept):
        return file
    try:
        async with conn.transaction():
            token = await make_token(
                conn, name=local_actor(), role=FIRST_ROLE, tenant=HomeSettings.read().tenant
            )
            # Written before the commit: a token that is in no file could be used by nobody.
            await asyncio.to_thread(_write, file, token)
    except asyncpg.InsufficientPrivilegeError as error:
        raise TokenNotMadeError(f"no token in {file} works, and a new one was refused: {error}") from None
    return file


async def _knows(conn: Connection, token: str) -> bool:
    return await conn.fetchrow(sql("web", "token"), token_hash(token)) is not None


def _read(file: Path) -> str | None:
    """Return the token of the file, and close the file to others where it stood open."""
    try:
        token = file.read_text("ascii").strip()
        if stat.S_IMODE(file.stat().st_mode) != stat.S_IRUSR | stat.S_IWUSR:
            file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return token if token.startswith(PREFIX) else None


def _write(file: Path, token: str) -> None:
    """Put the token into the file, which nobody else can read at any moment."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_name(f"{FILE_NAME}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(token + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    fresh.replace(file)
