"""A request for an operation: found, allowed, complete and fit to be stored, before anything is locked."""

from __future__ import annotations

import hashlib
import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from starforge.db.errors import DatabaseUnreachableError
from starforge.db.pool import CONNECT_ERRORS, Connection, Pool
from starforge.errors import InvalidInputError
from starforge.operation import ROLES, Caller, Change, Operation
from starforge.ops.audit import DENIED, Entry, record, redacted
from starforge.ops.blockers import GAVE_UP
from starforge.ops.errors import ReasonMissingError, RoleDeniedError, RowsBusyError
from starforge.ops.registry import find
from starforge.ops.undo import undone_by

KEY_CHARS_MAX = 200
TEXT_CHARS_MAX = 10_000

LOST: tuple[type[BaseException], ...] = (*CONNECT_ERRORS, asyncpg.InternalClientError)
"""What asyncpg raises when the connection goes; InternalClientError when it goes just as it is used."""


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks for which operation, with arguments that fit its signature."""

    operation: Operation
    arguments: Mapping[str, Any]
    shown: Mapping[str, Any]
    """The arguments as JSON values without secrets: what is audited, planned and compared."""

    actor: str
    role: str
    tenant: str
    source_address: str | None
    request_id: UUID | None

    @property
    def reason(self) -> str | None:
        return self.arguments.get("reason") or None

    async def act(self, conn: Connection, committed: list[Callable[[], None]] | None = None) -> Change:
        """Run the room's function in the open transaction of `conn`.

        `committed` gets what is for later; without it, all of it is going to be taken back.
        """
        caller = Caller(
            self.actor,
            self.role,
            self.tenant,
            conn,
            self.source_address,
            self.request_id,
            [] if committed is None else committed,
            planning=committed is None,
        )
        return await self.operation.run(caller, self.arguments)

    def entry(self, change: Change, *, plan_id: UUID | None, key: str | None) -> Entry:
        """Return what the audit log keeps of this request."""
        return Entry(
            tenant=self.tenant,
            actor=self.actor,
            role=self.role,
            operation=self.operation.name,
            arguments=self.shown,
            reason=self.reason,
            plan_id=plan_id,
            key=key,
            request_id=self.request_id,
            source_address=self.source_address,
            change=change,
            undone_by=undone_by(self.operation, self.shown, change),
        )


async def admit(
    pool: Pool,
    name: str,
    arguments: Mapping[str, Any],
    *,
    actor: str,
    role: str,
    tenant: str,
    source_address: str | None,
    request_id: UUID | None,
) -> Request:
    """Check everything about a request that needs no lock.

    Raises: UnknownOperationError, RoleDeniedError (which is audited), BadArgumentError,
        ReasonMissingError, InvalidInputError.
    """
    operation = find(name)
    _require_text("actor", actor)
    _require_text("tenant", tenant)
    if not may(role, operation.role):
        asked = {"operation": name, "needs": operation.role}
        entry = Entry(
            tenant, actor, role, DENIED, asked, request_id=request_id, source_address=source_address
        )
        async with pool.transaction(tenant=tenant) as conn:
            await record(conn, entry)
        raise RoleDeniedError(name, operation.role, role)
    bound = operation.bind(arguments)
    for where, text in _texts(bound, name):
        require_storable(where, text, chars_max=TEXT_CHARS_MAX)
    if operation.needs_reason and not str(bound.get("reason") or "").strip():
        raise ReasonMissingError(name)
    return Request(
        operation, bound, _shown(operation, bound, tenant), actor, role, tenant, source_address, request_id
    )


def _shown(operation: Operation, bound: Mapping[str, Any], tenant: str) -> dict[str, Any]:
    """Return the arguments as they may be kept: secrets left out, hidden ones as a hash."""
    hidden = {parameter.name for parameter in operation.parameters if parameter.hidden}
    kept = {
        name: hidden_as(str(value), tenant) if name in hidden and value is not None else value
        for name, value in bound.items()
    }
    shown: dict[str, Any] = redacted(kept)
    return shown


def hidden_as(value: str, tenant: str) -> str:
    """Return what is kept in the place of a hidden value: who knows the value can find it again."""
    digest = hashlib.sha256(f"{tenant}\n{value}".encode())
    return f"sha256:{digest.hexdigest()}"


@contextmanager
def nothing_changed(name: str) -> Iterator[None]:
    """Say in StarForge's words what kept Postgres from running the operation's transaction."""
    try:
        yield
    except GAVE_UP as error:
        said = "; ".join([str(error), *getattr(error, "__notes__", [])])
        raise RowsBusyError(f"{name} waited too long for rows that others hold: {said}") from None
    except LOST as error:
        told = str(error) or type(error).__name__
        raise DatabaseUnreachableError(
            f"{name}: the connection was lost and nothing was changed: {told}"
        ) from None


def may(role: str, needs: str) -> bool:
    """Tell whether a role may do what `needs` may; a role that nobody knows may nothing."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(needs)


def require_key(key: str | None) -> None:
    """Raise InvalidInputError where an idempotency key cannot be one."""
    if key is not None:
        _require_text("idempotency key", key)
        require_storable("idempotency key", key, chars_max=KEY_CHARS_MAX)


def require_storable(what: str, text: str, *, chars_max: int) -> None:
    """Raise InvalidInputError where Postgres would refuse the text, or it is too long."""
    if len(text) > chars_max:
        raise InvalidInputError(f"{what} has {len(text)} characters; at most {chars_max} are taken")
    if "\0" in text:
        raise InvalidInputError(f"{what} contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"{what} contains half of a surrogate pair") from None


def _require_text(what: str, text: str) -> None:
    if not text.strip():
        raise InvalidInputError(f"the {what} is blank")


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every text inside a value, with the words that say where it is."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield f"{where}: a name", str(key)
            yield from _texts(part, f"{where}: {key}")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for part in value:
            yield from _texts(part, where)


def local_actor() -> str:
    """Return the name of whoever runs this process: the actor of the command line."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"
