"""The errors of the operations room: why an operation was not performed."""

from __future__ import annotations

from starforge.errors import MisusedError, NotFoundError, RefusedError, UnreachableError


class UnknownOperationError(NotFoundError):
    """No operation has this name."""

    code = "SF601"
    remedy = "See the names: `starforge ops list`."

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no operation {name!r}")


class RoleDeniedError(RefusedError):
    """The caller's role may not do this; the attempt is in the audit log."""

    code = "SF602"
    remedy = "Ask somebody whose token has the role, or use one of yours that has it."
    http_status = 403

    def __init__(self, operation: str, needs: str, has: str) -> None:
        super().__init__(f"{operation} needs the role {needs}; this caller has {has}")


class ReasonMissingError(MisusedError):
    """The operation needs a reason and got none, or a blank one."""

    code = "SF603"
    remedy = "Say why: --reason '…', or \"reason\" in the body. It is kept in the audit log."

    def __init__(self, operation: str) -> None:
        super().__init__(f"{operation} needs a reason")


class PlanNotFoundError(NotFoundError):
    """No plan has this id, or not for this tenant."""

    code = "SF604"
    remedy = "Plan again, and apply the plan id that this returns."


class PlanExpiredError(RefusedError):
    """The plan is older than plans may become."""

    code = "SF605"
    remedy = "Plan again and look at what it says now; STARFORGE_PLAN_EXPIRES_S is how long a plan holds."


class PlanAppliedError(RefusedError):
    """The plan was applied already; a plan is applied once."""

    code = "SF606"
    remedy = "Plan again if it is to be done again; the audit log shows the first time."


class PlanMismatchError(RefusedError):
    """The plan was made by somebody else, or for another operation or other arguments."""

    code = "SF607"
    remedy = "Apply a plan with the operation, the arguments and the actor that it was made with."


class PlanStaleError(RefusedError):
    """What the plan was made for has changed since; nothing was done."""

    code = "SF608"
    remedy = "Plan again and compare: somebody or something else changed it in the meantime."


class KeyReusedError(RefusedError):
    """The idempotency key belongs to another operation or to other arguments."""

    code = "SF609"
    remedy = "Take a new key for each new intention; keep a key only to repeat the very same request."
    http_status = 422


class OutcomeUnknownError(UnreachableError):
    """The answer to the commit was lost: the change is made with its audit row, or neither is."""

    code = "SF610"
    remedy = "Repeat it with the same idempotency key: it returns the first result or does it now."


class RowsBusyError(UnreachableError):
    """Other transactions held the rows for longer than an operation waits; nothing was done."""

    code = "SF611"
    remedy = "Repeat it; when it goes on, end the transaction that holds the rows."


class UnknownThingError(NotFoundError):
    """There is no job, queue or worker of that name, or not for this tenant."""

    code = "SF612"
    remedy = "See what there is: `starforge queue ls`, `starforge task ls`."
