"""The server: one application, bound before anything else starts, on loopback unless told otherwise."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from importlib import resources
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from starforge import __version__
from starforge.app import StarForge
from starforge.app import app as built_in
from starforge.db.pool import Pool
from starforge.errors import StarForgeError
from starforge.ops.registry import API
from starforge.web.api.backfills import add_backfills
from starforge.web.api.routes import add_snapshots
from starforge.web.console.now import add_now
from starforge.web.doors import add_doors
from starforge.web.errors import (
    AddressUnusableError,
    MethodNotAllowedError,
    NoSuchPathError,
    OpenToNetworkError,
    PortTakenError,
)
from starforge.web.guard import STATIC, Guard, is_loopback
from starforge.web.health import add_health
from starforge.web.problem import problem, problem_of
from starforge.web.protocol import Protocol
from starforge.web.settings import WebSettings

BACKLOG = 128
CONCURRENCY_MAX = 500
"""Connections at once; requests on more are answered with 503 at once rather than kept waiting."""

PATH_SHOWN_MAX = 200
GRACE_S = 5
"""Time that running requests get when the server stops."""


def bind(host: str | None = None, port: int | None = None) -> socket.socket:
    """Take the server's address and listen on it; what connects waits until `serve` is called.

    Args:
        host: Address; STARFORGE_HTTP_HOST where not given.
        port: Port, 0 for any free one; STARFORGE_HTTP_PORT where not given.
    Raises: PortTakenError, AddressUnusableError, OpenToNetworkError.
    """
    settings = WebSettings.read()
    host = settings.host if host is None else host
    port = settings.port if port is None else port
    family, address = _resolved(host, port)
    if not (settings.expose or is_loopback(address[0])):
        raise OpenToNetworkError(f"{host} can be reached by other machines")
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Only a listening socket keeps the port: with SO_REUSEADDR two can be bound to it.
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(host, port) from None
        raise AddressUnusableError(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    return listener


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise AddressUnusableError(f"{host!r} is no address of this machine: {error.strerror}") from None
    family, _, _, _, address = found[0]
    return family, address


def create_app(
    pool: Pool, *, star: StarForge = built_in, title: str = "StarForge", exposed: bool = False
) -> FastAPI:
    """Build the application.

    Args:
        pool: Where the database is; it need not answer.
        star: The app whose mappings say which sources of snapshots there are.
        title: Name of the deployment, on the first page and in the API's description.
        exposed: Other machines can reach it, so that reading needs a token too.
    """
    names = WebSettings.read().names()
    app = FastAPI(
        title=title,
        version=__version__,
        docs_url=None,  # its page loads scripts from elsewhere, which the policy forbids
        redoc_url=None,
        openapi_url=f"{API}/openapi.json",
        middleware=[Middleware(Guard, pool=pool, names=names, exposed=exposed)],
    )
    app.add_exception_handler(StarForgeError, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    add_health(app, pool)
    add_now(app, pool, title=title)
    schemas = add_doors(app, pool)
    paths, answers = add_snapshots(app, pool, star)
    more, shapes = add_backfills(app, pool)
    static = str(resources.files("starforge.web").joinpath("static"))
    app.mount(STATIC.rstrip("/"), StaticFiles(directory=static), name="static")
    _describe(app, paths | more, schemas | answers | shapes)
    return app


def _describe(app: FastAPI, paths: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Add to the API's description what the framework does not see: paths, types, and how to log in."""
    generated = app.openapi()
    generated["paths"].update(paths)
    components = generated.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas)
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}


def _request_id(request: Request) -> Any:
    return request.state.asking.request_id


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarForgeError)
    return problem_of(error, _request_id(request))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told: StarForgeError | None = None
    if error.status_code == HTTPStatus.NOT_FOUND:
        told = NoSuchPathError(f"there is nothing at {request.url.path[:PATH_SHOWN_MAX]}")
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        told = MethodNotAllowedError(f"{request.url.path[:PATH_SHOWN_MAX]} takes no {request.method}")
    detail = str(told or error.detail)
    headers = dict(error.headers or {})
    return problem(error.status_code, detail, error=told, request_id=_request_id(request), headers=headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    where = [".".join(str(part) for part in found["loc"]) for found in error.errors()]
    return problem(422, f"cannot be read: {', '.join(where)}", request_id=_request_id(request))


class _Server(uvicorn.Server):
    """uvicorn inside a program that has signal handlers of its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the program."""
        yield


async def serve(
    pool: Pool,
    listener: socket.socket,
    stop: asyncio.Event,
    *,
    star: StarForge = built_in,
    title: str = "StarForge",
) -> None:
    """Serve on a socket of `bind` until `stop` is set; running requests get GRACE_S to end."""
    app = create_app(pool, star=star, title=title, exposed=not is_loopback(listener.getsockname()[0]))
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONCURRENCY_MAX,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)

    async def end() -> None:
        await stop.wait()
        server.should_exit = True

    ending = asyncio.create_task(end())
    try:
        await server.serve(sockets=[listener])
    finally:
        ending.cancel()
