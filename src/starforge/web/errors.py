"""The errors of the web room: why the server does not start, and why it refuses a request."""

from __future__ import annotations

from starforge.errors import MisusedError, RefusedError, UnreachableError


class PortTakenError(UnreachableError):
    """Another program listens on the address already."""

    code = "SF701"
    remedy = "End the other program, or choose another port: STARFORGE_HTTP_PORT."

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is taken")
        self.host, self.port = host, port


class AddressUnusableError(UnreachableError):
    """The address does not belong to this machine, or this user may not listen there."""

    code = "SF702"
    remedy = "Set STARFORGE_HTTP_HOST to an address of this machine and STARFORGE_HTTP_PORT to 1024 or more."


class OpenToNetworkError(RefusedError):
    """The server was told to listen where other machines can reach it."""

    code = "SF703"
    remedy = (
        "Keep 127.0.0.1 and put a proxy with TLS before it; or set STARFORGE_HTTP_EXPOSE=true: then every "
        "page but the health checks needs a token, and STARFORGE_HTTP_HOSTS names the host it is called by."
    )


class UnauthorizedError(RefusedError):
    """The request carries no token that is known, unexpired and not revoked."""

    code = "SF704"
    remedy = "Send the header `Authorization: Bearer TOKEN`; the first token is in STARFORGE_HOME/token."
    http_status = 401


class WrongHostError(RefusedError):
    """The request was addressed to a name that this server does not go by."""

    code = "SF705"
    remedy = "Call the server by localhost or its address, or add the name to STARFORGE_HTTP_HOSTS."
    http_status = 421


class WrongOriginError(RefusedError):
    """A page of another origin tried to change something."""

    code = "SF706"
    remedy = "Send it from the server's own pages or from a program; the Origin header must be the server's."
    http_status = 403


class BadBodyError(MisusedError):
    """The body is no JSON object, or a header or member of it cannot be read."""

    code = "SF707"
    remedy = "Send a JSON object whose members are the operation's arguments; see /api/v1/openapi.json."
    http_status = 400


class BodyTooLargeError(MisusedError):
    """The body is larger than the server reads."""

    code = "SF708"
    remedy = "Send less, or raise STARFORGE_HTTP_BODY_BYTES_MAX."
    http_status = 413


class MediaTypeError(MisusedError):
    """The body is not declared as JSON."""

    code = "SF709"
    remedy = "Send the header `Content-Type: application/json`."
    http_status = 415


class NoAnswerError(UnreachableError):
    """The database was asked and did not answer in time."""

    code = "SF710"
    remedy = "Look whether Postgres runs and is not blocked: `starforge doctor`."


class TokenNotMadeError(RefusedError):
    """There is no token that works, and this database user may not make one."""

    code = "SF711"
    remedy = (
        "Start the server once with the URL of the owner role, or put a token that this database knows "
        "into STARFORGE_HOME/token."
    )
