"""The errors of the web room: why the server does not start, and why it refuses a request."""

from __future__ import annotations

from starforge.errors import MisusedError, NotFoundError, RefusedError, UnreachableError


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


class SnapshotTooLargeError(MisusedError):
    """A snapshot or a batch is larger than is taken over HTTP, as it came or as it unpacks."""

    code = "SF712"
    remedy = "Send smaller snapshots, or offer the file with `starforge snapshot ingest`."
    http_status = 413


class EncodingError(MisusedError):
    """The Content-Type is not that of JSON, or the Content-Encoding is none that is unpacked here."""

    code = "SF713"
    remedy = (
        "Send `Content-Type: application/json` (application/x-ndjson for a batch), and as Content-Encoding "
        "gzip, zstd or nothing."
    )
    http_status = 415


class RateExceededError(RefusedError):
    """This client has offered more than its rate allows; nothing of this request was taken."""

    code = "SF714"
    remedy = "Send it again after the time that Retry-After names; STARFORGE_INGEST_RATE_PER_S is the rate."
    http_status = 429

    def __init__(self, client: str, retry_after_s: int) -> None:
        super().__init__(f"{client} offers more than its rate allows")
        self.retry_after_s = retry_after_s


class BodyTooSlowError(MisusedError):
    """The body did not arrive in the time that a body of its size may take; nothing of it was taken."""

    code = "SF715"
    remedy = "Send it again over a better connection, packed or in smaller parts; STARFORGE_INGEST_BODY_S."
    http_status = 408


class ServerBusyError(UnreachableError):
    """As many large bodies as the server holds at once are on their way already."""

    code = "SF716"
    remedy = "Send it again after the time that Retry-After names."
    retry_after_s = 5


class SnapshotUnknownError(NotFoundError):
    """There is no such snapshot, or it is another tenant's."""

    code = "SF717"
    remedy = "Take the id from the answer to the offer."


class NoSuchPathError(NotFoundError):
    """The server has nothing under this address."""

    code = "SF719"
    remedy = "See what there is: GET /api/v1/openapi.json."


class MethodNotAllowedError(MisusedError):
    """The address is there and does not take this method."""

    code = "SF720"
    remedy = "Use a method that the header Allow names; GET /api/v1/openapi.json says what each does."
    http_status = 405


class TokenUnknownError(NotFoundError):
    """The tenant has no token of this name that is not revoked."""

    code = "SF718"
    remedy = "See the names: `starforge token ls`."
