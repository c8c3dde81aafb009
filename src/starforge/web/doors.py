"""The operations' doors over HTTP: each route and its schema is made from the operation's declaration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import Response

from starforge.db.pool import Pool
from starforge.operation import Operation
from starforge.ops import registry
from starforge.ops.audit import Result
from starforge.ops.errors import OutcomeUnknownError
from starforge.ops.perform import perform
from starforge.ops.plan import Plan, plan
from starforge.web.errors import BadBodyError, BodyTooLargeError, MediaTypeError, UnauthorizedError
from starforge.web.guard import Asking
from starforge.web.problem import MEDIA_TYPE, Problem
from starforge.web.reading import within
from starforge.web.settings import WebSettings

KEY_HEADER = "Idempotency-Key"
REFS = "#/components/schemas/{name}"


class Document(Response):
    """A JSON document."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the content as JSON."""
        return msgspec.json.encode(content)


def add_doors(app: FastAPI, pool: Pool) -> dict[str, Any]:
    """Add two routes for every operation; return the schemas that their descriptions refer to."""
    bodies: list[type] = []
    for operation in registry.operations():
        path = registry.http_path(operation)
        body = _body_type(operation)
        bodies.append(body)
        for suffix, endpoint, answer in (("", _apply, Result), ("/plan", _plan, Plan)):
            app.add_api_route(
                path + suffix,
                _endpoint(endpoint, operation, pool),
                methods=["POST"],
                response_class=Document,
                name=f"{operation.name}{' plan' if suffix else ''}",
                summary=f"{operation.name}{': only say what would be done' if suffix else ''}",
                description=operation.help,
                operation_id="_".join(operation.name.split()) + ("_plan" if suffix else ""),
                tags=[operation.noun],
                responses=_responses(answer),
                openapi_extra=_described(operation, body, plans=bool(suffix)),
            )
    _, schemas = msgspec.json.schema_components([*bodies, Result, Plan, Problem], ref_template=REFS)
    return dict(schemas)


Endpoint = Callable[[Operation, Pool, Request], Awaitable[Response]]


def _endpoint(
    endpoint: Endpoint, operation: Operation, pool: Pool
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return await endpoint(operation, pool, request)

    return answer


async def _apply(operation: Operation, pool: Pool, request: Request) -> Response:
    arguments = await read_object(request)
    plan_id = _plan_id(arguments.pop("plan_id", None))
    work = partial(
        perform,
        pool,
        operation.name,
        arguments,
        **_who(request),
        idempotency_key=_key(request),
        plan_id=plan_id,
    )
    result = await _in_time(operation, work())
    return Document(result.document())


async def _plan(operation: Operation, pool: Pool, request: Request) -> Response:
    arguments = await read_object(request)
    planned = await _in_time(operation, plan(pool, operation.name, arguments, **_who(request)))
    return Document(planned.document())


async def _in_time(operation: Operation, work: Coroutine[Any, Any, Any]) -> Any:
    limit_s = WebSettings.read().operation_s
    try:
        return await within(limit_s, work)
    except TimeoutError:
        raise OutcomeUnknownError(
            f"{operation.name}: the database did not answer within {limit_s:g} s"
        ) from None


def _who(request: Request) -> dict[str, Any]:
    asking: Asking = request.state.asking
    if asking.identity is None:
        raise UnauthorizedError("this needs a token")
    return {
        "actor": asking.identity.name,
        "role": asking.identity.role,
        "tenant": asking.identity.tenant,
        "source_address": asking.source_address,
        "request_id": asking.request_id,
    }


def _key(request: Request) -> str | None:
    given = request.headers.getlist(KEY_HEADER)
    if len(given) > 1:
        raise BadBodyError(f"the header {KEY_HEADER} is there {len(given)} times")
    return given[0] if given else None


def _plan_id(given: object) -> UUID | None:
    try:
        return msgspec.convert(given, UUID | None)
    except msgspec.ValidationError:
        raise BadBodyError("plan_id is no plan's id") from None


async def read_object(request: Request) -> dict[str, Any]:
    """Read a body of limited size that is one JSON object; an empty body is an empty object.

    Raises: MediaTypeError, BodyTooLargeError, BadBodyError.
    """
    data = await _read_body(request, WebSettings.read().body_bytes_max)
    if not data.strip():
        return {}
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise MediaTypeError(f"the body is {media_type or 'of no declared type'}, not application/json")
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadBodyError(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadBodyError("the body is not a JSON object")
    return document


async def _read_body(request: Request, bytes_max: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > bytes_max:
        raise BodyTooLargeError(f"the body has {declared} bytes; at most {bytes_max} are read")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > bytes_max:
            raise BodyTooLargeError(f"the body is larger than {bytes_max} bytes")
    return bytes(data)


def _body_type(operation: Operation) -> type:
    """Make the type whose schema describes the body: the arguments, and the plan to apply."""
    members: list[Any] = [
        (
            parameter.name,
            _told(parameter.bounded, parameter.help),
            *(() if parameter.required else (parameter.default,)),
        )
        for parameter in operation.parameters
    ]
    members.append(("plan_id", _told(UUID | None, "Apply this plan, if it still holds."), None))
    name = "".join(word.capitalize() for word in operation.name.replace("-", " ").split())
    return msgspec.defstruct(name, members, kw_only=True, forbid_unknown_fields=True)


def _told(annotation: Any, text: str) -> Any:
    return Annotated[annotation, msgspec.Meta(description=text or None)]


def _described(operation: Operation, body: type, *, plans: bool) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([body], ref_template=REFS)
    described: dict[str, Any] = {
        "requestBody": {
            "required": any(parameter.required for parameter in operation.parameters),
            "content": {"application/json": {"schema": schema}},
        },
        "security": [{"token": []}],
        "x-role": operation.role,
        "x-inverse": operation.inverse,
        "x-risk": operation.risk,
    }
    if not plans:
        described["parameters"] = [
            {
                "name": KEY_HEADER,
                "in": "header",
                "required": False,
                "description": "Repeating a request with its key returns the first result.",
                "schema": {"type": "string", "maxLength": 200},
            }
        ]
    return described


def _responses(answer: type) -> dict[int | str, dict[str, Any]]:
    def content(media_type: str, name: str) -> dict[str, Any]:
        return {media_type: {"schema": {"$ref": REFS.format(name=name)}}}

    return {
        200: {"description": "Done.", "content": content("application/json", answer.__name__)},
        "default": {"description": "Refused, with the reason.", "content": content(MEDIA_TYPE, "Problem")},
    }
