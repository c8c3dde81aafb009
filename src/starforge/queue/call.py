"""Calling a handler: from context and payload to the coroutine of an attempt, planned at declaration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import msgspec

from starforge.queue.context import Context
from starforge.queue.depend import Opening
from starforge.queue.signature import Signature

Run = Callable[[Context, Mapping[str, Any]], Coroutine[Any, Any, Any]]
"""Makes the coroutine of one attempt; raises MisfitError where the payload does not fit."""

Middleware = Callable[[Context, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Runs around an attempt: `async def m(ctx, call): …; return await call()`."""


def plan(handler: Callable[..., Any], signature: Signature, *, blocking: bool) -> Run:
    """Return how to call a handler.

    A coroutine function whose parameters come straight from the payload is called with nothing between; a
    plain function is called in a thread; dependencies are opened around the call.
    """
    if signature.depends or signature.open_ended or not signature.in_order:
        return _with_dependencies(handler, signature, blocking=blocking)
    read, values = signature.read, msgspec.structs.astuple
    match blocking, signature.context is not None:
        case False, False:
            return lambda _ctx, payload: handler(*values(read(payload)))
        case False, True:
            return lambda ctx, payload: handler(ctx, *values(read(payload)))
        case True, False:
            return lambda ctx, payload: ctx.host.threads.run(
                partial(handler, *values(read(payload))), last=True
            )
        case _:
            return lambda ctx, payload: ctx.host.threads.run(
                partial(handler, ctx, *values(read(payload))), last=True
            )


def _with_dependencies(handler: Callable[..., Any], signature: Signature, *, blocking: bool) -> Run:
    async def run(ctx: Context, payload: Mapping[str, Any]) -> Any:
        # What does not fit is found before anything is opened for it.
        read = signature.read(payload)
        threads = ctx.host.threads
        async with AsyncExitStack() as stack:
            opening = Opening(ctx, stack, ctx.host.resources, threads.run)
            opened = await opening.all(signature.depends)
            args, kwargs = signature.arguments(ctx, payload, read, opened)
            if blocking:
                return await threads.run(partial(handler, *args, **kwargs), last=True)
            return await handler(*args, **kwargs)

    return run


def around(middlewares: Sequence[Middleware], run: Run) -> Run:
    """Return `run` with the middlewares around it, the first one outermost."""
    for middleware in reversed(middlewares):
        run = _wrapped(middleware, run)
    return run


def _wrapped(middleware: Middleware, inner: Run) -> Run:
    async def run(ctx: Context, payload: Mapping[str, Any]) -> Any:
        return await middleware(ctx, lambda: inner(ctx, payload))

    return run
