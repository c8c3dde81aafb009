"""Backfills over HTTP: a list, one of them whole, its partitions and its failures, for the token's tenant.

What is answered has a schema of its own: the shapes that the command line prints with --json.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from starforge.backfill.show import reads
from starforge.backfill.show.reads import Failures, Listed, Made
from starforge.backfill.show.status import Status, status
from starforge.db.pool import Connection, Pool, set_tenant
from starforge.errors import InvalidInputError, StarForgeError
from starforge.web.doors import REFS, Document
from starforge.web.errors import NoAnswerError, UnauthorizedError
from starforge.web.guard import BACKFILLS, Asking
from starforge.web.problem import MEDIA_TYPE, Problem, problem_of
from starforge.web.reading import FIGURES_S, READ_ERRORS, within

FILTERS = ("state", "asset", "older_than_s", "health", "sort", "after", "limit")
PAGING = ("state", "after", "limit")


@dataclass(frozen=True, slots=True)
class Backfills:
    """Backfills that fit, a page of them."""

    backfills: list[Listed]
    next_after: UUID | None
    """Give it as `after` for the next page; null: this is the last one, or another order than the newest."""


@dataclass(frozen=True, slots=True)
class Partitions:
    """A page of a backfill's partitions, in their order."""

    partitions: list[Made]
    next_after: int | None
    """Give it as `after` for the next page; null: this is the last one."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A backfill's failed partitions, grouped by what failed."""

    failures: list[Failures]


def add_backfills(app: FastAPI, pool: Pool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Add the routes; return their paths for the API's description, and the schemas that these refer to."""
    app.router.routes[:0] = [
        Route(path, partial(_answer, pool, answer), methods=["GET"])
        for path, answer in (
            (BACKFILLS, _list),
            (f"{BACKFILLS}/{{backfill_id}}", _one),
            (f"{BACKFILLS}/{{backfill_id}}/partitions", _partitions),
            (f"{BACKFILLS}/{{backfill_id}}/failures", _failures),
        )
    ]
    _, schemas = msgspec.json.schema_components(
        [Backfills, Status, Partitions, Failed, Problem], ref_template=REFS
    )
    return _paths(), dict(schemas)


Answer = Callable[[Connection, Request], Awaitable[Any]]


async def _answer(pool: Pool, answer: Answer, request: Request) -> Response:
    """Answer from one moment of the database, seen by the token's tenant."""
    asking: Asking = request.state.asking

    async def look() -> Any:
        if asking.identity is None:
            raise UnauthorizedError("this needs a token")
        async with pool.connection() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            await set_tenant(conn, asking.identity.tenant)
            return await answer(conn, request)

    try:
        return Document(await within(FIGURES_S, look()))
    except StarForgeError as error:
        return problem_of(error, asking.request_id)
    except READ_ERRORS as error:
        told = NoAnswerError(f"the database did not answer: {str(error) or type(error).__name__}")
        return problem_of(told, asking.request_id)


async def _list(conn: Connection, request: Request) -> Backfills:
    asked = _asked(request, FILTERS)
    sort, most = asked.get("sort", "newest"), _number(asked, "limit", int, 50)
    found = await reads.list_backfills(
        conn,
        state=asked.get("state"),
        asset=asked.get("asset"),
        older_s=_number(asked, "older_than_s", float, None),
        health=asked.get("health"),
        sort=sort,
        after=_uuid(asked["after"]) if "after" in asked else None,
        most=most,
    )
    return Backfills(found, found[-1].id if sort == "newest" and len(found) == most else None)


async def _one(conn: Connection, request: Request) -> Status:
    _asked(request, ())
    return await status(conn, _id(request))


async def _partitions(conn: Connection, request: Request) -> Partitions:
    asked = _asked(request, PAGING)
    most = _number(asked, "limit", int, 100)
    after: int | None = _number(asked, "after", int, None)
    found = await reads.partitions(conn, _id(request), state=asked.get("state"), after=after, most=most)
    return Partitions(found, found[-1].ordinal if len(found) == most else None)


async def _failures(conn: Connection, request: Request) -> Failed:
    asked = _asked(request, ("limit",))
    return Failed(await reads.failures(conn, _id(request), most=_number(asked, "limit", int, 100)))


def _id(request: Request) -> UUID:
    return _uuid(request.path_params["backfill_id"])


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInputError("that is no backfill's id: it is a UUID, as the list has it") from None


def _asked(request: Request, known: tuple[str, ...]) -> dict[str, str]:
    """Return the query's parameters; raise InvalidInputError for one that does not exist."""
    if unknown := sorted(set(request.query_params) - set(known)):
        there = f"there are {', '.join(known)}" if known else "there are none"
        raise InvalidInputError(f"no parameter {', '.join(unknown)[:100]}; {there}")
    return dict(request.query_params)


def _number(asked: dict[str, str], name: str, kind: Callable[[str], Any], default: Any) -> Any:
    if name not in asked:
        return default
    try:
        return kind(asked[name])
    except ValueError:
        raise InvalidInputError(f"{name}={asked[name][:40]}: write a number") from None


def _paths() -> dict[str, Any]:
    path_id = {
        "name": "backfill_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    }
    state, limit = _query("state", "string"), _query("limit", "integer")
    listed = [state, _query("asset", "string"), _query("older_than_s", "number")]
    listed += [_query("health", "string"), _query("sort", "string"), _query("after", "string"), limit]
    one = f"{BACKFILLS}/{{backfill_id}}"
    return {
        BACKFILLS: _get("Backfills that fit.", "backfill_list", listed, "Backfills"),
        one: _get("One backfill, whole.", "backfill_status", [path_id], "Status"),
        f"{one}/partitions": _get(
            "A backfill's partitions, a page of them.",
            "backfill_partitions",
            [path_id, state, _query("after", "integer"), limit],
            "Partitions",
        ),
        f"{one}/failures": _get(
            "A backfill's failed partitions by what failed.", "backfill_failures", [path_id, limit], "Failed"
        ),
    }


def _get(summary: str, operation_id: str, parameters: list[dict[str, Any]], answer: str) -> dict[str, Any]:
    return {
        "get": {
            "summary": summary,
            "operationId": operation_id,
            "parameters": parameters,
            "responses": {
                "200": _content("As of one moment.", "application/json", answer),
                "default": _content("Refused, with the reason.", MEDIA_TYPE, "Problem"),
            },
            "tags": ["backfill"],
            "security": [{"token": []}],
        }
    }


def _content(description: str, media_type: str, name: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {media_type: {"schema": {"$ref": REFS.format(name=name)}}},
    }


def _query(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": {"type": kind}}
