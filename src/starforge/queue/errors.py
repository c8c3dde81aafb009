"""The errors of the queue room."""

from __future__ import annotations

from uuid import UUID

from starforge.errors import MisusedError, NotFoundError, RefusedError


class LeaseLostError(RefusedError):
    """The lease ended before the attempt did."""

    code = "SF201"
    remedy = "Drop the result and stop; another worker has the job. Never retry."

    def __init__(self, job_id: UUID, lease_epoch: int) -> None:
        super().__init__(f"job {job_id}: lease {lease_epoch} is no longer held")
        self.job_id, self.lease_epoch = job_id, lease_epoch


class DuplicateTypeError(MisusedError):
    """Two handlers have one name."""

    code = "SF202"
    remedy = "Give one of the handlers another name."


class DeclarationError(MisusedError):
    """What a job type declares cannot be."""

    code = "SF230"
    remedy = "Correct the argument of `@app.job(...)` that the message names."


class PayloadError(MisusedError):
    """A payload is not a JSON object, or cannot be kept as it is."""

    code = "SF203"
    remedy = "Hand over an object of texts, finite numbers, true, false, null, lists and objects."


class PayloadTooLargeError(PayloadError):
    """A payload is larger than is accepted."""

    code = "SF240"
    remedy = "Store large content elsewhere and put a reference to it into the payload."

    def __init__(self, job_type: str, size: int, bytes_max: int) -> None:
        super().__init__(
            f"the payload of a {job_type} job has {size} bytes; at most {bytes_max} are accepted"
            " (STARFORGE_PAYLOAD_BYTES_MAX)"
        )


class JobOptionError(MisusedError):
    """What an enqueue says of a job beside its payload cannot be."""

    code = "SF241"
    remedy = "Enqueue it again with a value as the message asks for; nothing was accepted."

    def __init__(self, job_type: str, field: str, found: str) -> None:
        super().__init__(f"the {field} of a {job_type} job is {found}")
        self.job_type, self.field = job_type, field


class KeyContestedError(RefusedError):
    """A key changed hands again and again while a job was enqueued with it."""

    code = "SF242"
    remedy = "Enqueue it again; nothing was accepted."


class CallerConnectionError(MisusedError):
    """What was handed over to enqueue on is not a connection that can carry it."""

    code = "SF243"
    remedy = (
        "Hand over a connection to StarForge's Postgres: asyncpg's, psycopg's AsyncConnection, SQLAlchemy's"
        " AsyncConnection or AsyncSession to `await app.enqueue(…, conn=…)`; psycopg's Connection,"
        " SQLAlchemy's Connection or Session, or django.db.connection to `app.enqueue_sync(conn, …)`."
    )


class UnknownGateError(NotFoundError):
    """Somebody resumed or released what is not held back."""

    code = "SF205"
    remedy = "See what is held back, and by whom: `starforge queue ls`."


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


class UnknownJobError(NotFoundError):
    """There is no job of this id, or not for this tenant."""

    code = "SF244"
    remedy = "List what there is: `starforge task ls`, with --state completed for what has ended."

    def __init__(self, job_id: UUID) -> None:
        super().__init__(f"there is no job {job_id} in the queue, its history or the dead letters")
        self.job_id = job_id


class UnknownTypeError(MisusedError):
    """An app was asked for a job type that it has not."""

    code = "SF245"
    remedy = (
        "Use one of the types that the message names, or leave --app out: the job then waits for a worker."
    )


class OtherTenantError(RefusedError):
    """Somebody who speaks for one tenant named another."""

    code = "SF270"
    remedy = "Name your own tenant, or ask somebody with role admin."
    http_status = 403


class UnknownOverrideError(NotFoundError):
    """A reset named a setting that nobody has overridden."""

    code = "SF271"
    remedy = "See what is overridden, by whom and until when: `starforge settings`."


class UnknownWorkerError(NotFoundError):
    """A worker was named that does not live."""

    code = "SF272"
    remedy = "See which workers live: `starforge queue ls`."


class PayloadMisfitError(PayloadError):
    """A payload does not fit the parameters of its type's handler."""

    code = "SF231"
    remedy = "Send what the handler's parameters and their annotations say."

    def __init__(self, job_type: str, field: str, fault: str, fields: tuple[str, ...]) -> None:
        takes = f" (it takes {', '.join(fields) or 'nothing'})" if fault.startswith("unknown") else ""
        super().__init__(f"job {job_type}: {field}: {fault}{takes}" if field else f"job {job_type}: {fault}")
        self.job_type, self.field, self.fault = job_type, field, fault


class AttemptEndedError(MisusedError):
    """A handler went on to complete a job that it has completed already."""

    code = "SF232"
    remedy = "Use `ctx.transaction()` once in an attempt, as the last thing that it does."


class NotInThreadError(MisusedError):
    """A coroutine asked to wait as only a thread can."""

    code = "SF233"
    remedy = "Use `await` instead."


class JobFailedError(RefusedError):
    """A job that somebody waits for has ended without a result."""

    code = "SF234"
    remedy = "Read the reason; what failed or is held back can be run again by an operator."

    def __init__(self, job_id: UUID, status: str, reason: str) -> None:
        super().__init__(f"job {job_id} is {status}: {reason}")
        self.job_id, self.status, self.reason = job_id, status, reason


class JobUnfinishedError(RefusedError):
    """A job has no result yet."""

    code = "SF235"
    remedy = "Wait for it with `app.wait_for(…)`, or ask again later."
