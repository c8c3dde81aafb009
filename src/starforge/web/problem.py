"""Problems: every refusal of the server as one kind of document (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from uuid import UUID

import msgspec
from starlette.responses import Response

from starforge.errors import StarForgeError

MEDIA_TYPE = "application/problem+json"


class Problem(msgspec.Struct, omit_defaults=True):
    """What is wrong with a request, or with the server."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    code: str = ""
    remedy: str = ""
    instance: str = ""
    """The request's id, as the logs and the audit log have it."""


def problem(
    status: int,
    detail: str,
    *,
    error: StarForgeError | None = None,
    request_id: UUID | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return the response that tells of a problem."""
    found = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    if error is not None and error.code:
        found.type = f"urn:starforge:error:{error.code}"
        found.title = (type(error).__doc__ or found.title).splitlines()[0]
        found.code, found.remedy = error.code, error.remedy
    if request_id is not None:
        found.instance = f"urn:uuid:{request_id}"
    return Response(msgspec.json.encode(found), status, headers, MEDIA_TYPE)


def problem_of(error: StarForgeError, request_id: UUID | None = None) -> Response:
    """Return the response to an error that StarForge raised on purpose."""
    headers: dict[str, str] = {}
    if error.http_status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="starforge"'
    retry_after_s: Any = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    return problem(error.http_status, str(error), error=error, request_id=request_id, headers=headers)


def unknown_problem(request_id: UUID | None = None) -> Response:
    """Return the response to an error that nobody expected: what it was is in the log only."""
    told = "Something went wrong inside the server; its log has the details under this request's id."
    return problem(500, told, request_id=request_id)
