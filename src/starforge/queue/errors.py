"""The errors of the queue room."""

from __future__ import annotations

from starforge.errors import MisusedError, NotFoundError, RefusedError


class DuplicateTypeError(MisusedError):
    """Two handlers have one name."""

    code = "SF202"
    remedy = "Give one of the handlers another name."


class HandlerNotAsyncError(MisusedError):
    """A job's handler is a plain function; it would block every other job of its worker."""

    code = "SF206"
    remedy = "Write `async def`; await asyncio.to_thread(...) inside for what blocks."


class DeclarationError(MisusedError):
    """What a job type declares cannot be."""

    code = "SF230"
    remedy = "Correct the argument of `@app.job(...)` that the message names."


class PayloadError(MisusedError):
    """A payload is too large or is not JSON."""

    code = "SF203"
    remedy = "Store large content elsewhere and put a reference to it into the payload."


class UnknownGateError(NotFoundError):
    """A resume named a queue or type that is not paused."""

    code = "SF205"
    remedy = "See what is paused: `starforge queue ls`."


class ScheduleError(MisusedError):
    """A schedule cannot be: its cron, its time zone or its words are wrong."""

    code = "SF260"
    remedy = "Correct what the message names, for example cron '0 3 * * MON-FRI' with tz 'Europe/Berlin'."


class UnknownScheduleError(NotFoundError):
    """An operation named a schedule that does not exist."""

    code = "SF261"
    remedy = "See which there are: `starforge schedule ls`."


class SchedulePausedError(RefusedError):
    """A schedule was to be resumed that is not paused."""

    code = "SF262"
    remedy = "See which are paused, and until when: `starforge schedule ls`."
