"""The guard before every route: which names the server goes by, who may change things, what leaves.

It is deny by default: a method that could change something needs a token before any route is looked
for, and on an address that other machines can reach, so does everything but the health checks.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starforge.clock import new_id
from starforge.db.pool import Pool
from starforge.errors import StarForgeError
from starforge.ops.errors import RoleDeniedError
from starforge.ops.registry import API
from starforge.web.auth import PRODUCER, Identity, identify, token_hash
from starforge.web.errors import NoAnswerError, UnauthorizedError, WrongHostError, WrongOriginError
from starforge.web.problem import problem_of, unknown_problem
from starforge.web.reading import HEALTH_S, READ_ERRORS, Ahead

log = structlog.get_logger("web")

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OPEN_PATHS = ("/healthz", "/readyz")
STATIC = "/static/"
SNAPSHOTS = f"{API}/snapshots"
BACKFILLS = f"{API}/backfills"
KNOWN_MAX = 1000
"""Tokens that are remembered; one that was revoked works for a second more at most."""

LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


@dataclass(frozen=True, slots=True)
class Asking:
    """What the guard establishes of a request; routes find it in `request.state.asking`."""

    request_id: UUID
    source_address: str | None
    identity: Identity | None


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, pool: Pool, names: Iterable[str], exposed: bool) -> None:
        self._app, self._pool, self._exposed = app, pool, exposed
        self._names = LOOPBACK_NAMES | frozenset(names)
        self._known: dict[bytes, Ahead[Identity | None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with a problem."""
        if scope["type"] != "http":
            # There is no websocket here; refusing all of them keeps their Origin out of the question.
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _add_headers(MutableHeaders(scope=message), request_id, scope["path"])
            await send(message)

        try:
            asking = await self._admit(scope, headers, request_id)
            scope.setdefault("state", {})["asking"] = asking
            await self._app(scope, receive, guarded)
        except StarForgeError as error:
            await _answer(problem_of(error, request_id), scope, receive, guarded, started)
        except Exception:
            # As text: a formatter that shows local variables would show passwords and tokens.
            told = {"request_id": str(request_id), "method": scope["method"], "path": scope["path"]}
            log.error("http.failed", **told, trace=traceback.format_exc())
            await _answer(unknown_problem(request_id), scope, receive, guarded, started)

    async def _admit(self, scope: Scope, headers: Headers, request_id: UUID) -> Asking:
        require_host(headers, self._names, scope.get("server"))
        safe = scope["method"] in SAFE_METHODS
        if not safe:
            require_same_origin(headers)
        path = scope["path"]
        snapshots = _under(path, SNAPSHOTS)
        tenants = snapshots or _under(path, BACKFILLS)  # the token says whose are shown
        open_to_all = path in OPEN_PATHS or path.startswith(STATIC) or not (self._exposed or tenants)
        identity = None if safe and open_to_all else await self._identify(headers)
        if identity is not None and identity.role == PRODUCER and not snapshots:
            raise RoleDeniedError("this", "viewer", PRODUCER)
        client = scope.get("client")
        return Asking(request_id, client[0] if client else None, identity)

    async def _identify(self, headers: Headers) -> Identity:
        given = headers.get("authorization", "")
        scheme, _, token = given.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise UnauthorizedError("this needs a token")

        token = token.strip()
        name = token_hash(token)
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            known = self._known[name] = Ahead(partial(self._look, token), wait_s=HEALTH_S)
        try:
            found = await known.get()
        except READ_ERRORS as error:
            told = str(error) or type(error).__name__
            raise NoAnswerError(f"the token could not be looked up: {told}") from None
        if found is None:
            self._known.pop(name, None)
            raise UnauthorizedError("the token is unknown, expired or revoked")
        return found

    async def _look(self, token: str) -> Identity | None:
        async with self._pool.connection() as conn:
            return await identify(conn, token)


def _under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def require_host(headers: Headers, names: frozenset[str], server: tuple[str, int | None] | None) -> None:
    """Raise WrongHostError unless the request was addressed to a name that the server goes by.

    A page that points its own name at this machine (DNS rebinding) still sends its own name as Host.
    """
    given = headers.getlist("host")
    if len(given) != 1:
        raise WrongHostError("the request names no host, or several")
    host = host_of(given[0])
    if host is None or not (host in names or _is_own_address(host, server)):
        raise WrongHostError("this server does not go by the host name of the request")


def host_of(netloc: str) -> str | None:
    """Return the host of `host:port` in lower case, without brackets; None where it is malformed."""
    try:
        parts = urlsplit(f"//{netloc}")
        _ = parts.port
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment or not parts.hostname:
        return None
    return parts.hostname


def is_loopback(host: str) -> bool:
    """Tell whether a host, by name or address, is this machine talking to itself."""
    if host.lower() in LOOPBACK_NAMES:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_own_address(host: str, server: tuple[str, int | None] | None) -> bool:
    """An address, unlike a name, cannot be pointed elsewhere; the one that was reached is the server's."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or (server is not None and host == server[0])


def require_same_origin(headers: Headers) -> None:
    """Raise WrongOriginError where a page of another origin sent the request.

    Programs send neither header; browsers send both, and no page can forge them.
    """
    site = headers.get("sec-fetch-site")
    if site not in (None, "same-origin", "none"):
        raise WrongOriginError(f"the request comes from a page of another site ({site})")
    origin = headers.get("origin")
    if origin is None:
        return
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or parts.netloc.lower() != headers["host"].lower():
        raise WrongOriginError("the request comes from a page of another origin")


def _request_id(headers: Headers) -> UUID:
    """Take the caller's id where it is one, so that a request can be followed through several logs."""
    try:
        return UUID(headers.get("x-request-id", ""))
    except ValueError:
        return new_id()


def _add_headers(headers: MutableHeaders, request_id: UUID, path: str) -> None:
    for name, value in SECURITY_HEADERS.items():
        headers[name] = value
    headers["Cache-Control"] = "no-cache" if path.startswith(STATIC) else "no-store"
    headers["X-Request-Id"] = str(request_id)


async def _answer(response: Response, scope: Scope, receive: Receive, send: Send, started: bool) -> None:
    if not started:
        await response(scope, receive, send)
