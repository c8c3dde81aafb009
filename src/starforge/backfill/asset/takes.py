"""What an asset's handler takes beside its partition, read where it is declared, and how it is called."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg

from starforge.backfill.errors import AssetDeclarationError
from starforge.backfill.partition.partition import Partition
from starforge.db.pool import Connection
from starforge.queue.context import Context
from starforge.queue.depend import Dependency, Opening, dependency_of
from starforge.queue.errors import DeclarationError
from starforge.queue.outcome import Discard, PermanentError, Quarantined
from starforge.queue.signature import CONTEXT, hints_of

CONNECTION = "conn"
"""A parameter of this name, or annotated as a connection, gets that of the partition's transaction."""


@dataclass(frozen=True, slots=True)
class Takes:
    """The parameters of a function that is called with a partition."""

    function: Callable[..., Any]
    partition: str
    context: str | None
    connection: str | None
    depends: Mapping[str, Dependency]
    blocking: bool
    """A plain function: it runs in a thread."""

    by_position: bool
    """The partition's parameter has no name that a caller may use."""

    @classmethod
    def of(cls, function: Callable[..., Any], what: str, *, names: Mapping[str, Any]) -> Takes:
        """Read a function's parameters; `names` are those that its annotations may use beside its module's.

        Raises: AssetDeclarationError, beginning with `what`.
        """
        blocking = _blocking(function, what)
        try:
            hints = hints_of(function, what, names)
            roles = {role: name for name, role in _roles(function, hints, names)}
            depends = _depends(function, hints, names)
        except DeclarationError as error:
            raise AssetDeclarationError(str(error)) from None
        parameters = inspect.signature(function).parameters
        for name, parameter in parameters.items():
            needed = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            )
            if parameter.kind is parameter.POSITIONAL_ONLY and name != roles.get("partition"):
                raise AssetDeclarationError(f"{what}: {name} is given by its name: put it behind the `/`")
            if needed and name not in roles.values() and name not in depends:
                raise AssetDeclarationError(
                    f"{what}: nobody gives it {name}: it gets a partition, and ctx, conn and Depends(…) where"
                    " it asks for them"
                )
        if "partition" not in roles:
            raise AssetDeclarationError(
                f"{what}: it takes no partition: `async def {_called(function)}(partition)`"
            )
        if blocking and "connection" in roles:
            raise AssetDeclarationError(
                f"{what}: a plain function cannot wait for {roles['connection']}, which is asyncpg's: make it"
                " `async def`, or open a connection of its own with Depends(…)"
            )
        kind = parameters[roles["partition"]].kind
        return cls(
            function=function,
            partition=roles["partition"],
            context=roles.get("context"),
            connection=roles.get("connection"),
            depends=depends,
            blocking=blocking,
            by_position=kind is inspect.Parameter.POSITIONAL_ONLY,
        )

    async def call(self, ctx: Context, given: Partition[Any], conn: Connection | None) -> Any:
        """Call the function for a partition and return what it returns.

        `conn` is the one whose transaction commits the partition with its effects.
        Raises: PermanentError where it gives its job up: what ends a job and no partition would have it made
            again and again.
        """
        try:
            return await self._call(ctx, given, conn)
        except (Discard, Quarantined) as error:
            raise PermanentError(f"its handler gave it up, by {type(error).__name__}: {error}") from error

    async def _call(self, ctx: Context, given: Partition[Any], conn: Connection | None) -> Any:
        threads = ctx.host.threads
        async with AsyncExitStack() as stack:
            values: dict[str, Any] = {}
            if self.depends:
                values = dict(await Opening(ctx, stack, ctx.host.resources, threads.run).all(self.depends))
            if self.context is not None:
                values[self.context] = ctx
            if self.connection is not None:
                values[self.connection] = conn
            first = [given] if self.by_position else []
            if not self.by_position:
                values[self.partition] = given
            if self.blocking:
                return await threads.run(partial(self.function, *first, **values), last=True)
            return await self.function(*first, **values)


def _roles(
    function: Callable[..., Any], hints: Mapping[str, Any], names: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Tell which parameter gets what: by annotation, then by name; the first other one is the partition."""
    found: set[str] = set()
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name, Any)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if dependency_of(hint, parameter.default, Context, names) is not None:
            continue
        role = _role(name, hint)
        if role == "partition" and (parameter.default is not parameter.empty or role in found):
            continue
        found.add(role)
        yield name, role


def _role(name: str, hint: Any) -> str:
    if hint is Partition or typing.get_origin(hint) is Partition:
        return "partition"
    if name == CONTEXT or hint is Context:
        return "context"
    if name == CONNECTION or hint is asyncpg.Connection or typing.get_origin(hint) is asyncpg.Connection:
        return "connection"
    return "partition"


def _depends(
    function: Callable[..., Any], hints: Mapping[str, Any], names: Mapping[str, Any]
) -> dict[str, Dependency]:
    parameters = inspect.signature(function).parameters.values()
    found = {p.name: dependency_of(hints.get(p.name, Any), p.default, Context, names) for p in parameters}
    return {name: dependency for name, dependency in found.items() if dependency is not None}


def _blocking(function: object, what: str) -> bool:
    if not callable(function):
        raise AssetDeclarationError(f"{what}: {function!r} is no function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise AssetDeclarationError(f"{what}: it is a generator; it has to return")
    return not (
        inspect.iscoroutinefunction(function)
        or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - not whether it can be called
    )


def _called(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
