"""What a handler is given beside its payload: opened around the attempt, or once for the process.

A provider is a function that returns or yields the thing: an async generator or generator (what follows
the yield closes it), one wrapped by contextlib's contextmanager decorators, a coroutine function, or a
plain one. What blocks, that is every provider that is not async, runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from starforge.errors import told
from starforge.queue.errors import DeclarationError

log = structlog.get_logger("queue")

CLOSE_S_MAX = 10.0
"""Longest that a process waits at its end for one resource to close."""

Call = Callable[[], Any]
InThread = Callable[[Call], typing.Awaitable[Any]]

_once: set[Callable[..., Any]] = set()


@dataclass(frozen=True, slots=True)
class Marked:
    """What `Depends(provider)` leaves in a signature."""

    provider: Callable[..., Any]


def Depends(provider: Callable[..., Any]) -> Any:  # noqa: N802 - as the field knows it
    """Mark a parameter: it is not in the payload, `provider` opens it.

    Either as the default, `db: Session = Depends(session)`, or as a note, `db: Annotated[Session,
    Depends(session)]`.
    """
    if not callable(provider):
        raise DeclarationError(f"Depends({provider!r}): that is no function")
    return Marked(provider)


def once(provider: Callable[..., Any]) -> None:
    """Have the provider opened once for the process, instead of for each attempt."""
    _once.add(provider)


@dataclass(frozen=True, slots=True)
class Dependency:
    """A provider with what it needs itself."""

    provider: Callable[..., Any]
    context: str | None
    depends: Mapping[str, Dependency]
    shared: bool
    """It is a resource: opened once for the process."""


def dependency_of(hint: Any, default: Any, context_type: type, names: Mapping[str, Any]) -> Dependency | None:
    """Return what a parameter with this annotation and default depends on; None where on nothing."""
    notes = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    marked = next((note for note in (default, *notes) if isinstance(note, Marked)), None)
    return None if marked is None else _read(marked.provider, context_type, names)


def _read(provider: Callable[..., Any], context_type: type, names: Mapping[str, Any]) -> Dependency:
    shared = provider in _once
    hints = (
        typing.get_type_hints(provider, localns=dict(names), include_extras=True)
        if inspect.isroutine(provider)
        else {}
    )
    context = None
    depends: dict[str, Dependency] = {}
    for parameter in inspect.signature(provider).parameters.values():
        hint = hints.get(parameter.name, Any)
        found = dependency_of(hint, parameter.default, context_type, names)
        if found is not None:
            depends[parameter.name] = found
        elif parameter.name == "ctx" or hint is context_type:
            context = parameter.name
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise DeclarationError(
                f"{_name(provider)} needs {parameter.name}: a provider gets ctx and what it depends on"
            )
    if shared and (context is not None or not all(each.shared for each in depends.values())):
        raise DeclarationError(
            f"resource {_name(provider)} is opened once: it cannot depend on an attempt's own things"
        )
    return Dependency(provider, context, depends, shared)


class Resources:
    """What was opened once for this process: by the first attempt that needs it, closed at the end."""

    def __init__(self, in_thread: InThread) -> None:
        self._in_thread = in_thread
        self._opened: dict[Callable[..., Any], _Opened] = {}
        # A resource belongs to no attempt: it is opened in the context in which the worker started.
        self._outside = contextvars.copy_context()

    async def get(self, dependency: Dependency) -> Any:
        """Return the resource; open it where it is not. An error in opening is the caller's, each time."""
        opened = self._opened.get(dependency.provider)
        if opened is None:
            opened = self._opened[dependency.provider] = _Opened()
            opened.task = asyncio.get_running_loop().create_task(
                self._keep(dependency, opened), context=self._outside.copy()
            )
        # An attempt that is cancelled while it waits leaves the opening to the others.
        return await asyncio.shield(opened.value)

    async def _keep(self, dependency: Dependency, opened: _Opened) -> None:
        """Open, hold and close the resource in one task: what is bound to its task must be."""
        name = _name(dependency.provider)
        try:
            async with AsyncExitStack() as stack:
                values = {param: await self.get(each) for param, each in dependency.depends.items()}
                value = await enter(dependency, stack, values, self._in_thread)
                # What it needs itself was open before it, and is closed after it.
                self._opened[dependency.provider] = self._opened.pop(dependency.provider)
                opened.value.set_result(value)
                log.debug("resource.opened", resource=name)
                await opened.closing.wait()
        except BaseException as error:
            if opened.value.done():
                log.warning("resource.unclosed", resource=name, error=told(error))
            else:
                self._opened.pop(dependency.provider, None)
                opened.value.set_exception(
                    error if isinstance(error, Exception) else RuntimeError(told(error))
                )
                # Whoever waited may be gone.
                opened.value.exception()
            if not isinstance(error, Exception):
                raise

    async def close(self) -> None:
        """Close what was opened, the newest first."""
        for opened in reversed(list(self._opened.values())):
            opened.closing.set()
            if opened.task is not None:
                await asyncio.wait({opened.task}, timeout=CLOSE_S_MAX)
                opened.task.cancel()
        self._opened.clear()


@dataclass(slots=True)
class _Opened:
    value: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Opening:
    """What one attempt has opened so far: a provider that is needed twice is opened once."""

    def __init__(self, ctx: Any, stack: AsyncExitStack, resources: Resources, in_thread: InThread) -> None:
        self._ctx, self._stack, self._resources, self._in_thread = ctx, stack, resources, in_thread
        self._values: dict[Callable[..., Any], Any] = {}

    async def all(self, depends: Mapping[str, Dependency]) -> dict[str, Any]:
        """Open everything that these parameters depend on."""
        return {name: await self.one(each) for name, each in depends.items()}

    async def one(self, dependency: Dependency) -> Any:
        """Open one thing, and before it what it needs itself."""
        if dependency.shared:
            return await self._resources.get(dependency)
        if dependency.provider not in self._values:
            values = await self.all(dependency.depends)
            if dependency.context is not None:
                values[dependency.context] = self._ctx
            self._values[dependency.provider] = await enter(dependency, self._stack, values, self._in_thread)
        return self._values[dependency.provider]


async def enter(
    dependency: Dependency, stack: AsyncExitStack, values: Mapping[str, Any], in_thread: InThread
) -> Any:
    """Open what a provider gives; the stack closes it."""
    provider = dependency.provider
    inner = inspect.unwrap(provider)
    if inspect.isasyncgenfunction(inner):
        made = provider(**values)
        manager = made if hasattr(made, "__aenter__") else contextlib.asynccontextmanager(lambda: made)()
        return await stack.enter_async_context(manager)
    if inspect.isgeneratorfunction(inner):
        given = provider(**values)
        blocking = given if hasattr(given, "__enter__") else contextlib.contextmanager(lambda: given)()
        return await stack.enter_async_context(_threaded(blocking, in_thread))
    if inspect.iscoroutinefunction(inner):
        return await provider(**values)
    return await in_thread(lambda: provider(**values))


@contextlib.asynccontextmanager
async def _threaded(manager: AbstractContextManager[Any], in_thread: InThread) -> AsyncIterator[Any]:
    """Enter and leave a blocking context manager in threads."""
    value = await in_thread(manager.__enter__)
    try:
        yield value
    except BaseException as error:
        leave = partial(manager.__exit__, type(error), error, error.__traceback__)
        if not await in_thread(leave):
            raise
    else:
        await in_thread(partial(manager.__exit__, None, None, None))


def _name(provider: Callable[..., Any]) -> str:
    return getattr(provider, "__qualname__", repr(provider))
