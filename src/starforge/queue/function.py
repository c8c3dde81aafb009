"""A declared job: the user's function, still callable, with the ways to enqueue it beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

from starforge.queue.handler import JobType
from starforge.queue.job import Accepted, NewJob
from starforge.queue.signature import Signature

P = ParamSpec("P")
R = TypeVar("R")


class JobFunction(Generic[P, R]):
    """What `@app.job` makes of a function. Calling it calls the function, here and now.

    P are the parameters that the payload holds: a context that comes first is none of them, and what has a
    default, such as a dependency, may be left out.
    """

    def __init__(
        self,
        handler: Callable[..., R],
        job_type: JobType,
        signature: Signature,
        *,
        new: Callable[..., NewJob],
        accept: Callable[..., Awaitable[Accepted]],
        options: dict[str, Any] | None = None,
    ) -> None:
        self._handler, self.type, self._signature = handler, job_type, signature
        self._new, self._accept, self._options = new, accept, options or {}
        update_wrapper(self, handler)

    @property
    def name(self) -> str:
        """The job type's name."""
        return self.type.name

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        """Call the function itself, without a queue: for tests, and for code that cannot wait."""
        return self._handler(*args, **kwargs)

    def options(self, **options: Any) -> JobFunction[P, R]:
        """Return it with options for what is enqueued: queue, priority, run_after, tags, conn …"""
        merged = {**self._options, **options}
        return JobFunction(
            self._handler, self.type, self._signature, new=self._new, accept=self._accept, options=merged
        )

    def new(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """Make a job of these arguments, for `app.enqueue_many`; the context and dependencies are left out.

        Raises: PayloadMisfitError where they do not fit the function's parameters.
        """
        options = {name: value for name, value in self._options.items() if name != "conn"}
        return self._new(self.name, self._signature.named(args, kwargs), **options)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Accepted:
        """Enqueue a job of these arguments; the context and dependencies are left out.

        Raises: PayloadMisfitError where they do not fit the function's parameters.
        """
        return await self._accept(self.name, self._signature.named(args, kwargs), **self._options)
