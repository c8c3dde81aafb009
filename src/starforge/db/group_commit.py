"""Group commit: what is ready at the same time is committed in one transaction, and nobody waits for company.

A unit that finds a free lane is committed at once; those that come while the lanes are busy go together
next. A group that fails is taken apart: each of its units is then committed alone, so that only the one at
fault fails, with its own error, and only the one that has to waits for somebody's lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Unit = TypeVar("Unit")
Answer = TypeVar("Answer")

UNITS_MAX = 8
LANES = 2
"""Groups at once: one is made ready and sent while the other waits for the database."""


class GroupLeftError(Exception):
    """Somebody whose unit was in the group has given up: its transaction must not be committed."""


@dataclass(slots=True)
class _Waiting(Generic[Unit, Answer]):
    unit: Unit
    kind: Hashable
    key: Hashable
    answer: asyncio.Future[Answer | None]
    """None: it has to be committed alone."""


@dataclass(slots=True)
class GroupCommit(Generic[Unit, Answer]):
    """Commits units for all tasks of an event loop.

    Args:
        commit: Commits units in one transaction and returns an answer for each, in their order. It calls
            what it is given before it commits: that raises GroupLeftError where somebody gave up meanwhile.
        everywhere: Errors that each unit would meet alone too: all of the group are told them.
        units_max: Most units of a group.
    """

    commit: Callable[[Sequence[Unit], Callable[[], None]], Awaitable[Sequence[Answer]]]
    everywhere: tuple[type[Exception], ...] = ()
    units_max: int | None = None
    _waiting: deque[_Waiting[Unit, Answer]] = field(default_factory=deque)
    _lanes: set[asyncio.Task[None]] = field(default_factory=set)

    async def take(self, unit: Unit, *, kind: Hashable, key: Hashable) -> Answer | None:
        """Commit a unit, together with others; return None where it has to be committed alone.

        Args:
            unit: The unit.
            kind: Only units of one kind are committed together.
            key: Units with the same key are never in one group.
        Raises: one of `everywhere`.
        """
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(unit, kind, key, answer))
        if len(self._lanes) < LANES:
            # No context of one unit's task: what is logged there is about all of the group.
            self._lanes.add(asyncio.create_task(self._run(), context=Context()))
        return await answer

    async def _run(self) -> None:
        lane = asyncio.current_task()
        assert lane is not None
        try:
            await self._groups()
        finally:
            self._lanes.discard(lane)  # before anybody else comes and takes it for one that still looks

    async def _groups(self) -> None:
        while group := self._next():
            answers: Sequence[Answer | None]
            try:
                answers = await self.commit([each.unit for each in group], lambda: _stay(group))
            except self.everywhere as error:
                for each in group:
                    if not each.answer.done():
                        each.answer.set_exception(error)
                continue
            except Exception:
                answers = [None] * len(group)  # each meets its own error alone, where it is to be told
            except BaseException:
                for each in group:
                    each.answer.cancel()
                raise
            for each, answer in zip(group, answers, strict=True):
                if not each.answer.done():
                    each.answer.set_result(answer)

    def _next(self) -> list[_Waiting[Unit, Answer]]:
        group: dict[Hashable, _Waiting[Unit, Answer]] = {}
        later: list[_Waiting[Unit, Answer]] = []
        most = self.units_max or UNITS_MAX
        while self._waiting and len(group) < most:
            each = self._waiting.popleft()
            if each.answer.done():
                continue  # who wanted it has given up
            first = next(iter(group.values()), each)
            if each.key in group or each.kind != first.kind:
                later.append(each)
            else:
                group[each.key] = each
        self._waiting.extendleft(reversed(later))
        return list(group.values())


def _stay(group: Sequence[_Waiting[Unit, Answer]]) -> None:
    if any(each.answer.done() for each in group):
        raise GroupLeftError
